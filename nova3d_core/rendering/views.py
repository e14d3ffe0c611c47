"""Images of a mesh by ray casting: colour, world normals, mask and depth from any rig."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..cameras.cameras import Cameras
from ..mesh import Mesh
from ..progress import SILENT, Progress
from ..views import Views
from .config import RenderConfig
from .raycast import Backend, RayCaster
from .shading import facing_normal, surface_colour

RAYS_PER_CHUNK = 1 << 20


@dataclass(frozen=True, eq=False)
class Rendering:
    """Views of a mesh, and how far away it was."""

    views: Views
    """Colour on white, masks with covered shares, normals in the world frame."""
    depth_z: Tensor
    """(V, H, W) depth along the viewing axis of the nearest sample in a pixel; inf where empty."""


@dataclass(frozen=True, eq=False)
class SurfacePoints:
    """The surface that cameras see, as points: one for each pixel centre that meets it."""

    points: np.ndarray
    """(P, 3) float32 in the world."""
    normals: np.ndarray
    """(P, 3) float32 unit, on the camera's side."""
    view: np.ndarray
    """(P,) int64: which camera saw the point."""


def render_views(
    mesh: Mesh,
    cameras: Cameras,
    config: RenderConfig | None = None,
    progress: Progress = SILENT,
    backend: Backend = "auto",
) -> Rendering:
    """Renders a mesh, unlit, on white; the images are on the CPU.

    Args:
        mesh: any mesh; back faces are seen too, with their normal turned to the camera.
        cameras: V cameras.
        config: rays a pixel.
        progress: told about each view.
        backend: who casts the rays.
    """
    config = config or RenderConfig()
    mesh, cameras = mesh.to("cpu").with_origin(cameras.origin), cameras.to("cpu").float()
    caster = RayCaster.of(mesh, backend)
    bounds = mesh.bounds
    images = [
        _render_view(mesh, bounds, caster, cameras[view], config.supersample)
        for view in progress.track(range(len(cameras)), "rendering", len(cameras))
    ]
    colour, masks, normals, depth_z = (torch.stack(part) for part in zip(*images, strict=True))
    return Rendering(Views(cameras, colour, masks, normals, "world"), depth_z)


def surface_points(mesh: Mesh, cameras: Cameras, progress: Progress = SILENT) -> SurfacePoints:
    """The points of a mesh that the pixel centres of all cameras see."""
    mesh, cameras = mesh.to("cpu").with_origin(cameras.origin), cameras.to("cpu").float()
    caster = RayCaster.of(mesh)
    pixels = sample_positions(cameras.width, cameras.height, 1)
    found = []
    for view in progress.track(range(len(cameras)), "observing", len(cameras)):
        seen = _RayHits.along(mesh, caster, cameras[view], pixels)
        points = seen.origins + seen.distance[:, None] * seen.directions
        found.append((points, seen.normals(mesh), torch.full((len(points),), view)))
    points, normals, view = (torch.cat(part).numpy() for part in zip(*found, strict=True))
    return SurfacePoints(points, normals, view)


def pixel_depths(caster: RayCaster, camera: Cameras) -> Tensor:
    """(H, W) depth along the viewing axis at the pixel centres of one camera; inf where empty."""
    pixels = sample_positions(camera.width, camera.height, 1)
    origins, directions = (part[0] for part in camera.rays(pixels))
    hits = caster.first_hits(origins.numpy(), directions.numpy())
    along_axis = (directions * camera.view_directions).sum(dim=-1)
    return (torch.from_numpy(hits.distance) * along_axis).reshape(camera.height, camera.width)


def sample_positions(width: int, height: int, supersample: int) -> Tensor:
    """(H * W * s * s, 2) positions, the s * s samples of one pixel next to each other."""
    offsets = (torch.arange(supersample, dtype=torch.float32) + 0.5) / supersample
    y, x, dy, dx = torch.meshgrid(
        torch.arange(height, dtype=torch.float32),
        torch.arange(width, dtype=torch.float32),
        offsets,
        offsets,
        indexing="ij",
    )
    return torch.stack([x + dx, y + dy], dim=-1).reshape(-1, 2)


