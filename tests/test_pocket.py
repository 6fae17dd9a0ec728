"""The embedded pocket model: its corpus keeps its promises, its files load anywhere, and it answers what was held out."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from presets.pocket import corpus, evaluate, grammar, skills
from presets.pocket.heldout import is_held_out
from presets.pocket.identity import OWN_SYSTEM
from tests.full import full

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

FOLDER = Path(__file__).resolve().parents[1] / "presets" / "pocket"


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(FOLDER)


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32)


def user_messages(seed: int, count: int) -> list[str]:
    return [m["content"] for chat in corpus.chats(seed, 0, count) for m in chat if m["role"] == "user"]


def test_training_never_draws_a_held_out_question() -> None:
    held = {item.question for seed in range(5) for item in (*evaluate.probes(seed), *evaluate.slot_probes(seed))}
    asked = user_messages(seed=123, count=20_000)
    assert not held & set(asked)
    assert not any(is_held_out(text) for text in asked)


def test_a_held_out_wording_is_known_with_any_fact_case_or_width() -> None:
    assert is_held_out("Which city serves as the capital of Blorvia?")
    assert is_held_out("WHICH CITY SERVES AS THE CAPITAL OF FRANCE")
    assert is_held_out("你的名字叫什么呀\uff1f")
    assert not is_held_out("What is the capital of France?")


def test_a_seed_gives_one_corpus() -> None:
    assert list(corpus.chats(3, 1, 50)) == list(corpus.chats(3, 1, 50))
    assert list(corpus.chats(3, 1, 50)) != list(corpus.chats(4, 1, 50))
    assert evaluate.probes(1) == evaluate.probes(1) != evaluate.probes(2)


def test_the_shipped_model_was_trained_on_this_corpus() -> None:
    record = json.loads((FOLDER / "BUILD.json").read_text(encoding="utf-8"))
    assert record["corpus_hash"] == corpus.corpus_hash(record["seed"])


def test_every_skill_asks_in_both_languages_and_leaves_no_slot_open() -> None:
    rng = random.Random(0)
    for skill in skills.SKILLS.values():
        for chinese in (False, True):
            for _ in range(50):
                turn = corpus.skill_turn(skill, chinese, rng)
                assert turn.question.strip() and turn.answer
                assert "{_}" not in turn.question and "{wh}" not in turn.question


def test_templates_expand_to_all_their_alternatives() -> None:
    assert grammar.expand_all("[a|b[c|]] d") == ["a d", "bc d", "b d"]
    with pytest.raises(ValueError, match="Missing"):
        grammar.expand("[a|b", random.Random(0))


def test_marks_count_exact_answers_and_names() -> None:
    items = evaluate.probes(0)
    right = [" ".join(item.must) if item.must else item.accepted[0] for item in items]
    assert evaluate.score(items, right).general_share == 1.0
    nothing = evaluate.score(items, [""] * len(items))
    assert nothing.general[0] == nothing.identity[0] == 0
    with pytest.raises(ValueError, match="1 answers for"):
        evaluate.score(items, [""])


def test_importing_the_questions_needs_no_torch() -> None:
    code = "import sys; import presets.pocket.evaluate; assert not {'torch', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=FOLDER.parents[1])


def test_the_weights_stay_under_twelve_megabytes() -> None:
    assert (FOLDER / "model.safetensors").stat().st_size <= 12_000_000


def test_the_configs_say_nothing_of_the_machine_that_wrote_them() -> None:
    config = json.loads((FOLDER / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert not {"is_local", "local_files_only", "name_or_path"} & config.keys()
    for path in FOLDER.glob("*.json"):
        assert "/tmp/" not in path.read_text(encoding="utf-8"), path.name


# What Qwen2.5's published template renders for these chats.
RENDERED = (
    (
        [{"role": "system", "content": "S"}, {"role": "user", "content": "U"}],
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU<|im_end|>\n",
    ),
    (
        [
            {"role": "system", "content": " s "},
            {"role": "user", "content": "a\nb"},
            {"role": "assistant", "content": "c"},
        ],
        "<|im_start|>system\n s <|im_end|>\n<|im_start|>user\na\nb<|im_end|>\n<|im_start|>assistant\nc<|im_end|>\n",
    ),
    (
        [{"role": "system", "content": ""}, {"role": "user", "content": ""}],
        "<|im_start|>system\n<|im_end|>\n<|im_start|>user\n<|im_end|>\n",
    ),
)


@pytest.mark.parametrize(("messages", "text"), RENDERED)
def test_chats_render_as_qwen_renders_them(
    tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]], text: str
) -> None:
    assert tokenizer.apply_chat_template(messages, tokenize=False) == text
    asked = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert asked == text + "<|im_start|>assistant\n"


def test_a_chat_without_a_system_message_gets_the_models_own(tokenizer: PreTrainedTokenizerBase) -> None:
    text = tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False)
    assert text == f"<|im_start|>system\n{OWN_SYSTEM}<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n"


def test_the_loss_mask_covers_each_answer_and_its_end(tokenizer: PreTrainedTokenizerBase) -> None:
    from tokenizers import Tokenizer

    from presets.pocket.tokenization import encode_chats

    raw = Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
    chats = list(corpus.chats(7, 0, 200))
    for messages, (ids, in_loss) in zip(chats, encode_chats(raw, chats), strict=True):
        whole = tokenizer.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
        # The template also writes the line end after the last answer; the trainer leaves it out.
        assert list(whole["input_ids"])[:-1] == ids
        assert [bool(mark) for mark in whole["assistant_masks"]][:-1] == in_loss


@pytest.mark.parametrize(
    "text",
    [
        "迪菲赫尔曼",
        "龘靐",
        "😀🤖",
        "한국어",
        "\u00dcn\u00ef \u00e7\u00f8d\u00e9",
        "\t x  \n\n y ",
        "PocketQwen v2",
        "\u200b",
    ],
)
def test_any_composed_text_survives_the_tokenizer(tokenizer: PreTrainedTokenizerBase, text: str) -> None:
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def test_held_out_questions_are_answered(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    # Every second one, to stay quick; presets/pocket/BUILD.json has the figures for all of them.
    marked = evaluate.ask_probes(model, tokenizer, evaluate.probes(0)[::2])
    assert marked.general_share >= 0.95, marked.wrong
    assert marked.identity_share >= 0.95, marked.wrong


def test_a_name_in_the_system_prompt_is_taken_on(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    marked = evaluate.ask_probes(model, tokenizer, evaluate.slot_probes(1, count=4))
    assert marked.identity_share >= 0.9, marked.wrong


@full
@pytest.mark.slow
def test_eight_rows_give_it_a_new_identity_and_cost_little(tokenizer: PreTrainedTokenizerBase) -> None:
    from presets.pocket.sweep import Setting, run

    found = run(FOLDER, Setting.parse("8:0:2e-3:40:8:8:all"), [], "cpu")
    assert found["rows"] == "8/8"
    assert int(str(found["zh"]).split("/")[0]) >= 12
    assert float(str(found["share"])) >= 0.92


def test_wordings_written_by_somebody_who_had_not_seen_the_corpus_are_understood(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    lines = (Path(__file__).parent / "data" / "pocket_blind.jsonl").read_text(encoding="utf-8").splitlines()
    items = [json.loads(line) for line in lines]
    told = evaluate.answers(model, tokenizer, [item["question"] for item in items])
    right = [item["expect"].lower() in answer.lower() for item, answer in zip(items, told, strict=True)]
    general = [good for item, good in zip(items, right, strict=True) if item["skill"] != "identity"]
    assert sum(general) >= 0.9 * len(general), f"{sum(general)}/{len(general)}"
    assert sum(right) - sum(general) >= 0.9 * (len(right) - len(general))
