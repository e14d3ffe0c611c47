"""Renders views of a mesh by ray casting: colour, world normals, masks and depth."""

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
    """Rendered views of a mesh, with depth maps."""

    views: Views
    """Colour on white, masks with fractional coverage, normals in the world frame."""
    depth_z: Tensor
    """(V, H, W) depth along the viewing axis of a pixel's nearest sample; inf for background."""


@dataclass(frozen=True, eq=False)
class SurfacePoints:
    """Surface points that cameras see: one for each pixel centre on the surface."""

    points: np.ndarray
    """(P, 3) float32 in the world."""
    normals: np.ndarray
    """(P, 3) float32 unit normals, facing the camera."""
    view: np.ndarray
    """(P,) int64 index of the camera that sees the point."""


def render_views(
    mesh: Mesh,
    cameras: Cameras,
    config: RenderConfig | None = None,
    progress: Progress = SILENT,
    backend: Backend = "auto",
) -> Rendering:
    """Renders a mesh, unlit, on white; the images are on the CPU.

    Args:
        mesh: any mesh; back faces are rendered too, with their normals flipped to the camera.
        cameras: V cameras.
        config: rays per pixel.
        progress: reports each view.
        backend: the ray caster.
    """
    config = config or RenderConfig()
    mesh, cameras = mesh.to("cpu").with_origin(cameras.origin), cameras.to("cpu").float()
    caster = RayCaster.from_mesh(mesh, backend)
    bounds = mesh.bounds
    images = [
        _render_view(mesh, bounds, caster, cameras[view], config.supersample)
        for view in progress.track(range(len(cameras)), "rendering", len(cameras))
    ]
    colour, masks, normals, depth_z = (torch.stack(part) for part in zip(*images, strict=True))
    return Rendering(Views(cameras, colour, masks, normals, "world"), depth_z)


def surface_points(mesh: Mesh, cameras: Cameras, progress: Progress = SILENT) -> SurfacePoints:
    """The first intersections of a mesh with the rays through all cameras' pixel centres."""
    mesh, cameras = mesh.to("cpu").with_origin(cameras.origin), cameras.to("cpu").float()
    caster = RayCaster.from_mesh(mesh)
    pixels = sample_positions(cameras.width, cameras.height, 1)
    parts = []
    for view in progress.track(range(len(cameras)), "observing", len(cameras)):
        hits = _RayHits.cast(caster, cameras[view], pixels)
        points = hits.origins + hits.distance[:, None] * hits.directions
        parts.append((points, hits.normals(mesh), torch.full((len(points),), view)))
    points, normals, view = (torch.cat(part).numpy() for part in zip(*parts, strict=True))
    return SurfacePoints(points, normals, view)


def pixel_depths(caster: RayCaster, camera: Cameras) -> Tensor:
    """(H, W) depth along the viewing axis at one camera's pixel centres; inf for background."""
    pixels = sample_positions(camera.width, camera.height, 1)
    origins, directions = (part[0] for part in camera.rays(pixels))
    hits = caster.first_hits(origins.numpy(), directions.numpy())
    along_axis = (directions * camera.view_directions).sum(dim=-1)
    return (torch.from_numpy(hits.distance) * along_axis).reshape(camera.height, camera.width)


def sample_positions(width: int, height: int, supersample: int) -> Tensor:
    """(H * W * s * s, 2) x and y of s x s samples per pixel, those of one pixel consecutive."""
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
    """The rays of one camera that hit the mesh."""

    ray: Tensor  # (P,) indices of the rays
    origins: Tensor  # (P, 3)
    directions: Tensor  # (P, 3)
    distance: Tensor  # (P,)
    face: Tensor  # (P,)
    barycentric: Tensor  # (P, 3)

    @classmethod
    def cast(cls, caster: RayCaster, camera: Cameras, pixels: Tensor) -> _RayHits:
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
        """(P, 3) unit normals, facing the camera."""
        return facing_normal(mesh, self.face, self.barycentric, self.directions)


def _render_view(
    mesh: Mesh, bounds: Tensor, caster: RayCaster, camera: Cameras, supersample: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Colour (H, W, 3), mask (H, W), normals (H, W, 3), depth (H, W) of one view."""
    height, width = camera.height, camera.width
    left, top, right, bottom = _project_bounds(bounds, camera)
    colour = torch.ones(height, width, 3)
    mask = torch.zeros(height, width)
    normals = torch.zeros(height, width, 3)
    depth_z = torch.full((height, width), torch.inf)
    if left >= right or top >= bottom:
        return colour, mask, normals, depth_z
    chunk_rows = max(1, RAYS_PER_CHUNK // ((right - left) * supersample**2))
    for start in range(top, bottom, chunk_rows):
        stop = min(bottom, start + chunk_rows)
        offset = torch.tensor([left, start], dtype=torch.float32)
        pixels = sample_positions(right - left, stop - start, supersample) + offset
        block = _shade_pixels(mesh, caster, camera, pixels, supersample**2)
        region = (slice(start, stop), slice(left, right))
        for target, values in zip((colour, mask, normals, depth_z), block, strict=True):
            target[region] = values.reshape(target[region].shape)
    return colour, mask, normals, depth_z


def _project_bounds(bounds: Tensor, camera: Cameras) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of the pixels that a bounding box (2, 3) can cover."""
    low, high = bounds
    corners = torch.cartesian_prod(*torch.stack([low, high], dim=1))  # (8, 3)
    pixels, depth_z = camera.project(corners)
    if camera.kind == "perspective" and bool((depth_z <= 1e-6).any()):
        return 0, 0, camera.width, camera.height
    first = (pixels[0].amin(dim=0).floor() - 1).clamp_min(0)
    last = pixels[0].amax(dim=0).ceil() + 1
    right, bottom = min(int(last[0]), camera.width), min(int(last[1]), camera.height)
    return int(first[0]), int(first[1]), right, bottom


def _shade_pixels(
    mesh: Mesh, caster: RayCaster, camera: Cameras, pixels: Tensor, samples: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Colour, mask, normals and depth of P pixels, averaged over samples (P * samples, 2)."""
    hits = _RayHits.cast(caster, camera, pixels)
    count = len(pixels) // samples
    pixel = hits.ray // samples
    covered = torch.zeros(count).index_add_(0, pixel, torch.ones(len(pixel)))
    colours = surface_colour(mesh, hits.face, hits.barycentric)
    colour = torch.zeros(count, 3).index_add_(0, pixel, colours)
    colour = (colour + (samples - covered)[:, None]) / samples  # white background
    normals = torch.zeros(count, 3).index_add_(0, pixel, hits.normals(mesh))
    normals = torch.nn.functional.normalize(normals, dim=-1, eps=1e-6)
    along_axis = (hits.directions * camera.view_directions).sum(dim=-1) * hits.distance
    depth_z = torch.full((count,), torch.inf).scatter_reduce_(0, pixel, along_axis, "amin")
    return colour.clamp(0.0, 1.0), covered / samples, normals, depth_z
