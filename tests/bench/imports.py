"""What the importer makes of every public file, of files with something wrong, of cut-off files, and of 50,000 rows.

    python tests/bench/imports.py [--out docs/formats.md]

The tables of docs/formats.md are between its two marks; the text around them is left as it is. A row is wrong when it is
not one of the rows that the whole file holds.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import json
import os
import random
import resource
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import malformed

from core.dataset import Row
from core.errors import DatasetError
from core.formats import Choices, Imported, Undecided, read, read_text

SHARED = Path(os.environ.get("ONECARD_SHARED_DATA", str(Path(__file__).resolve().parents[3] / "shared" / "data")))
CUTS, SEED, LONGEST_SENTENCE = 200, 7, 700
BIG_ROWS, DAMAGED = 50_000, 20_000
_BEGIN, _END = "<!-- tables: tests/bench/imports.py -->", "<!-- end of tables -->"


@dataclass(frozen=True)
class Outcome:
    """What came of a file: its rows, or the sentence; `rows` are those taken, also on a yes to a question."""

    verdict: str  # rows, asked, refused
    said: str
    rows: tuple[Row, ...] = ()
    asked: str = ""


def outcome(data: bytes, name: str) -> Outcome:
    """Read a file; a question is answered with what it proposes itself. Anything but a sentence is let through."""
    try:
        found = read(data, name)
    except Undecided as question:
        return Outcome("asked", question.text.en, _answered(data, name, question), question.asked.kind)
    except DatasetError as error:
        assert error.text.zh and len(error.text.en) < LONGEST_SENTENCE, error.text
        return Outcome("refused", error.text.en)
    return Outcome("rows", _notes(found), found.rows)


def _answered(data: bytes, name: str, question: Undecided) -> tuple[Row, ...]:
    asked = question.asked
    answer = {
        "encoding": Choices(encoding=asked.guess.get("encoding", "")),
        "columns": Choices(columns=asked.guess),
        "broken": Choices(salvage=True),
        "entry": Choices(entry=asked.preview[0][0] if asked.preview else ""),
    }[asked.kind]
    try:
        return read(data, name, answer).rows
    except DatasetError:
        return ()


def _notes(found: Imported) -> str:
    return " ".join(note.en for note in found.notes)


def public_files(most: int = 0) -> Iterator[tuple[str, str, str, str]]:
    """(file, what came of it, rows, what was said) for every file of the shared data, of at most `most` bytes if given."""
    for path in sorted(SHARED.rglob("*")):
        if path.is_file() and not 0 < most < path.stat().st_size:
            found = outcome(path.read_bytes(), path.name)
            rows = f"{len(found.rows):,}" if found.rows else "–"
            verdict = f"asked: {found.asked}" if found.asked else found.verdict
            yield path.relative_to(SHARED).as_posix(), verdict, rows, found.said.removeprefix(f"{path.name}: ")


def malformed_files() -> Iterator[tuple[str, str, str, str]]:
    """(what is wrong, what came of it, rows, what was said) for every malformed file. Raises where a row is wrong."""
    for case in malformed.cases():
        found = outcome(case.data, case.name)
        if found.verdict == "rows":
            assert found.rows == case.whole, case.what
        else:
            assert not case.whole, (case.what, found.said)
        assert not any("\ufffd" in row.question + row.output for row in found.rows), case.what
        verdict = f"asked: {found.asked}" if found.asked else found.verdict
        yield case.what, verdict, str(len(found.rows) or "–"), found.said.removeprefix(f"{case.name}: ")


def cut_files(cuts: int = CUTS) -> Iterator[tuple[str, int, int, int, int, int]]:
    """(format, cuts, refused, asked, read with all rows right, last row cut and said). Raises for a wrong row unsaid."""
    for kind, (name, data) in malformed.good().items():
        chance, seen = random.Random(SEED), Counter[str]()
        places = [chance.randrange(len(data)) for _ in range(cuts)]
        for place in places:
            found = outcome(data[:place], name)
            wrong = [row for row in found.rows if row not in malformed.ROWS]
            if wrong:
                # A table's last cell may be cut off without a trace but the missing line end.
                assert wrong == [found.rows[-1]] and "does not end with a line end" in found.said, (kind, place, wrong)
                seen["said"] += 1
            else:
                seen[found.verdict] += 1
        yield kind, cuts, seen["refused"], seen["asked"], seen["rows"], seen["said"]


def damaged_files(count: int) -> Counter[str]:
    """What came of files damaged at random: bits, pieces put in, taken out or doubled, ends cut off. By verdict."""
    chance, seen = random.Random(SEED), Counter[str]()
    files = [*malformed.good().values(), *((case.name, case.data) for case in malformed.cases())]
    files = [(name, data) for name, data in files if 0 < len(data) < 50_000]
    pieces = [
        b'"',
        b"{",
        b"}",
        b"[",
        b"]",
        b",",
        b"\n",
        b"\r",
        b"\\",
        b"\0",
        b"\xff",
        b"\xe4",
        b"\t",
        b"null",
        b"},\n{",
    ]
    for _ in range(count):
        name, good = chance.choice(files)
        data = bytearray(good)
        for _ in range(chance.randint(1, 4)):
            at, how = chance.randrange(len(data) + 1), chance.randrange(5)
            if how == 0 and at:
                data[at - 1] ^= 1 << chance.randrange(8)
            elif how == 1:
                data[at:at] = chance.choice(pieces)
            elif how == 2:
                del data[at : at + chance.randint(1, 30)]
            elif how == 3:
                data[at:at] = data[: chance.randint(0, 60)]
            elif how == 4:
                del data[at:]
        found = outcome(bytes(data), chance.choice([name, name, "a.csv", "a.json", "a.tsv", "a.xlsx", "a.txt"]))
        assert not any("\ufffd" in row.question + row.output for row in found.rows)
        with contextlib.suppress(DatasetError):
            read_text(data.decode("utf-8", "surrogateescape"))
        seen[found.verdict] += 1
    return seen


def big_files(folder: Path) -> Iterator[tuple[str, int, float, float]]:
    """(format, bytes, processor seconds, peak bytes of the process) for 50,000 alpaca rows, each read in a process of its own."""
    for kind in ("json", "jsonl", "csv", "csv, UTF-16, CRLF", "parquet", "xlsx"):
        path = folder / f"big.{kind.split(',')[0]}"
        path.write_bytes(_big(kind))
        done = subprocess.run(
            [sys.executable, __file__, "--one", str(path)], capture_output=True, text=True, check=True, timeout=300
        )
        rows, seconds, peak = json.loads(done.stdout)
        assert rows == BIG_ROWS, kind
        yield kind, path.stat().st_size, seconds, peak
        path.unlink()


def _big(kind: str) -> bytes:
    chance = random.Random(SEED)
    pool = [
        {"instruction": r.instruction, "input": r.input, "output": r.output}
        for name in ("alpaca_zh_demo_300.json", "alpaca_en_demo_300.json")
        for r in read((SHARED / "general" / name).read_bytes(), name).rows
    ]
    # Numbered, so that no format gains by repeats.
    rows = [record | {"instruction": f"{i} {record['instruction']}", "output": f"{record['output']} {i}"} for i, record in
            enumerate(chance.choices(pool, k=BIG_ROWS))]  # fmt: skip
    if kind == "json":
        return json.dumps(rows, ensure_ascii=False, indent=2).encode()
    if kind == "jsonl":
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    if kind == "parquet":
        return malformed.columns([dict(row) for row in rows])
    if kind == "xlsx":
        safe = [[f"'{cell}" if cell.startswith("=") else cell for cell in row.values()] for row in rows]
        return malformed.workbook([["instruction", "input", "output"], *safe])
    held = io.StringIO(newline="")
    writer = csv.DictWriter(held, ["instruction", "input", "output"], lineterminator="\r\n")
    writer.writeheader()
    writer.writerows(rows)
    return held.getvalue().encode("utf-16" if "UTF-16" in kind else "utf-8")


def _one(path: Path) -> None:
    start = time.process_time()  # one thread that waits for nothing; the machine may have other work
    rows = len(read(path.read_bytes(), path.name).rows)
    seconds = time.process_time() - start
    print(json.dumps([rows, seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024]))


def table(head: Sequence[str], lines: Iterable[Sequence[object]]) -> str:
    """A Markdown table."""
    cells = [[str(cell).replace("|", "\\|").replace("\n", " ") for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in [list(head), ["---"] * len(head), *cells])


def tables(folder: Path) -> str:
    """The five tables."""
    said = ["what came of it", "rows", "what was said"]
    wrong, cut = list(malformed_files()), list(cut_files())
    big = [(kind, f"{size / 1e6:.0f} MB", f"{seconds:.1f} s", f"{peak / 1e6:.0f} MB") for kind, size, seconds, peak in
           big_files(folder)]  # fmt: skip
    return "\n".join([
        "## The public files", "", table(["file", *said], public_files()), "",
        f"## {len(wrong)} files with something wrong", "", table(["what is wrong", *said], wrong), "",
        f"## A good file cut off at {CUTS} places", "",
        table(["format", "cuts", "refused", "asked", "whole rows", "last row cut, and said"], cut), "",
        f"## {DAMAGED:,} files damaged at random", "",
        table(["came of it", "files"], sorted(damaged_files(DAMAGED).items())), "",
        f"## {BIG_ROWS:,} alpaca rows", "", table(["format", "size", "processor time", "peak memory of the process"], big), "",
    ])  # fmt: skip


def main() -> None:
    """Write the tables into the document."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parents[2] / "docs" / "formats.md")
    parser.add_argument("--folder", type=Path, default=Path("/tmp"), help="where the big files are made and removed")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        return _one(arguments.one)
    text = arguments.out.read_text(encoding="utf-8")
    before, _, rest = text.partition(_BEGIN)
    after = rest.partition(_END)[2]
    arguments.out.write_text(f"{before}{_BEGIN}\n{tables(arguments.folder)}{_END}{after}", encoding="utf-8")
    return None


if __name__ == "__main__":
    main()
