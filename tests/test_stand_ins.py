"""Slow stand-ins for compiled packages say so: once, with the reason and the remedy."""

from __future__ import annotations

import logging
import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from nova3d_core.compute import kernel_cache, warp_backend
from nova3d_core.fusion.fields.grid import warp_support
from nova3d_core.fusion.fields.grid.field import DenseGrid
from nova3d_core.fusion.fields.hashgrid.encoding import HashEncoding, TcnnEncoding, make_encoding
from nova3d_core.mesh import Mesh
from nova3d_core.meshing.simplify import simplify
from nova3d_core.rendering import raycast
from nova3d_core.sdf_grid import SdfGrid
from nova3d_core.training.data import render as images

ROOT = Path(__file__).parents[1]
POSIX = pytest.mark.skipif(os.name == "nt", reason="paths and owners of POSIX")
CPU = torch.device("cpu")


def python(script: str, **changes: str | None) -> str:
    """What a script in a process of its own says; variables that are None are removed."""
    environment = {**os.environ, **changes}
    environment = {name: value for name, value in environment.items() if value is not None}
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


BALL = """
import logging
logging.basicConfig(format="%(levelname)s %(message)s")
import torch
from nova3d_core.fusion.fields.grid.field import DenseGrid
from nova3d_core.sdf_grid import SdfGrid
axis = torch.linspace(-0.5, 0.5, 9)
at = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1)
field = DenseGrid(SdfGrid(at.norm(dim=-1) - 0.3, torch.full((3,), -0.5), 0.125))
print("steps", field._steps.__name__)
"""


def ball() -> SdfGrid:
    axis = torch.linspace(-0.5, 0.5, 9)
    at = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1)
    return SdfGrid(at.norm(dim=-1) - 0.3, torch.full((3,), -0.5), 0.125)


@POSIX
def test_warp_runs_where_the_home_folder_cannot_be_written(tmp_path):
    pytest.importorskip("warp")
    said = python(BALL, HOME="/dev/null", XDG_CACHE_HOME=None, WARP_CACHE_PATH=None,
                  TMPDIR=str(tmp_path))  # fmt: skip
    assert "steps nova3d_core.fusion.fields.grid.field.warp_impl" in said
    assert "WARNING" not in said
    (folder,) = tmp_path.glob("nova3d-warp-*")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


class FakeWarp:
    """What `use_writable_cache` touches of warp."""

    def __init__(self, cache: str | None = None):
        self.config = SimpleNamespace(kernel_cache_dir=cache, version="1.0")


