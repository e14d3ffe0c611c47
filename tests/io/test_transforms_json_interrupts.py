"""Real write failures: full and read-only disks, Ctrl-C. No partial output is left."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from nova3d_core.cameras.cameras import orbit_cameras
from nova3d_core.cameras.rigs import RigConfig
from nova3d_core.errors import InputError
from nova3d_core.io.views.transforms_json import read_views, write_views
from nova3d_core.progress import Progress
from nova3d_core.views import Views

from .forks import ForkedChild, call_in_fork, enter_mount_namespace

POSIX = pytest.mark.skipif(os.name == "nt", reason="needs POSIX processes")


def noisy_views(side: int) -> Views:
    cameras = orbit_cameras(RigConfig(count=4, width_px=side, height_px=side))
    return Views(cameras, torch.rand(4, side, side, 3))


def write_error(folder: Path, side: int) -> str:
    """The error of writing views."""
    try:
        write_views(noisy_views(side), folder)
    except InputError as error:
        return str(error)
    return "no error"


def names_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def small_views() -> Views:
    cameras = orbit_cameras(RigConfig(count=4, width_px=4, height_px=4))
    return Views(cameras, torch.ones(4, 4, 4, 3))


@POSIX
def test_file_size_limit_is_reported_and_leaves_no_files(tmp_path):
    def write_with_limit() -> dict[str, object]:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
        return {"error": write_error(tmp_path / "new" / "views", 64), "left": names_in(tmp_path)}

    outcome = call_in_fork(write_with_limit)
    assert f"{tmp_path / 'new' / 'views'} could not be written: no space left" in outcome["error"]
    assert outcome["left"] == []


@pytest.fixture(scope="module")
def small_disks(tmp_path_factory) -> dict:
    """Results on a disk of 64 KiB, and on the same disk mounted read-only."""
    if not sys.platform.startswith("linux") or shutil.which("mount") is None:
        pytest.skip("mounting a small disk needs Linux")
    root = tmp_path_factory.mktemp("disk")

    def fill_disk() -> dict[str, object]:
        mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(root)]
        try:
            enter_mount_namespace()
            subprocess.run(mount, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            return {}
        write_views(noisy_views(8), root / "earlier")
        before = names_in(root)
        full = write_error(root / "views", 100)
        after = names_in(root)
        subprocess.run(["mount", "-o", "remount,ro", str(root)], check=True)
        read_only = write_error(root / "views", 8)
        names = {"before": before, "after": after, "finally": names_in(root)}
        return {"full": full, "read_only": read_only, **names}

    outcome = call_in_fork(fill_disk)
    if not outcome:
        pytest.skip("users of this system may not mount disks in a namespace")
    return outcome | {"root": root}


def test_full_disk_is_reported_and_leaves_no_files(small_disks):
    target = small_disks["root"] / "views"
    assert f"{target} could not be written: no space left" in small_disks["full"]
    assert small_disks["after"] == small_disks["before"]
    assert "earlier/transforms.json" in small_disks["before"]


def test_read_only_disk_is_reported(small_disks):
    target = small_disks["root"] / "views"
    assert f"{target} could not be written: permission denied" in small_disks["read_only"]
    assert small_disks["finally"] == small_disks["before"]


@POSIX
def test_unwritable_folder_is_reported(tmp_path):
    locked = tmp_path / "locked"

    def write_to_locked_folder() -> str:
        write_views(noisy_views(8), tmp_path / "earlier")
        locked.mkdir()
        locked.chmod(0o555)
        if os.geteuid() == 0:  # root ignores permissions: become another user
            os.setuid(65534)
        return write_error(locked / "views", 8)

    error = call_in_fork(write_to_locked_folder)
    assert f"{locked / 'views'} could not be written: permission denied" in error
    assert os.listdir(locked) == []


def test_file_at_a_folder_path_is_reported(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"file/views could not be written"):
        write_views(small_views(), tmp_path / "file" / "views")
    with pytest.raises(InputError, match="is a file"):
        write_views(small_views(), tmp_path / "file", overwrite=True)
    assert os.listdir(tmp_path) == ["file"]


@POSIX
def test_ctrl_c_leaves_no_files(tmp_path):
    def write_slowly(send) -> None:
        def wait(event) -> None:
            if event.step == 2:
                send(names_in(tmp_path))
                time.sleep(60)

        write_views(noisy_views(8), tmp_path / "new" / "views", progress=Progress(wait))

    child = ForkedChild(write_slowly)
    half_way = child.receive()
    os.kill(child.pid, signal.SIGINT)
    assert child.wait() == 130  # ended by KeyboardInterrupt
    assert sum(name.endswith(".png") for name in half_way) == 2  # it was interrupted while writing
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("step", [0, 2, 4])
def test_interrupt_while_overwriting_keeps_the_existing_views(tmp_path, step):
    folder = write_views(small_views(), tmp_path / "views")

    def interrupt(event) -> None:
        if event.step == step:
            raise KeyboardInterrupt

    other = Views(small_views().cameras, torch.zeros(4, 4, 4, 3))
    with pytest.raises(KeyboardInterrupt):
        write_views(other, folder, overwrite=True, progress=Progress(interrupt))
    assert os.listdir(tmp_path) == ["views"]
    assert torch.equal(read_views(folder).colour, torch.ones(4, 4, 4, 3))
