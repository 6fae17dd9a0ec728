"""Pasted commands: what each of them would fill in, and what is said of every flag."""

from __future__ import annotations

import dataclasses
import json
import random
import time
from pathlib import Path

import pytest

from core.commands import elsewhere, shell
from core.commands.apply import apply
from core.commands.place import Here
from core.commands.plan import Plan, plan
from core.config import TrainConfig
from core.dataset import Dataset, Identity, Row
from core.errors import UserError
from core.workspace import Workspace

# The first article's command, flag by flag as it stands there.
IDENTITY = r"""
CUDA_VISIBLE_DEVICES=0 \
swift sft \
    --model Qwen2.5-7B-Instruct \
    --model_type qwen \
    --train_type lora \
    --dataset self_cognition.json \
    --torch_dtype bfloat16 \
    --num_train_epochs 10 \
    --per_device_train_batch_size 1 \
    --per_device_eval_batch_size 1 \
    --learning_rate 1e-4 \
    --lora_rank 8 \
    --lora_alpha 32 \
    --target_modules all-linear \
    --gradient_accumulation_steps 16 \
    --eval_steps 50 \
    --save_steps 50 \
    --save_total_limit 2 \
    --logging_steps 5 \
    --max_length 2048 \
    --output_dir output \
    --system 'You are a helpful assistant.' \
    --warmup_ratio 0.05 \
    --dataloader_num_workers 4 \
    --model_author 'CSDN 迪菲赫尔曼' \
    --model_name 'Swift-Robot'
"""
MIXED = """swift sft --model Qwen/Qwen2.5-7B-Instruct --train_type lora --num_train_epochs 3 --learning_rate 1e-4
  --dataset 'AI-ModelScope/alpaca-gpt4-data-zh#500' 'AI-ModelScope/alpaca-gpt4-data-en#500' 'self_cognition.json'
  --system 'You are a helpful assistant.' --model_author 'CSDN 迪菲赫尔曼' --model_name 'Swift-Robot'"""
QLORA = """swift sft --model Qwen/Qwen2.5-7B-Instruct --train_type qlora --quant_bits 4 --dataset self_cognition.json \\
  --num_train_epochs 10 --learning_rate 2e-4 --lora_rank 8 --lora_alpha 32 --optim paged_adamw_8bit \\
  --gradient_checkpointing true --torch_dtype bfloat16 --system 'You are a helpful assistant.'"""
MEMORY = """swift sft --model Qwen/Qwen2.5-7B-Instruct --train_type lora --dataset self_cognition.json --torch_dtype float16 \\
  --max_length 1024 --cpu-offload-gb 8 --system 'You are a helpful assistant.'"""
YAML = """
### model
model_name_or_path: Qwen/Qwen2.5-7B-Instruct
trust_remote_code: true
stage: sft
do_train: true
finetuning_type: lora
lora_rank: 8
lora_target: all
dataset: identity
template: qwen
cutoff_len: 1024
max_samples: 30
output_dir: saves/qwen/lora/sft
logging_steps: 10
save_steps: 500
plot_loss: true
per_device_train_batch_size: 1
gradient_accumulation_steps: 8
learning_rate: 1.0e-4
num_train_epochs: 3.0
lr_scheduler_type: cosine
warmup_ratio: 0.1
bf16: true
val_size: 0.1
eval_strategy: steps
eval_steps: 5
"""


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A home with the starter sets; relative paths are those of an empty folder."""
    monkeypatch.chdir(tmp_path)
    return Workspace(tmp_path / "home")


@pytest.fixture
def here(workspace: Workspace) -> Here:
    """That home, with no model but the pocket model."""
    return dataclasses.replace(Here.of(workspace), cached=lambda: ())


def verdicts(found: Plan, flag: str) -> list[str]:
    """What became of a flag, by how the command spells it."""
    return [note.verdict for note in found.notes if note.flag.split()[:1] == [flag]]


def said(found: Plan, flag: str = "") -> str:
    """All that is said of a flag, in English."""
    return " ".join(note.text.en for note in found.notes if note.flag.split()[:1] == ([flag] if flag else []))


def settings(found: Plan) -> dict[str, object]:
    """The plan's settings."""
    assert found.config is not None
    return found.config.as_dict()


