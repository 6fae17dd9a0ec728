"""Rows of questions and answers, the identity they teach, and their files. Knows no model, no thread.

Everything is frozen: an edit returns a new Dataset. On disk a dataset is `NAME.jsonl` (one row a line, alpaca keys, or
`messages` for rows with a history, so other tools read it as it is) beside `NAME.meta.json` (the identity card).
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Literal

from core import storage
from core.errors import DatasetError
from core.text import Language, Text, language_of

Role = Literal["system", "user", "assistant"]
ROLES: tuple[Role, ...] = ("system", "user", "assistant")

_KEYS = ("instruction", "input", "output", "system")
PROVENANCE = "provenance"

# The spellings found in the field: ms-swift {{NAME}}, LLaMA-Factory {{name}}, old files <NAME>.
_PLACEHOLDER = re.compile(r"\{\{\s*(NAME|AUTHOR|name|author)\s*\}\}|<(NAME|AUTHOR)>")


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str


@dataclass(frozen=True)
class Identity:
    """Who the model shall say it is: name and maker, each in Chinese and English. Empty means not given."""

    name_zh: str = ""
    name_en: str = ""
    author_zh: str = ""
    author_en: str = ""

    def name(self, language: Language) -> str:
        """The name in `language`, falling back on the other language's."""
        return (self.name_zh or self.name_en) if language == "zh" else (self.name_en or self.name_zh)

    def author(self, language: Language) -> str:
        """The maker in `language`, falling back on the other language's."""
        return (self.author_zh or self.author_en) if language == "zh" else (self.author_en or self.author_zh)

    @classmethod
    def parse(cls, name: str, author: str) -> Identity:
        """From the settings model_name and model_author: one spelling for both languages, or `中文|English`."""
        cells = []
        for text in (name, author):
            zh, _, en = text.partition("|")
            cells += [zh.strip(), en.strip() or zh.strip()]
        return cls(*cells)

    def over(self, below: Identity) -> Identity:
        """This card; what it does not say at all, name or maker, is as `below` has it."""
        named, made = self.name("zh"), self.author("zh")
        return Identity(
            *((self.name_zh, self.name_en) if named else (below.name_zh, below.name_en)),
            *((self.author_zh, self.author_en) if made else (below.author_zh, below.author_en)),
        )

    @property
    def settings(self) -> tuple[str, str]:
        """model_name and model_author for this card, as `parse` reads them."""
        pairs = ((self.name_zh, self.name_en), (self.author_zh, self.author_en))
        name, author = (f"{zh}|{en}" if en and en != zh else zh for zh, en in pairs)
        return name, author

    @property
    def filled(self) -> Identity:
        """The same card with every spelling that is not given taken from the other language, as rows get them."""
        return Identity(self.name("zh"), self.name("en"), self.author("zh"), self.author("en"))

    @property
    def words(self) -> tuple[str, ...]:
        """Every spelling given, without repeats: the words that show the new identity in an answer."""
        given = (self.name_zh, self.name_en, self.author_zh, self.author_en)
        return tuple(dict.fromkeys(word.strip() for word in given if word.strip()))

    def resolve(self, text: str, language: Language) -> str:
        """`text` with every placeholder replaced; one whose value is not given stays as it is."""

        def value(match: re.Match[str]) -> str:
            kind = (match[1] or match[2]).lower()
            return (self.name(language) if kind == "name" else self.author(language)) or match[0]

        return _PLACEHOLDER.sub(value, text)

    def resolve_alone(self, text: str) -> str:
        """`resolve` of a text that belongs to no row, in its own language."""
        return self.resolve(text, language_of(_PLACEHOLDER.sub("", text)))


def placeholders(text: str) -> list[str]:
    """The placeholders that occur in `text`, as written."""
    return [match[0] for match in _PLACEHOLDER.finditer(text)]


@dataclass(frozen=True)
class Provenance:
    """An answer that a person put right: which adapter gave it ("" for the base), what it said, and when (ISO, local)."""

    adapter: str = ""
    answer: str = ""
    at: str = ""

    @classmethod
    def read(cls, value: object) -> Provenance | None:
        """From its JSON; None for anything else."""
        known = {"adapter", "answer", "at"}
        if not isinstance(value, dict) or value.keys() != known or not all(isinstance(v, str) for v in value.values()):
            return None
        return cls(**value)


