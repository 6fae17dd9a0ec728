"""Pasted text -> calls of programs: continuations, quotes, comments, variables, here-documents. Knows no tool.

Nothing is run. What a shell would have read otherwise than its writer meant is put right and said.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from core.errors import UserError
from core.text import Text

MAX_CHARACTERS = 200_000

# How cat > FILE << EOF ... EOF begins, on as many lines as there are or pressed into one.
_HEREDOC = re.compile(r"cat\s*>\s*(?P<file>\S{1,400})\s*<<-?\s*(['\"]?)(?P<mark>\w+)\2[ \t]*\n?")
_HEREDOC_FIRST = re.compile(r"cat\s*<<-?\s*(['\"]?)(?P<mark>\w+)\1\s*>\s*(?P<file>\S{1,400})[ \t]*\n?")
_VARIABLE = re.compile(r"[A-Za-z_]\w*=.*", re.S)
_VALUE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")
_PROMPT = re.compile(r"^\s*(?:\$|%|>>>|>|PS [^>]*>|\([\w.-]+\)\s*\$?)\s+(?=\S)")
# A dash that an article's typesetting made of the two hyphens before a flag's name.
_DASHES = re.compile(r"(?<!\S)(?:[\u2013\u2014\u2015]-?|-[\u2013\u2014])(?=[A-Za-z])")
_QUOTES = str.maketrans({"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u00a0": " ", "\u3000": " "})
_RUNNERS = ("python", "python3", "py", "torchrun", "accelerate", "deepspeed", "uv", "poetry")
_STARTERS = ("nohup", "time", "sudo", "exec", "env")
_ENDS = (";", "&&", "||", "&", "|")


@dataclass(frozen=True)
class Option:
    """One flag: its `name` with underscores and no dashes, its `values` (none for a bare flag), and how it was written."""

    name: str
    values: tuple[str, ...] = ()
    written: str = ""

    @property
    def value(self) -> str:
        """The values as one text; a bare flag is true."""
        return " ".join(self.values) if self.values else "true"

    @property
    def shown(self) -> str:
        """As the command has it, short enough for a line; a token or key is not repeated."""
        if re.search(r"token|api_key|secret|password", self.name):
            return f"{self.written} …"
        text = " ".join((self.written, *(shlex.quote(value) if value else "''" for value in self.values)))
        return text if len(text) <= 90 else f"{text[:88]}…"


@dataclass(frozen=True)
class Call:
    """One program with its arguments: what stands before the first flag, and the flags."""

    words: tuple[str, ...]
    options: tuple[Option, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Pasted:
    """What a pasted text holds. `files`: text of here-documents by file name; `mended`: what was put right."""

    calls: tuple[Call, ...]
    files: Mapping[str, str] = field(default_factory=dict)
    mended: tuple[Text, ...] = ()


def read(text: str) -> Pasted:
    """Split pasted text into calls. Raises UserError for a quote that never ends."""
    mended: list[Text] = []
    text = text.replace("\r\n", "\n").replace("\r", "\n").lstrip("\ufeff")
    files, text = _take_files(text)
    text = _put_right(text, mended)
    calls: list[Call] = []
    environment: dict[str, str] = {}
    for line in _lines(text, mended):
        try:
            words = _split(line)
        except ValueError as error:
            raise UserError(
                Text(
                    zh=f"命令里有一个引号没有成对：{line.strip()[:80]}。请补上另一半，再粘贴一次。",
                    en=f"A quote in the command never ends: {line.strip()[:80]}. Add its other half and paste it again.",
                )
            ) from error
        for part in _parts(words):
            call = _call(part, environment)
            if call is not None:
                calls.append(call)
    return Pasted(tuple(calls), files, tuple(mended))


def options_of(words: Sequence[str]) -> tuple[tuple[str, ...], tuple[Option, ...]]:
    """(words before the first flag, flags) of a command's arguments; `--a=b` and `--a b` alike."""
    first = next((i for i, word in enumerate(words) if _is_flag(word)), len(words))
    options: list[Option] = []
    for word in words[first:]:
        if _is_flag(word):
            written, mark, value = word.partition("=")
            name = written.lstrip("-").replace("-", "_")
            options.append(Option(name, (value,) if mark else (), written))
        else:
            last = options[-1]
            options[-1] = Option(last.name, (*last.values, word), last.written)
    return tuple(words[:first]), tuple(options)


def _is_flag(word: str) -> bool:
    return re.match(r"--?[A-Za-z]", word) is not None


def _take_files(text: str) -> tuple[dict[str, str], str]:
    files: dict[str, str] = {}
    for pattern in (_HEREDOC, _HEREDOC_FIRST):
        rest, place = list[str](), 0
        while (begin := pattern.search(text, place)) is not None:
            mark, end = begin["mark"], None
            if text.find(mark, begin.end()) >= 0:  # many that never end are told apart quickly
                end = re.compile(rf"\b{mark}\b").search(text, begin.end())
            if end is not None:
                files[begin["file"].strip("'\"")] = text[begin.end() : end.start()].rstrip()
            rest += [text[place : begin.start()], "\n"] if end is not None else [text[place : begin.end()]]
            place = begin.end() if end is None else end.end()
        text = "".join([*rest, text[place:]])
    return files, text


