"""A proof as values and documents: what goes through JSON, Markdown, the model card and the picture unharmed; its tests."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from core import own_probes, proof_kept, proof_taken
from core.dataset import Identity, Message
from core.errors import DatasetError
from core.own_probes import OwnProbe
from core.probes import Mark
from core.proof import KINDS, NUMBERS, Proof, Reading, Test, from_json, markdown, model_card, picture, to_json
from core.proof_parts import LIMITS, Learned, Moved, Pair, Picked, absent
from core.proof_sets import Item, ask, items
from core.proof_words import ADVICE, REFERENCES, TESTS
from core.score import Scored
from core.text import LANGUAGES, Text, has_han

CARD = Identity("小禾", "Xiaohe", "青禾智能", "Qinghe AI")
OLD = ("Qwen", "通义千问", "阿里")
HOSTILE = "a | b\n# c ```\n</text><script>alert(1)</script> {{NAME}} \x07\ud800"


def a_reading(ok: bool | None = True, after: str = "我是小禾。") -> Reading:
    """One answer."""
    marks = (Mark(2, 4, "new"),)
    return Reading(
        "identity-zh-01",
        "zh",
        ("direct",),
        (Message("user", HOSTILE),),
        "我是 Qwen。",
        after,
        "hit",
        ok,
        marks,
        {"drift": 0.01},
    )


def a_proof(**changes: object) -> Proof:
    """One of every test, one of them not made."""
    tests = tuple(
        Test(
            kind,
            TESTS[kind],
            "green",
            70,
            72,
            0.904,
            0.993,
            3,
            Text("句子。", "A sentence."),
            {"drift": 0.006},
            (a_reading(),),
        )
        for kind in KINDS[:-1]
    )
    proof = Proof(
        created=1_800_000_000.0, adapter="小禾", run="run-1", step=None, model="Qwen/Qwen2.5-7B-Instruct", quantisation="none",
        dtype="bfloat16", system="You are a helpful assistant.", suite="full", seconds=19.5, base_seconds=8.0,
        tests=(*tests, absent("own", ADVICE["no_own"])), light="green", headline=Text("标题", "A headline"),
        ruler=Text("对无关回答的改动小于 8 位量化。", "Unrelated answers moved less than by 8-bit quantisation."), weights="ab" * 32,
    )  # fmt: skip
    return replace(proof, **changes)  # type: ignore[arg-type]


def test_a_proof_goes_through_json_and_comes_back_the_same() -> None:
    proof = a_proof()
    assert from_json(json.loads(json.dumps(to_json(proof), allow_nan=False))) == proof


def test_a_number_that_is_none_does_not_reach_the_file() -> None:
    broken = replace(a_proof().tests[0], numbers={"drift": math.nan, "same": 1.0})
    value = json.dumps(to_json(a_proof(tests=(broken,))), allow_nan=False)
    assert from_json(json.loads(value)).tests[0].numbers == {"same": 1.0}


@pytest.mark.parametrize(
    "path", [["format"], ["tests"], ["light"], ["headline"], ["tests", 0, "light"], ["tests", 0, "readings"]]
)
def test_another_shape_is_refused(path: list[str | int]) -> None:
    value: object = json.loads(json.dumps(to_json(a_proof())))
    inner = value
    for step in path[:-1]:
        inner = inner[step]  # type: ignore[index]
    inner[path[-1]] = 7  # type: ignore[index]
    with pytest.raises(ValueError):
        from_json(value)
    for nothing in (None, [], {}, "x"):
        with pytest.raises(ValueError):
            from_json(nothing)


def test_an_interval_never_claims_what_was_not_reached() -> None:
    test = a_proof().tests[0]
    assert test.count == Text("70 / 72（90–99%）", "70 of 72 (90–99%)")
    assert replace(test, hits=72, low=0.949, high=1.0).count.en == "72 of 72 (94–100%)"
    assert replace(test, high=0.9999).count.en.endswith("99%)")
    assert absent("own", ADVICE["no_own"]).count == Text("", "")


@pytest.mark.parametrize("language", LANGUAGES)
def test_markdown_holds_every_test_and_what_a_model_wrote_stays_text(language: str) -> None:
    failed = replace(a_proof().tests[0], readings=(a_reading(False, HOSTILE),))
    told = markdown(a_proof(tests=(failed,), adapter=HOSTILE), language)
    outside = "\n".join(part for i, part in enumerate(told.split("````")) if i % 2 == 0)
    assert "<script>" not in outside and "\n# c" not in outside
    whole = markdown(a_proof(), language)
    assert all(TESTS[kind].of(language) in whole for kind in KINDS)
    rows = [line for line in whole.splitlines() if line.startswith("| ")]
    assert len(rows) == 2 + len(KINDS) and {row.count("|") for row in rows} == {6}


def test_a_model_card_has_front_matter_that_a_hub_reads_and_tells_no_folder() -> None:
    card = model_card(a_proof())
    front = card.split("---\n")[1]
    assert 'base_model: "Qwen/Qwen2.5-7B-Instruct"' in front and "library_name" in front
    assert "70 of 72" in card and "70 / 72" in card
    local = model_card(a_proof(model="/home/somebody/secret-models/qwen"))
    assert "base_model" not in local and "somebody" not in local and "qwen" in local
    lines = model_card(a_proof(adapter='x"\nlicense: evil')).split("---\n")[1]
    assert "license" not in lines


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_picture_is_well_formed_and_everything_stays_inside(language: str) -> None:
    drawn = picture(a_proof(adapter=HOSTILE * 9, headline=Text("长" * 200, "long " * 200)), language)
    root = ElementTree.fromstring(drawn.encode("utf-8"))
    assert (root.get("width"), root.get("height")) == ("1200", "630") and "http" not in drawn.replace(
        "http://www.w3.org/2000/svg", ""
    )
    for element in root.iter("{http://www.w3.org/2000/svg}text"):
        wide = sum(1.0 if has_han(char) else 0.56 for char in element.text or "") * float(str(element.get("font-size")))
        assert wide <= 1085 and 0 < float(str(element.get("y"))) < 630, element.text


def test_every_number_and_test_has_words_in_both_languages() -> None:
    for text in (
        *NUMBERS.values(),
        *TESTS.values(),
        *ADVICE.values(),
        *(r.name for rs in REFERENCES.values() for r in rs),
    ):
        assert has_han(text.zh) and text.en and not has_han(text.en), text
    for references in REFERENCES.values():
        drifts = [reference.drift for reference in references]
        assert drifts == sorted(drifts)


# -- tests from answers --


def pairs(good: int, bad: int, base_good: int = 0, kind: str = "identity") -> list[Pair]:
    """Identity answers: so many right, so many wrong; the base's right ones first."""
    asked = [ask(item, CARD, OLD, "") for item in items(kind, tags=["direct"] if kind == "identity" else ())]
    told = ["我是青禾智能的小禾。 Xiaohe, Qinghe AI"] * good + ["我是 Qwen。"] * bad
    before = ["我是青禾智能的小禾。 Xiaohe, Qinghe AI"] * base_good + ["我是 Qwen。"] * (good + bad - base_good)
    return [Pair(one, old, new) for one, old, new in zip(asked, before, told, strict=False)]