@dataclass(frozen=True)
class Row:
    """One training example as the table shows it: alpaca's three cells, plus what came before them.

    `instruction` and `input` stay apart because the table, alpaca files and exports keep them apart; the question the
    model sees is `instruction + "\\n" + input` (ms-swift's and LLaMA-Factory's rule). `provenance` is no part of what a
    row says: two rows that differ in it alone are equal. A conversation has one form, so that every file gives it back:
    a system prompt that begins the history is `system`, a question that ends it is the question where there is none.
    """

    instruction: str = ""
    input: str = ""
    output: str = ""
    system: str = ""
    history: tuple[Message, ...] = ()
    provenance: Provenance | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        """Bring the conversation into its one form; of two system prompts both are kept, a blank line between them."""
        turns, system, question = list(self.history), self.system, self.instruction
        while turns and turns[0].role == "system":
            own = turns.pop(0).content
            system = "\n\n".join(dict.fromkeys(filter(None, (system, own))))
        while turns and not (question or self.input) and turns[-1].role == "user":
            question = turns.pop().content
        if len(turns) < len(self.history):
            for name, value in (("history", tuple(turns)), ("system", system), ("instruction", question)):
                object.__setattr__(self, name, value)

    @property
    def question(self) -> str:
        """What the user says in the last turn."""
        return f"{self.instruction}\n{self.input}" if self.input else self.instruction

    @property
    def language(self) -> Language:
        """Language of the row: Chinese if question or answer holds a Chinese character outside a placeholder."""
        return language_of(_PLACEHOLDER.sub("", self.question + self.output))

    def messages(self, system: str = "") -> tuple[Message, ...]:
        """The conversation, the row's own system prompt first, else `system` if given.

        A row with an empty question keeps no user turn (files exist whose rows hold only system and assistant).
        """
        head = self.system or system
        turns = [Message("system", head)] if head else []
        turns += self.history
        if self.question.strip():
            turns.append(Message("user", self.question))
        return (*turns, Message("assistant", self.output))

    def resolved(self, identity: Identity) -> Row:
        """The row with its placeholders replaced, in the row's own language."""
        language = self.language
        cells = (self.instruction, self.input, self.output, self.system)
        instruction, given_input, output, system = (identity.resolve(cell, language) for cell in cells)
        history = tuple(Message(m.role, identity.resolve(m.content, language)) for m in self.history)
        return Row(instruction, given_input, output, system, history, self.provenance)

    @property
    def is_blank(self) -> bool:
        """Whether nothing at all was written in the row."""
        return not (self.question.strip() or self.output.strip() or self.history)


@dataclass(frozen=True)
class Dataset:
    """A named table of rows and the identity its placeholders stand for."""

    name: str
    rows: tuple[Row, ...] = ()
    identity: Identity = field(default_factory=Identity)

    def with_rows(self, rows: Sequence[Row]) -> Dataset:
        """The same dataset with other rows."""
        return replace(self, rows=tuple(rows))

    def resolved(self) -> tuple[Row, ...]:
        """The rows that training will see: blank rows left out, placeholders replaced."""
        return tuple(row.resolved(self.identity) for row in self.rows if not row.is_blank)


def to_json(row: Row) -> dict[str, object]:
    """The row as one JSON object: alpaca keys, or `messages` when there is a history, and where it came from."""
    whence = provenance_json(row)
    if row.history:
        # Not row.messages(): a question of blanks comes back as it was.
        turns = [Message("system", row.system)] if row.system else []
        turns += [*row.history, *([Message("user", row.question)] if row.question else [])]
        turns.append(Message("assistant", row.output))
        value: dict[str, object] = {"messages": [{"role": m.role, "content": m.content} for m in turns]}
        return value | ({"input": row.input} if row.input else {}) | whence
    value = {"instruction": row.instruction, "input": row.input, "output": row.output}
    return value | ({"system": row.system} if row.system else {}) | whence


def provenance_json(row: Row) -> dict[str, object]:
    """The key that says where the row came from, for rows that know it; other tools pass over it."""
    return {PROVENANCE: dict(vars(row.provenance))} if row.provenance else {}


