"""The proof card without a browser: what it draws, what it says to a browser that asks, and what it takes from one."""

from __future__ import annotations

import json
import re
import shutil
import time
from pathlib import Path
from urllib.parse import unquote

import pytest

from core import own_probes, proof, proof_subject, storage
from core.config import TrainConfig
from core.dataset import Message, Row
from core.errors import DatasetError
from core.models import POCKET_FOLDER
from core.own_probes import OwnProbe
from core.probes import mark
from core.proof import Proof, Reading, Test
from core.proof_stats import Light, wilson
from core.run import Run
from core.text import Language, Text
from core.workspace import Workspace
from ui import prepare_environment

prepare_environment()

from ui import own_probes as own_page  # noqa: E402
from ui import proof_card, proof_draw  # noqa: E402
from ui.edits import Edits  # noqa: E402
from ui.page import Page  # noqa: E402

NEW, OLD = ("小禾", "青禾智能"), ("PocketQwen", "阿里云")
ATTACK = '<img src=x onerror="alert(1)">&'


def reading(number: int, ok: bool | None, verdict: str = "hit", after: str = "我是小禾。") -> Reading:
    asked = (Message("system", "简短地答。"), Message("user", f"问题 {number}"))
    return Reading(
        f"i-{number}",
        "zh",
        ("direct",),
        asked,
        "我是PocketQwen。",
        after,
        verdict,
        ok,
        mark(after, NEW, OLD),
        {"margin": 1.25},
    )


def made_test(kind: proof.Kind, light: Light, hits: int, n: int, before: int | None, *readings: Reading) -> Test:
    found = wilson(hits, n)
    sentence = Text(f"{kind} 的一句话。", f"A sentence on {kind}.")
    numbers = {"drift": 0.0061} if kind == "drift" else {}
    name = Text(f"{kind} 的名字", f"Name of {kind}")
    return Test(kind, name, light, hits, n, found.low, found.high, before, sentence, numbers, readings)


def made_proof(*tests: Test, light: Light = "yellow", weights: str = "") -> Proof:
    return Proof(
        created=time.time(), adapter="a", run="", step=3, model="pocket", quantisation="none", dtype="float32", system="",
        suite="pocket", seconds=12.4, base_seconds=4.8, tests=tests, light=light, headline=Text("一行字", "A headline"),
        ruler=Text("比 8 位小", "Less than 8-bit"), weights=weights,
    )  # fmt: skip


SEVEN_OF_EIGHT = made_test(
    "generalises", "yellow", 7, 8, 1, *(reading(i, i != 5, "miss" if i == 5 else "hit") for i in range(8))
)
DRIFT = made_test("drift", "green", 981, 1000, None)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "home")


def page_of(workspace: Workspace, language: Language) -> Page:
    return Page(workspace, language, Edits(workspace))


def words_of(html: str) -> str:
    return re.sub(r"\s+", " ", re.sub("<[^>]+>", " ", html)).strip()


# Drawing


def test_a_tile_says_light_count_interval_change_and_its_sentence(workspace: Workspace) -> None:
    drawn = words_of(proof_draw.draw(page_of(workspace, "en"), made_proof(SEVEN_OF_EIGHT)))
    assert "take a look: Name of generalises 7 of 8 52–98% 1 → 7 A sentence on generalises." in drawn
    zh = words_of(proof_draw.draw(page_of(workspace, "zh"), made_proof(SEVEN_OF_EIGHT)))
    assert "需要留意: generalises 的名字 7 / 8 52–98% 1 → 7 generalises 的一句话。" in zh


def test_the_verdict_names_the_tests_of_its_light_and_opens_them(workspace: Workspace) -> None:
    bad = made_test("lane", "red", 1, 9, 9)
    drawn = proof_draw.draw(page_of(workspace, "en"), made_proof(DRIFT, SEVEN_OF_EIGHT, bad, light="red"))
    assert re.findall('data-open="(.*?)"', drawn) == ["lane"]
    assert words_of(drawn).startswith("✕ Not proven Name of lane A headline Less than 8-bit")
    good = proof_draw.draw(page_of(workspace, "en"), made_proof(DRIFT, light="green"))
    assert "Proven" in good and "data-open" not in good


def test_the_ruler_puts_the_drift_between_its_neighbours(workspace: Workspace) -> None:
    drawn = proof_draw.draw(page_of(workspace, "en"), made_proof(DRIFT))
    marks = {
        words_of(name): float(left)
        for left, name in re.findall(r'<span style="left:([\d.]+)%"[^>]*>(.*?)</span>', drawn)
    }
    here = float(re.search(r'<b class="green" style="left:([\d.]+)%', drawn)[1])
    assert marks["8-bit"] < marks["6-bit"] < marks["4-bit"] < here < marks["3-bit"] <= 100
    assert "pf-scale" not in proof_draw.draw(page_of(workspace, "en"), made_proof(SEVEN_OF_EIGHT))