# -- the four articles --


def test_the_identity_command_gives_the_articles_run(here: Here) -> None:
    found = plan(IDENTITY, here)
    assert found.tool == "ms-swift" and found.preset == "identity"
    expected = {
        "model": "Qwen/Qwen2.5-7B-Instruct", "num_train_epochs": 10.0, "learning_rate": 1e-4, "lora_rank": 8, "lora_alpha": 32,
        "target_modules": "all-linear", "per_device_train_batch_size": 1, "gradient_accumulation_steps": 16,
        "warmup_ratio": 0.05, "max_length": 2048, "save_steps": 50, "save_total_limit": 2, "logging_steps": 5,
        "dataloader_num_workers": 4, "system": "You are a helpful assistant.", "torch_dtype": "bfloat16", "mix": "",
        "quant_method": "none", "lora_dropout": 0.05, "weight_decay": 0.1, "adam_beta2": 0.95, "rehearsal": "off",
        "stop_when_taken": "false",
    }  # fmt: skip
    assert {name: settings(found)[name] for name in expected} == expected
    assert found.identity == Identity("Swift-Robot", "Swift-Robot", "CSDN 迪菲赫尔曼", "CSDN 迪菲赫尔曼")
    assert found.table is not None and len(found.table.rows) == 8 and found.steps == 10


def test_the_identity_command_names_what_is_outdated_and_wrong(here: Here) -> None:
    found = plan(IDENTITY, here)
    assert verdicts(found, "--train_type") == ["renamed"] and "--tuner_type" in said(found, "--train_type")
    assert verdicts(found, "--model_type") == ["wrong"]
    assert verdicts(found, "--model") == ["wrong"] and "Qwen/Qwen2.5-7B-Instruct" in said(found, "--model")
    assert "no checkpoint-50" in said(found, "--save_steps") and "checkpoint-10" in said(found, "--save_steps")
    assert verdicts(found, "--eval_steps") == ["notice"] and "never" in said(found, "--eval_steps")
    assert "self-cognition set only" in said(found, "--model_author")
    assert "10 steps in all" in said(found)
    assert verdicts(found, "--output_dir") == ["ignored"]
    assert not [note for note in found.notes if note.verdict == "unknown"]


def test_the_mixed_command_keeps_its_sources_and_says_how_thin_the_identity_is(here: Here) -> None:
    found = plan(MIXED, here)
    assert settings(found)["mix"] == "AI-ModelScope/alpaca-gpt4-data-zh#500 AI-ModelScope/alpaca-gpt4-data-en#500"
    assert settings(found)["num_train_epochs"] == 3.0 and found.preset == "mixed"
    assert "not on this machine yet" in " ".join(note.text.en for note in found.notes)
    # 500 + 500 + 8 rows, 16 a step, 3 epochs; the identity is 8 of 1,008.
    assert found.steps == 189 and sum(part.rows for part in found.parts) == 1008
    assert "0.8% of all" in said(found, "--dataset") and "self_cognition.json#250" in said(found, "--dataset")
    assert "“\\”" in said(found)  # the lines lost their backslashes


def test_the_qlora_command_becomes_a_four_bit_base(here: Here) -> None:
    found = plan(QLORA, here)
    assert settings(found)["quant_method"] == "bnb" and found.preset == "qlora"
    assert settings(found)["optim"] == "paged_adamw_8bit" and settings(found)["learning_rate"] == 2e-4
    assert verdicts(found, "--train_type") == ["wrong"]
    assert "--tuner_type lora --quant_method bnb --quant_bits 4" in said(found, "--train_type")
    assert settings(found)["gradient_checkpointing"] == "auto"


