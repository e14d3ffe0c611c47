"""Unobserved regions are low-pass filtered as derived; observed vertices do not move at all."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from nova3d_core.cameras.cameras import orbit_cameras
from nova3d_core.cameras.rigs import RigConfig
from nova3d_core.errors import Cancelled, InputError
from nova3d_core.mesh import Mesh
from nova3d_core.meshing.config import MeshingConfig
from nova3d_core.meshing.isosurface import extract_surface
from nova3d_core.meshing.unobserved import smooth_unobserved
from nova3d_core.progress import Progress
from nova3d_core.sdf_grid import SdfGrid, grid_points
from nova3d_core.texturing.visibility import observed_vertices


def lattice(columns: int, rows: int) -> Mesh:
    """A flat sheet of equilateral triangles with edges of length 1."""
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    x = column + 0.5 * (row % 2)
    y = row * math.sqrt(3) / 2
    points = torch.stack([x, y, torch.zeros_like(y)], dim=-1).reshape(-1, 3).float()
    index = (row * columns + column)[:-1, :-1]
    below = index + columns
    odd = (row[:-1, :-1] % 2).bool()
    first = torch.stack([index, index + 1, torch.where(odd, below + 1, below)], dim=-1)
    second = torch.stack([torch.where(odd, index, index + 1), below + 1, below], dim=-1)
    return Mesh(points, torch.cat([first.reshape(-1, 3), second.reshape(-1, 3)]))


def sphere(bumps: float) -> Mesh:
    """A sphere of radius 0.4 (20 cells), with bumps of a wavelength of 6 cells where z < 0."""
    spacing = 0.02
    points = grid_points(torch.full((3,), -0.5), spacing, (51,) * 3)
    waves = torch.cos(points * (2 * math.pi / (6 * spacing))).prod(dim=1)
    depth = (-points[:, 2] * 10).clamp(0.0, 1.0)
    distance = points.norm(dim=1) - 0.4 - bumps * spacing * waves * depth
    return extract_surface(SdfGrid(distance.reshape(51, 51, 51), torch.full((3,), -0.5), spacing))


def tilt_deg(ball: Mesh, which: torch.Tensor) -> torch.Tensor:
    """(n,) angles in degrees between the mesh's normals and those of a perfect sphere."""
    true = torch.nn.functional.normalize(ball.vertices[which], dim=1)
    cosine = (ball.with_smooth_normals().normals[which] * true).sum(dim=1)
    return torch.rad2deg(cosine.clamp(-1, 1).acos())


@pytest.mark.parametrize(("wavelength", "gain"), [(24.0, 1 / 2), (12.0, 16 / 17), (48.0, 1 / 17)])
def test_wave_is_damped_as_derived(wavelength, gain):
    sheet = lattice(193, 48)
    wave = torch.cos(sheet.vertices[:, 0] * 2 * math.pi / 24)
    sheet.vertices[:, 2] = 0.01 * wave
    smooth = smooth_unobserved(sheet, sheet.vertices[:, 0] < 1.0, wavelength)
    inner = ((sheet.vertices[:, 0] - 96).abs() < 48) & ((sheet.vertices[:, 1] - 20).abs() < 8)
    kept = (smooth.vertices[inner, 2] @ wave[inner]) / (0.01 * wave[inner].square().sum())
    assert float(kept) == pytest.approx(gain, abs=0.02)


def test_removes_bumps_and_keeps_the_sphere():
    rough = sphere(1.0)
    observed = rough.vertices[:, 2] > -0.1
    smooth = smooth_unobserved(rough, observed, 24.0)
    assert torch.equal(smooth.faces, rough.faces)
    assert torch.equal(smooth.vertices[observed], rough.vertices[observed])
    far = rough.vertices[:, 2] < -0.2
    assert tilt_deg(rough, far).mean() > 15.0
    assert tilt_deg(smooth, far).mean() < 2.0
    assert (smooth.vertices[far].norm(dim=1) - 0.4).abs().max() < 0.01  # half a cell


def test_border_of_the_observed_region_has_no_crease():
    rough = sphere(0.0)
    smooth = smooth_unobserved(rough, rough.vertices[:, 2] > 0.0, 24.0)
    near = rough.vertices[:, 2].abs() < 0.06
    assert tilt_deg(smooth, near).max() < 6.0