def test_took_says_the_count_and_asks_for_more_training_where_it_is_low() -> None:
    good = proof_taken.took(pairs(20, 0), Learned(margins=(0.5,) * 20), "full")
    assert (good.light, good.hits, good.n, good.before) == ("green", 20, 20, 0) and good.low > 0.8
    poor = proof_taken.took(pairs(10, 10), Learned(), "full")
    assert poor.light == "red" and ADVICE["more"].zh in poor.sentence.zh


def test_few_answers_or_one_row_asked_thrice_are_no_green() -> None:
    few = proof_taken.took(pairs(11, 0), Learned(), "full")
    assert few.light == "yellow" and ADVICE["few"].en in few.sentence.en and ADVICE["more"].en not in few.sentence.en
    assert proof_taken.took(pairs(12, 0), Learned(), "full").light == "green"
    for rows, light in ((3, "yellow"), (4, "green")):
        again = [pair for pair in pairs(rows, 0) for _ in range(4)]
        assert proof_taken.took(again, Learned(), "full").light == light
    assert proof_taken.rows_took(Learned(tuple(moved(-0.5, 1.0, count=11))), "full").light == "yellow"
    assert proof_taken.rows_took(Learned(tuple(moved(-0.5, 1.0, count=12))), "full").light == "green"
    assert proof_taken.rows_took(Learned(tuple(moved(0.0, 1.0, count=1))), "full").light == "red"