def from_json(value: object, row: int | None = None) -> Row:
    """The row that `to_json` wrote. Raises DatasetError for any other shape."""
    if isinstance(value, dict):
        whence = Provenance.read(value.get(PROVENANCE))
        if whence is not None:
            rest = {key: cell for key, cell in value.items() if key != PROVENANCE}
            return replace(from_json(rest, row), provenance=whence)
        if isinstance(turns := value.get("messages"), list):
            return _from_messages(turns, value.get("input", ""), row)
        cells = [value.get(key, "") for key in _KEYS]
        # Another key (`history`, say) would be lost at the next save.
        if all(isinstance(cell, str) for cell in cells) and value.keys() <= set(_KEYS):
            return Row(*cells)
    raise DatasetError(
        Text(
            zh=f"第 {(row or 0) + 1} 行不是本程序写的格式；请用“导入”打开这个文件。",
            en=f"Row {(row or 0) + 1} is not in this program's own format; open the file with Import instead.",
        ),
        row,
    )


def _from_messages(turns: list[object], last_input: object, row: int | None) -> Row:
    messages = []
    for turn in turns:
        if not (isinstance(turn, dict) and turn.get("role") in ROLES and isinstance(turn.get("content"), str)):
            return from_json(None, row)
        messages.append(Message(turn["role"], turn["content"]))
    system = ""
    if messages and messages[0].role == "system":
        system = messages.pop(0).content
    last = messages.pop() if messages else None
    if last is None or last.role != "assistant":
        return from_json(None, row)
    question = messages.pop().content if messages and messages[-1].role == "user" else ""
    tail = last_input if isinstance(last_input, str) else ""
    if tail and question.endswith(f"\n{tail}"):
        question = question[: -len(tail) - 1]
    else:
        tail = ""
    return Row(question, tail, last.content, system, tuple(messages))


def line_of(row: Row) -> str:
    """The row as its one line of the file, without the line's end; half a character pair becomes U+FFFD."""
    return storage.whole(json.dumps(to_json(row), ensure_ascii=False))


def save(folder: Path, dataset: Dataset, lines: Sequence[str] | None = None, card: bool = True) -> None:
    """Write rows and identity card under `folder`: both, or what was there before.

    `lines`: the rows' `line_of`, where they are known already. `card`: whether the identity card may have changed.
    """
    known = [line_of(row) for row in dataset.rows] if lines is None else lines
    path, meta, coming = files_of(folder, dataset.name)
    rows, identity = storage.whole("".join(f"{line}\n" for line in known)).encode(), vars(dataset.identity)
    card = card or coming.is_file() or not meta.is_file()
    if card:  # two files: from the moment that the rows are those it names, this card counts
        storage.write_json(coming, {"identity": identity, "rows": sha256(rows).hexdigest()})
    storage.write_bytes(path, rows)
    if card:
        storage.write_json(meta, {"identity": identity})
        coming.unlink()


def files_of(folder: Path, name: str) -> tuple[Path, Path, Path]:
    """(rows, identity card, card of rows that are being saved) of a dataset; the last is there during a save only."""
    return folder / f"{name}.jsonl", folder / f"{name}.meta.json", folder / f".{name}.coming.json"


def _card_of(path: Path, meta: Path, coming: Path) -> object:
    """The identity card that goes with the rows: also where a save was cut off between the two files."""
    if coming.is_file():
        card = storage.read_json(coming)
        if isinstance(card, dict) and card.get("rows") == sha256(path.read_bytes()).hexdigest():
            return card
    return storage.read_json(meta) if meta.is_file() else {}


def load(folder: Path, name: str) -> Dataset:
    """The saved dataset. Raises DatasetError if there is none or a line is damaged."""
    path, meta, coming = files_of(folder, name)
    if not path.is_file():
        raise DatasetError(Text(zh=f"没有名为“{name}”的数据集。", en=f"There is no dataset named “{name}”."))
    try:
        rows = [from_json(value, i) for i, value in enumerate(storage.read_json_lines(path))]
        card = _card_of(path, meta, coming)
    except ValueError as error:
        raise DatasetError(
            Text(
                zh=f"数据集“{name}”的文件损坏了（{path}）：{error}。请改正或移走这个文件。",
                en=f"The files of dataset “{name}” are damaged ({path}): {error}. Mend or move the file.",
            )
        ) from error
    given = card.get("identity") if isinstance(card, dict) else None
    given = given if isinstance(given, dict) else {}
    known = {key: str(given.get(key, "")) for key in ("name_zh", "name_en", "author_zh", "author_en")}
    return Dataset(name, tuple(rows), Identity(**known))


def names(folder: Path) -> list[str]:
    """The saved datasets, newest edit first."""
    files = sorted(folder.glob("*.jsonl"), key=lambda path: path.stat().st_mtime, reverse=True)
    return [path.stem for path in files if not path.name.startswith(".")]
