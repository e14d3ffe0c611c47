"""Re-frames views to the cameras of a reconstruction model, and maps its splats back to the world.

A change of the field of view or of the viewing axis is exact: it needs no depth. A change of the
distance is not: each view is scaled about the object's centre, so parts in front of it or behind it
keep the perspective of their own camera.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from ..cameras.cameras import Cameras
from ..cameras.rotations import matrix_to_quaternion, multiply_quaternions, rotation_between
from ..conventions import OPENGL_FROM_OPENCV
from ..errors import InputError
from ..imaging.crop import composite_on_white, object_bounds
from ..splats import Splats
from ..views import Views
from ..wording import setting
from .config import FOREGROUND_RATIO, Framing, ReconstructionFamily

logger = logging.getLogger(__name__)

WARN_PX = 8.0
"""Perspective error in pixels of the model's images above which a warning is logged."""
MAX_SUPERSAMPLING = 8
CUT_OFF_FRACTION = 0.02
"""Fraction of the image border that an object may cover before it counts as cut off."""


@dataclass(frozen=True, eq=False)
class FramedViews:
    """Four views as a reconstruction model expects them."""

    images: Tensor
    """(4, 3, S, S) sRGB in 0..1, on white."""
    cameras: Cameras
    """The model's cameras in its own world: view 0 at (0, 0, radius), not rotated."""
    rotation: Tensor
    """(3, 3) rotation from our world to the model's."""
    centre: Tensor
    """(3,) the model's origin in our world."""
    scale: float
    """The model's units per unit of our world."""
    perspective_error_px: float
    """Largest error in pixels of parts of the object away from its centre plane."""

    def to_world(self, splats: Splats) -> Splats:
        """Splats of the model's world in our world and scale."""
        inverse = matrix_to_quaternion(self.rotation.T[None])  # (1, 4)
        return replace(
            splats,
            positions=splats.positions @ self.rotation / self.scale + self.centre,
            scales=splats.scales / self.scale,
            rotations=multiply_quaternions(inverse, splats.rotations),
        )


@dataclass(frozen=True, eq=False)
class _Aim:
    """The selected cameras, each rotated about its own centre to look at the object's centre."""

    centre: Tensor
    """(3,) in our world, float64."""
    rotations: Tensor
    """(V, 3, 3) from our world to the rotated cameras, OpenCV axes."""
    closeness: Tensor
    """(V,) one over the distance of the centre; 0 for orthographic cameras."""


def frame_views(
    views: Views, family: ReconstructionFamily, framing: Framing = "object"
) -> FramedViews:
    """Re-frames the selected views.

    Args:
        views: four views that `select_views` chose, in its order.
        family: the model's cameras.
        framing: object: the object is centred and fills `FOREGROUND_RATIO` of the image; image:
            centred on the world's origin, at the scale at which the views' perspective is kept.

    Raises:
        InputError: no masks and no white background, an empty mask, a camera that does not look at
            the object.
    """
    colour, masks = composite_on_white(views.colour, views.masks)
    cameras = views.cameras.to("cpu")
    bounds = _bounds_of_objects(masks)
    _warn_if_cut_off(masks)
    centre = torch.zeros(3, dtype=torch.float64)
    if framing == "object":
        centre = _object_centre(cameras, bounds)
    aim = _aim_at(cameras, centre)
    half_size = _half_size(cameras, bounds, aim)
    scale = _scale(cameras, aim, half_size, family, framing)
    images = [
        _resample(colour[view].cpu(), cameras[view], aim, view, scale, family)
        for view in range(len(cameras))
    ]
    error_px = _perspective_error_px(aim, half_size, scale, family)
    if error_px > WARN_PX:
        _warn_of_perspective(error_px, family, framing == "object" and bool(aim.closeness.any()))
    if scale * half_size > _half_width(family):
        logger.warning(
            "the object does not fit into the images of %s at its own size and is cut off; set %s.",
            family.label,
            setting("framing", "object"),
        )
    flip = aim.rotations.new_tensor(OPENGL_FROM_OPENCV)
    rotation = flip @ aim.rotations[0]
    return FramedViews(
        images=torch.stack(images),
        cameras=_model_cameras(aim, rotation, family),
        rotation=rotation.float(),
        centre=centre.float(),
        scale=scale,
        perspective_error_px=error_px,
    )