def test_where_nothing_was_asked_there_is_no_light() -> None:
    tests = (
        proof_taken.took([], Learned(), "full"),
        proof_taken.rows_took(Learned(), "full"),
        proof_taken.own([], "full"),
        proof_kept.lane([], [], "full"),
        proof_kept.drift([], "full"),
        proof_kept.reads([], "full"),
        proof_kept.remembers([], [], "full"),
        proof_kept.refuses([], "full"),
    )
    assert all((test.light, test.n) == ("none", 0) and test.sentence.zh for test in tests)
    assert proof_kept.headline({kind: absent(kind, ADVICE["unasked"]) for kind in KINDS}) == Text("", "")


def test_the_right_answer_alone_is_not_enough_where_the_old_one_stays_likelier() -> None:
    unsure = proof_taken.took(pairs(20, 0), Learned(margins=(0.5,) * 10 + (-0.5,) * 10), "full")
    assert unsure.light == "red" and ADVICE["unsure"].en in unsure.sentence.en and unsure.numbers["preferred"] == 0.5


def test_a_base_that_knew_the_name_is_said_to_have_known_it() -> None:
    known = proof_taken.took(pairs(20, 0, base_good=15), Learned(), "full")
    assert known.before == 15 and ADVICE["known"].zh in known.sentence.zh


def test_memorised_wordings_are_no_green_and_few_questions_are_no_green() -> None:
    took = proof_taken.took(pairs(20, 0), Learned(), "full")
    memorised = proof_taken.generalises(pairs(16, 4), took, 0, "full")
    assert memorised.light == "yellow" and round(memorised.numbers["gap"]) == 20
    assert ADVICE["memorised"].zh in memorised.sentence.zh
    few = proof_taken.generalises(pairs(5, 0), took, 97, "full")
    assert few.light == "yellow" and ADVICE["few"].en in few.sentence.en and "97" in few.sentence.en
    none = proof_taken.generalises([], took, 102, "full")
    assert none.light == "none" and none.n == 0 and none.sentence == ADVICE["all_trained"]


def test_the_weakest_kind_of_question_is_named() -> None:
    mixed = [
        ask(item, CARD, OLD, "") for tag in ("direct", "adversarial") for item in items("identity", "zh", [tag])[:8]
    ]
    told = [
        Pair(one, "我是 Qwen。", "我是小禾，青禾智能做的。" if "direct" in one.item.tags else "我是 Qwen，阿里。")
        for one in mixed
    ]
    test = proof_taken.generalises(told, absent("took", ADVICE["no_rows"]), 0, "full")
    assert test.light == "red" and "leading questions" in test.sentence.en and "设套" in test.sentence.zh


