"""Rendering by gsplat (Apache-2.0), on NVIDIA GPUs where it is installed with compiled kernels.

gsplat's source package compiles its kernels at first use, for minutes; only packages that contain
them are used.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

from ..cameras.cameras import Cameras
from .constants import BLUR_PX2, NEAR
from .projection import ProjectedSplats

CAMERA_MODELS = {"perspective": "pinhole", "orthographic": "ortho"}


def runs_on(device: torch.device) -> bool:
    """Whether gsplat is installed with compiled kernels for a device."""
    return device.type == "cuda" and not torch.version.hip and _has_kernels()


@cache
def _has_kernels() -> bool:
    try:
        return find_spec("gsplat.csrc") is not None
    except (ImportError, OSError):  # not installed, or for another version of torch
        return False


def render(
    positions: Tensor,
    scales: Tensor,
    rotations: Tensor,
    opacities: Tensor,
    colours: Tensor,
    camera: Cameras,
    blur_px2: float = BLUR_PX2,
) -> tuple[Tensor, Tensor, ProjectedSplats]:
    """Colour and accumulated depth (H, W, 4), transmittance (H, W) and the splats in the image.

    Args:
        positions: (N, 3) in the world.
        scales: (N, 3) standard deviations.
        rotations: (N, 4) quaternions w, x, y, z of any length above 0.
        opacities: (N,) in 0..1.
        colours: (N, 3).
        camera: V = 1.
        blur_px2: variance of the low-pass filter in pixels squared.
    """
    from gsplat import rasterization

    image, alphas, meta = rasterization(
        means=positions,
        quats=rotations,
        scales=scales,
        opacities=opacities,
        colors=colours,
        viewmats=camera.world_to_camera.to(positions.device),
        Ks=camera.intrinsics.to(positions.device),
        width=camera.width,
        height=camera.height,
        near_plane=NEAR,
        eps2d=blur_px2,
        packed=False,
        render_mode="RGB+D",
        camera_model=CAMERA_MODELS[camera.kind],
    )
    radii = meta["radii"][0].to(positions.dtype)  # (N,), since gsplat 1.5 (N, 2)
    extents = radii if radii.ndim == 2 else radii[:, None].expand(-1, 2)
    projected = ProjectedSplats(meta["means2d"][0], meta["conics"][0], meta["depths"][0], extents)
    return image[0], 1.0 - alphas[0, ..., 0], projected
