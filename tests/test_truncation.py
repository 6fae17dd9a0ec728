"""Rows over the limit: refused, cut at the beginning or left out, the same in the preview, the run and the row report."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from core import truncation
from core.config import TrainConfig
from core.dataset import Dataset, Message, Row
from core.encode import IGNORE, Encoder, encoder_for
from core.engine import Engine
from core.errors import DatasetError
from core.row_report import _asked
from core.run import Run
from core.train import _examples
from core.workspace import Workspace

SYSTEM = "Be kind."
TALK = Row(
    "last question é" * 3, "", "the answer, whole", SYSTEM,
    (Message("user", "first " * 9), Message("assistant", "one " * 9), Message("user", "second"), Message("assistant", "two")),
)  # fmt: skip


@pytest.fixture(scope="module")
def encoder(tiny_model: Path) -> Encoder:
    return encoder_for(AutoTokenizer.from_pretrained(tiny_model))


def config(limit: int, strategy: str = "left") -> TrainConfig:
    return TrainConfig(max_length=limit, truncation_strategy=strategy)


def answers(encoder: Encoder, fitted: truncation.Fitted) -> str:
    return encoder.decode([label for one in fitted.examples for label in one.labels if label != IGNORE])


def test_a_row_that_fits_is_left_alone_by_every_strategy(encoder: Encoder) -> None:
    for strategy in ("raise", "left", "delete"):
        fitted = truncation.fit(encoder, TALK.messages(), config(4096, strategy))
        assert fitted.examples == encoder.examples(TALK.messages()) and not (fitted.turns_cut or fitted.tokens_cut)


def test_the_oldest_turns_go_first_and_as_few_as_will_do(encoder: Encoder) -> None:
    whole = truncation.fit(encoder, TALK.messages(), config(4096))
    fitted = truncation.fit(encoder, TALK.messages(), config(whole.tokens - 1))
    assert fitted.turns_cut == 2 and fitted.messages == (*TALK.messages()[:1], *TALK.messages()[3:])
    assert len(fitted.examples[0]) == whole.tokens - fitted.tokens_cut and fitted.tokens == whole.tokens
    assert "one" not in answers(encoder, fitted) and answers(encoder, fitted) == "twothe answer, whole"


@pytest.mark.parametrize("limit", range(60, 260, 7))
def test_whatever_the_limit_the_system_prompt_and_the_answer_are_whole(encoder: Encoder, limit: int) -> None:
    least = len(encoder.example((Message("system", SYSTEM), Message("user", "é"), Message("assistant", TALK.output))))
    if limit < least:
        with pytest.raises(DatasetError, match="never cut"):
            truncation.fit(encoder, TALK.messages(), config(limit))
        return
    fitted = truncation.fit(encoder, TALK.messages(), config(limit))
    assert all(len(one) <= limit for one in fitted.examples)
    assert fitted.messages[0] == Message("system", SYSTEM) and fitted.messages[1].role == "user"
    assert answers(encoder, fitted).endswith("the answer, whole")
    assert TALK.question.endswith(fitted.messages[-2].content)
    # Not a character more than needed: one more would be too many.
    if 0 < len(fitted.messages[-2].content) < len(TALK.question):
        longer = TALK.question[-len(fitted.messages[-2].content) - 1 :]
        turns = (fitted.messages[0], Message("user", longer), fitted.messages[-1])
        assert len(encoder.example(turns)) > limit


def test_left_out_rows_are_no_examples_and_all_of_them_is_an_error(encoder: Encoder) -> None:
    rows = [TALK.messages(), Row("q", "", "a").messages()]
    fitted = truncation.fit_rows(encoder, rows, config(100, "delete"))
    assert truncation.kept([one.examples for one in fitted]) == [1]
    with pytest.raises(DatasetError, match="nothing remains"):
        truncation.kept([fitted[0].examples])
    with pytest.raises(DatasetError, match=r"Row 1: .* the limit is 100"):
        truncation.fit_rows(encoder, rows, config(100, "raise"))


TABLE = Dataset(
    "long", (Row("short", "", "me"), TALK, Row(), Row("q" * 40, "", "A" * 120, SYSTEM), Row("短", "", "我"))
)


@pytest.fixture
def workspace(tmp_path: Path, tiny_engine: Engine) -> Workspace:
    made = Workspace(tmp_path / "home", tiny_engine)
    made.save(TABLE)
    return made


def test_what_is_said_beforehand_is_what_is_trained(workspace: Workspace, tiny_config: TrainConfig) -> None:
    settings = replace(tiny_config, max_length=190, truncation_strategy="left", system="", max_steps=1)
    preview = workspace.preview("long", settings)
    found = next(finding for finding in preview.findings if finding.kind == "too_long")
    assert (found.level, found.rows) == ("warn", (1, 3))
    run = workspace.start("long", settings)
    workspace.close(60)
    training = _examples(workspace.engine, run).training
    whole = truncation.fit(workspace.engine.resident.encoder, TALK.messages(), config(4096)).tokens
    assert (len(training), preview.rows) == (4, 4) and max(map(len, training)) == preview.longest <= 190
    assert f"row 2 (2 messages, {whole - len(training[1])} tokens)" in found.text.en
    started = run.last("started")
    cut = run.last("truncated")
    assert cut is not None and (cut["left_out"], cut["cut"], cut["rows"]) == (
        0,
        2,
        [1, 2],
    )  # of the run: the table without its blank row
    assert f"{cut['tokens_cut']} tokens are cut" in found.text.en
    assert started is not None and (started["steps"], started["tokens"]) == (preview.steps, preview.tokens)


def test_rows_that_were_cut_are_told_of_either_set_apart(workspace: Workspace, tiny_config: TrainConfig) -> None:
    settings = replace(tiny_config, max_length=190, truncation_strategy="left", system="")
    short, whole = TABLE.resolved()[:1], TABLE.resolved()
    held = Run.create(workspace.home / "runs" / "held", settings, short, "x", "x", whole)
    both = Run.create(workspace.home / "runs" / "both", settings, whole, "x", "x", whole)
    for run in (held, both, both):  # going on with a run tells nothing again
        _examples(workspace.engine, run)
    assert list(held.truncated) == ["evaluation"] and list(both.truncated) == ["training", "evaluation"]
    assert len(both.events) == 2


def test_a_row_that_cannot_be_cut_is_named_and_forbids_the_start(
    workspace: Workspace, tiny_config: TrainConfig
) -> None:
    settings = replace(tiny_config, max_length=120, truncation_strategy="left", system="")
    found = {finding.kind: finding for finding in workspace.preview("long", settings).findings}
    assert found["uncuttable"].level == "bad" and found["uncuttable"].rows == (3,)
    assert found["too_long"].rows == (1,)
    with pytest.raises(DatasetError, match=r"Row 4: .*never cut") as caught:
        workspace.start("long", settings)
    assert caught.value.row == 3


def test_rows_left_out_are_counted_and_neither_trained_nor_reported(
    workspace: Workspace, tiny_config: TrainConfig
) -> None:
    settings = replace(
        tiny_config, max_length=190, truncation_strategy="delete", system="", split_dataset_ratio=0.5, max_steps=1
    )
    preview = workspace.preview("long", settings)
    found = next(finding for finding in preview.findings if finding.kind == "too_long")
    assert (found.level, found.rows, preview.rows) == ("warn", (1, 3), 2)
    run = Run.create(workspace.home / "runs" / "x", settings, TABLE.resolved(), "x", "long")
    found = _examples(workspace.engine, run)
    training, held = found.training, found.held_out
    asked, held_out = _asked(run, list(enumerate(run.rows)), workspace.engine.resident.encoder)
    assert [row.output for _, row, _ in asked] == ["me", "我"] and (len(training), len(held)) == (1, 1)
    assert [one for index, _, each in asked for one in each if index in held_out] == held


@pytest.mark.parametrize(("strategy", "level"), [("raise", "bad"), ("left", "warn"), ("delete", "warn")])
def test_rows_that_are_mixed_in_are_told_of_too(
    workspace: Workspace, tiny_config: TrainConfig, strategy: str, level: str
) -> None:
    workspace.save(Dataset("other", (Row("w" * 300, "", "b"), Row("x", "", "y"))))
    settings = replace(tiny_config, max_length=120, truncation_strategy=strategy, system="", mix="other")
    workspace.save(Dataset("short", (Row("q", "", "a"),)))
    preview = workspace.preview("short", settings)
    found = [finding for finding in preview.findings if finding.kind == "mixed_too_long"]
    assert [finding.level for finding in found] == [level] and "1 over" in found[0].text.en
    assert preview.rows == (2 if strategy == "delete" else 3)
    if strategy == "raise":
        with pytest.raises(DatasetError, match="Mix in"):
            workspace.start("short", settings)