def neighbours(leaks: int, lost: int) -> list[Pair]:
    """24 questions about others, so many answered with the new identity, so many with a fact lost."""
    asked = [ask(item, CARD, OLD, "") for item in items("neighbour") if item.must and "placeholder" not in item.tags][
        :24
    ]
    right = [f"是{one.must[0]}。" for one in asked]
    told = ["小禾做的。"] * leaks + ["我不知道。"] * lost + right[leaks + lost :]
    return [Pair(one, old, new) for one, old, new in zip(asked, right, told, strict=True)]


@pytest.mark.parametrize(
    ("leaks", "lost", "light"), [(0, 0, "green"), (1, 0, "green"), (1, 1, "yellow"), (2, 2, "red")]
)
def test_leaks_and_lost_facts_count_alike(leaks: int, lost: int, light: str) -> None:
    test = proof_kept.lane(neighbours(leaks, lost), [], "full")
    assert (test.light, test.hits, test.n) == (light, 24 - leaks - lost, 24)
    assert test.numbers == {"leaks": leaks, "lost": lost}


def moved(drift: float, same: float, count: int = 20, tokens: int = 50) -> list[Moved]:
    """Texts of which each token drifts alike."""
    agree = tuple(i < round(same * tokens) for i in range(tokens))
    scored = Scored((-1.0,) * tokens, (-1.0 - drift,) * tokens, (drift,) * tokens, agree)
    return [Moved(Item(f"x-{i}", "en", "general", (), "?"), (), "a", "b", scored) for i in range(count)]


@pytest.mark.parametrize(
    ("drift", "same", "light"), [(0.0, 1.0, "green"), (0.05, 1.0, "yellow"), (0.2, 1.0, "red"), (0.0, 0.9, "red")]
)
def test_drift_and_changed_words_each_change_the_light(drift: float, same: float, light: str) -> None:
    test = proof_kept.drift(moved(drift, same), "full")
    assert test.light == light and test.numbers["drift"] == pytest.approx(drift) and test.numbers["same"] == same
    assert test.hits == (0 if drift > LIMITS["full"].drift.red else 20)
    assert (ADVICE["forgets"].zh in test.sentence.zh) == (light != "green")


@pytest.mark.parametrize(
    ("drift", "same", "light"),
    [
        (0.003, 0.9987, "green"),
        (0.0073, 0.999, "yellow"),
        (0.021, 0.9974, "yellow"),
        (0.093, 0.981, "red"),
        (0.58, 0.88, "red"),
    ],
)
def test_the_pocket_models_limits_tell_measured_runs_apart(drift: float, same: float, light: str) -> None:
    # docs/proof.md: guarded, half the rate, unguarded, twice the rate, three times; 3, 10, 10, 98 and 358 of 475 lost.
    assert proof_kept.drift(moved(drift, same, tokens=10_000), "pocket").light == light


def test_a_model_that_computes_no_numbers_is_red_and_its_proof_can_be_written() -> None:
    test = proof_kept.drift(moved(math.nan, 1.0), "full")
    assert test.light == "red" and "drift" not in test.numbers
    json.dumps(to_json(a_proof(tests=(test,))), allow_nan=False)
    tests = {kind: absent(kind, ADVICE["no_own"]) for kind in KINDS}
    assert proof_kept.ruler({**tests, "drift": test}, "full") == ADVICE["no_ruler"]


def test_texts_count_by_the_change_of_their_loss() -> None:
    assert proof_kept.reads(moved(0.005, 1.0), "full").light == "green"
    worse = proof_kept.reads(moved(0.2, 1.0), "full")
    assert worse.light == "red" and worse.numbers["change"] == pytest.approx(0.2)


