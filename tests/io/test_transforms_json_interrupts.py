"""Real write failures: full and read-only disks, Ctrl-C. No partial output is left."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from nova3d_core.cameras.cameras import orbit_cameras
from nova3d_core.cameras.rigs import RigConfig
from nova3d_core.errors import InputError
from nova3d_core.io.views.transforms_json import read_views, write_views
from nova3d_core.progress import Progress
from nova3d_core.views import Views

REPOSITORY = Path(__file__).resolve().parents[2]

PRELUDE = """
import json, sys
from pathlib import Path
import torch
from nova3d_core.cameras.cameras import orbit_cameras
from nova3d_core.errors import InputError
from nova3d_core.io.views.transforms_json import write_views
from nova3d_core.progress import Progress
from nova3d_core.cameras.rigs import RigConfig
from nova3d_core.views import Views

def noisy_views(size):
    cameras = orbit_cameras(RigConfig(count=4, width_px=size, height_px=size))
    return Views(cameras, torch.rand(4, size, size, 3))

def read_error(folder, size):
    try:
        write_views(noisy_views(size), folder)
    except InputError as error:
        return str(error)
    return "no error"

def names_in(folder):
    return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*"))
"""


def run_python(script: str, *arguments: object, under: tuple[str, ...] = ()) -> dict:
    """Runs a script in a subprocess; returns the JSON it prints."""
    command = [*under, sys.executable, "-c", PRELUDE + script, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def small_views() -> Views:
    cameras = orbit_cameras(RigConfig(count=4, width_px=4, height_px=4))
    return Views(cameras, torch.ones(4, 4, 4, 3))


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit on file sizes to set")
def test_file_size_limit_is_reported_and_leaves_no_files(tmp_path):
    script = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
root = Path(sys.argv[1])
print(json.dumps({"error": read_error(root / "new" / "views", 64), "left": names_in(root)}))
"""
    outcome = run_python(script, tmp_path)
    assert f"{tmp_path / 'new' / 'views'} could not be written: no space left" in outcome["error"]
    assert outcome["left"] == []


@pytest.fixture(scope="module")
def small_disks(tmp_path_factory) -> dict:
    """Results on a disk of 64 KiB, and on the same disk mounted read-only."""
    under = ("unshare", "-Urm")
    root = tmp_path_factory.mktemp("disk")
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(root)]
    if shutil.which("unshare") is None:
        pytest.skip("unshare is not installed: no disk of our own to fill")
    if subprocess.run([*under, *mount], capture_output=True, check=False).returncode != 0:
        pytest.skip("this system does not let a user mount a disk of his own")
    script = """
import subprocess
root = Path(sys.argv[1])
subprocess.run(json.loads(sys.argv[2]), check=True)
write_views(noisy_views(8), root / "earlier")
before = names_in(root)
full = read_error(root / "views", 100)
after = names_in(root)
subprocess.run(["mount", "-o", "remount,ro", str(root)], check=True)
read_only = read_error(root / "views", 8)
names = {"before": before, "after": after, "at_last": names_in(root)}
print(json.dumps({"full": full, "read_only": read_only, **names}))
"""
    return run_python(script, root, json.dumps(mount), under=under) | {"root": root}


def test_full_disk_is_reported_and_leaves_no_files(small_disks):
    target = small_disks["root"] / "views"
    assert f"{target} could not be written: no space left" in small_disks["full"]
    assert small_disks["after"] == small_disks["before"]
    assert "earlier/transforms.json" in small_disks["before"]


def test_read_only_disk_is_reported(small_disks):
    target = small_disks["root"] / "views"
    assert f"{target} could not be written: permission denied" in small_disks["read_only"]
    assert small_disks["at_last"] == small_disks["before"]


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="this system has other permissions")
def test_unwritable_folder_is_reported(tmp_path):
    script = """
import os
root = Path(sys.argv[1])
write_views(noisy_views(8), root / "earlier")
locked = root / "locked"
locked.mkdir()
locked.chmod(0o555)
if os.geteuid() == 0:  # root may write everywhere: go on as somebody else
    os.setuid(65534)
print(json.dumps({"error": read_error(locked / "views", 8)}))
"""
    error = run_python(script, tmp_path)["error"]
    assert f"{tmp_path / 'locked' / 'views'} could not be written: permission denied" in error
    assert os.listdir(tmp_path / "locked") == []


def test_file_at_a_folder_path_is_reported(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"file/views could not be written"):
        write_views(small_views(), tmp_path / "file" / "views")
    with pytest.raises(InputError, match="is a file"):
        write_views(small_views(), tmp_path / "file", overwrite=True)
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.skipif(sys.platform == "win32", reason="signals work otherwise on Windows")
def test_ctrl_c_leaves_no_files(tmp_path):
    script = """
import time
def wait(event):
    if event.step == 2:
        print(json.dumps(names_in(sys.argv[1])), flush=True)
        time.sleep(60)
write_views(noisy_views(8), Path(sys.argv[1]) / "new" / "views", progress=Progress(wait))
"""
    process = subprocess.Popen(
        [sys.executable, "-c", PRELUDE + script, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # background jobs of a shell inherit an ignored SIGINT
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    half_way = json.loads(process.stdout.readline())
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert sum(name.endswith(".png") for name in half_way) == 2  # it was interrupted while writing
    assert "KeyboardInterrupt" in errors
    assert process.returncode != 0
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