def test_the_memory_command_takes_what_exists_and_refuses_the_vllm_option(here: Here) -> None:
    found = plan(MEMORY, here)
    assert settings(found)["torch_dtype"] == "float16" and settings(found)["max_length"] == 1024
    assert verdicts(found, "--cpu-offload-gb") == ["wrong"] and "vLLM" in said(found, "--cpu-offload-gb")


# -- other flags --


def test_quant_bits_alone_would_not_quantise_and_is_read_as_meant(here: Here) -> None:
    found = plan("swift sft --model Qwen/Qwen2.5-7B-Instruct --quant_bits 4 --dataset articles-8", here)
    assert settings(found)["quant_method"] == "bnb" and verdicts(found, "--quant_bits") == ["wrong"]
    right = plan(
        "swift sft --model Qwen/Qwen2.5-7B-Instruct --quant_method bnb --quant_bits 4 --dataset articles-8", here
    )
    assert settings(right)["quant_method"] == "bnb" and "wrong" not in verdicts(right, "--quant_bits")


def test_an_unknown_flag_names_the_nearest_and_is_not_taken(here: Here) -> None:
    found = plan("swift sft --model pocket --dataset articles-8 --lerning_rate 0.5 --frobnicate 3", here)
    assert verdicts(found, "--lerning_rate") == ["unknown"] and "--learning_rate" in said(found, "--lerning_rate")
    assert verdicts(found, "--frobnicate") == ["unknown"]
    assert settings(found)["learning_rate"] != 0.5


def test_a_value_out_of_range_is_said_and_left(here: Here) -> None:
    found = plan(
        "swift sft --model Qwen/Qwen2.5-7B-Instruct --dataset articles-8 --lora_rank 99999 --learning_rate nan", here
    )
    assert verdicts(found, "--lora_rank") == ["wrong"] and settings(found)["lora_rank"] == 8
    assert verdicts(found, "--learning_rate") == ["wrong"] and settings(found)["learning_rate"] == 1e-4


def test_every_note_has_both_languages_and_full_width_punctuation(here: Here) -> None:
    for text in (IDENTITY, MIXED, QLORA, MEMORY, YAML):
        for note in plan(text, here).notes:
            assert note.text.zh.strip() and note.text.en.strip()
            assert note.text.zh.rstrip()[-1] in "。？）”" or note.text.zh.rstrip().endswith("#1"), note.text.zh


def test_old_commands_of_version_two_are_read(here: Here) -> None:
    found = plan(
        "swift sft --model_type qwen2_5-7b-instruct --sft_type lora --dtype bf16 --lora_target_modules ALL "
        "--self_cognition_sample 100 --model_name 小禾 Xiaohe --model_author 青禾 Qinghe --batch_size 2 --quantization_bit 4",
        here,
    )
    chosen = settings(found)
    assert chosen["model"] == "Qwen/Qwen2.5-7B-Instruct" and chosen["torch_dtype"] == "bfloat16"
    assert chosen["per_device_train_batch_size"] == 2 and chosen["quant_method"] == "bnb"
    assert found.table is not None and found.table.kind == "starter" and chosen["dataset_repeat"] == 2
    assert found.identity == Identity("小禾", "Xiaohe", "青禾", "Qinghe")
    for flag in ("--sft_type", "--dtype", "--lora_target_modules", "--batch_size"):
        assert verdicts(found, flag) == ["renamed"], flag


def test_several_cards_become_accumulation(here: Here) -> None:
    found = plan(
        "NPROC_PER_NODE=4 swift sft --model pocketless --dataset articles-8 --gradient_accumulation_steps 4", here
    )
    assert settings(found)["gradient_accumulation_steps"] == 16
    alone = plan("torchrun --nproc_per_node 2 train.py --model_name_or_path X/Y --lora_r 4 --gradient_accumulation_steps 3 "
                 "--dataset articles-8", here)  # fmt: skip
    assert settings(alone)["gradient_accumulation_steps"] == 6 and settings(alone)["lora_rank"] == 4