def _warn_of_perspective(error_px: float, family: ReconstructionFamily, is_avoidable: bool) -> None:
    """Logs a warning that the distance of the cameras is not that of the model's."""
    logger.warning(
        "the views have another perspective than those of %s: parts of the object are up to %.0f "
        "of %d pixels off where they are nearer or farther than its centre.%s",
        family.label,
        error_px,
        family.size_px,
        f" {setting('framing', 'image')} keeps it exactly." if is_avoidable else "",
    )


def _bounds_of_objects(masks: Tensor) -> Tensor:
    """(V, 4) left, top, right, bottom of the objects in masks (V, H, W), float64."""
    rows = []
    for view, mask in enumerate(masks):
        bounds = object_bounds(mask)
        if bounds is None:
            raise InputError(f"the mask of selected view {view} is empty: it shows no object.")
        top, bottom, left, right = bounds
        rows.append([left, top, right, bottom])
    return torch.tensor(rows, dtype=torch.float64)


def _warn_if_cut_off(masks: Tensor) -> None:
    """Logs a warning if an object reaches far along the border of its image."""
    for view, mask in enumerate(masks):
        border = torch.cat([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
        if float((border > 0.5).float().mean()) > CUT_OFF_FRACTION:
            logger.warning(
                "the object is cut off at the border of selected view %d; splats beyond it are "
                "guesses.",
                view,
            )


def _source_rays(cameras: Cameras, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Origins and unit directions (V, N, 3) in world space of own pixels (V, N, 2) of each view."""
    pairs = [
        tuple(part[0] for part in cameras[view].rays(pixels[view].to(cameras.intrinsics.dtype)))
        for view in range(len(cameras))
    ]
    origins, directions = (torch.stack(part).double() for part in zip(*pairs, strict=True))
    return origins, directions


def _object_centre(cameras: Cameras, bounds: Tensor) -> Tensor:
    """(3,) point nearest to the rays through the centres of the bounding boxes, least squares."""
    middle = (bounds[:, None, :2] + bounds[:, None, 2:]) / 2.0  # (V, 1, 2)
    origins, directions = (part[:, 0] for part in _source_rays(cameras, middle))  # (V, 3)
    across = torch.eye(3, dtype=torch.float64) - directions[:, :, None] * directions[:, None, :]
    right = (across @ origins[:, :, None]).sum(dim=0)
    return torch.linalg.solve(across.sum(dim=0), right)[:, 0]


def _aim_at(cameras: Cameras, centre: Tensor) -> _Aim:
    """Rotates perspective cameras to look at the centre; orthographic ones only move sideways."""
    rotations = cameras.rotation.double()
    if cameras.kind == "orthographic":
        return _Aim(centre, rotations, torch.zeros(len(cameras), dtype=torch.float64))
    offsets = centre - cameras.positions.double()  # (V, 3)
    distances = offsets.norm(dim=1)
    forward = cameras.view_directions.double()
    aimed = offsets / distances[:, None].clamp_min(1e-12)
    for view, cosine in enumerate((forward * aimed).sum(dim=1).tolist()):
        if cosine <= 0.0:
            raise InputError(
                f"the camera of selected view {view} does not look at the object.",
                "Check the cameras of the views.",
            )
    turned = rotations @ rotation_between(forward, aimed).transpose(1, 2)
    return _Aim(centre, turned, 1.0 / distances)


def _half_size(cameras: Cameras, bounds: Tensor, aim: _Aim) -> float:
    """Half of the object's longer side in world units: the largest over all views."""
    left, top, right, bottom = bounds.unbind(dim=1)
    corners = [[left, top], [right, top], [left, bottom], [right, bottom]]
    pixels = torch.stack([torch.stack(each, dim=-1) for each in corners], dim=1)  # (V, 4, 2)
    origins, directions = _source_rays(cameras, pixels)
    in_camera = directions @ aim.rotations.transpose(1, 2)  # (V, 4, 3)
    if cameras.kind == "orthographic":
        plane = (origins - aim.centre) @ aim.rotations.transpose(1, 2)
        return float(plane[..., :2].abs().max())
    plane = in_camera[..., :2] / in_camera[..., 2:]
    return float((plane.abs() / aim.closeness[:, None, None]).max())


def _scale(
    cameras: Cameras,
    aim: _Aim,
    half_size: float,
    family: ReconstructionFamily,
    framing: Framing,
) -> float:
    """The model's units per unit of our world."""
    half_width = _half_width(family)
    if framing == "object":
        return FOREGROUND_RATIO * half_width / half_size
    if cameras.kind == "orthographic":
        widths = cameras.width / cameras.intrinsics[:, 0, 0].double()
        return 2.0 * half_width / float(widths.mean())
    return family.radius * float(aim.closeness.mean())


def _perspective_error_px(
    aim: _Aim, half_size: float, scale: float, family: ReconstructionFamily
) -> float:
    """Displacement of the corners of the object's bounding cube, against the model's camera.

    A point at depth z and distance x from the axis is seen at x c / (1 - c z), c the closeness.
    """
    closeness = scale / family.radius  # of the model's camera, in our units
    size = half_size * closeness * _focal_px(family)  # in pixels, at the centre
    differences = (aim.closeness - closeness).abs()
    return float(size * half_size * differences.max())


def _half_width(family: ReconstructionFamily) -> float:
    """Half of the width that the model's images show at its origin, in its units."""
    return family.radius * math.tan(math.radians(family.fov_deg) / 2.0)


def _focal_px(family: ReconstructionFamily) -> float:
    return 0.5 * family.size_px / math.tan(math.radians(family.fov_deg) / 2.0)


def _resample(
    colour: Tensor,
    camera: Cameras,
    aim: _Aim,
    view: int,
    scale: float,
    family: ReconstructionFamily,
) -> Tensor:
    """The (3, S, S) image of the model's camera, from a view (H, W, 3); white where it has none."""
    lateral_per_px = family.radius / (scale * _focal_px(family))  # world units at the centre
    source_px = float(camera.intrinsics.diagonal(dim1=1, dim2=2)[0, :2].max())
    if camera.kind == "perspective":
        source_px *= float(aim.closeness[view])
    factor = min(max(math.ceil(source_px * lateral_per_px - 1e-3), 1), MAX_SUPERSAMPLING)
    side = family.size_px * factor
    steps = (torch.arange(side, dtype=torch.float64) + 0.5) / factor - family.size_px / 2.0
    y, x = torch.meshgrid(steps * lateral_per_px, steps * lateral_per_px, indexing="ij")
    focal = camera.intrinsics[0].double().diagonal()[:2]
    principal = camera.intrinsics[0, :2, 2].double()
    if camera.kind == "perspective":
        rays = torch.stack([x, y, torch.full_like(x, 1.0 / float(aim.closeness[view]))], dim=-1)
        rays = rays @ (aim.rotations[view] @ camera.rotation[0].double().T)
        plane = rays[..., :2] / rays[..., 2:].clamp_min(1e-9)
    else:
        pose = camera.world_to_camera[0].double()
        plane = torch.stack([x, y], dim=-1) + (pose[:3, :3] @ aim.centre + pose[:3, 3])[:2]
    pixels = plane * focal + principal  # (S f, S f, 2)
    size = pixels.new_tensor([camera.width, camera.height])
    grid = (2.0 * pixels / size - 1.0).float()[None]
    # zeros outside the image are white: the complement is sampled
    darkness = 1.0 - colour.movedim(-1, 0)[None].float()
    sampled = functional.grid_sample(darkness, grid, mode="bilinear", align_corners=False)
    return (1.0 - functional.avg_pool2d(sampled, factor)[0]).clamp(0.0, 1.0)


def _model_cameras(aim: _Aim, rotation: Tensor, family: ReconstructionFamily) -> Cameras:
    """The four cameras in the model's world: at its distance, looking at its origin."""
    poses = torch.eye(4, dtype=torch.float64).repeat(len(aim.rotations), 1, 1)
    poses[:, :3, :3] = aim.rotations @ rotation.T
    poses[:, 2, 3] = family.radius
    half, focal = family.size_px / 2.0, _focal_px(family)
    intrinsics = torch.tensor([[focal, 0.0, half], [0.0, focal, half], [0.0, 0.0, 1.0]])
    return Cameras(
        poses.float(), intrinsics.repeat(len(poses), 1, 1), family.size_px, family.size_px
    )
