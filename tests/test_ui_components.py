"""The self-made components without a browser: checks on what the browser sends, HTML that is safe, fewer points."""

from __future__ import annotations

import json
import math
import os
import re
from urllib.parse import unquote

import pytest

from core.dataset import Message, Row
from core.errors import DatasetError
from ui.plots import Curve, compare_runs, downsample, smooth
from ui.probe_table import BASE, marked, probe_table, stat_strip
from ui.rows import MAX_CELL_CHARACTERS, MAX_ROWS, cells, clean

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

FULL = Row("问", "补充", "答", "系统", (Message("user", "先前"), Message("assistant", "好")))


def test_rows_survive_the_way_to_the_editor_and_back() -> None:
    rows = [Row(), Row("q", "", "a"), FULL]
    assert clean(json.loads(json.dumps([cells(row) for row in rows]))) == rows
    assert cells(Row("q", "", "a")) == {"instruction": "q", "input": "", "output": "a"}


@pytest.mark.parametrize(
    ("value", "row"),
    [
        (None, None),
        ("[]", None),
        (7, None),
        (["text"], 0),
        ([{}, {"instruction": 5}], 1),
        ([{"output": None}], 0),
        ([{"output": ["a"]}], 0),
        ([{"system": {}}], 0),
        ([{"history": "user: hi"}], 0),
        ([{}, {}, {"history": [{"role": "root", "content": "x"}]}], 2),
        ([{"history": [{"role": "user", "content": 1}]}], 0),
        ([{"history": [{"role": "user", "content": "x"}] * 1001}], 0),
        ([{"output": "x" * (MAX_CELL_CHARACTERS + 1)}], 0),
        ([{"history": [{"role": "user", "content": "x" * (MAX_CELL_CHARACTERS + 1)}]}], 0),
        ([{}] * (MAX_ROWS + 1), None),
    ],
)
def test_another_shape_is_refused_in_both_languages(value: object, row: int | None) -> None:
    with pytest.raises(DatasetError) as caught:
        clean(value)
    assert caught.value.row == row
    assert re.search("[一-龥]", caught.value.of("zh"))
    assert not re.search("[一-龥]", caught.value.of("en"))


def test_missing_and_unknown_keys_are_no_fault_and_half_characters_are_mended() -> None:
    assert clean([{}, {"instruction": "q", "color": "red"}]) == [Row(), Row("q")]
    (row,) = clean([{"instruction": "cut \ud83d", "output": "whole 😀"}])
    assert row == Row("cut \ufffd", "", "whole 😀")
    row.instruction.encode()


def test_the_editor_passes_on_what_it_cannot_read_for_clean_to_refuse() -> None:
    from ui.row_editor import RowEditor, saved_now

    editor = RowEditor("en", [FULL], dataset="mine")
    sealed = json.loads(editor.value)
    assert (sealed["dataset"], clean(sealed["rows"])) == ("mine", [FULL])
    received = editor.preprocess('{"revision": 7, "rows": [{"instruction": "q"}]}')
    assert clean(received) == [Row("q")]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}#7", saved_now(received))
    assert "#" not in saved_now()
    for damaged in ("{", "[]", '{"rows": 5}', 5):
        with pytest.raises(DatasetError):
            clean(editor.preprocess(damaged))
    assert clean(editor.preprocess("")) == []


def test_both_languages_have_every_label_of_the_components() -> None:
    from ui.loss_chart import LossChart
    from ui.row_editor import RowEditor

    def metrics(request: object) -> dict[str, object]:
        return {}

    for make in (lambda language: RowEditor(language), lambda language: LossChart([metrics], language)):
        scripts = [make(language).js_on_load for language in ("zh", "en")]
        encoded = [re.match(r"const text = JSON.parse\(decodeURIComponent\('([^']+)'\)\);", s)[1] for s in scripts]
        zh, en = (json.loads(unquote(labels)) for labels in encoded)
        assert zh.keys() == en.keys()
        of_strings = {"length", "slice", "matchAll", "indexOf", "toLowerCase"}
        used = set(re.findall(r"\btext\.(\w+)", scripts[0])) - of_strings
        assert used <= zh.keys()
        assert not re.search("[一-龥]", json.dumps(en, ensure_ascii=False))


def test_a_chart_without_metrics_is_refused() -> None:
    from ui.loss_chart import LossChart

    with pytest.raises(ValueError, match="metrics"):
        LossChart([print], "en")


