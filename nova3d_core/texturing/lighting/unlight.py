"""Removes the light of the scene from views, so that a texture baked from them is albedo.

The geometry is fixed: a light of spherical Gaussians is fitted to the colours of surface points,
and each pixel is divided by the shading of its normal, in linear light. Not covered are cast
shadows, darkness in concavities, gloss, and coloured light.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ...cameras.cameras import Cameras
from ...compute.host_memory import available_bytes, check_memory
from ...errors import InputError, StageError
from ...imaging.matte import matte_from_white
from ...imaging.nearest import nearest_pixels
from ...io.images.srgb import linear_from_srgb, srgb_from_linear
from ...mesh import Mesh
from ...progress import SILENT, Progress
from ...rendering.raycast import RayCaster
from ...rendering.shading import facing_normal
from ...rendering.views import sample_positions
from ...views import Views
from ...wording import counted
from ..config import UnlightConfig
from ..view_fit import check_views_fit
from .fit import evidence, fit_light
from .observe import SurfaceColours, observe_surface
from .report import UnlightReport
from .spherical_gaussians import SphericalGaussians

logger = logging.getLogger(__name__)

STAGE = "removing light"
MIN_POINTS = 50
"""Fewer usable points do not determine a light."""
MIN_USABLE_RATIO = 0.1
"""Minimum ratio of the seen points that are neither black nor saturated."""
MIN_RELATIVE_SHADING = 0.2
"""Lower bound of the shading that a pixel is divided by, relative to the mean: noise in the dark
would be amplified."""
MIN_CERTAINTY = 0.42
"""Lower bound of the spread of the shading plus half of the evidence: unlit views reach 0.38, where
some textures have baked-in shading, as that of the pack's knight; a key light 0.48 and more on all
but one object."""
MOVING_LIGHT = 0.25
"""Contradiction of the views from which their light seems to move with the camera."""
BYTES_PER_PIXEL = 90
"""Of one view while its light is removed: rays, hits, normals, and colours in float64."""
BYTES_PER_LOBE = 64
"""Per point and lobe: the intermediate results of the shading and their gradients."""


@dataclass(frozen=True, eq=False)
class Unlit:
    """Views without their light, and the light."""

    views: Views
    """The views without light, with masks; the input itself if it stays as it is."""
    shading: Tensor
    """(V, H, W) shading of each pixel, relative to the mean; 1 where the mesh is not seen."""
    masks: Tensor
    """(V, H, W) of the views, or mattes of views without masks."""
    report: UnlightReport
    """What was found and done."""

    @property
    def light(self) -> SphericalGaussians:
        """The light; the mean shading of the surface that the views see is 1."""
        return self.report.light


def unlight(
    views: Views,
    mesh: Mesh,
    config: UnlightConfig | None = None,
    progress: Progress = SILENT,
    check_fit: bool = True,
) -> Unlit:
    """Estimates the light of the scene and removes it from the views; the result is on the CPU.

    Args:
        views: V views with masks, or on a white background; the light stands still in the world.
        mesh: of the object, in the world of the cameras; its colours and uv are not used.
        config: strength, gate and the fit.
        progress: reports each step.
        check_fit: compare the mesh's silhouettes with the masks first; see `check_views_fit`.

    Raises:
        InputError: the views do not fit the mesh, they are black or saturated, or there is too
            little memory.
        StageError: no view sees the mesh, or the fit diverged.
        Cancelled: on request.
    """
    config = config or UnlightConfig()
    _check_memory(views, config)
    mesh, views = mesh.to("cpu").with_origin(views.cameras.origin), views.to("cpu")
    if check_fit:
        check_views_fit(mesh, views, progress)
    masked = views
    if views.masks is None:
        masked = replace(views, masks=matte_from_white(views.colour))
    if mesh.normals is None:
        mesh = mesh.with_smooth_normals()
    surface = observe_surface(mesh, masked, config.points, config.seed, progress)
    _check_surface(surface, len(views))
    light = fit_light(surface, config, progress)
    seen = light.shading_in_chunks(surface.normal)
    mean = float(seen.mean())
    if not mean > 0.0:
        raise StageError(STAGE, "the light is black.", "Check that the cameras fit the mesh.")
    light = light.scaled(1.0 / mean)
    spread = float(seen.std() / mean)
    found_evidence = evidence(surface, seen / mean)
    is_certain = spread + 0.5 * found_evidence >= MIN_CERTAINTY
    is_lit = spread >= config.gate and (config.gate == 0.0 or is_certain)
    is_applied = is_lit and config.strength > 0.0
    report = UnlightReport(
        spread=spread,
        evidence=found_evidence,
        gate=config.gate,
        strength=config.strength,
        is_applied=is_applied,
        points=len(surface.colour),
        contradiction=surface.contradiction,
        light=light,
    )
    if config.strength > 0.0 and not is_applied:
        logger.warning("%s", report.reason)
    shading, colour = _divide_views(mesh, masked, light, config.strength, is_applied, progress)
    result = replace(masked, colour=colour) if is_applied else views
    return Unlit(result, shading, masked.masks, report)


def _check_memory(views: Views, config: UnlightConfig) -> None:
    count, height, width = views.colour.shape[:3]
    pixels = count * height * width
    held = pixels * 4 * 5  # colours, shading and confidence of all views
    fit = config.points * config.lobes * BYTES_PER_LOBE
    check_memory(
        f"removing light from {counted(count, 'view')} of {width}x{height} px",
        held + max(fit, height * width * BYTES_PER_PIXEL),
        available_bytes(),
        "Close other programs, or use fewer or smaller images.",
    )


def _check_surface(surface: SurfaceColours, views: int) -> None:
    """Raises unless the points determine a light; warns where they do so badly."""
    if surface.num_seen < MIN_POINTS:
        raise StageError(
            STAGE,
            "no view sees the mesh clearly.",
            "Check that mesh and cameras share one world frame.",
        )
    usable = len(surface.colour)
    if usable < max(MIN_POINTS, MIN_USABLE_RATIO * surface.num_seen):
        raise InputError(
            f"of {surface.num_seen} points of the mesh that views see, only {usable} are neither "
            "black nor overexposed.",
            "Check the colours of the views: light cannot be estimated from them.",
        )
    if views == 1:
        logger.warning(
            "light and albedo cannot be separated reliably in a single view: check the result, or "
            "use several views around the object."
        )
    if surface.contradiction > MOVING_LIGHT:
        logger.warning(
            "the views show the same points with different brightness (a factor of %.2f): the "
            "light seems to move with the camera, but only one that stands still can be removed.",
            float(np.exp(surface.contradiction)),
        )


def _divide_views(
    mesh: Mesh,
    views: Views,
    light: SphericalGaussians,
    strength: float,
    is_applied: bool,
    progress: Progress,
) -> tuple[Tensor, Tensor]:
    """Shading (V, H, W) of each pixel, and colours (V, H, W, 3) without it where applied."""
    caster = RayCaster.from_mesh(mesh)
    shading = torch.ones(views.masks.shape)
    colour = views.colour.clone() if is_applied else views.colour
    for view in progress.track(range(len(views)), STAGE, len(views)):
        found = _view_shading(mesh, caster, views.cameras[view], light)
        if found is None:
            continue
        shading[view] = found.clamp_min(0.0)
        if is_applied:
            divisor = found.clamp_min(MIN_RELATIVE_SHADING) ** strength
            colour[view] = without_shading(views.colour[view], views.masks[view], divisor)
    return shading, colour


def _view_shading(
    mesh: Mesh, caster: RayCaster, camera: Cameras, light: SphericalGaussians
) -> Tensor | None:
    """(H, W) shading at the pixel centres, extended to the background; None without the mesh."""
    width, height = camera.width, camera.height
    pixels = sample_positions(width, height, 1)
    origins, directions = (part[0] for part in camera.rays(pixels))
    hits = caster.first_hits(origins.numpy(), directions.numpy())
    ray = torch.from_numpy(np.flatnonzero(hits.hit))
    if len(ray) == 0:
        return None
    face, weights = (torch.from_numpy(part)[ray] for part in (hits.face, hits.barycentric))
    normal = facing_normal(mesh, face, weights, directions[ray])
    values = torch.zeros(height * width)
    values[ray] = light.shading_in_chunks(normal)
    return values[nearest_pixels(torch.from_numpy(hits.hit).reshape(height, width))]


def without_shading(image: Tensor, mask: Tensor, divisor: Tensor) -> Tensor:
    """An image (H, W, 3) on white, with the linear colours of its object divided.

    Silhouette pixels are divided without the background that they contain.

    Args:
        image: (H, W, 3) sRGB in 0..1.
        mask: (H, W) in 0..1.
        divisor: (H, W) above 0.
    """
    opacity = mask[..., None]
    is_object = opacity > 0.0
    own = ((image - 1.0 + opacity) / opacity.clamp_min(1e-3)).clamp(0.0, 1.0)
    linear = torch.from_numpy(linear_from_srgb(own.numpy())) / divisor[..., None]
    divided = torch.from_numpy(srgb_from_linear(linear.numpy())).to(image)
    blended = divided * opacity + 1.0 - opacity
    return torch.where(is_object, blended, image).clamp(0.0, 1.0)