def test_the_comma_form_is_split_and_named_wrong(here: Here) -> None:
    found = plan("swift sft --model A/B --dataset 'articles-8,general#100'", here)
    assert settings(found)["mix"] == "general#100" and "wrong" in verdicts(found, "--dataset")
    assert found.parts[0].rows == 8 and found.parts[1].rows == 100


def test_a_count_behind_the_table_repeats_it_and_a_smaller_one_draws(here: Here, workspace: Workspace) -> None:
    more = plan("swift sft --model A/B --dataset 'articles-8#250' 'general#100'", here)
    assert settings(more)["dataset_repeat"] == 31 and "articles-8#2" in str(settings(more)["mix"])
    assert sum(part.rows for part in more.parts) == 350
    fewer = plan("swift sft --model A/B --dataset 'identity-50#20'", here)
    applied = apply(fewer, workspace)
    table = workspace.dataset(applied.table)
    assert len(table.rows) == 20 and set(table.rows) < set(workspace.dataset("identity-50").rows)


def test_warm_up_steps_and_epoch_strategies_are_counted_in_steps(here: Here) -> None:
    found = plan("swift sft --model A/B --dataset identity-50 --per_device_train_batch_size 5 --gradient_accumulation_steps 1 "
                 "--num_train_epochs 4 --warmup_steps 4 --save_strategy epoch", here)  # fmt: skip
    assert settings(found)["warmup_ratio"] == pytest.approx(0.1) and settings(found)["save_steps"] == 10
    assert found.steps == 40


def test_typeset_dashes_and_quotes_are_put_right(here: Here) -> None:
    found = plan("swift sft —model A/B –-dataset ‘articles-8’ –lora_rank 4", here)
    assert settings(found)["lora_rank"] == 4 and found.table is not None and len(found.table.rows) == 8
    assert "typeset as dashes" in said(found)


def test_comments_prompts_and_other_commands_do_not_disturb(here: Here) -> None:
    text = """$ pip install ms-swift -U
# the training
$ nohup swift sft \\
    --model A/B \\   # 7B
    --dataset 'articles-8#8' \\
    # --lora_rank 64 \\
    --lora_rank 4 > train.log 2>&1 &
swift infer --adapters output/v0/checkpoint-10 --stream true --temperature 0
"""
    found = plan(text, here)
    assert settings(found)["lora_rank"] == 4 and found.table is not None and found.table.count == 8
    assert "Chat" in " ".join(note.text.en for note in found.notes if note.flag == "infer")


def test_a_here_document_is_the_table(here: Here, workspace: Workspace) -> None:
    text = """cat > self_cognition.json << 'EOF'
[{"instruction": "你是谁?", "input": "", "output": "我是小禾。"}]
EOF
swift sft --model A/B --dataset self_cognition.json"""
    found = plan(text, here)
    assert found.table is not None and found.table.kind == "pasted" and found.table.rows[0].output == "我是小禾。"
    assert workspace.dataset(apply(found, workspace).table).rows == (Row("你是谁?", "", "我是小禾。"),)


# -- LLaMA-Factory and plain scripts --


def test_llamafactory_yaml_takes_its_own_defaults(here: Here) -> None:
    found = plan(YAML, here)
    chosen = settings(found)
    assert found.tool == "LLaMA-Factory"
    expected = {"lora_alpha": 16, "weight_decay": 0.0, "adam_beta2": 0.999, "max_length": 1024, "warmup_ratio": 0.1,
                "target_modules": "all-linear", "split_dataset_ratio": 0.1, "eval_steps": 5, "learning_rate": 1e-4,
                "num_train_epochs": 3.0, "torch_dtype": "bfloat16", "logging_steps": 10}  # fmt: skip
    assert {name: chosen[name] for name in expected} == expected
    assert found.table is not None and found.table.kind == "starter" and found.table.drawn == 30
    assert not [note for note in found.notes if note.verdict == "unknown"]