def test_downsample_keeps_ends_extremes_and_order() -> None:
    points = [(step, math.sin(step / 50)) for step in range(10_000)]
    points[5000], points[7000] = (5000, 9.0), (7000, -9.0)
    few = downsample(points, 600)
    assert len(few) <= 600
    assert few[0] == points[0]
    assert few[-1] == points[-1]
    assert {points[5000], points[7000]} <= set(few)
    assert few == sorted(few)
    assert downsample(points[:600]) == points[:600]
    assert downsample([]) == []
    assert downsample([(1, 2.0)] * 5, 4) == [(1, 2.0)] * 3
    with pytest.raises(ValueError, match="4 or more"):
        downsample(points, 3)


def test_smooth_is_an_exponential_average() -> None:
    assert smooth([4.0, 0.0, 4.0], 0.75) == [4.0, 3.0, 3.25]


def test_compared_runs_are_a_thin_and_a_thick_line_each_and_a_dotted_one_where_rows_were_held_out() -> None:
    held = Curve("two <b>", [(1, 0.5)], [(1, 0.7), (9, 0.4)])
    runs = [Curve("one", [(i, 1 / (i + 1)) for i in range(2000)]), held, Curve("none", [])]
    for dark in (False, True):
        figure = compare_runs(runs, dark)
        two = "two &lt;b&gt;"
        assert [trace.name for trace in figure.data] == ["one", "one", two, two, f"{two}: eval", "none", "none"]
        assert len(figure.data[0].x) <= 600 and list(figure.data[4].y) == [0.7, 0.4]
        assert figure.to_json()


def _answer(
    question: str, text: str, kind: str = "identity", verdict: str = "", marks: object = ()
) -> dict[str, object]:
    return {"question": question, "text": text, "kind": kind, "verdict": verdict, "marks": list(marks)}


def test_marks_wrap_words_and_everything_is_escaped() -> None:
    attack = '<img src=x onerror=alert(1)> & "quotes"'
    plain = marked(_answer("q", attack))
    assert "<img" not in plain
    assert plain.count("&lt;") == 1
    marks = [
        {"start": 6, "end": 12, "kind": "old"},
        {"start": 0, "end": 2, "kind": "new"},
        {"start": 10, "end": 99, "kind": "new"},
    ]
    got = marked(_answer("q", "小禾 by <Qwen> tail", marks=marks))
    assert got == (
        '<mark class="pt-new">小禾</mark> by <mark class="pt-old">&lt;Qwen&gt;</mark>'
        '<mark class="pt-new"> tail</mark>'
    )  # fmt: skip
    table = probe_table([{"step": "<b>", "answers": [_answer(attack, attack)]}], "zh")
    assert "<img" not in table
    assert "<b>" not in table


def test_the_table_has_before_three_between_and_latest_with_general_questions_last() -> None:
    def probing(step: int) -> dict[str, object]:
        general = _answer("capital", "Paris", "general", "kept")
        return {"step": step, "answers": [general, _answer("who", f"at {step}", verdict="hit" if step else "old")]}

    probings = [probing(step) for step in range(0, 101, 10)]
    table = probe_table(probings, "zh")
    heads = re.findall(r'<th scope="col"[^>]*>([^<]+)</th>', table)
    assert heads == ["问题", "训练前", "第 20 步", "第 50 步", "第 70 步", "第 100 步", "结果"]
    assert table.index("at 0") < table.index("能力保持") < table.index("capital")
    assert "✓ 命中" in table
    assert "✗" not in table
    assert "✓ kept" in probe_table(probings, "en")
    assert len(re.findall('scope="col"', probe_table(probings[:2], "en"))) == 4
    assert "✗ old identity" in probe_table(probings[:1], "en")
    assert "pt-waiting" in probe_table([], "en")


def test_a_run_that_went_on_from_an_adapter_heads_the_bases_answers_as_the_bases() -> None:
    probings = [{"step": 0, "answers": [_answer("q", "a")]}, {"step": 5, "answers": [_answer("q", "b")]}]
    for language, base, before in (("zh", "基座（不带适配器）", "训练前"), ("en", "Base (no adapter)", "Before")):
        first, further = probe_table(probings, language), probe_table(probings, language, BASE)
        assert f">{before}</th>" in first and f">{base}</th>" in further and f'data-label="{base}"' in further
        assert before not in further and base not in first