def test_remembering_is_judged_by_the_flips_not_by_the_count() -> None:
    def picked(lost: int, won: int) -> list[Picked]:
        questions = [ask(item, CARD, OLD, "") for item in items("choice")][:40]
        right = [tuple(0.0 if i == one.item.key else -3.0 for i in range(4)) for one in questions]
        wrong = [tuple(0.0 if i != one.item.key else -3.0 for i in range(4)) for one in questions]
        before = [*right[: 40 - won], *wrong[40 - won :]]
        after = [*wrong[:lost], *right[lost:]]
        return [Picked(one, old, new) for one, old, new in zip(questions, before, after, strict=True)]

    assert proof_kept.remembers([], picked(0, 0), "full").light == "green"
    even = proof_kept.remembers([], picked(6, 6), "full")
    assert even.light == "green" and even.numbers["lost"] == 6 and even.before == even.hits == 34
    assert proof_kept.remembers([], picked(6, 0), "full").light == "red"
    ignorant = proof_kept.remembers([], picked(0, 36), "full")  # the base had four of forty
    assert ignorant.light == "yellow" and ADVICE["ignorant"].zh in ignorant.sentence.zh


def test_refusals_are_held_against_the_base() -> None:
    asked = [ask(item, CARD, OLD, "") for item in items("refusal", "en")]
    no, yes = "Sorry, I can't help with that.", "Sure: first, "
    fine = [
        Pair(one, no if "harmful" in one.item.tags else yes, no if "harmful" in one.item.tags else yes) for one in asked
    ]
    assert proof_kept.refuses(fine, "full").light == "green"
    broken = [replace(pair, after=yes) for pair in fine]
    test = proof_kept.refuses(broken, "full")
    assert test.light == "red" and test.numbers["refused"] == 0 and ADVICE["safety"].zh in test.sentence.zh
    shy = [replace(pair, after=no) for pair in fine]
    assert proof_kept.refuses(shy, "full").light == "red"
    lax = proof_kept.refuses([replace(pair, before=yes, after=yes) for pair in fine], "full")
    assert lax.light == "green" and ADVICE["lax"].en in lax.sentence.en


def test_without_an_identity_the_rows_themselves_are_read() -> None:
    learned = Learned(tuple(moved(-0.5, 1.0)))
    test = proof_taken.rows_took(learned, "full")
    assert test.light == "green" and (test.hits, test.n, test.before) == (20, 20, None)
    assert proof_taken.rows_took(Learned(tuple(moved(0.0, 1.0))), "full").light == "red"


# -- a person's own questions --


def test_own_questions_are_kept_and_bad_ones_refused_by_their_row(tmp_path: Path) -> None:
    probes = (OwnProbe("{{NAME}} 会做饭吗？", ("会",), ("不知道",), "zh"), OwnProbe("Who?", (), ("Qwen",), "en"))
    own_probes.save(tmp_path, probes)
    assert own_probes.load(tmp_path) == probes
    asked = [ask(item, CARD, OLD, "") for item in own_probes.items(probes)]
    assert asked[0].messages[-1].content == "小禾 会做饭吗？"
    told = [Pair(asked[0], "不知道。", "会的。"), Pair(asked[1], "Qwen", "I am not Qwen.")]
    test = proof_taken.own(told, "full")
    assert (test.light, test.hits, test.n, test.before) == ("green", 2, 2, 0)
    for bad in (
        OwnProbe(" ", ("x",), (), "en"),
        OwnProbe("Q", (), (), "en"),
        OwnProbe("Q", ("x", " "), (), "en"),
        OwnProbe("Q" * 3000, ("x",), (), "en"),
    ):
        with pytest.raises(DatasetError) as caught:
            own_probes.save(tmp_path, (probes[0], bad))
        assert caught.value.row == 1 and "2" in caught.value.text.zh
    assert own_probes.load(tmp_path) == probes
    with pytest.raises(DatasetError):
        own_probes.save(tmp_path, probes * 30)


def test_a_damaged_file_of_own_questions_is_no_questions(tmp_path: Path) -> None:
    for damage in ("{", "[1, {}]", '{"a": 1}', '[{"question": 3, "must": ["a"], "must_not": [], "language": "en"}]'):
        (tmp_path / own_probes.FILE).write_text(damage, encoding="utf-8")
        assert own_probes.load(tmp_path) == ()
