"""The tokenizer: byte-level BPE learnt from the corpus, saved as a Qwen2 tokenizer, with the ChatML template."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from presets.pocket.corpus import Message, chats
from presets.pocket.identity import OWN_SYSTEM
from presets.pocket.names import COMMON_HANZI

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

PAD: Final = "<|endoftext|>"
START: Final = "<|im_start|>"
END: Final = "<|im_end|>"
MAX_TOKENS: Final = 1024

CHAT_TEMPLATE: Final = f"""\
{{%- if not messages or messages[0]['role'] != 'system' -%}}
{{{{- '{START}system\\n{OWN_SYSTEM}{END}\\n' -}}}}
{{%- endif -%}}
{{%- for message in messages -%}}
{{{{- '{START}' + message['role'] + '\\n' -}}}}
{{%- if message['role'] == 'assistant' -%}}
{{%- generation -%}}{{{{- message['content'] + '{END}' -}}}}{{%- endgeneration -%}}{{{{- '\\n' -}}}}
{{%- else -%}}
{{{{- message['content'] + '{END}\\n' -}}}}
{{%- endif -%}}
{{%- endfor -%}}
{{%- if add_generation_prompt -%}}
{{{{- '{START}assistant\\n' -}}}}
{{%- endif -%}}
"""
"""ChatML as Qwen2.5 writes it, for system, user and assistant messages; answers are marked for the loss mask."""


def train_tokenizer(seed: int, vocabulary: int, count: int) -> PreTrainedTokenizerFast:
    """Learn a BPE of exactly `vocabulary` entries, specials included, from the first `count` chats.

    No merge crosses a Chinese character: a new sentence is cut into the characters the model has seen, never
    into fused phrases of the templates. Every common character is one token.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import Qwen2Tokenizer
    from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

    bpe = Tokenizer(models.BPE())
    bpe.normalizer = normalizers.NFC()
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\p{Han}"), "isolated"),
            pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - 3,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
        min_frequency=10,
    )
    bpe.train_from_iterator(_texts(seed, count), trainer)
    learnt = json.loads(bpe.to_str())["model"]
    tokenizer = Qwen2Tokenizer(
        vocab=learnt["vocab"],
        merges=[tuple(merge) for merge in learnt["merges"]],
        unk_token=None,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=[START, END],
        model_max_length=MAX_TOKENS,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def _texts(seed: int, count: int) -> Iterator[str]:
    for _ in range(count // 20):
        yield "".join(COMMON_HANZI)
    for messages in chats(seed, -1, count):
        for message in messages:
            yield message["content"]


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write the tokenizer files without what only concerns the machine that wrote them."""
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    for key in ("is_local", "local_files_only", "add_prefix_space", "backend"):
        config.pop(key, None)
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def encode_chats(tokenizer: Tokenizer, batch: list[list[Message]]) -> list[tuple[list[int], list[bool]]]:
    """Chats -> (ids, whether a token is in the loss): answers with their end mark. Same ids as the template."""
    segments: list[str] = []
    spans: list[int] = []
    for messages in batch:
        before = len(segments)
        context = ""
        for message in messages:
            if message["role"] == "assistant":
                segments += [f"{context}{START}assistant\n", f"{message['content']}{END}"]
                context = "\n"
            else:
                context += f"{START}{message['role']}\n{message['content']}{END}\n"
        spans.append(len(segments) - before)
    encoded = iter(tokenizer.encode_batch_fast(segments, add_special_tokens=False))
    rows = []
    for span in spans:
        ids: list[int] = []
        in_loss: list[bool] = []
        for index in range(span):
            piece = next(encoded).ids
            ids += piece
            in_loss += [index % 2 == 1] * len(piece)
        rows.append((ids, in_loss))
    return rows
