"""Fallbacks for compiled packages log one warning, with the reason and the remedy."""

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
    """Output of a script in a subprocess; environment variables that are None are removed."""
    environment = {**os.environ, **changes}
    environment = {name: value for name, value in environment.items() if value is not None}
    result = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout + result.stderr


BALL = """
import logging
logging.basicConfig(format="%(levelname)s %(message)s")
import torch
from nova3d_core.fusion.fields.grid.field import DenseGrid
from nova3d_core.sdf_grid import SdfGrid
axis = torch.linspace(-0.5, 0.5, 9)
at = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1)
field = DenseGrid(SdfGrid(at.norm(dim=-1) - 0.3, torch.full((3,), -0.5), 0.125))
print("backend", field._backend.__name__)
"""


def ball() -> SdfGrid:
    axis = torch.linspace(-0.5, 0.5, 9)
    at = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1)
    return SdfGrid(at.norm(dim=-1) - 0.3, torch.full((3,), -0.5), 0.125)


@POSIX
def test_warp_runs_with_a_read_only_home_folder(tmp_path):
    pytest.importorskip("warp")
    output = python(BALL, HOME="/dev/null", XDG_CACHE_HOME=None, WARP_CACHE_PATH=None,
                  TMPDIR=str(tmp_path))  # fmt: skip
    assert "backend nova3d_core.fusion.fields.grid.warp_impl" in output
    assert "WARNING" not in output
    (folder,) = tmp_path.glob("nova3d-warp-*")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


class FakeWarp:
    """The part of warp that `use_writable_cache` uses."""

    def __init__(self, cache: str | None = None):
        self.config = SimpleNamespace(kernel_cache_dir=cache, version="1.0")