def test_what_was_not_measured_is_a_line_below_the_tiles(workspace: Workspace) -> None:
    absent = made_test("text", "none", 0, 0, None)
    drawn = proof_draw.draw(page_of(workspace, "en"), made_proof(DRIFT, absent, light="green"))
    assert drawn.count("pf-tile ") == 1 and 'data-count="1"' in drawn
    assert "Name of text A sentence on text." in words_of(drawn[drawn.index("pf-absent") :])


def test_answers_that_are_not_right_come_first_with_both_sides_marked(workspace: Workspace) -> None:
    drawn = proof_draw.draw_answers(page_of(workspace, "en"), SEVEN_OF_EIGHT, (NEW, OLD))
    assert re.findall("问题 ([0-9])", drawn) == ["5", "0", "1", "2", "3", "4", "6", "7"]
    assert drawn.count('<mark class="old">PocketQwen</mark>') == 8 and drawn.count('<mark class="new">小禾</mark>') == 8
    assert "All 8" in drawn and "Not right 1" in drawn and "✕ missed" in drawn and "✓ new identity" in drawn
    assert "System prompt: 简短地答。" in drawn and "<dd>1.25</dd>" in drawn
    assert "System prompt" not in proof_draw.draw_answers(page_of(workspace, "en"), SEVEN_OF_EIGHT, system="简短地答。")
    # Where all are right, or none, there is nothing to choose from.
    alike = made_test("took", "green", 2, 2, 0, reading(0, True), reading(1, True))
    assert "data-only" not in proof_draw.draw_answers(page_of(workspace, "en"), alike)


def test_whatever_people_and_models_write_stays_text(workspace: Workspace) -> None:
    asked = (Message("system", ATTACK), Message("assistant", ATTACK), Message("user", ATTACK))
    bad = Reading(
        ATTACK, "zh", (ATTACK,), asked, ATTACK, ATTACK, ATTACK, False, mark(ATTACK, ("src",), ()), {ATTACK: 1.0}
    )
    test = Test("own", Text(ATTACK, ATTACK), "red", 0, 1, 0.0, 0.8, 0, Text(ATTACK, ATTACK), {ATTACK: 1.0}, (bad,))
    whole = made_proof(test, light="red")
    object.__setattr__(whole, "headline", Text(ATTACK, ATTACK))
    object.__setattr__(whole, "model", ATTACK)
    page = page_of(workspace, "zh")
    for drawn in (proof_draw.draw(page, whole), proof_draw.draw_answers(page, test, (("onerror",), ("src",)))):
        assert "<img" not in drawn and "&lt;" in drawn


@pytest.mark.parametrize(
    "verdict", ["hit", "old", "miss", "leak", "kept", "lost", "changed", "right", "wrong", "refused", "answered"]
)
def test_every_verdict_has_words_in_both_languages(workspace: Workspace, verdict: str) -> None:
    test = made_test("took", "green", 1, 1, None, reading(0, True, verdict))
    en, zh = (proof_draw.draw_answers(page_of(workspace, language), test) for language in ("en", "zh"))
    tags = [re.search(r'<span class="oc-tag ok">✓ (.*?)</span>', drawn)[1] for drawn in (en, zh)]
    assert not re.search("[一-龥]", tags[0]) and re.search("[一-龥]", tags[1])


def test_both_languages_have_every_word_of_the_scripts(workspace: Workspace) -> None:
    for make in (proof_card.ProofCard, own_page.OwnProbes):
        scripts = [make(page_of(workspace, language), render=False).js_on_load for language in ("zh", "en")]
        labels = [json.loads(unquote(re.search(r"decodeURIComponent\('([^']+)'", script)[1])) for script in scripts]
        assert labels[0].keys() == labels[1].keys()
        assert set(re.findall(r"\btext\.(\w+)", scripts[0])) <= labels[0].keys()
        assert not re.search("[一-龥]", json.dumps({**labels[1], "between": ""}, ensure_ascii=False))


# What the browser asks for


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A PEFT adapter of the pocket model, as another tool would write it."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(POCKET_FOLDER)
    folder = tmp_path_factory.mktemp("adapter") / "mine"
    get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(folder)
    return folder


def test_the_card_is_drawn_once_and_again_only_when_the_proof_is_another(workspace: Workspace, adapter: Path) -> None:
    page, choice = page_of(workspace, "en"), workspace.library.bring_folder(str(adapter))
    first = proof_card.card_state(page, choice.id, "")
    assert (first["offer"], first["way"], first["html"]) == ("now", None, "")
    assert choice.folder is not None
    kept = made_proof(SEVEN_OF_EIGHT, weights=proof_subject.digest(choice.folder))
    storage.write_json(choice.folder / "proof.json", proof.to_json(kept))
    second = proof_card.card_state(page, choice.id, str(first["seen"]))
    assert second["offer"] == "again" and "7</b> of 8" in str(second["html"])
    assert "html" not in proof_card.card_state(page, choice.id, str(second["seen"]))
    # Two pages ask for one adapter each; another one's state is not this one's.
    assert proof_card.card_state(page, "nobody", str(second["seen"]))["html"] == ""