def test_llamafactory_command_with_overrides_and_its_file(here: Here, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(YAML, encoding="utf-8")
    found = plan("llamafactory-cli train x.yaml learning_rate=5e-6 lora_rank=16", here)
    assert settings(found)["learning_rate"] == 5e-6 and settings(found)["lora_rank"] == 16
    with pytest.raises(UserError, match=r"absent\.yaml cannot be read"):
        plan("llamafactory-cli train absent.yaml", here)


def test_llamafactory_reads_a_dataset_info_folder(here: Here, tmp_path: Path) -> None:
    rows = [{"instruction": f"问题{i}", "input": "", "output": f"回答{i}"} for i in range(5)]
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.json").write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    (tmp_path / "data" / "dataset_info.json").write_text(
        json.dumps({"mine_set": {"file_name": "mine.json"}}), encoding="utf-8"
    )
    found = plan(
        "stage: sft\nmodel_name_or_path: A/B\nfinetuning_type: lora\ndataset_dir: data\ndataset: mine_set\n", here
    )
    assert found.table is not None and [row.output for row in found.table.rows] == [f"回答{i}" for i in range(5)]


def test_peft_source_is_read_without_being_run(here: Here) -> None:
    source = """
import os
MODEL = "Qwen/Qwen2.5-7B-Instruct"
os.makedirs("/never/made")
model = AutoModelForCausalLM.from_pretrained(MODEL, torch_dtype=torch.bfloat16)
data = load_dataset("json", data_files="articles-8")
config = LoraConfig(r=16, lora_alpha=32, target_modules=["q_proj", "v_proj"], lora_dropout=0.1, task_type="CAUSAL_LM")
args = TrainingArguments(output_dir="out", learning_rate=2e-4, num_train_epochs=5, per_device_train_batch_size=4,
    gradient_accumulation_steps=4, bf16=True, max_steps=compute())
"""
    found = plan(source, here)
    chosen = settings(found)
    assert chosen["model"] == "Qwen/Qwen2.5-7B-Instruct" and chosen["lora_rank"] == 16 and chosen["lora_dropout"] == 0.1
    assert chosen["target_modules"] == "q_proj v_proj" and chosen["learning_rate"] == 2e-4
    assert found.table is not None and len(found.table.rows) == 8
    assert "cannot be read here" in " ".join(note.text.en for note in found.notes if note.flag == "max_steps")
    assert not Path("/never/made").exists()


def test_flags_of_a_plain_script_are_read(here: Here) -> None:
    found = plan("python train.py --model_name_or_path A/B --lora_r 4 --lr 3e-4 --epochs 2 --max_seq_length 256 "
                 "--load_in_4bit --dataset articles-8", here)  # fmt: skip
    chosen = settings(found)
    assert (chosen["lora_rank"], chosen["learning_rate"], chosen["num_train_epochs"], chosen["max_length"]) == (
        4,
        3e-4,
        2.0,
        256,
    )
    assert chosen["quant_method"] == "bnb"


# -- what cannot be filled in --


@pytest.mark.parametrize(
    "text", ["", "   \n", "hello world", "ls -la", "import os\nprint(1)", "a: 1\n- b", '{"x":', "--", "swift"]
)
def test_what_is_no_training_command_is_refused_with_a_sentence(text: str, here: Here) -> None:
    with pytest.raises(UserError) as refused:
        plan(text, here)
    assert refused.value.text.zh and refused.value.text.en


@pytest.mark.parametrize("text", ["swift rlhf --rlhf_type dpo --model A/B", "stage: dpo\nmodel_name_or_path: A/B",
                                  "swift pt --model A/B", "stage: pt\nfinetuning_type: lora\nmodel_name_or_path: a"])  # fmt: skip