@POSIX
@pytest.mark.parametrize("named_by", ["config", "variable", "home"])
def test_a_cache_that_cannot_be_written_is_left_for_one_that_can(tmp_path, monkeypatch, named_by):
    bad = "/dev/null/cache"
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("WARP_CACHE_PATH", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    if named_by == "variable":
        monkeypatch.setenv("WARP_CACHE_PATH", bad)
    if named_by == "home":
        monkeypatch.setenv("HOME", bad)
    wp = FakeWarp(bad if named_by == "config" else None)
    kernel_cache.use_writable_cache(wp)
    assert wp.config.kernel_cache_dir == str(tmp_path / f"nova3d-warp-{os.getuid()}")


def test_a_usable_cache_is_the_one_that_is_used(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.setenv("WARP_CACHE_PATH", str(tmp_path / "mine"))
    wp = FakeWarp()
    kernel_cache.use_writable_cache(wp)
    assert wp.config.kernel_cache_dir is None  # warp reads the variable itself
    assert list(tmp_path.iterdir()) == [tmp_path / "mine"]


def test_without_warp_one_warning_says_how_slow_and_why():
    said = python("import sys; sys.modules['warp'] = None" + BALL)
    assert "torch_impl" in said
    lines = [line for line in said.splitlines() if line.startswith("WARNING")]
    assert len(lines) == 1
    assert "6 to 8 times slower" in lines[0]
    assert "the package 'warp-lang' is not installed" in lines[0]
    assert "pip install warp-lang" in lines[0]
    assert len(lines[0]) < 500


def test_a_warp_that_does_not_start_is_told_with_its_reason(tmp_path):
    (tmp_path / "warp.py").write_text("raise ImportError('libcuda.so.1 is\\n broken')")
    said = python(BALL, PYTHONPATH=os.pathsep.join([str(tmp_path), str(ROOT)]))
    assert "torch_impl" in said
    lines = [line for line in said.splitlines() if line.startswith("WARNING")]
    assert len(lines) == 1
    assert "warp cannot be loaded: libcuda.so.1 is broken" in lines[0]


def test_the_twin_that_was_asked_for_says_nothing(caplog):
    with caplog.at_level(logging.WARNING):
        DenseGrid(ball(), compiled=False)
    assert caplog.records == []


def test_no_problem_is_found_where_warp_runs():
    pytest.importorskip("warp")
    assert warp_support.kernel_error(CPU) == ""
    assert warp_support.can_run_on(CPU)


@POSIX
def test_somebody_elses_folder_is_not_used_for_kernels(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    own = kernel_cache.private_cache_dir()
    assert own == tmp_path / f"nova3d-warp-{os.getuid()}"
    assert kernel_cache.private_cache_dir() == own
    own.chmod(0o777)
    other = kernel_cache.private_cache_dir()
    assert other != own
    assert stat.S_IMODE(other.stat().st_mode) == 0o700
    own.rmdir()
    own.symlink_to(other)
    assert kernel_cache.private_cache_dir() not in (own, other)


@pytest.fixture
def without(monkeypatch):
    """Blocks packages from being imported, and forgets what was found before."""

    def block(*names: str) -> None:
        for name in names:
            monkeypatch.setitem(sys.modules, name, None)
        raycast._has_embree.cache_clear()
        images._has_warp.cache_clear()

    yield block
    monkeypatch.undo()
    raycast._has_embree.cache_clear()
    images._has_warp.cache_clear()


def test_without_embree_one_warning_and_the_same_hits(without, caplog, l_solid):
    embree = raycast.RayCaster.of(l_solid)
    without("embreex")
    with caplog.at_level(logging.WARNING):
        casters = [raycast.RayCaster.of(l_solid) for _ in range(3)]
    assert {caster.backend for caster in casters} == {"numpy"}
    assert len(caplog.messages) == 1
    assert "20 to 80 times slower than Embree" in caplog.messages[0]
    assert "embreex is not installed" in caplog.messages[0]
    rays = [[0.0, -0.4, 2.0], [-0.3, 0.2, 2.0]], [[0.0, 0.0, -1.0]] * 2
    ours, theirs = casters[0].first_hits(*rays), embree.first_hits(*rays)
    assert (ours.face == theirs.face).all()
    assert ours.distance == pytest.approx(theirs.distance, abs=1e-6)


def test_the_numpy_tree_that_was_asked_for_says_nothing(without, caplog, l_solid):
    without("embreex")
    with caplog.at_level(logging.WARNING):
        raycast.RayCaster.of(l_solid, "numpy")
    assert caplog.messages == []


def test_without_fast_simplification_the_warning_says_what_stays(without, caplog, l_solid: Mesh):
    without("fast_simplification")
    with caplog.at_level(logging.WARNING):
        same = simplify(l_solid, 10)
    assert len(same.faces) == len(l_solid.faces)
    assert len(caplog.messages) == 1
    assert f"keeps its {len(l_solid.faces)} faces instead of 10" in caplog.messages[0]
    assert "pip install fast-simplification" in caplog.messages[0]


def test_without_warp_training_images_come_from_the_ray_caster_with_one_warning(
    without, caplog, l_solid, monkeypatch
):
    without()
    monkeypatch.setattr(warp_backend, "kernel_error", lambda device, kernels: "it is broken")
    with caplog.at_level(logging.WARNING):
        found = [images.render_object(l_solid, 16, 2) for _ in range(2)]
    assert found[0]["colour"].shape == (2, 16, 16, 3)
    assert len(caplog.messages) == 1
    assert "rendered by the slower ray caster: it is broken." in caplog.messages[0]


def test_a_tinycudann_that_does_not_load_is_told(monkeypatch, caplog, tmp_path):
    (tmp_path / "tinycudann.py").write_text("raise OSError('built for another card')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(HashEncoding, "to", lambda self, device: self)
    with caplog.at_level(logging.WARNING):
        encoding = make_encoding(torch.device("cuda"))
    assert isinstance(encoding, HashEncoding)
    assert not isinstance(encoding, TcnnEncoding)
    assert len(caplog.messages) == 1
    assert "built for another card" in caplog.messages[0]
