"""Rendered views with exact maps of their surfaces."""

from __future__ import annotations

from functools import cache

import torch

from nova3d_core.cameras.cameras import cameras_at
from nova3d_core.cameras.pixels import pixel_centres
from nova3d_core.cameras.rigs import RigConfig
from nova3d_core.evaluation.concave_surfaces import concave_surface
from nova3d_core.fusion.stereo.patches import SurfaceMaps
from nova3d_core.mesh import Mesh
from nova3d_core.rendering.config import RenderConfig
from nova3d_core.rendering.raycast import RayCaster
from nova3d_core.rendering.shading import facing_normal
from nova3d_core.rendering.views import render_views
from nova3d_core.views import Views

AZIMUTHS_DEG = (-40.0, -20.0, 0.0, 20.0, 40.0)


@cache
def views_of(name: str, kind: str = "perspective", width_px: int = 96) -> tuple[Views, SurfaceMaps]:
    """Five views of a textured bowl, or of a ball, and the exact maps of the surface."""
    rig = RigConfig(width_px=width_px, height_px=width_px, kind=kind)
    cameras = cameras_at(AZIMUTHS_DEG, [0.0] * 5, rig)
    mesh = concave_surface("bowl", 0) if name == "bowl" else ball()
    return render_views(mesh, cameras, RenderConfig(3)).views, exact_maps(mesh, cameras)


def ball() -> Mesh:
    """A ball with a smooth random colour."""
    import trimesh

    sphere = trimesh.creation.icosphere(subdivisions=6, radius=0.45)
    points = torch.tensor(sphere.vertices, dtype=torch.float32)
    waves = 40.0 * torch.randn(3, 12, generator=torch.Generator().manual_seed(0))
    phases = torch.arange(12.0)
    colours = (points @ waves + phases).sin().unflatten(1, (3, 4)).mean(dim=2) * 0.5 + 0.5
    return Mesh(points, torch.tensor(sphere.faces), vertex_colours=colours.clamp(0, 1))


def exact_maps(mesh: Mesh, cameras) -> SurfaceMaps:
    mesh = mesh.with_smooth_normals()
    caster = RayCaster.from_mesh(mesh)
    pixels = pixel_centres(cameras.height, cameras.width).reshape(-1, 2)
    depths, normals = [], []
    for view in range(len(cameras)):
        origins, directions = (part[0].contiguous() for part in cameras[view].rays(pixels))
        hits = caster.first_hits(origins.numpy(), directions.numpy())
        hit = torch.from_numpy(hits.hit)
        along_axis = (directions * cameras.view_directions[view]).sum(dim=1)
        depth = torch.where(hit, torch.from_numpy(hits.distance) * along_axis, 0.0)
        normal = torch.zeros(len(pixels), 3)
        face, weights = (torch.from_numpy(part)[hit] for part in (hits.face, hits.barycentric))
        normal[hit] = facing_normal(mesh, face, weights, directions[hit])
        depths.append(depth.reshape(cameras.height, cameras.width))
        normals.append(normal.reshape(cameras.height, cameras.width, 3))
    return SurfaceMaps(torch.stack(depths), torch.stack(normals))


def centres_on(maps: SurfaceMaps, views: Views, stride: int = 2) -> torch.Tensor:
    """(M, 3) view, row and column of every n-th pixel on the object."""
    pixel = ((maps.depth_z > 0) & (views.masks > 0.9)).nonzero()
    return pixel[(pixel[:, 1:] % stride == 0).all(dim=1)]


def images_of(views: Views) -> torch.Tensor:
    """(V, H, W, 4) colour and mask."""
    return torch.cat([views.colour, views.masks[..., None]], dim=-1)