def test_other_stages_are_refused_by_name(text: str, here: Here) -> None:
    with pytest.raises(UserError, match="Only supervised fine-tuning"):
        plan(text, here)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("swift infer --adapters output/v0/checkpoint-10 --stream true --infer_backend pt", "Chat"),
        ("swift export --adapters output/v0/checkpoint-10 --merge_lora true --output_dir X", "exist_ok"),
        ("swift deploy --infer_backend vllm --host 0.0.0.0 --port 8080 --adapters a=b", "app.py serve"),
        ("vllm serve Qwen/Qwen2.5-7B-Instruct --enable-lora --lora-modules swift-robot=out", "app.py serve"),
        ("llamafactory-cli chat x=y", "Chat"),
    ],
)
def test_commands_that_train_nothing_name_their_place(text: str, word: str, here: Here) -> None:
    found = plan(text, here)
    assert found.config is None and word in found.notes[0].text.en
    if "infer_backend" in text and "pt" in text.split():
        assert verdicts(found, "--infer_backend") == ["renamed"]
    with pytest.raises(UserError):
        apply(found, Workspace(Path("elsewhere")))


def test_a_damaged_command_is_refused_or_read_and_nothing_else(here: Here) -> None:
    chance, marks = (
        random.Random(1),
        ["'", '"', "\\", "#", "\n", "—", "&a", "*a", "{", "<<EOF", "#5", "nan", "-1", "1e999", "--dataset", ": "],
    )
    for _ in range(300):
        text = chance.choice((IDENTITY, MIXED, QLORA, MEMORY, YAML))
        for _ in range(chance.randint(1, 6)):
            at = chance.randrange(len(text) + 1)
            text = (
                text[:at] + (chance.choice(marks) if chance.random() < 0.6 else "") + text[at + chance.randrange(20) :]
            )
        try:
            assert plan(text, here).notes
        except UserError as error:
            assert error.text.zh and error.text.en


def test_yaml_that_grows_without_end_does_not(here: Here) -> None:
    bomb = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}, *a{i - 1}]\n" for i in range(1, 60))
    began = time.process_time()
    assert plan(bomb + "learning_rate: 1e-4\nlora_r: 4\ndataset: articles-8\n", here).config is not None
    assert time.process_time() - began < 5


def test_tokens_are_not_repeated(here: Here) -> None:
    found = plan("swift sft --model A/B --dataset articles-8 --hub_token hf_SECRET --swanlab_token=abcSECRET", here)
    assert "SECRET" not in " ".join(f"{note.flag} {note.text.zh} {note.text.en}" for note in found.notes)


def test_every_setting_of_ours_with_ms_swifts_name_is_taken_by_its_name(here: Here) -> None:
    ours = TrainConfig().as_dict()
    for name in ("lora_rank", "lora_alpha", "num_train_epochs", "max_length", "seed", "weight_decay", "max_grad_norm",
                 "neftune_noise_alpha", "lorap_lr_ratio", "early_stop_interval", "adam_beta2", "split_dataset_ratio"):  # fmt: skip
        value = {"split_dataset_ratio": 0.25, "adam_beta2": 0.9, "max_length": 64}.get(name, 7)
        found = plan(f"swift sft --model A/B --dataset articles-8 --{name} {value}", here)
        assert settings(found)[name] == type(ours[name])(value), name


# -- applying --


def test_nothing_is_written_before_the_yes(here: Here, workspace: Workspace) -> None:
    before = {path: path.read_bytes() for path in workspace.home.rglob("*") if path.is_file()}
    plan(IDENTITY, here)
    plan(YAML, here)
    assert {path: path.read_bytes() for path in workspace.home.rglob("*") if path.is_file()} == before


def test_applied_the_table_has_its_rows_and_card_and_is_not_made_twice(here: Here, workspace: Workspace) -> None:
    found = plan(IDENTITY, here)
    applied = apply(found, workspace)
    table = workspace.dataset(applied.table)
    assert applied.made == (applied.table,) == ("self_cognition",)
    assert len(table.rows) == 8 and table.identity == found.identity
    again = apply(plan(IDENTITY, here), workspace)
    assert again.table == applied.table and again.made == ()


