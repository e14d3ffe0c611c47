"""A file or folder appears whole or not at all, and what was there before is not lost."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from nova3d_core.errors import InputError
from nova3d_core.io.files import renames
from nova3d_core.io.files.atomic import atomic_file, atomic_folder
from nova3d_core.io.files.ownership import MANIFEST

FAILURES = [RuntimeError("broke"), KeyboardInterrupt(), SystemExit(1), InputError("bad")]


def everything_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def fill_folder(path: Path, text: str, overwrite: bool = False, failure=None) -> None:
    with atomic_folder(path, overwrite, ("inner",)) as beside:
        (beside / "inner").mkdir()
        (beside / "inner" / "part.txt").write_text(text)
        if failure is not None:
            raise failure


def fill_file(path: Path, text: str, overwrite: bool = False, failure=None) -> None:
    with atomic_file(path, overwrite) as beside:
        beside.write_text(text)
        if failure is not None:
            raise failure


def text_of(path: Path) -> str:
    return (path / "inner" / "part.txt").read_text() if path.is_dir() else path.read_text()


both = pytest.mark.parametrize("fill", [fill_file, fill_folder])


@both
def test_it_appears_whole_with_its_missing_parents(tmp_path, fill):
    path = tmp_path / "a" / "b" / "out.bin"
    fill(path, "text")
    assert text_of(path) == "text"
    assert os.listdir(path.parent) == ["out.bin"]


@both
@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: type(failure).__name__)
def test_a_failure_leaves_nothing_not_even_parents(tmp_path, fill, failure):
    with pytest.raises(type(failure)):
        fill(tmp_path / "a" / "b" / "out", "text", failure=failure)
    assert everything_in(tmp_path) == []


@both
def test_a_failure_keeps_parents_that_hold_something_else(tmp_path, fill):
    (tmp_path / "a").mkdir()
    with pytest.raises(RuntimeError):
        fill(tmp_path / "a" / "out", "text", failure=RuntimeError())
    assert everything_in(tmp_path) == ["a"]


@both
def test_nothing_is_seen_under_the_name_before_the_end(tmp_path, fill):
    maker = atomic_file if fill is fill_file else atomic_folder
    with maker(tmp_path / "out.txt") as beside:
        assert not (tmp_path / "out.txt").exists()
        assert beside.parent == tmp_path  # a rename within one disk
        assert beside.suffix == ".txt" or beside.is_dir()
        if maker is atomic_file:
            beside.touch()
    assert os.listdir(tmp_path) == ["out.txt"]


@both
def test_what_exists_is_kept_unless_overwrite(tmp_path, fill):
    path = tmp_path / "out"
    fill(path, "first")
    with pytest.raises(InputError, match="already exists"):
        fill(path, "second")
    assert text_of(path) == "first"
    fill(path, "third", overwrite=True)
    assert text_of(path) == "third"
    assert os.listdir(tmp_path) == ["out"]


@both
@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: type(failure).__name__)
def test_a_failed_overwrite_keeps_what_was_there(tmp_path, fill, failure):
    fill(tmp_path / "out", "first")
    before = everything_in(tmp_path)
    with pytest.raises(type(failure)):
        fill(tmp_path / "out", "second", overwrite=True, failure=failure)
    assert everything_in(tmp_path) == before
    assert text_of(tmp_path / "out") == "first"


@pytest.mark.parametrize("failing_rename", [2, 3])
@pytest.mark.parametrize("failure", [KeyboardInterrupt(), OSError(errno.EBUSY, "busy")], ids=repr)
def test_an_interrupt_between_the_two_renames_brings_the_folder_back(
    tmp_path, monkeypatch, failing_rename, failure
):
    """Where folders cannot be swapped in one step; the first rename finds that one is there."""
    fill_folder(tmp_path / "out", "first")
    targets = []

    def rename_or_fail(source, target, real=os.rename):
        targets.append(target)
        if len(targets) == failing_rename:
            raise failure
        real(source, target)

    monkeypatch.setattr(renames, "exchange", lambda first, second: False)
    monkeypatch.setattr(os, "rename", rename_or_fail)
    with pytest.raises((KeyboardInterrupt, InputError)):
        fill_folder(tmp_path / "out", "second", overwrite=True)
    assert os.listdir(tmp_path) == ["out"]
    assert text_of(tmp_path / "out") == "first"


def test_overwriting_replaces_a_folder_as_a_whole(tmp_path):
    with atomic_folder(tmp_path / "out") as folder:
        (folder / "inner").mkdir()
        (folder / "inner" / "stale.txt").touch()
    fill_folder(tmp_path / "out", "second", overwrite=True)
    held = ["out", f"out/{MANIFEST}", "out/inner", "out/inner/part.txt"]
    assert everything_in(tmp_path) == held


def test_a_folder_that_holds_something_else_is_never_replaced(tmp_path):
    fill_folder(tmp_path / "out", "first")
    (tmp_path / "out" / "thesis.tex").touch()
    with pytest.raises(InputError, match=r"also holds thesis\.tex"):
        fill_folder(tmp_path / "out", "second", overwrite=True)
    assert text_of(tmp_path / "out") == "first"
    assert (tmp_path / "out" / "thesis.tex").exists()


def test_an_empty_folder_may_be_filled(tmp_path):
    (tmp_path / "out").mkdir()
    fill_folder(tmp_path / "out", "text")
    assert text_of(tmp_path / "out") == "text"


@both
def test_a_link_is_followed_and_stays(tmp_path, fill):
    (tmp_path / "big_disk").mkdir()
    fill(tmp_path / "big_disk" / "out", "first")
    (tmp_path / "link").symlink_to(tmp_path / "big_disk" / "out")
    fill(tmp_path / "link", "second", overwrite=True)
    assert (tmp_path / "link").is_symlink()
    assert text_of(tmp_path / "big_disk" / "out") == "second"
    assert sorted(os.listdir(tmp_path)) == ["big_disk", "link"]


def test_a_file_and_a_folder_do_not_replace_each_other(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "folder" / "inner").mkdir(parents=True)
    with pytest.raises(InputError, match="is a file"):
        fill_folder(tmp_path / "file", "text", overwrite=True)
    with pytest.raises(InputError, match="is a folder"):
        fill_file(tmp_path / "folder", "text", overwrite=True)
    assert everything_in(tmp_path) == ["file", "folder", "folder/inner"]


@both
def test_a_parent_that_is_a_file_is_explained(tmp_path, fill):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"file/out could not be written"):
        fill(tmp_path / "file" / "out", "text")


@both
@pytest.mark.parametrize(
    ("code", "says"),
    [
        (errno.ENOSPC, "no space left"),
        (errno.EFBIG, "no space left"),
        (errno.EACCES, "permission denied"),
        (errno.EROFS, "permission denied"),
        (errno.EIO, os.strerror(errno.EIO)),
    ],
)
def test_a_write_error_is_one_line_that_names_the_target(tmp_path, fill, code, says):
    with pytest.raises(InputError, match=says) as caught:
        fill(tmp_path / "out", "text", failure=OSError(code, os.strerror(code)))
    assert str(tmp_path / "out") in str(caught.value)
    assert "\n" not in str(caught.value)
    assert everything_in(tmp_path) == []
