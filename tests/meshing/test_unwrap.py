"""Unwrapping preserves the mesh, respects its time limit, and leaves no process or file behind."""

from __future__ import annotations

import ast
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from nova3d_core.errors import Cancelled, InputError
from nova3d_core.io.mesh.read import read_mesh
from nova3d_core.mesh import Mesh
from nova3d_core.meshing.config import UnwrapConfig
from nova3d_core.meshing.unwrap import unwrap as unwrap_module
from nova3d_core.meshing.unwrap.overlaps import overlapping_pairs
from nova3d_core.meshing.unwrap.unwrap import WORKER, UnwrapResult, unwrap
from nova3d_core.progress import Progress

LONG = UnwrapConfig(faces_per_chunk=10**7)
"""With the noisy ball as a single chunk, xatlas runs for more than half a minute."""


@pytest.fixture
def with_xatlas():
    pytest.importorskip("xatlas")


@pytest.fixture
def temporary(tmp_path, monkeypatch) -> Path:
    """The folder for temporary files."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def bumpy_ball(subdivisions: int = 4, noise: float = 0.0) -> Mesh:
    """A sphere with asymmetric bumps, normals and colours."""
    import trimesh

    ball = trimesh.creation.icosphere(subdivisions=subdivisions, radius=0.4)
    v = ball.vertices
    bumps = 1.0 + 0.15 * np.sin(14 * v[:, :1]) * np.sin(11 * v[:, 1:2] + 1)
    rough = noise * np.random.default_rng(0).normal(size=(len(v), 1))
    return Mesh(
        torch.tensor(v * (bumps + rough), dtype=torch.float32),
        torch.tensor(ball.faces),
        normals=torch.tensor(v / 0.4, dtype=torch.float32),
        vertex_colours=torch.tensor(v + 0.5, dtype=torch.float32),
    )


def corner_uv(mesh: Mesh) -> np.ndarray:
    """(F, 3, 2) uv of the faces' corners."""
    return mesh.uv[mesh.faces].double().numpy()


def signed_areas(uv: np.ndarray) -> np.ndarray:
    """(F,) signed areas in the image, where v increases downwards; counter-clockwise: positive."""
    a, b = uv[:, 1] - uv[:, 0], uv[:, 2] - uv[:, 0]
    return 0.5 * (a[:, 1] * b[:, 0] - a[:, 0] * b[:, 1])


def density_spread(result: UnwrapResult) -> float:
    """Root mean square, over the surface, of log2 (texels per area over their mean)."""
    flat = signed_areas(corner_uv(result.mesh))
    solid = result.mesh.face_areas.double().numpy()
    ratio = flat / solid.clip(1e-20) * solid.sum() / flat.sum()
    return float(np.sqrt((solid * np.log2(ratio.clip(1e-6)) ** 2).sum() / solid.sum()))


def assert_same_surface(result: Mesh, mesh: Mesh) -> None:
    """Face i is face i of the input: equal positions, normals and colours at its corners."""
    assert torch.equal(result.vertices[result.faces], mesh.vertices[mesh.faces])
    for name in ("normals", "vertex_colours"):
        given, kept = getattr(mesh, name), getattr(result, name)
        assert (given is None) == (kept is None)
        if given is not None:
            assert torch.equal(kept[result.faces], given[mesh.faces])
    assert len(torch.unique(result.faces)) == len(result.vertices)


def assert_good_atlas(result: UnwrapResult, texture_px: int = 1024) -> None:
    """In range, finite, not mirrored, and without overlaps by more than half a texel."""
    uv = corner_uv(result.mesh)
    assert uv.min() >= 0.0
    assert uv.max() <= 1.0
    assert signed_areas(uv).min() > -1e-9
    assert len(overlapping_pairs(uv, depth=0.5 / texture_px)) == 0
    assert result.chart.shape == (len(uv),)
    without_chart = result.chart < 0
    assert float(result.mesh.face_areas[without_chart].sum()) < 1e-9


def children() -> set[int]:
    """Process ids of this process's children, including zombies."""
    if not Path("/proc/self/stat").exists():
        pytest.skip("needs /proc")
    found = set()
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == os.getpid():
            found.add(int(entry.parent.name))
    return found


@pytest.mark.parametrize("method", ["xatlas", "box"])
def test_faces_keep_their_order_positions_and_attributes(method, with_xatlas):
    mesh = bumpy_ball()
    config = UnwrapConfig(method=method)
    result = unwrap(mesh, config)
    assert result.method == method
    assert_same_surface(result.mesh, mesh)
    assert_good_atlas(result)
    assert result.chart_count == len(torch.unique(result.chart))


