"""What happens when a setting is changed: said for every setting, measured where it can be, shown beside it and in the documents."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from core import config, effects
from core.effect_words import EFFECTS
from core.errors import ConfigError
from core.text import LANGUAGES, Language, has_han
from tests import settings_document
from ui import effect_card

DOCS = Path(__file__).resolve().parents[1] / "docs"


def test_every_setting_says_what_happens_when_it_is_changed() -> None:
    assert set(EFFECTS) == set(config.names())
    for name, said in EFFECTS.items():
        assert has_han(said.zh) and said.zh.endswith("。") and not has_han(said.en) and said.en.endswith("."), name


def test_the_measured_runs_are_of_settings_and_values_that_there_are() -> None:
    found = effects.measured()
    assert len(found.plain) >= 2 and not found.plain[0].changes and len(found.changed) >= 20
    for name, runs in found.changed.items():
        assert name in config.names()
        for run in runs:
            assert name in run.changes or name == "early_stop_interval", name
            config.build(dict(run.changes))  # or ConfigError
            assert 0 <= run.identity <= run.identity_of and 0 <= run.general <= run.general_of and run.seconds > 0
    assert {run.identity_of for runs in found.changed.values() for run in runs} == {found.plain[0].identity_of}


def test_a_value_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError):
        config.build({"learning_rate": "much"})


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_card_of_a_setting_has_its_sentences_and_a_line_for_every_run(language: Language) -> None:
    for name in config.names():
        card = effect_card.draw(language, name)
        assert f"--{name}" in card and card.count("<tr>") == max(0, len(effects.measured().of(name)) + 2) * bool(
            effects.measured().of(name)
        )
    rate = effect_card.lines(language, "learning_rate")
    assert len({len(row) for row in rate}) == 1 and "2e-4" in str(rate)


def test_the_server_gives_the_card_of_a_setting_and_of_nothing_else(client: TestClient) -> None:
    answer = client.get("/settings/zh/learning_rate")
    assert answer.status_code == 200 and "改了会怎样" in answer.text and "学习率" in answer.text
    assert "What if I change it" in client.get("/settings/en/learning_rate").text
    assert {client.get(f"/settings/{path}").status_code for path in ("zh/nothing", "fr/seed", "zh/__class__")} == {404}


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_documents_are_as_the_settings_are(language: Language) -> None:
    made = settings_document.document(language)
    assert settings_document.FILES[language].read_text("utf-8") == made, "python -m tests.settings_document writes it"
    assert len(re.findall(r"^### ", made, re.MULTILINE)) == len(config.names())


def test_the_comparison_counts_the_settings_that_there_are() -> None:
    from ui import fields

    count, main = len(fields.visible_names()), len([n for n in config.names() if config.fact_of(n).group == "main"])
    said = {
        "compared.md": f"{count} beside the pickers of preset, data and model; **{main}** of them stand open",
        "compared.zh.md": f"除了方案、数据和模型的选择框，{count} 项，摊开的只有 **{main}** 项",
    }
    for name, words in said.items():
        assert words in (DOCS / name).read_text("utf-8"), name


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> TestClient:
    """The cards' route alone."""
    from fastapi import FastAPI

    app = FastAPI()
    effect_card.add(app)
    return TestClient(app)