@POSIX
@pytest.mark.parametrize("source", ["config", "variable", "home"])
def test_unwritable_cache_is_replaced_by_a_temporary_folder(tmp_path, monkeypatch, source):
    bad = "/dev/null/cache"
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("WARP_CACHE_PATH", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    if source == "variable":
        monkeypatch.setenv("WARP_CACHE_PATH", bad)
    if source == "home":
        monkeypatch.setenv("HOME", bad)
    wp = FakeWarp(bad if source == "config" else None)
    kernel_cache.use_writable_cache(wp)
    assert wp.config.kernel_cache_dir == str(tmp_path / f"nova3d-warp-{os.getuid()}")


def test_writable_cache_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.setenv("WARP_CACHE_PATH", str(tmp_path / "mine"))
    wp = FakeWarp()
    kernel_cache.use_writable_cache(wp)
    assert wp.config.kernel_cache_dir is None  # warp reads the environment variable itself
    assert list(tmp_path.iterdir()) == [tmp_path / "mine"]


def test_missing_warp_is_one_warning_with_slowdown_and_reason():
    output = python("import sys; sys.modules['warp'] = None" + BALL)
    assert "torch_impl" in output
    lines = [line for line in output.splitlines() if line.startswith("WARNING")]
    assert len(lines) == 1
    assert "6 to 8 times slower" in lines[0]
    assert "the package 'warp-lang' is not installed" in lines[0]
    assert "pip install warp-lang" in lines[0]
    assert len(lines[0]) < 500


def test_broken_warp_is_one_warning_with_the_reason(tmp_path):
    (tmp_path / "warp.py").write_text("raise ImportError('libcuda.so.1 is\\n broken')")
    output = python(BALL, PYTHONPATH=os.pathsep.join([str(tmp_path), str(ROOT)]))
    assert "torch_impl" in output
    lines = [line for line in output.splitlines() if line.startswith("WARNING")]
    assert len(lines) == 1
    assert "warp cannot be loaded: libcuda.so.1 is broken" in lines[0]


def test_requested_torch_implementation_logs_nothing(caplog):
    with caplog.at_level(logging.WARNING):
        DenseGrid(ball(), compiled=False)
    assert caplog.records == []


def test_working_warp_has_no_kernel_error():
    pytest.importorskip("warp")
    assert warp_support.kernel_error(CPU) == ""
    assert warp_support.can_run_on(CPU)


@POSIX
def test_folders_of_other_users_are_not_used_for_kernels(tmp_path, monkeypatch):
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
    """Blocks imports of packages, and clears cached results of earlier imports."""

    def block(*names: str) -> None:
        for name in names:
            monkeypatch.setitem(sys.modules, name, None)
        if "warp" in names:
            warp_backend.warp.cache_clear()
            monkeypatch.setattr(warp_backend, "_kernel_errors", {})
        raycast._best_backend.cache_clear()
        images._warp_available.cache_clear()

    yield block
    monkeypatch.undo()
    warp_backend.warp.cache_clear()
    raycast._best_backend.cache_clear()
    images._warp_available.cache_clear()


def assert_same_hits(caster: raycast.RayCaster, other: raycast.RayCaster) -> None:
    """Asserts that two ray casters agree on two rays onto the L-shaped solid."""
    rays = [[0.0, -0.4, 2.0], [-0.3, 0.2, 2.0]], [[0.0, 0.0, -1.0]] * 2
    ours, theirs = caster.first_hits(*rays), other.first_hits(*rays)
    assert (ours.face == theirs.face).all()
    assert ours.distance == pytest.approx(theirs.distance, abs=1e-6)


def test_warp_replaces_a_missing_embree_with_the_same_hits(without, caplog, l_solid):
    pytest.importorskip("warp")
    embree = raycast.RayCaster.from_mesh(l_solid)
    without("embreex")
    with caplog.at_level(logging.WARNING):
        caster = raycast.RayCaster.from_mesh(l_solid)
    assert caster.backend == "warp"
    assert caplog.messages == []
    assert_same_hits(caster, embree)


def test_missing_embree_and_warp_are_one_warning_with_the_same_hits(without, caplog, l_solid):
    embree = raycast.RayCaster.from_mesh(l_solid)
    without("embreex", "warp")
    with caplog.at_level(logging.WARNING):
        casters = [raycast.RayCaster.from_mesh(l_solid) for _ in range(3)]
    assert {caster.backend for caster in casters} == {"numpy"}
    assert len(caplog.messages) == 1
    assert "20 to 80 times slower than with Embree" in caplog.messages[0]
    assert "embreex is not installed" in caplog.messages[0]
    assert_same_hits(casters[0], embree)


def test_requested_numpy_backend_logs_nothing(without, caplog, l_solid):
    without("embreex")
    with caplog.at_level(logging.WARNING):
        raycast.RayCaster.from_mesh(l_solid, "numpy")
    assert caplog.messages == []


def test_missing_fast_simplification_is_a_warning(without, caplog, l_solid: Mesh):
    without("fast_simplification")
    with caplog.at_level(logging.WARNING):
        same = simplify(l_solid, 10)
    assert len(same.faces) == len(l_solid.faces)
    assert len(caplog.messages) == 1
    assert f"keeps its {len(l_solid.faces)} faces instead of 10" in caplog.messages[0]
    assert "pip install fast-simplification" in caplog.messages[0]


def test_training_images_fall_back_to_the_ray_caster_with_one_warning(
    without, caplog, l_solid, monkeypatch
):
    without()
    monkeypatch.setattr(warp_backend, "kernel_error", lambda device, kernels: "it is broken")
    with caplog.at_level(logging.WARNING):
        found = [images.render_object(l_solid, 16, 2) for _ in range(2)]
    assert found[0]["colour"].shape == (2, 16, 16, 3)
    assert len(caplog.messages) == 1
    assert "rendered by the slower ray caster: it is broken." in caplog.messages[0]


def test_broken_tinycudann_is_one_warning(monkeypatch, caplog, tmp_path):
    (tmp_path / "tinycudann.py").write_text("raise OSError('built for another card')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(HashEncoding, "to", lambda self, device: self)
    with caplog.at_level(logging.WARNING):
        encoding = make_encoding(torch.device("cuda"))
    assert isinstance(encoding, HashEncoding)
    assert not isinstance(encoding, TcnnEncoding)
    assert len(caplog.messages) == 1
    assert "built for another card" in caplog.messages[0]