@dataclass(frozen=True, eq=False)
class _RayHits:
    """The rays of one camera that met the mesh."""

    ray: Tensor  # (P,) which of the rays
    origins: Tensor  # (P, 3)
    directions: Tensor  # (P, 3)
    distance: Tensor  # (P,)
    face: Tensor  # (P,)
    barycentric: Tensor  # (P, 3)

    @classmethod
    def along(cls, mesh: Mesh, caster: RayCaster, camera: Cameras, pixels: Tensor) -> _RayHits:
        """Casts the rays of one camera through pixel positions (R, 2)."""
        origins, directions = (part[0] for part in camera.rays(pixels))
        hits = caster.first_hits(origins.numpy(), directions.numpy())
        ray = torch.from_numpy(np.flatnonzero(hits.hit))
        return cls(
            ray,
            origins[ray],
            directions[ray],
            torch.from_numpy(hits.distance)[ray],
            torch.from_numpy(hits.face)[ray],
            torch.from_numpy(hits.barycentric)[ray],
        )

    def normals(self, mesh: Mesh) -> Tensor:
        return facing_normal(mesh, self.face, self.barycentric, self.directions)


def _render_view(
    mesh: Mesh, bounds: Tensor, caster: RayCaster, camera: Cameras, supersample: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Colour (H, W, 3), mask (H, W), normals (H, W, 3), depth (H, W) of one view."""
    height, width = camera.height, camera.width
    left, top, right, bottom = _box_in_image(bounds, camera)
    colour = torch.ones(height, width, 3)
    mask = torch.zeros(height, width)
    normals = torch.zeros(height, width, 3)
    depth_z = torch.full((height, width), torch.inf)
    if left >= right or top >= bottom:
        return colour, mask, normals, depth_z
    rows_at_once = max(1, RAYS_PER_CHUNK // ((right - left) * supersample**2))
    for start in range(top, bottom, rows_at_once):
        stop = min(bottom, start + rows_at_once)
        offset = torch.tensor([left, start], dtype=torch.float32)
        pixels = sample_positions(right - left, stop - start, supersample) + offset
        block = _average_block(mesh, caster, camera, pixels, supersample**2)
        where = (slice(start, stop), slice(left, right))
        for target, values in zip((colour, mask, normals, depth_z), block, strict=True):
            target[where] = values.reshape(target[where].shape)
    return colour, mask, normals, depth_z


def _box_in_image(bounds: Tensor, camera: Cameras) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of the pixels that a bounding box (2, 3) can reach."""
    low, high = bounds
    corners = torch.cartesian_prod(*torch.stack([low, high], dim=1))  # (8, 3)
    pixels, depth_z = camera.project(corners)
    if camera.kind == "perspective" and bool((depth_z <= 1e-6).any()):
        return 0, 0, camera.width, camera.height
    first = (pixels[0].amin(dim=0).floor() - 1).clamp_min(0)
    last = pixels[0].amax(dim=0).ceil() + 1
    right, bottom = min(int(last[0]), camera.width), min(int(last[1]), camera.height)
    return int(first[0]), int(first[1]), right, bottom


def _average_block(
    mesh: Mesh, caster: RayCaster, camera: Cameras, pixels: Tensor, samples: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Averages of the samples (P * samples, 2) of P pixels: colour, mask, normals, depth."""
    seen = _RayHits.along(mesh, caster, camera, pixels)
    count = len(pixels) // samples
    pixel = seen.ray // samples
    covered = torch.zeros(count).index_add_(0, pixel, torch.ones(len(pixel)))
    colours = surface_colour(mesh, seen.face, seen.barycentric)
    colour = torch.zeros(count, 3).index_add_(0, pixel, colours)
    colour = (colour + (samples - covered)[:, None]) / samples  # the rest of the pixel is white
    normals = torch.zeros(count, 3).index_add_(0, pixel, seen.normals(mesh))
    normals = torch.nn.functional.normalize(normals, dim=-1, eps=1e-6)
    along_axis = (seen.directions * camera.view_directions).sum(dim=-1) * seen.distance
    depth_z = torch.full((count,), torch.inf).scatter_reduce_(0, pixel, along_axis, "amin")
    return colour.clamp(0.0, 1.0), covered / samples, normals, depth_z
