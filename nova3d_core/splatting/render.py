"""Renders splats: colour, depth and transmittance, differentiable in all their parameters."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor

from ..cameras.cameras import Cameras
from ..progress import SILENT, Progress
from ..splats import Splats
from ..views import Views
from . import gsplat_impl, torch_impl
from .constants import BLUR_PX2, MIN_ALPHA
from .memory import check_render_memory
from .projection import ProjectedSplats, project_splats

logger = logging.getLogger(__name__)

Backend = Literal["auto", "gsplat", "warp", "torch"]


@dataclass(frozen=True, eq=False)
class SplatImage:
    """Splats in one camera, without background."""

    colour: Tensor
    """(H, W, 3) composited colours; add transmittance * background."""
    depth: Tensor
    """(H, W) sum of depth * alpha * transmittance, not divided by the opacity."""
    transmittance: Tensor
    """(H, W) in 0..1: how much of the background is visible."""
    projected: ProjectedSplats
    """The splats in the image. Gradients of their means guide densification."""

    def on(self, background: float | Tensor) -> Tensor:
        """(H, W, 3) colours on a background: a grey level or an RGB colour (3,)."""
        return self.colour + self.transmittance[..., None] * background


def render_splats(
    positions: Tensor,
    scales: Tensor,
    rotations: Tensor,
    opacities: Tensor,
    colours: Tensor,
    camera: Cameras,
    backend: Backend = "auto",
    blur_px2: float = BLUR_PX2,
) -> SplatImage:
    """Renders splats in one camera; differentiable in all tensors.

    Args:
        positions: (N, 3) in the world.
        scales: (N, 3) standard deviations, above 0.
        rotations: (N, 4) quaternions w, x, y, z of any length above 0.
        opacities: (N,) in 0..1.
        colours: (N, 3).
        camera: V = 1.
        backend: "gsplat", "warp", "torch" (the reference, slow), or "auto" for the first of them
            that runs on the device.
        blur_px2: variance of the low-pass filter in pixels squared.
    """
    if backend == "gsplat" or (backend == "auto" and gsplat_impl.runs_on(positions.device)):
        image, transmittance, projected = gsplat_impl.render(
            positions, scales, rotations, opacities, colours, camera, blur_px2
        )
        return SplatImage(image[..., :3], image[..., 3], transmittance, projected)
    project, rasterise = _functions(backend, positions.device)
    projected = project(positions, scales, rotations, opacities, camera, blur_px2)
    channels = torch.cat([colours, projected.depths[:, None]], dim=1)  # (N, 4)
    image, transmittance = rasterise(projected, opacities, channels, camera.width, camera.height)
    return SplatImage(image[..., :3], image[..., 3], transmittance, projected)


@dataclass(frozen=True, eq=False)
class SplatViews:
    """Images of splats with their depths."""

    views: Views
    """On white, with the opacity of the splats as masks."""
    depths: Tensor
    """(V, H, W) mean distance of the splats along the viewing axis, weighted by their contribution
    to the pixel; 0 where nothing is visible."""


def splat_views(
    splats: Splats, cameras: Cameras, backend: Backend = "auto", progress: Progress = SILENT
) -> Views:
    """Images of splats on white, with their opacity as masks; as `splat_views_with_depth`."""
    return splat_views_with_depth(splats, cameras, backend, progress).views


def splat_views_with_depth(
    splats: Splats, cameras: Cameras, backend: Backend = "auto", progress: Progress = SILENT
) -> SplatViews:
    """Images, opacities and depths of splats.

    Args:
        splats: N splats.
        cameras: V cameras.
        backend: as for `render_splats`.
        progress: receives each view.

    Raises:
        InputError: the splats or their images do not fit into memory.
    """
    check_render_memory(len(splats), cameras, splats.positions.device)
    images, masks, depths = [], [], []
    for view in progress.track(range(len(cameras)), "rendering splats", len(cameras)):
        with torch.no_grad():
            image = render_splats(**vars(splats), camera=cameras[view], backend=backend)
        opacity = (1.0 - image.transmittance).clamp(0.0, 1.0)
        is_visible = opacity > 0.5 * MIN_ALPHA  # contributions are at least MIN_ALPHA
        images.append(image.on(1.0).clamp(0.0, 1.0))
        masks.append(opacity)
        depths.append(
            torch.where(is_visible, image.depth / opacity.clamp_min(0.5 * MIN_ALPHA), 0.0)
        )
    views = Views(cameras, torch.stack(images), torch.stack(masks))
    return SplatViews(views, torch.stack(depths))


def depth_images(depths: Tensor) -> Tensor:
    """Depths (V, H, W) as grey images (V, H, W, 3): 1 at the nearest point of all, 0 at the
    farthest and where the depth is 0, that is undefined."""
    is_defined = depths > 0
    if not bool(is_defined.any()):
        return torch.zeros(*depths.shape, 3, device=depths.device)
    near, far = depths[is_defined].min(), depths[is_defined].max()
    grey = (far - depths) / (far - near).clamp_min(1e-9)
    return torch.where(is_defined, grey, 0.0)[..., None].expand(-1, -1, -1, 3)


def _functions(backend: Backend, device: torch.device) -> tuple[Any, Any]:
    """The functions `project` and `rasterise` of a backend."""
    if backend == "torch" or (backend == "auto" and not _warp_runs_on(device.type)):
        return project_splats, torch_impl.rasterise
    from . import warp_impl

    return warp_impl.project, warp_impl.rasterise


@cache
def _warp_runs_on(device_type: str) -> bool:
    """Whether warp's kernels run on a device; logs a warning once if they do not."""
    from ..compute.warp_backend import kernel_error

    modules = _cpu_modules if device_type == "cpu" else _gpu_modules
    problem = kernel_error(torch.device(device_type), modules)
    if problem:
        logger.warning(
            "splats are rendered in PyTorch, which is far slower than with warp: %s "
            "Install it with: pip install warp-lang",
            problem,
        )
    return not problem


def _cpu_modules() -> tuple[Any, ...]:
    from . import warp_impl

    return warp_impl.modules("cpu")


def _gpu_modules() -> tuple[Any, ...]:
    from . import warp_impl

    return warp_impl.modules("cuda")