@pytest.mark.parametrize(
    ("verdict", "zh", "en"),
    [("hit", "✓ 命中", "✓ pass"), ("old", "✗ 旧身份", "✗ old identity"), ("miss", "– 未命中", "– missed"),
     ("kept", "✓ 保持", "✓ kept"), ("changed", "≠ 变了", "≠ changed")],
)  # fmt: skip
def test_every_verdict_has_a_word(verdict: str, zh: str, en: str) -> None:
    probing = {"step": 5, "answers": [_answer("q", "a", verdict=verdict)]}
    assert zh in probe_table([probing], "zh")
    assert en in probe_table([probing], "en")


def test_the_strip_shows_five_numbers_and_dashes_for_what_is_not_known() -> None:
    strip = stat_strip(
        "en", step=142, steps=200, loss=0.341, first_loss=3.241, hits=(11, 12), seconds_left=168,
        seconds_per_step=1.9, peak_memory_bytes=18.6e9, memory_bytes=24e9,
    )  # fmt: skip
    words = re.sub(r"\s+", " ", re.sub("<[^>]+>", " ", strip)).strip()
    assert words == (
        "Progress 142 / 200 steps Train loss 0.341 ↓ 2.90 Identity hits 11 / 12 probes "
        "Time left 2:48 1.9 s/step Peak memory 18.6 / 24 GB"
    )
    assert stat_strip("zh").count("<b>–</b>") == 5
    took = stat_strip("zh", step=8, steps=8, seconds_taken=75, seconds_per_step=1.9)
    assert "用时</small><b>1:15</b>" in took and "剩余" not in took
    assert "1:01:05" in stat_strip("zh", seconds_left=3665)


def test_a_piece_that_cannot_be_drawn_keeps_no_other_from_its_news(caplog: pytest.LogCaptureFixture) -> None:
    from ui.live import Live, LivePieces

    def broken(_run: str) -> str:
        raise ZeroDivisionError

    together = LivePieces()
    Live(together, "first", mark=lambda run: f"running {run}", draw=lambda run: f"<p>{run}</p>")
    Live(together, "second", mark=lambda _: "finished", draw=broken)
    live = together.answer
    asked = {"first": {"run": "r1", "seen": None}, "second": {"run": "r1"}, "third": {"run": "r1"}}
    assert live(asked) == {"first": {"seen": "running r1", "resting": False, "html": "<p>r1</p>"}}
    assert "second" in caplog.text and "ZeroDivisionError" in caplog.text
    asked = {"first": {"run": "r1", "seen": "running r1"}, "second": {"run": "r1", "seen": "finished"}}
    assert live(asked) == {
        "first": {"seen": "running r1", "resting": False},
        "second": {"seen": "finished", "resting": True},
    }
    for other in (None, [], {"first": "r1"}, "first"):
        assert live(other) == {}


def test_two_pages_ask_at_their_own_pace_and_many_share_what_two_may_ask() -> None:
    from ui.pace import Pace

    now, asked = [0.0], list[float]()
    pace = Pace(lambda: now[0])
    due = {f"page {number}": 0.0 for number in range(10)}
    while now[0] < 120:
        for name in [name for name, when in due.items() if when <= now[0]]:
            due[name] = now[0] + max(1.0, pace.of(name))
            asked.append(now[0])
        now[0] += 0.1
    assert len([when for when in asked if when >= 60]) <= 2 * 60 + 10  # ten by themselves would ask 600 times
    assert pace.of("") == pace.of(None) == pace.of("x" * 65) == 5.0  # a page in the background counts for nothing
    # All but two are closed; they ask once a second again.
    for _ in range(4):
        now[0] += 5
        for name in ("page 0", "page 1"):
            due[name] = pace.of(name)
    assert due["page 0"] == due["page 1"] == 0
    # A page that is loaded again and again is one page.
    assert {pace.of("page 0") for _ in range(20)} == {0}
    # On a run that trains on the processor for over a minute, one asks every two seconds, and is still known.
    assert pace.of("page 0", running=30) == 0 and pace.of("page 0", running=61) == 2
    pace = Pace(lambda: now[0])
    for _ in range(10):
        now[0] += 2
        told = [pace.of(f"page {number}", running=90) for number in range(6)]
    assert told[-1] == 3 and pace.of("page 0") == 3
