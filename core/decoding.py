"""Bytes -> text: UTF-8 or UTF-16, with or without a mark; anything else is asked about, never guessed. Knows no format."""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass, replace

from core.errors import DatasetError
from core.files_choices import Asked, Undecided
from core.text import Text

# Longest first where one begins with another: the UTF-32 LE mark begins with the UTF-16 LE mark.
_MARKS: tuple[tuple[bytes, str], ...] = (
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_KINDS: tuple[tuple[bytes, Text], ...] = (
    (b"PK\x05\x06", Text("空的压缩包", "an empty zip archive")),
    (
        b"\xd0\xcf\x11\xe0",
        Text(
            "旧版或加密的 Excel / Word 文件（请另存为不加密的 .xlsx）",
            "an old or locked Excel / Word file (save it as .xlsx without a password)",
        ),
    ),
    (b"\x1f\x8b", Text("gzip 压缩包", "a gzip archive")),
    (b"7z\xbc\xaf\x27\x1c", Text("7z 压缩包", "a 7z archive")),
    (b"Rar!", Text("RAR 压缩包", "a RAR archive")),
    (b"BZh", Text("bzip2 压缩包", "a bzip2 archive")),
    (b"\xfd7zXZ\x00", Text("xz 压缩包", "an xz archive")),
    (b"\x28\xb5\x2f\xfd", Text("zstd 压缩包", "a zstd archive")),
    (b"\x89PNG", Text("PNG 图片", "a PNG image")),
    (b"\xff\xd8\xff", Text("JPEG 图片", "a JPEG image")),
    (b"GIF8", Text("GIF 图片", "a GIF image")),
    (b"RIFF", Text("音频、视频或 WebP 图片", "sound, video or a WebP image")),
    (b"%PDF", Text("PDF 文件", "a PDF file")),
    (b"ARROW1", Text("Arrow 文件", "an Arrow file")),
    (b"SQLite format 3\x00", Text("SQLite 数据库", "an SQLite database")),
    (b"MZ", Text("Windows 程序", "a Windows program")),
    (b"\x7fELF", Text("Linux 程序", "a Linux program")),
)
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")
_WHOLE, _BROKEN = re.compile("[\x80-\ud7ff\ue000-\U0010ffff]"), re.compile("[\udc80-\udcff]")
_ESCAPES = "".join(map(chr, range(0xDC80, 0xDD00)))
_SAMPLE_BYTES = 200_000
_PREVIEW_LINES, _PREVIEW_CHARACTERS = 8, 300

# Frequent characters: a wrong guess between the Chinese encodings turns them into rare ones.
_SIMPLIFIED = frozenset(
    "的一是不了在人有我他这个们中来上大为和国地到以说时要就出会可也你对生能而子那得于着下自之年过发后作里用道行所然家"
)
_TRADITIONAL = frozenset(
    "的一是不了在人有我他這個們中來上大為和國地到以說時要就出會可也你對生能而子那得於著下自之年過發後作裡用道行所然家"
)


@dataclass(frozen=True)
class Decoded:
    """The text without its mark, the encoding it was read as, and what was interpreted. cut: its end is missing."""

    text: str
    encoding: str
    notes: tuple[Text, ...]
    cut: bool = False


def decode(data: bytes, encoding: str = "", cut: bool = False) -> Decoded:
    """The text of a file, read as `encoding` if one was chosen.

    With `cut`, half a character at the end is left out, and a damaged byte of UTF-8 becomes half a character, which no
    row may hold.

    Raises Undecided for an older Chinese encoding, with its first lines; DatasetError for an empty or binary file and
    for one whose encoding cannot be told.
    """
    if not data:
        raise DatasetError(Text("文件是空的。", "The file is empty."))
    if encoding:
        return _chosen(data, encoding, cut)
    for mark, marked in _MARKS:
        if data.startswith(mark):
            return _marked(data, mark, marked, cut)
    for magic, kind in _KINDS:
        if data.startswith(magic) and (_CONTROL.search(data[:4096]) or not _is_utf8(data)):
            raise _not_text(kind)
    guess = _unmarked_utf16(data) if b"\0" in data else None
    if guess:
        note = Text(f"没有标记，按 {guess.upper()} 读取。", f"No mark; read as {guess.upper()}.")
        return Decoded(data.decode(guess), guess, (note,))
    if data.count(b"\0") * 100 > len(data):
        raise _not_text(Text("二进制文件", "a binary file"))
    text, missing = _utf8(data, cut)
    return Decoded(text, "utf-8", (), missing)


def _marked(data: bytes, mark: bytes, encoding: str, cut: bool) -> Decoded:
    body = data[len(mark) :]
    if encoding.startswith("utf-32"):
        name = encoding.upper()
        raise DatasetError(Text(f"文件是 {name} 编码。{_RESAVE.zh}", f"The file is encoded as {name}. {_RESAVE.en}"))
    if encoding == "utf-8-sig":
        note = Text("去掉了文件开头的 UTF-8 标记（BOM）。", "Removed the UTF-8 mark (BOM) at the start of the file.")
        text, missing = _utf8(body, cut)
        return Decoded(text.lstrip("\ufeff"), encoding, (note,), missing)
    note = Text(f"按 {encoding.upper()} 读取。", f"Read as {encoding.upper()}.")
    try:
        return Decoded(body.decode(encoding).lstrip("\ufeff"), encoding, (note,))
    except UnicodeDecodeError as error:
        if error.end >= len(body):
            if cut:
                return Decoded(body[: error.start].decode(encoding).lstrip("\ufeff"), encoding, (note,), True)
            raise _cut_off() from None
        raise DatasetError(
            Text(
                f"文件自称 {encoding.upper()}，但第 {error.start + len(mark) + 1} 个字节不是。{_RESAVE.zh}",
                f"The file says it is {encoding.upper()}, but byte {error.start + len(mark) + 1} is not. {_RESAVE.en}",
            )
        ) from None


def _chosen(data: bytes, encoding: str, cut: bool) -> Decoded:
    """The text in the encoding that a person chose, every byte of it."""
    if not encoding.lower().replace("_", "-").startswith("utf") and not data.isascii() and _is_utf8(data):
        # Nothing else looks like UTF-8 by chance, and read otherwise it would become other characters without an error.
        note = Text(
            f"文件是 UTF-8 编码，没有按 {encoding} 读取。", f"The file is UTF-8; it was not read as {encoding}."
        )
        return replace(decode(data), notes=(note,))
    missing = False
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        if (error.end >= len(data) and "incomplete" in error.reason) or error.reason == "unexpected end of data":
            if not cut:
                raise _cut_off() from None
            text, missing = data[: error.start].decode(encoding), True
        else:
            line, name = data.count(b"\n", 0, error.start) + 1, encoding.upper()
            raise DatasetError(
                Text(
                    f"文件不是 {name} 编码：第 {line} 行（第 {error.start + 1} 个字节）读不出字来。请换一种编码。",
                    f"The file is not {name}: line {line} (byte {error.start + 1}) holds no character of it. "
                    "Choose another encoding.",
                )
            ) from None
    except (LookupError, ValueError):
        raise DatasetError(
            Text(
                f"没有叫“{encoding}”的编码。常用的有 gb18030、big5、utf-8、utf-16。",
                f"There is no encoding named “{encoding}”. Common ones: gb18030, big5, utf-8, utf-16.",
            )
        ) from None
    return Decoded(text.lstrip("\ufeff"), encoding.lower(), (), missing)


def _utf8(data: bytes, cut: bool) -> tuple[str, bool]:
    """The text, and whether its end is missing."""
    try:
        return data.decode("utf-8"), False
    except UnicodeDecodeError as error:
        if error.reason == "unexpected end of data":
            if cut:
                return data[: error.start].decode("utf-8"), True
            raise _cut_off() from None
        if len(_CONTROL.findall(data[:_SAMPLE_BYTES])) * 50 > min(len(data), _SAMPLE_BYTES):
            raise _not_text(Text("二进制文件", "a binary file")) from None
        line, byte = data.count(b"\n", 0, error.start) + 1, error.start + 1
        if _mostly_utf8(data, error.start):
            if cut:
                return data.decode("utf-8", "surrogateescape"), False
            raise DatasetError(
                Text(
                    f"文件是 UTF-8 编码，但第 {line} 行（第 {byte} 个字节）坏了。请改正这一处，或重新下载文件。",
                    f"The file is UTF-8, but line {line} (byte {byte}) is damaged. Mend it there, or download the file "
                    "again.",
                )
            ) from None
        guess = _legacy(data)
        if guess:
            raise Undecided(_asked(data, *guess, line, byte)) from None
        raise DatasetError(
            Text(
                f"文件不是 UTF-8 编码，也认不出是哪种编码（第 {line} 行，第 {byte} 个字节）。{_RESAVE.zh}",
                f"The file is not UTF-8; its encoding is not one we can name (line {line}, byte {byte}). {_RESAVE.en}",
            )
        ) from None


def _asked(data: bytes, encoding: str, name: str, line: int, byte: int) -> Asked:
    """Whether the file is in `encoding`: its first lines read so are for a person to look at."""
    shown = data[:_SAMPLE_BYTES].decode(encoding, errors="replace").splitlines()
    preview = tuple((text[:_PREVIEW_CHARACTERS],) for text in shown if text.strip())[:_PREVIEW_LINES]
    text = Text(
        f"文件不是 UTF-8 编码，看起来是 {name} 编码（第 {line} 行，第 {byte} 个字节）。"
        f"下面是按 {name} 读出的开头；读得通就确认。",
        f"The file is not UTF-8; it looks like {name} (line {line}, byte {byte}). "
        f"Below is its beginning read as {name}; confirm it if it reads well, or save the file again as UTF-8.",
    )
    return Asked("encoding", text, preview, {"encoding": encoding})


def _mostly_utf8(data: bytes, start: int) -> bool:
    """Whether around the first broken byte, at `start`, whole characters beyond ASCII are far more than broken bytes."""
    before = data[max(0, start - _SAMPLE_BYTES) : start].decode("utf-8", "ignore")
    after = data[start : start + _SAMPLE_BYTES].decode("utf-8", "surrogateescape")
    broken = len(_BROKEN.findall(after))
    if start + _SAMPLE_BYTES < len(data):
        broken -= len(after) - len(after.rstrip(_ESCAPES))  # half a character where the sample ends
    return len(_WHOLE.findall(before + after)) >= 4 * broken


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _unmarked_utf16(data: bytes) -> str | None:
    """utf-16-le or utf-16-be if every second byte tends to be NUL (ASCII punctuation does that even in Chinese)."""
    even, odd = data[0::2].count(0), data[1::2].count(0)
    encoding = "utf-16-le" if odd > even else "utf-16-be"
    ascii_characters, others = max(even, odd), min(even, odd)
    if len(data) % 2 or ascii_characters * 200 < len(data) or others * 4 > ascii_characters:
        return None
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        return None
    controls = sum(text.count(chr(code)) for code in range(32) if code not in (9, 10, 13))
    return encoding if controls * 200 <= len(text) else None


def _legacy(data: bytes) -> tuple[str, str] | None:
    """The older Chinese encoding that makes the most sense of `data`, as a codec and as people call it, or None."""
    best, found = 0.0, None
    for encoding, shown, frequent in (("gb18030", "GB18030 (GBK)", _SIMPLIFIED), ("big5", "Big5", _TRADITIONAL)):
        text = data[:_SAMPLE_BYTES].decode(encoding, errors="replace")
        letters = [character for character in text if character > "\x7f"]
        broken = letters.count("\ufffd")
        share = sum(character in frequent for character in letters) / max(1, len(letters))
        if share > best and share > 0.05 and broken * 50 <= len(letters):
            best, found = share, (encoding, shown)
    return found


_RESAVE = Text(
    "请另存为 UTF-8 再导入：Excel 选“CSV UTF-8”，记事本“另存为”时编码选 UTF-8，VS Code 点右下角的编码再选“通过编码保存”。",
    "Save it again as UTF-8, then import: in Excel choose “CSV UTF-8”, in Notepad “Save as” with encoding UTF-8, "
    "in VS Code click the encoding at the lower right, then “Save with Encoding”.",
)


def _cut_off() -> DatasetError:
    return DatasetError(
        Text(
            "文件在一个字的中间结束，结尾丢失了。请重新下载或复制这个文件。",
            "The file ends in the middle of a character, so its end is missing. Download or copy it again.",
        )
    )


def _not_text(kind: Text) -> DatasetError:
    return DatasetError(
        Text(
            f"这是{kind.zh}，不是问答数据。能导入的有 .json、.jsonl、.csv、.tsv、.xlsx、.parquet 和 .zip。",
            f"This is {kind.en}, which holds no rows for us. What can be imported: .json, .jsonl, .csv, .tsv, .xlsx, "
            ".parquet and .zip.",
        )
    )
