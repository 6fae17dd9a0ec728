"""Files that are whole or absent, and names that stay inside their folder."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from core import storage
from core.errors import StorageError


def test_a_file_is_replaced_in_one_step_and_leaves_nothing_behind(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "er" / "a.txt"
    storage.write_text(file, "one")
    with file.open() as reader:
        storage.write_text(file, "two")
        assert reader.read() == "one"  # whoever had it open still sees the old file whole
    assert file.read_text() == "two" and [path.name for path in file.parent.iterdir()] == ["a.txt"]


def test_a_process_killed_while_it_writes_leaves_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    storage.write_text(file, "old")
    # The child dies inside fsync's place: after the bytes are written, before the rename.
    code = (
        "import os, sys; from pathlib import Path; from core import storage; "
        "os.fsync = lambda handle: os._exit(9); storage.write_text(Path(sys.argv[1]), 'new')"
    )
    root = str(Path(__file__).resolve().parents[1])
    done = subprocess.run([sys.executable, "-c", code, str(file)], cwd=root, check=False)
    assert done.returncode == 9 and file.read_text() == "old"


def test_half_a_character_is_stored_as_the_replacement_character(tmp_path: Path) -> None:
    storage.write_text(tmp_path / "a", "x\ud83dy😀")
    assert (tmp_path / "a").read_text(encoding="utf-8") == "x\ufffdy😀"


def test_nan_is_refused_because_it_is_no_json(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        storage.write_json(tmp_path / "a.json", {"loss": float("nan")})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number,said", [(errno.ENOSPC, "Disk full"), (errno.EDQUOT, "Disk full"),
                                         (errno.EIO, "could not be written"), (errno.EROFS, "No permission"),
                                         (errno.EACCES, "No permission")])  # fmt: skip
def test_a_full_or_read_only_disk_is_a_sentence_and_the_old_file_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, said: str
) -> None:
    file = tmp_path / "a.txt"
    storage.write_text(file, "old")

    def fail(handle: int) -> None:
        raise OSError(number, "injected")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StorageError, match=said) as caught:
        storage.write_text(file, "new")
    assert str(tmp_path) in caught.value.text.zh
    assert file.read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_a_torn_last_line_is_left_out_and_a_damaged_one_inside_is_not_hidden(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    assert storage.read_json_lines(file) == []
    file.write_text('{"a": "x\u2028y"}\n\n{"b": 2}\n{"c": ', encoding="utf-8")
    assert storage.read_json_lines(file) == [{"a": "x\u2028y"}, {"b": 2}]
    file.write_text('{"a": 1}\n{"b": \n{"c": 3}\n')
    with pytest.raises(json.JSONDecodeError):
        storage.read_json_lines(file)


def test_a_folder_appears_whole_readable_and_replaces_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, real = tmp_path / "export", os.fsync

    def as_on_windows(descriptor: int) -> None:
        """Flushes no file that was opened to be read only; folders are not flushed there at all."""
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            assert fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY
        real(descriptor)

    monkeypatch.setattr(os, "fsync", as_on_windows)
    for text in ("one", "two"):
        with storage.staged_folder(target) as staged:
            (staged / "w.safetensors").write_text(text)
            (staged / "w.safetensors").chmod(0o600)
            assert not target.exists() or (target / "w.safetensors").read_text() == "one"
    assert (target / "w.safetensors").read_text() == "two"
    assert stat.S_IMODE((target / "w.safetensors").stat().st_mode) == 0o644
    assert [path.name for path in tmp_path.iterdir()] == ["export"]


def test_a_folder_that_fails_half_way_leaves_the_old_one(tmp_path: Path) -> None:
    target = tmp_path / "export"
    with storage.staged_folder(target) as staged:
        (staged / "a").write_text("old")
    with pytest.raises(RuntimeError), storage.staged_folder(target) as staged:
        (staged / "a").write_text("new")
        raise RuntimeError
    assert (target / "a").read_text() == "old" and [path.name for path in tmp_path.iterdir()] == ["export"]


def test_what_dead_writers_left_is_swept_and_what_is_written_now_is_not(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from core import storage\n"
        "with storage.staged_folder(Path(sys.argv[1]) / 'runs' / 'a') as staged:\n"
        "    (staged / 'x').write_text('x'); os._exit(9)"
    )
    root = Path(__file__).resolve().parents[1]
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=root, check=False).returncode == 9
    (tmp_path / ".a.json.0123abcd.tmp").write_text("half")
    (tmp_path / ".gone.0123abcd.gone").mkdir()
    (tmp_path / ".mine").write_text("no leftover of ours")
    with storage.staged_folder(tmp_path / "now") as staged:
        (staged / "y").write_text("y")
        storage.sweep(tmp_path)
        assert staged.is_dir() and not list((tmp_path / "runs").iterdir())
    assert sorted(path.name for path in tmp_path.iterdir()) == [".mine", "now", "runs"]
    assert (tmp_path / "now" / "y").read_text() == "y"


def test_where_folders_cannot_be_exchanged_a_replacement_that_was_cut_off_is_undone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "adapter"
    target.mkdir()
    (target / "w").write_text("old")
    monkeypatch.setattr(storage, "_exchange", lambda one, other: False)
    real, calls = os.rename, []

    def rename(source: Path, place: Path) -> None:
        calls.append(place)
        if len(calls) == 2:
            raise KeyboardInterrupt  # as a kill between the two: nothing is put back
        real(source, place)

    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(KeyboardInterrupt), storage.staged_folder(target) as staged:
        (staged / "w").write_text("new")
    monkeypatch.setattr(os, "rename", real)
    assert not target.exists()
    storage.sweep(tmp_path)
    assert (target / "w").read_text() == "old" and [path.name for path in tmp_path.iterdir()] == ["adapter"]
    with storage.staged_folder(target) as staged:
        (staged / "w").write_text("new")
    assert (target / "w").read_text() == "new" and [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_a_folder_that_is_replaced_is_there_at_every_moment(tmp_path: Path) -> None:
    target = tmp_path / "adapter"
    target.mkdir()
    looked, done = [], threading.Event()

    def look() -> None:
        while not done.is_set():
            looked.append(target.is_dir())

    watcher = threading.Thread(target=look)
    watcher.start()
    for number in range(60):
        with storage.staged_folder(target) as staged:
            (staged / "n").write_text(str(number))
    done.set()
    watcher.join()
    assert looked and all(looked) and (target / "n").read_text() == "59"


def test_a_lock_says_who_holds_it(tmp_path: Path) -> None:
    held = storage.lock_file(tmp_path / ".lock")
    assert held is not None and storage.lock_file(tmp_path / ".lock") is None
    assert storage.holder(tmp_path / ".lock") == str(os.getpid()) and storage.holder(tmp_path / "none") == "?"
    held.close()
    again = storage.lock_file(tmp_path / ".lock")
    assert again is not None
    again.close()


HOSTILE = ["../../etc/passwd", "/abs", "CON", "con.txt", "lpt1", "..", ".", ".hidden", "-rf", "a\0b", "x" * 300, "😀",
           "$(touch X)", ";id", "a/b\\c", "  ", "é", "e\u0301", "ａ", "\ud800", "小" * 200, "a\nb", "NUL."]  # fmt: skip


@given(name=st.one_of(st.text(max_size=80), st.sampled_from(HOSTILE)))
@settings(max_examples=400, deadline=None, database=None)
@example("../../etc/passwd")
@example("小" * 200)
def test_any_name_becomes_a_safe_folder_name(name: str) -> None:
    made = storage.slug(name)
    assert made and not made.startswith((".", "-", "_")) and "/" not in made and "\\" not in made and "\0" not in made
    assert len(made) <= 62 and len(made.encode()) <= 122 and made == made.strip()
    assert made.split(".")[0].lower() not in {"con", "prn", "aux", "nul", "com1", "lpt1"}


@pytest.mark.parametrize("name", ["~nosuchuser/x", "n" * 300, "a\0b", "gone.json"])
def test_a_name_behind_which_nothing_can_be_is_no_path(name: str, tmp_path: Path) -> None:
    assert storage.path_of(name) is None and storage.path_of(str(tmp_path)) == tmp_path


def test_readable_names_stay_readable() -> None:
    assert storage.slug("我的 Qwen 2.5 训练") == "我的-qwen-2-5-训练"
    assert storage.slug("e\u0301t\u00e9") == storage.slug("\u00e9te\u0301")
    assert storage.slug("!!!", "run") == "run" and storage.slug("CON") == "con-1"


def test_a_free_name_is_found(tmp_path: Path) -> None:
    assert storage.unused(tmp_path, "a") == "a"
    (tmp_path / "a.jsonl").touch()
    (tmp_path / "a-2.jsonl").touch()
    assert storage.unused(tmp_path, "a", ".jsonl") == "a-3" and storage.unused(tmp_path, "a") == "a"


def test_a_librarys_own_words_for_a_full_disk_become_our_sentence(tmp_path: Path) -> None:
    said = "Error while serializing: I/O error: {} (os error {})"
    full = storage.not_written(tmp_path / "x", said.format("No space left on device", errno.ENOSPC))
    assert full == storage.disk_full(tmp_path)
    broken = storage.not_written(tmp_path / "x", said.format("Input/output error", errno.EIO))
    assert all(
        str(tmp_path / "x") in text and "--home" in text and "os error 5" in text for text in (broken.zh, broken.en)
    )


def test_the_disk_full_sentence_works_for_a_folder_that_does_not_exist(tmp_path: Path) -> None:
    assert str(tmp_path) in storage.disk_full(tmp_path / "not" / "there").en