def test_an_adapter_in_training_is_not_offered_for_a_proof(workspace: Workspace, adapter: Path) -> None:
    page, row = page_of(workspace, "en"), Row("Who?", "", "X")
    run = Run.create(workspace.home / "runs" / "one", TrainConfig(model="pocket"), [row], "one", "rows")
    shutil.copytree(adapter, run.folder / "adapter")
    opened = workspace.run("one")
    assert proof_card.card_state(page, "one", "")["offer"] == "now"
    opened.live = True
    state = proof_card.card_state(page, "one", "")
    assert state["offer"] == "" and state["note"]


def test_files_are_named_after_the_adapter_and_hold_the_proof(workspace: Workspace, adapter: Path) -> None:
    page, choice = page_of(workspace, "en"), workspace.library.bring_folder(str(adapter), "小禾 1")
    state, answers, file = proof_card._reading_functions(page)
    assert file({"adapter": choice.id, "kind": "md"}) == {} and answers({"adapter": choice.id, "test": "took"}) == {
        "html": ""
    }
    assert choice.folder is not None
    kept = made_proof(SEVEN_OF_EIGHT, DRIFT, weights=proof_subject.digest(choice.folder))
    storage.write_json(choice.folder / "proof.json", proof.to_json(kept))
    names = {kind: file({"adapter": choice.id, "kind": kind})["name"] for kind in ("png", "md", "card")}
    assert names == {"png": "小禾-1-proof.png", "md": "小禾-1-proof.md", "card": "小禾-1-README.md"}
    assert "7 of 8" in str(file({"adapter": choice.id, "kind": "md"})["content"])
    assert str(file({"adapter": choice.id, "kind": "png"})["content"]).startswith("<svg")
    assert file({"adapter": choice.id, "kind": "../.."}) == {} and file({}) == {}
    assert "问题 5" in str(answers({"adapter": choice.id, "test": "generalises"})["html"])
    assert answers({"adapter": choice.id, "test": "<b>"}) == {"html": ""}
    assert state({"adapter": ["odd"], "seen": 7})["note"]


def test_a_proof_on_its_way_is_told_cancelled_and_offered_again(workspace: Workspace, adapter: Path) -> None:
    first, other = (workspace.library.bring_folder(str(adapter)) for _ in range(2))
    page = page_of(workspace, "en")
    card = proof_card.ProofCard(page, render=False)
    event = type("Event", (), {"id": first.id})()
    assert json.loads(card.on_prove(event))["said"] == ""
    way = proof_card.card_state(page, first.id, "")["way"]
    assert way is not None and way["what"] and 0 <= way["share"] <= 1
    beside = proof_card.card_state(page, other.id, "")
    assert beside["way"] is None and beside["offer"] == "" and first.name in str(beside["note"])
    refused = json.loads(card.on_prove(type("Event", (), {"id": other.id})()))
    assert "being proved" in refused["said"]
    card.on_cancel(event)
    assert workspace.proofs.close(60)
    state = proof_card.card_state(page, first.id, "")
    assert (state["offer"], state["way"], state["said"]) == ("now", None, "")


def test_the_library_offers_a_proof_and_shows_its_light(workspace: Workspace, adapter: Path) -> None:
    from ui import library_list

    choice = workspace.library.bring_folder(str(adapter))
    drawn = library_list.draw(page_of(workspace, "en"), workspace.library.all(), None)
    assert 'data-act="prove"' in drawn and ">Prove<" in drawn
    assert choice.folder is not None
    kept = made_proof(DRIFT, light="green", weights=proof_subject.digest(choice.folder))
    storage.write_json(choice.folder / "proof.json", proof.to_json(kept))
    drawn = library_list.draw(page_of(workspace, "zh"), workspace.library.all(), None)
    assert ">查看检验<" in drawn and '<span class="oc-tag ok">检验 ✓</span>' in drawn


# The user's own questions


def test_rows_become_questions_with_words_split_at_commas_of_both_languages(workspace: Workspace) -> None:
    sent = [
        {"question": " 你会修车吗？ ", "must": "会，可以、 会", "must_not": ""},
        {"question": "Can you fly?", "must": "", "must_not": "yes; of course"},
    ]
    found = own_page.read(sent)
    assert found == [
        OwnProbe("你会修车吗？", ("会", "可以"), (), "zh"),
        OwnProbe("Can you fly?", (), ("yes", "of course"), "en"),
    ]
    own_probes.save(workspace.home, found)
    assert list(own_probes.load(workspace.home)) == found
    assert own_page.read([{"question": "cut \ud83d", "must": "x"}])[0].question == "cut ?"


@pytest.mark.parametrize("value", [None, 7, "rows", {"question": "q"}, ["q"], [{"question": 5}], [{"must": ["a"]}]])
def test_another_shape_is_refused_in_both_languages(value: object) -> None:
    with pytest.raises(DatasetError) as caught:
        own_page.read(value)
    assert re.search("[一-龥]", caught.value.of("zh")) and not re.search("[一-龥]", caught.value.of("en"))
