"""Names that users write: what stays inside the host's folders, and when something has changed."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(scope="module")
def folders(pack):
    return pack("nodes.folders")


@pytest.mark.parametrize(
    "name",
    ["../x", "a/../../x", "/etc/x", "~/x", "C:\\x", "C:x", "\\\\host\\x", "..\\x", "a\\..\\..\\x",
     "x\0y", "//host/x"],
)  # fmt: skip
def test_names_outside_are_refused_on_every_system(pack, folders, name):
    with pytest.raises(pack("nova3d_core.errors").InputError, match="not inside ComfyUI's output"):
        folders.check_prefix(name)


@pytest.mark.parametrize("name", ["", "  ", "a/", "a\\"])
def test_a_prefix_must_name_something(pack, folders, name):
    with pytest.raises(pack("nova3d_core.errors").InputError, match="names no file"):
        folders.check_prefix(name)


@pytest.mark.parametrize("name", ["x", "a/b/c", "a..b", "%date:yyyy-MM-dd%/x", "ä ö", ".hidden"])
def test_other_names_are_taken(folders, name):
    folders.check_prefix(name)


def test_validation_says_true_or_the_errors_line(folders):
    assert folders.problem_with(folders.check_prefix, "fine") is True
    assert folders.problem_with(folders.check_prefix, None) is True  # comes through a link
    assert "filename_prefix is '../x'" in folders.problem_with(folders.check_prefix, "../x")


def test_a_folders_state_tells_every_change(folders, tmp_path):
    folder = tmp_path / "views"
    (folder / "images").mkdir(parents=True)
    (folder / "transforms.json").write_text("{}")
    (folder / "images" / "0.png").write_bytes(b"abc")
    states = [folders.state_of(folder)]
    assert folders.state_of(folder) == states[0]
    (folder / "images" / "1.png").write_bytes(b"abc")
    states.append(folders.state_of(folder))
    (folder / "images" / "1.png").write_bytes(b"abcd")
    states.append(folders.state_of(folder))
    os.utime(folder / "images" / "0.png", ns=(1, 1))
    states.append(folders.state_of(folder))
    (folder / "images" / "0.png").unlink()
    states.append(folders.state_of(folder))
    assert len(set(states)) == len(states)
