"""Atomic writes: output is complete or absent, and existing output is never lost."""

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


def list_tree(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def fill_folder(path: Path, text: str, overwrite: bool = False, failure=None) -> None:
    with atomic_folder(path, overwrite, ("inner",)) as temporary:
        (temporary / "inner").mkdir()
        (temporary / "inner" / "part.txt").write_text(text)
        if failure is not None:
            raise failure


def fill_file(path: Path, text: str, overwrite: bool = False, failure=None) -> None:
    with atomic_file(path, overwrite) as temporary:
        temporary.write_text(text)
        if failure is not None:
            raise failure


def read_text(path: Path) -> str:
    return (path / "inner" / "part.txt").read_text() if path.is_dir() else path.read_text()


both_kinds = pytest.mark.parametrize("fill", [fill_file, fill_folder])


@both_kinds
def test_output_appears_complete_and_parents_are_created(tmp_path, fill):
    path = tmp_path / "a" / "b" / "out.bin"
    fill(path, "text")
    assert read_text(path) == "text"
    assert os.listdir(path.parent) == ["out.bin"]


@both_kinds
@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: type(failure).__name__)
def test_failure_leaves_no_files_and_no_parents(tmp_path, fill, failure):
    with pytest.raises(type(failure)):
        fill(tmp_path / "a" / "b" / "out", "text", failure=failure)
    assert list_tree(tmp_path) == []


@both_kinds
def test_failure_keeps_parents_with_other_content(tmp_path, fill):
    (tmp_path / "a").mkdir()
    with pytest.raises(RuntimeError):
        fill(tmp_path / "a" / "out", "text", failure=RuntimeError())
    assert list_tree(tmp_path) == ["a"]


@both_kinds
def test_name_does_not_exist_before_completion(tmp_path, fill):
    atomic_context = atomic_file if fill is fill_file else atomic_folder
    with atomic_context(tmp_path / "out.txt") as temporary:
        assert not (tmp_path / "out.txt").exists()
        assert temporary.parent == tmp_path  # a rename within one disk
        assert temporary.suffix == ".txt" or temporary.is_dir()
        if atomic_context is atomic_file:
            temporary.touch()
    assert os.listdir(tmp_path) == ["out.txt"]


@both_kinds
def test_existing_output_is_kept_without_overwrite(tmp_path, fill):
    path = tmp_path / "out"
    fill(path, "first")
    with pytest.raises(InputError, match="already exists"):
        fill(path, "second")
    assert read_text(path) == "first"
    fill(path, "third", overwrite=True)
    assert read_text(path) == "third"
    assert os.listdir(tmp_path) == ["out"]


@both_kinds
@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: type(failure).__name__)
def test_failed_overwrite_keeps_existing_output(tmp_path, fill, failure):
    fill(tmp_path / "out", "first")
    before = list_tree(tmp_path)
    with pytest.raises(type(failure)):
        fill(tmp_path / "out", "second", overwrite=True, failure=failure)
    assert list_tree(tmp_path) == before
    assert read_text(tmp_path / "out") == "first"


@pytest.mark.parametrize("failing_rename", [2, 3])
@pytest.mark.parametrize("failure", [KeyboardInterrupt(), OSError(errno.EBUSY, "busy")], ids=repr)
def test_interrupt_between_renames_restores_the_folder(
    tmp_path, monkeypatch, failing_rename, failure
):
    """On systems without an atomic exchange; the first rename finds an existing folder."""
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
    assert read_text(tmp_path / "out") == "first"


def test_overwrite_replaces_the_whole_folder(tmp_path):
    with atomic_folder(tmp_path / "out") as folder:
        (folder / "inner").mkdir()
        (folder / "inner" / "stale.txt").touch()
    fill_folder(tmp_path / "out", "second", overwrite=True)
    expected = ["out", f"out/{MANIFEST}", "out/inner", "out/inner/part.txt"]
    assert list_tree(tmp_path) == expected


def test_folder_with_foreign_content_is_never_replaced(tmp_path):
    fill_folder(tmp_path / "out", "first")
    (tmp_path / "out" / "thesis.tex").touch()
    with pytest.raises(InputError, match=r"it contains thesis\.tex"):
        fill_folder(tmp_path / "out", "second", overwrite=True)
    assert read_text(tmp_path / "out") == "first"
    assert (tmp_path / "out" / "thesis.tex").exists()


def test_empty_folder_can_be_filled(tmp_path):
    (tmp_path / "out").mkdir()
    fill_folder(tmp_path / "out", "text")
    assert read_text(tmp_path / "out") == "text"


@both_kinds
def test_symlink_is_followed_and_kept(tmp_path, fill):
    (tmp_path / "big_disk").mkdir()
    fill(tmp_path / "big_disk" / "out", "first")
    (tmp_path / "link").symlink_to(tmp_path / "big_disk" / "out")
    fill(tmp_path / "link", "second", overwrite=True)
    assert (tmp_path / "link").is_symlink()
    assert read_text(tmp_path / "big_disk" / "out") == "second"
    assert sorted(os.listdir(tmp_path)) == ["big_disk", "link"]


def test_file_and_folder_do_not_replace_each_other(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "folder" / "inner").mkdir(parents=True)
    with pytest.raises(InputError, match="is a file"):
        fill_folder(tmp_path / "file", "text", overwrite=True)
    with pytest.raises(InputError, match="is a folder"):
        fill_file(tmp_path / "folder", "text", overwrite=True)
    assert list_tree(tmp_path) == ["file", "folder", "folder/inner"]


@both_kinds
def test_parent_that_is_a_file_is_reported(tmp_path, fill):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"file/out could not be written"):
        fill(tmp_path / "file" / "out", "text")


@both_kinds
@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (errno.ENOSPC, "no space left"),
        (errno.EFBIG, "no space left"),
        (errno.EACCES, "permission denied"),
        (errno.EROFS, "permission denied"),
        (errno.EIO, os.strerror(errno.EIO)),
    ],
)
def test_write_error_is_one_line_naming_the_target(tmp_path, fill, code, expected):
    with pytest.raises(InputError, match=expected) as caught:
        fill(tmp_path / "out", "text", failure=OSError(code, os.strerror(code)))
    assert str(tmp_path / "out") in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list_tree(tmp_path) == []
