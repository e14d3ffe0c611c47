from __future__ import annotations

import numpy as np
import pytest
import torch
import trimesh

from nova3d_core.cameras.cameras import cameras_at
from nova3d_core.cameras.rigs import RigConfig
from nova3d_core.evaluation.concave_surfaces import CONCAVE_KINDS, THICKNESS, concave_surface
from nova3d_core.mesh import Mesh
from nova3d_core.rendering.config import RenderConfig
from nova3d_core.rendering.views import render_views


def solid(mesh: Mesh) -> trimesh.Trimesh:
    welded = mesh.welded()
    return trimesh.Trimesh(welded.vertices.numpy(), welded.faces.numpy(), process=False)


@pytest.fixture(scope="module", params=CONCAVE_KINDS)
def surface(request) -> Mesh:
    return concave_surface(request.param, 0)


def test_closed_with_outward_faces_and_unit_size(surface):
    shape = solid(surface)
    assert shape.is_watertight and shape.is_winding_consistent
    assert shape.euler_number == 2
    # volume of a thin sheet: half its area times the thickness; negative if faces point inwards
    scale = 1.0 / float((surface.bounds[1] - surface.bounds[0]).max())
    assert shape.volume == pytest.approx(shape.area / 2.0 * THICKNESS / scale, rel=0.12)
    assert (surface.bounds[1] - surface.bounds[0]).max() == pytest.approx(1.0)
    assert torch.allclose(surface.bounds.mean(dim=0), torch.zeros(3), atol=1e-6)


def test_front_is_concave_and_hidden_from_silhouettes(surface):
    shape = solid(surface)
    # far from its convex hull, which contains everything that silhouettes can show
    assert shape.convex_hull.volume > 3.0 * shape.volume
    cameras = cameras_at([0.0, 180.0], [0.0, 0.0], RigConfig(width_px=64, height_px=64))
    rendered = render_views(surface, cameras, RenderConfig(2))
    middle = rendered.depth_z[0, 28:36, 28:36].mean()
    inside = rendered.views.masks[0] > 0.99
    rim = torch.from_numpy(np.sort(rendered.depth_z[0][inside].numpy()))[:40].mean()
    assert middle > rim + 0.05  # the front camera looks into the concave side


def test_seeds_repeat_and_differ(surface):
    kind = "sheet" if surface.bounds[1, 1] < 0.49 else "bowl"
    again, other = concave_surface(kind, 0), concave_surface(kind, 1)
    for name in ("vertices", "faces", "uv", "texture"):
        assert torch.equal(getattr(again, name), getattr(surface, name))
    assert not torch.equal(other.vertices, surface.vertices)
    assert not torch.equal(other.texture, surface.texture)


def test_texture_is_rich_on_both_sides(surface):
    assert surface.texture.shape == (512, 1024, 3)
    assert float(surface.uv.min()) >= 0.0 and float(surface.uv.max()) <= 1.0
    cameras = cameras_at([0.0, 180.0], [0.0, 0.0], RigConfig(width_px=128, height_px=128))
    views = render_views(surface, cameras, RenderConfig(3)).views
    for view in range(2):
        image = views.colour[view].permute(2, 0, 1)[None]
        # contrast remains in every 7 x 7 window well inside the silhouette
        mean = torch.nn.functional.avg_pool2d(image, 7, 1)
        variance = torch.nn.functional.avg_pool2d(image.square(), 7, 1) - mean.square()
        inside = torch.nn.functional.avg_pool2d(views.masks[view][None, None], 7, 1)[0, 0] == 1.0
        assert inside.sum() > 500
        assert float(variance[0].mean(dim=0)[inside].min()) > 0.03**2