def test_a_local_file_becomes_a_table_with_its_placeholders(here: Here, workspace: Workspace, tmp_path: Path) -> None:
    (tmp_path / "mine.jsonl").write_text('{"query": "你是谁", "response": "我是{{NAME}}。"}\n', encoding="utf-8")
    found = plan("swift sft --model A/B --dataset mine.jsonl --model_name 小禾 Xiaohe --model_author 青禾 Qinghe", here)
    table = workspace.dataset(apply(found, workspace).table)
    assert table.rows[0].output == "我是{{NAME}}。" and table.resolved()[0].output == "我是小禾。"


def test_another_table_and_the_chosen_model_can_be_used_instead(here: Here, workspace: Workspace) -> None:
    workspace.save(Dataset("own", (Row("a", "", "b"), Row("c", "", "d"))))
    found = plan(IDENTITY, here, table="own", keep_model=True)
    assert found.table is not None and len(found.table.rows) == 2 and settings(found)["model"] == "pocket"
    assert settings(found)["learning_rate"] == 2e-3 and "pocket model" in said(found)  # not a 7B's
    applied = apply(found, workspace)
    assert applied.table == "own" and workspace.dataset("own").identity == found.identity


def test_two_sources_that_repeat_a_new_table_name_it_as_it_is_saved(
    here: Here, workspace: Workspace, tmp_path: Path
) -> None:
    (tmp_path / "own.jsonl").write_text(
        '{"query": "a", "response": "b"}\n{"query": "c", "response": "d"}\n', encoding="utf-8"
    )
    workspace.save(Dataset("own", (Row("x", "", "y"),)))
    applied = apply(plan("swift sft --model A/B --dataset own.jsonl#5 general#10", here), workspace)
    assert applied.table == "own-2" and "own-2#1" in applied.config.mix and applied.config.dataset_repeat == 2


def test_the_shell_reader_keeps_counts_and_quotes() -> None:
    call = shell.read("swift sft --dataset a#5 'b c#6' --system \"it's; fine && so\" # note").calls[0]
    assert [option.values for option in call.options] == [("a#5", "b c#6"), ("it's; fine && so",)]
    windows = shell.read(r'swift sft --dataset C:\data\own.json --output_dir "D:\my runs"').calls[0]
    assert [option.value for option in windows.options] == [r"C:\data\own.json", r"D:\my runs"]
    variables = shell.read(
        "MODEL=A/B\nexport N=5\nswift sft --model $MODEL --dataset x#${N} --system 'costs $5'"
    ).calls[0]
    assert [option.value for option in variables.options] == ["A/B", "x#5", "costs $5"]
    with pytest.raises(UserError, match="never ends"):
        shell.read("swift sft --system 'open")


@pytest.mark.parametrize("flags", [
    "--save_steps nan", "--save_steps 1e400", "--warmup_steps nan", "--dataset ~nosuchuser/x", f"--dataset {'n' * 300}",
    "--model ~nosuchuser/x", f"--model {'n' * 300}",
])  # fmt: skip
def test_numbers_and_paths_that_cannot_be_are_said(here: Here, flags: str) -> None:
    plan(f"swift sft --model A/B --dataset articles-8 {flags}", here)


def test_a_number_of_processes_that_is_none_is_one(here: Here) -> None:
    plan("NPROC_PER_NODE=² swift sft --model A/B --dataset articles-8", here)


def test_here_documents_without_end_are_read_at_once_and_those_with_one_whole() -> None:
    begin = time.process_time()
    shell.read("cat > a << EOF" + " " * 8000 + "x")
    shell.read("cat>a<<E \n" * 20_000)
    assert time.process_time() - begin < 3
    pressed = shell.read("cat > a.json << 'EOF' [1, 2] EOF swift sft\ncat << E > b\n two \n\nE\n")
    assert pressed.files == {"a.json": "[1, 2]", "b": " two"}
    assert pressed.calls[0].words == ("swift", "sft")


def test_places_have_both_languages() -> None:
    for verb in ("infer", "export", "deploy", "eval"):
        assert elsewhere.beside(verb).zh and elsewhere.beside(verb).en