@pytest.mark.parametrize("method", ["xatlas", "box"])
def test_vertices_are_split_at_seams_only(method, with_xatlas):
    mesh = bumpy_ball()
    result = unwrap(mesh, UnwrapConfig(method=method))
    split, uv = result.mesh, corner_uv(result.mesh)
    owner = result.chart.repeat_interleave(3).numpy()
    corners = np.c_[split.faces.reshape(-1).numpy(), owner]
    assert len(np.unique(corners, axis=0)) == len(split.vertices)  # no vertex in two charts
    expected = np.c_[mesh.faces.reshape(-1).numpy(), owner, uv.reshape(-1, 2)]
    assert len(np.unique(expected, axis=0)) == len(split.vertices)  # and no duplicates


def test_drops_the_old_texture_and_uv():
    ball = bumpy_ball(2)
    textured = replace(ball, uv=torch.zeros(len(ball.vertices), 2), texture=torch.ones(4, 4, 3))
    result = unwrap(textured, UnwrapConfig(method="box"))
    assert result.mesh.texture is None
    assert float(result.mesh.uv.std()) > 0.1


def test_charts_of_several_chunks_have_uniform_density_and_fill_the_texture(with_xatlas):
    config = UnwrapConfig(faces_per_chunk=500)
    result = unwrap(bumpy_ball(), config)  # 5120 faces, 11 chunks
    assert result.method == "xatlas"
    assert_good_atlas(result)
    assert density_spread(result) < 0.25
    assert signed_areas(corner_uv(result.mesh)).sum() > 0.45


@pytest.mark.parametrize(("texture_px", "padding_px"), [(512, 2), (1024, 3), (1024, 4)])
def test_charts_are_padded(texture_px, padding_px, with_xatlas):
    from scipy.spatial import cKDTree

    config = UnwrapConfig(padding_px=padding_px)
    result = unwrap(bumpy_ball(3), config, texture_px=texture_px)
    assert result.method == "xatlas"
    uv = corner_uv(result.mesh) * texture_px
    t = np.linspace(0, 1, 60)[:, None]
    points = uv[:, :, None] + (np.roll(uv, -1, axis=1) - uv)[:, :, None] * t
    points, owner = points.reshape(-1, 2), result.chart.repeat_interleave(180).numpy()
    gaps = [
        cKDTree(points[owner != c]).query(points[owner == c])[0].min() for c in np.unique(owner)
    ]
    assert len(gaps) > 1
    assert min(gaps) >= padding_px
    assert points.min() >= padding_px / 2 - 1e-3
    assert points.max() <= texture_px - padding_px / 2 + 1e-3


def test_is_deterministic(with_xatlas):
    first, again = (unwrap(bumpy_ball(), UnwrapConfig(faces_per_chunk=1000)) for _ in range(2))
    assert first.method == again.method == "xatlas"
    assert torch.equal(first.mesh.uv, again.mesh.uv)
    assert torch.equal(first.mesh.faces, again.mesh.faces)


def test_handles_folded_non_manifold_and_degenerate_faces(with_xatlas):
    ball = bumpy_ball(3)
    faces = ball.faces
    fins = faces[::5].clone()
    fins[:, 2] = torch.arange(len(fins)) * 7 % len(ball.vertices)
    points = torch.tensor([[0, 0, 0], [1, 2, 2]])
    mesh = Mesh(ball.vertices, torch.cat([faces, faces.flip(1), fins, points]))
    result = unwrap(mesh, UnwrapConfig(time_limit_s=20))
    assert_same_surface(result.mesh, mesh)
    assert torch.isfinite(result.mesh.uv).all()
    assert result.seconds < 10


def test_falls_back_to_the_box_atlas_at_the_time_limit(with_xatlas, temporary, caplog):
    mesh = bumpy_ball(6, noise=0.02)  # 81920 faces
    before, start = children(), time.time()
    with caplog.at_level(logging.WARNING):
        result = unwrap(mesh, replace(LONG, time_limit_s=1.0))
    warned = caplog.records[0]
    assert "did not finish within 1 s" in warned.getMessage()
    assert 1.0 <= warned.created - start < 2.5
    assert result.method == "box"
    assert_same_surface(result.mesh, mesh)
    assert children() <= before
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("stop", [Cancelled, KeyboardInterrupt])
def test_interruption_kills_the_worker_immediately(stop, with_xatlas, temporary):
    mesh = bumpy_ball(6, noise=0.02)
    before = children()
    seen: list[float] = []

    def interrupt_running_worker() -> bool:
        if children() - before:
            seen.append(time.monotonic())
        if len(seen) > 10:
            if stop is KeyboardInterrupt:
                raise KeyboardInterrupt
            return True
        return False

    with pytest.raises(stop):
        unwrap(mesh, LONG, Progress(is_cancelled=interrupt_running_worker))
    assert time.monotonic() - seen[10] < 0.5
    assert children() <= before
    assert list(temporary.iterdir()) == []