def _put_right(text: str, mended: list[Text]) -> str:
    """Typographic dashes and quotes as the shell has them."""
    plain = _DASHES.sub("--", text)
    if plain != text:
        mended.append(
            Text(
                zh="参数前的连字符被排版成了破折号（–、—），命令行会报错；这里按 -- 读取。",
                en="The hyphens before flags were typeset as dashes (–, —), which a shell refuses; read as --.",
            )
        )
    quoted = plain.translate(_QUOTES)
    if re.search("[\u2018\u2019\u201c\u201d]", plain):
        mended.append(
            Text(
                zh="引号被排版成了弯引号，命令行不会当作引号；这里按直引号读取。",
                en="The quotes were typeset as curly ones, which are no quotes to a shell; read as straight ones.",
            )
        )
    return quoted


def _lines(text: str, mended: list[Text]) -> list[str]:
    """Logical lines: comments dropped, continued lines joined, also those whose backslash was lost on the way."""
    joined: list[str] = []
    open_line, lost = False, False
    for raw in text.split("\n"):
        line = _PROMPT.sub("", _without_comment(raw)).rstrip()
        if not line.strip():
            open_line = open_line and bool(raw.strip())  # a comment between does not end the command here
            continue
        continues = line.endswith(("\\", "^", "`")) and not line.endswith("\\\\")
        body = line[:-1] if continues else line
        adrift = _is_flag(line.strip()) and bool(joined) and not open_line
        lost = lost or adrift
        if joined and (open_line or adrift):
            joined[-1] += f" {body.strip()}"
        else:
            joined.append(body)
        open_line = continues
    if lost:
        mended.append(
            Text(
                zh="有的行末尾缺少续行符“\\”，命令行会在那里断开；这里当作同一条命令读取。",
                en="Some lines lack the “\\” at their end, where a shell would end the command; read as one command.",
            )
        )
    return joined


def _without_comment(line: str) -> str:
    """A line without its comment: from a # that begins a word outside quotes. `name#500` is no comment."""
    quote = ""
    for i, character in enumerate(line):
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        elif character == "#" and (i == 0 or line[i - 1].isspace()):
            return line[:i]
    return line


def _split(line: str) -> list[str]:
    lexer = shlex.shlex(line, posix=True)
    lexer.whitespace_split, lexer.commenters = True, ""
    if re.search(r"(?<![A-Za-z])[A-Za-z]:\\", line):  # a path of Windows, whose backslashes stay
        lexer.escape = ""
    return list(lexer)


def _parts(words: Sequence[str]) -> list[list[str]]:
    """The commands of one line, without what sends their output elsewhere."""
    parts: list[list[str]] = [[]]
    skip = False
    for word in words:
        if word in _ENDS:
            parts.append([])
        elif re.fullmatch(r"[\d&]?>>?", word):
            skip = True  # the next word is the file
        elif skip or re.match(r"[\d&]?>>?[&\w./]", word):
            skip = False
        else:
            parts[-1].append(word)
    return [part for part in parts if part]


def _call(words: list[str], environment: dict[str, str]) -> Call | None:
    """The call, or None for a line that only sets variables, which later calls then have."""
    own = dict(environment)
    rest = list(words)
    if rest and rest[0] in ("export", "set", "setx"):
        for word in rest[1:]:
            name, mark, value = word.partition("=")
            if mark:
                environment[name] = value
        return None
    while rest and (rest[0] in _STARTERS or _VARIABLE.fullmatch(rest[0])):
        name, mark, value = rest.pop(0).partition("=")
        if mark:
            own[name] = value
    if not rest:
        environment.update(own)
        return None
    known = [_VALUE.sub(lambda match: own.get(match[1] or match[2], match[0]), word) for word in _script_of(rest, own)]
    before, options = options_of(known)
    return Call(before, options, own)


def _script_of(words: list[str], environment: dict[str, str]) -> list[str]:
    """The words from the script or module on, where a runner (python -m, torchrun, accelerate launch) starts it."""
    if Path(words[0]).name.removesuffix(".exe") not in _RUNNERS:
        return words
    for i, word in enumerate(words):
        if word == "-m" and i + 1 < len(words) and not words[i + 1].startswith("torch.distributed"):
            return words[i + 1 :]
        if word.endswith(".py"):
            return words[i:]
        name, _, value = word.lstrip("-").replace("-", "_").partition("=")
        if name in ("nproc_per_node", "num_processes", "num_gpus"):
            environment["NPROC_PER_NODE"] = value or (words[i + 1] if i + 1 < len(words) else "1")
    return words