@pytest.mark.parametrize(("wavelength", "observed_ratio"), [(0.0, 0.5), (24.0, 1.0)])
def test_nothing_moves_without_smoothing_or_unobserved_vertices(wavelength, observed_ratio):
    rough = sphere(1.0)
    observed = torch.arange(len(rough.vertices)) < observed_ratio * len(rough.vertices)
    assert torch.equal(smooth_unobserved(rough, observed, wavelength).vertices, rough.vertices)


def test_small_gaps_between_observed_vertices_are_not_smoothed():
    rough = sphere(1.0)
    observed = torch.ones(len(rough.vertices), dtype=torch.bool)
    observed[::97] = False
    assert torch.equal(smooth_unobserved(rough, observed, 24.0).vertices, rough.vertices)


def merge(first: Mesh, second: Mesh) -> Mesh:
    return Mesh(
        torch.cat([first.vertices, second.vertices]),
        torch.cat([first.faces, second.faces + len(first.vertices)]),
    )


def test_is_invariant_to_translation():
    rough = sphere(1.0)
    observed = rough.vertices[:, 2] > -0.1
    smooth = smooth_unobserved(rough, observed, 24.0)
    offset = torch.tensor([8.0, -16.0, 32.0])
    far = smooth_unobserved(replace(rough, vertices=rough.vertices + offset), observed, 24.0)
    torch.testing.assert_close(far.vertices - offset, smooth.vertices, atol=2e-5, rtol=0.0)


def test_completely_unobserved_component_is_unchanged():
    rough = sphere(1.0)
    count = len(rough.vertices)
    pair = merge(rough, replace(rough, vertices=rough.vertices + 2.0))
    observed = torch.cat([rough.vertices[:, 2] > 0.0, torch.zeros(count, dtype=torch.bool)])
    smooth = smooth_unobserved(pair, observed, 24.0)
    assert torch.equal(smooth.vertices[count:], pair.vertices[count:])
    assert not torch.equal(smooth.vertices[:count], pair.vertices[:count])


def test_unreferenced_vertex_does_not_move():
    rough = sphere(1.0)
    more = replace(rough, vertices=torch.cat([rough.vertices, torch.ones(1, 3)]))
    observed = more.vertices[:, 2] > 0.0
    observed[-1] = False
    assert torch.equal(smooth_unobserved(more, observed, 24.0).vertices[-1], torch.ones(3))


def test_wrong_number_of_flags_is_an_error():
    with pytest.raises(InputError, match="observed vertices"):
        smooth_unobserved(sphere(0.0), torch.ones(3, dtype=torch.bool), 24.0)


@pytest.mark.parametrize("kind", ["perspective", "orthographic"])
def test_camera_observes_the_side_that_faces_it(kind):
    ball = sphere(0.0)
    rig = RigConfig(count=1, width_px=128, height_px=128, kind=kind)
    camera = orbit_cameras(rig)
    observed = observed_vertices(ball, camera, 0.15)
    normal = torch.nn.functional.normalize(ball.vertices, dim=1)
    towards = camera.positions[0] - ball.vertices
    if kind == "orthographic":
        towards = -camera.view_directions[0].expand_as(normal)
    cosine = (normal * torch.nn.functional.normalize(towards, dim=1)).sum(dim=1)
    assert observed[cosine > 0.2].all()
    assert not observed[cosine < 0.1].any()


def test_occluded_vertices_are_not_observed():
    ball = sphere(0.0)
    small = ball.vertices * 0.5 - torch.tensor([0.0, 0.0, 1.0])
    pair = merge(ball, replace(ball, vertices=small))
    camera = orbit_cameras(RigConfig(count=1, width_px=128, height_px=128, elevation_deg=0.0))
    observed = observed_vertices(pair, camera, 0.15)
    assert observed[: len(small)].any()
    assert not observed[len(small) :].any()


def test_can_be_cancelled_between_views():
    stop = Progress(lambda event: None, is_cancelled=lambda: True)
    with pytest.raises(Cancelled):
        observed_vertices(sphere(0.0), orbit_cameras(RigConfig(count=2)), 0.15, stop)


def test_rejects_a_negative_smoothing_wavelength():
    with pytest.raises(InputError, match="smooth_unobserved_cells"):
        MeshingConfig(smooth_unobserved_cells=-1.0)
