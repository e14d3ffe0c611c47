"""Leftovers of killed processes are removed by the next run in that folder."""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nova3d_core.io.files import renames, staging
from nova3d_core.io.files.atomic import (
    atomic_file,
    atomic_files,
    atomic_folder,
    check_can_write_file,
    check_can_write_folder,
)
from nova3d_core.io.files.staging import (
    ABANDONED_S,
    MAX_NAME,
    PREFIX,
    remove_leftovers,
    scratch_folder,
)

ROOT = Path(__file__).resolve().parents[2]
KILLED = """
import os, signal, sys
from pathlib import Path
from nova3d_core.io.files import atomic, renames, staging
root = Path(sys.argv[1])
def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)
"""
pytestmark = pytest.mark.skipif(os.name == "nt", reason="POSIX signals")


def run_killed(script: str, root: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED + script, str(root)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr


def temporary_names(folder: Path) -> list[str]:
    return sorted(name for name in os.listdir(folder) if name.startswith(PREFIX))


def test_next_run_removes_file_of_a_killed_process(tmp_path):
    run_killed(
        "with atomic.atomic_file(root / 'out') as part: part.write_text('half'); die()", tmp_path
    )
    assert len(temporary_names(tmp_path)) == 2
    with atomic_file(tmp_path / "other") as part:
        part.write_text("text")
    assert os.listdir(tmp_path) == ["other"]


@pytest.mark.parametrize("check", [check_can_write_file, check_can_write_folder])
def test_checks_of_the_next_run_remove_folder_of_a_killed_process(tmp_path, check):
    script = "with atomic.atomic_folder(root / 'out') as part: (part / 'a').touch(); die()"
    run_killed(script, tmp_path)
    assert temporary_names(tmp_path)
    check(tmp_path / "out", False)
    assert os.listdir(tmp_path) == []


def test_kill_right_after_locking_leaves_no_files(tmp_path):
    run_killed("staging._lock = die\nwith staging.staging(root): pass", tmp_path)
    assert len(temporary_names(tmp_path)) == 1
    remove_leftovers(tmp_path)
    assert os.listdir(tmp_path) == []


def test_files_of_a_living_process_are_kept(tmp_path):
    script = KILLED + (
        "with atomic.atomic_folder(root / 'out') as part:\n"
        "    (part / 'a').touch(); print('ready', flush=True); sys.stdin.read()\n"
    )
    living = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert living.stdout.readline() == b"ready\n"
    before = temporary_names(tmp_path)
    for lock in tmp_path.glob("*.lock"):  # whatever its age
        os.utime(lock, (0, 0))
    remove_leftovers(tmp_path)
    assert len(before) == 2 and temporary_names(tmp_path) == before
    living.communicate(timeout=30)
    assert (tmp_path / "out" / "a").exists() and os.listdir(tmp_path) == ["out"]


def test_files_of_this_process_are_kept(tmp_path):
    with atomic_file(tmp_path / "one") as part:
        part.write_text("1")
        with atomic_file(tmp_path / "two") as other:
            other.write_text("2")
    assert sorted(os.listdir(tmp_path)) == ["one", "two"]


def test_lock_of_another_host_expires(tmp_path):
    lock, part = tmp_path / f"{PREFIX}00000000-12345678.lock", f"{PREFIX}00000000-12345678-0.part"
    lock.touch()
    (tmp_path / part).touch()
    remove_leftovers(tmp_path)
    assert len(temporary_names(tmp_path)) == 2
    old = time.time() - ABANDONED_S - 60
    os.utime(lock, (old, old))
    remove_leftovers(tmp_path)
    assert os.listdir(tmp_path) == []


def test_lock_expires_on_a_drive_without_locks(tmp_path, monkeypatch):
    def unsupported(handle: int) -> None:
        raise OSError(95, "not supported")

    run_killed("with atomic.atomic_file(root / 'out') as part: part.touch(); die()", tmp_path)
    monkeypatch.setattr(staging, "_lock", unsupported)
    with atomic_file(tmp_path / "new") as part:
        part.touch()
    assert len(temporary_names(tmp_path)) == 2 and (tmp_path / "new").exists()
    old = time.time() - ABANDONED_S - 60
    for lock in tmp_path.glob("*.lock"):
        os.utime(lock, (old, old))
    remove_leftovers(tmp_path)
    assert os.listdir(tmp_path) == ["new"]


def write_folder(path: Path, text: str, overwrite: bool = False) -> None:
    with atomic_folder(path, overwrite) as part:
        (part / "text").write_text(text)


REPLACE_FOLDER = (
    "with atomic.atomic_folder(root / 'out', overwrite=True) as part:\n"
    "    (part / 'text').write_text('new')\n"
)


def test_kill_right_after_the_exchange_keeps_the_folder(tmp_path):
    write_folder(tmp_path / "out", "old")
    if not renames.exchange(tmp_path / "out", tmp_path / "out"):
        pytest.skip("folders cannot be swapped here")
    script = (
        "plain = renames.exchange\n"
        "renames.exchange = lambda *paths: (plain(*paths), die())\n" + REPLACE_FOLDER
    )
    run_killed(script, tmp_path)
    assert (tmp_path / "out" / "text").read_text() == "new"
    remove_leftovers(tmp_path)
    assert os.listdir(tmp_path) == ["out"]
    assert (tmp_path / "out" / "text").read_text() == "new"


@pytest.mark.parametrize(("renamed", "text"), [(2, "old"), (3, "new")])
def test_folder_moved_by_a_killed_process_is_restored(tmp_path, renamed, text):
    """Without an atomic exchange: killed after moving the old folder, or the new one."""
    write_folder(tmp_path / "out", "old")
    script = (
        "renames.exchange = lambda *paths: False\n"
        "plain, calls = os.rename, []\n"
        "def rename(source, target):\n"
        "    calls.append(source)\n"
        "    plain(source, target)\n"
        f"    if len(calls) == {renamed}: die()\n"
        "os.rename = rename\n" + REPLACE_FOLDER
    )
    run_killed(script, tmp_path)
    assert (tmp_path / "out").exists() == (text == "new")
    remove_leftovers(tmp_path)
    assert os.listdir(tmp_path) == ["out"]
    assert (tmp_path / "out" / "text").read_text() == text


@pytest.mark.parametrize("earlier", [False, True])
@pytest.mark.parametrize("after", [1, 2, 3])
def test_killed_write_of_several_files_is_rolled_back_or_complete(tmp_path, earlier, after):
    names = ["a.png", "a.mtl", "a.obj"]
    if earlier:
        for name in names:
            (tmp_path / name).write_text("old")
    script = (
        "plain, calls = atomic._publish_file, []\n"
        "def publish(*words):\n"
        "    plain(*words); calls.append(0)\n"
        f"    if len(calls) == {after}: die()\n"
        "atomic._publish_file = publish\n"
        f"with atomic.atomic_files(root, {names}, {earlier}) as parts:\n"
        "    [part.write_text('new') for part in parts]\n"
    )
    run_killed(script, tmp_path)
    remove_leftovers(tmp_path)
    texts = {path.name: path.read_text() for path in tmp_path.iterdir()}
    if after == 3:
        assert texts == dict.fromkeys(names, "new")
    else:
        assert texts == (dict.fromkeys(names, "old") if earlier else {})


def test_journal_affects_neither_other_folders_nor_newer_files(tmp_path):
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.write_text("mine")
    (inside / "a.png").write_text("mine")
    token = f"{staging._host()}-12345678"
    (inside / f"{PREFIX}{token}-0.part").touch()
    row = {"part": f"{PREFIX}{token}-1.part", "backup": f"{PREFIX}{token}-1.old", "inode": 1}
    for target in ("../outside", str(outside), "a.png"):
        journal = [{**row, "part": f"{PREFIX}{token}-0.part", "target": "b"}]
        journal.append({**row, "target": target, "inode": outside.stat().st_ino})
        (inside / f"{PREFIX}{token}.lock").write_text(json.dumps(journal))
        remove_leftovers(inside)
        assert temporary_names(inside) == []
        assert outside.read_text() == "mine"
        assert (inside / "a.png").read_text() == "mine"


def test_temporary_names_have_the_documented_length(tmp_path):
    with atomic_files(tmp_path, (f"a.{'e' * 15}", "b" * 255, "c")) as parts:
        for part in parts:
            part.touch()
        assert max(map(len, temporary_names(tmp_path))) <= MAX_NAME
        assert parts[0].suffix == "." + "e" * 15 and parts[1].suffix == ".part"


def test_scratch_folder_is_private_and_removed(tmp_path):
    with scratch_folder(tmp_path) as folder:
        (folder / "file").touch()
        assert folder.stat().st_mode & 0o077 == 0
    assert os.listdir(tmp_path) == []


def test_host_is_part_of_the_name(tmp_path, monkeypatch):
    with staging.staging(tmp_path) as mine:
        first = mine.lock.name
    monkeypatch.setattr(platform, "node", lambda: "another")
    with staging.staging(tmp_path) as theirs:
        assert theirs.lock.name[: len(PREFIX) + 8] != first[: len(PREFIX) + 8]