def test_falls_back_to_the_box_atlas_without_xatlas(monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "xatlas", None)
    with caplog.at_level(logging.WARNING):
        result = unwrap(bumpy_ball(3))
    assert result.method == "box"
    assert "the package 'xatlas' is not installed" in caplog.text
    assert_good_atlas(result)


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("raise SystemExit('out of luck')", "failed with code 1: out of luck"),
        ("import os; os.abort()", "failed with code"),
        ("pass", "could not be run"),
        ("import sys; open(sys.argv[2], 'wb').write(b'PK half a file')", "could not be run"),
        (
            "import sys, numpy as np; np.savez(sys.argv[2], uv=np.full((1280, 3, 2), np.nan), "
            "chart=np.zeros(1280, int))",
            "invalid texture coordinates",
        ),
    ],
)
def test_falls_back_to_the_box_atlas_if_the_worker_fails(
    script, message, tmp_path, monkeypatch, caplog, with_xatlas
):
    broken = tmp_path / "broken_worker.py"
    broken.write_text(script)
    monkeypatch.setattr(unwrap_module, "WORKER", broken)
    with caplog.at_level(logging.WARNING):
        result = unwrap(bumpy_ball(3))
    assert message in caplog.text
    assert result.method == "box"
    assert_good_atlas(result)


@pytest.mark.parametrize("name", ["worker.py", "overlaps.py"])
def test_worker_imports_only_numpy_and_xatlas(name):
    imported = set()
    for node in ast.walk(ast.parse(WORKER.with_name(name).read_text())):
        if isinstance(node, ast.Import):
            imported |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            imported.add(node.module)
    outside = {name for name in imported if name.split(".")[0] not in sys.stdlib_module_names}
    assert outside <= {"numpy", "xatlas"}


def test_separates_faces_that_xatlas_folds_over_each_other(with_xatlas):
    mesh = bumpy_ball(5, noise=0.02)  # 20480 faces
    config = UnwrapConfig()
    result = unwrap(mesh, config)
    assert result.method == "xatlas"
    assert_good_atlas(result)
    assert_same_surface(result.mesh, mesh)


def test_worker_exits_by_itself_after_the_time_limit(with_xatlas, tmp_path):
    mesh = bumpy_ball(6, noise=0.02)
    source, target = tmp_path / "in.npz", tmp_path / "out.npz"
    settings = {"texture_px": 1024, "padding_px": 3, "faces_per_chunk": 10**7}
    grace_s = 5.0
    np.savez(
        source, vertices=mesh.vertices, faces=mesh.faces, time_limit_s=1.0 - grace_s, **settings
    )
    start = time.monotonic()
    ended = subprocess.run([sys.executable, WORKER, source, target], capture_output=True)
    assert ended.returncode != 0
    assert time.monotonic() - start < 3.0
    assert not target.exists()


def test_progress_reaches_its_total():
    steps = []
    unwrap(bumpy_ball(2), UnwrapConfig(method="box"), Progress(report=steps.append))
    own = [(event.step, event.total) for event in steps if event.stage == "unwrapping"]
    assert own == [(0, 2), (1, 2), (2, 2)]


def test_texture_too_small_for_the_padding_is_an_error():
    with pytest.raises(InputError, match="too small for a padding of 4"):
        unwrap(bumpy_ball(2), UnwrapConfig(padding_px=4), texture_px=63)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("method", "magic"),
        ("padding_px", -1),
        ("padding_px", 65),
        ("time_limit_s", 0.0),
        ("time_limit_s", float("nan")),
        ("faces_per_chunk", 0),
    ],
)
def test_invalid_settings_are_errors(field, value):
    with pytest.raises(InputError, match=field):
        UnwrapConfig(**{field: value})


@pytest.mark.slow
def test_xatlas_unwraps_every_real_object(object_files, with_xatlas):
    objects = json.loads((object_files / "manifest.json").read_text())["objects"]
    config = UnwrapConfig()
    assert len(objects) == 5
    for entry in objects:
        mesh = read_mesh(object_files / entry["file"], entry["up_axis"])
        result = unwrap(mesh, config)
        assert result.method == "xatlas", entry["name"]
        assert_same_surface(result.mesh, mesh)
        assert_good_atlas(result)
        assert density_spread(result) < 0.3, entry["name"]
