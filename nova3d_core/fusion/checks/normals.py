"""Checks that normals are in the frame and channel signs that they are declared in.

Normals can be interpreted in each frame, with each channel as it is or flipped. Three properties
hold for the right convention of any object, whatever its poses: visible surfaces face the camera;
where a surface turns away at a silhouette, its normal lies in the plane of the ray and the
silhouette's own normal, and points outward; and the normals of a smooth surface integrate to one
depth map (zero curl). The first tells frames apart, the second inside from outside, the third a
single flipped channel.

The second does not hold at sharp edges. Those of thin plates would contradict it:
opposite silhouettes have the normal of the one visible side. They are recognised by that.
"""

from __future__ import annotations

import itertools
import logging
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ...cameras.cameras import Cameras
from ...cameras.pixels import pixel_centres
from ...conventions import NORMAL_FRAMES
from ...errors import InputError
from ...views import Views, frame_to_world
from ..hull.silhouettes import signed_distance_px
from .silhouettes import listed, sample_pixels

logger = logging.getLogger(__name__)

MAX_INCONSISTENCY = 0.12
"""Normals with a smaller inconsistency are as declared. On 12 objects: up to 0.04 for true normals,
even with 20 degrees of smooth noise; mostly 0.3 and more under a wrong convention."""
MAX_ALTERNATIVE_RATIO = 0.5
"""Another convention is suggested only if its inconsistency is below this ratio of the declared."""
_TIE = 0.05
"""Among conventions within this of the best, the simplest is suggested."""
_MAX_SIDE_PX = 256
_MAX_VIEWS = 16
_RIM_PIXELS, _INNER_PIXELS = 400, 800
"""Sampled pixels of each view."""
_RIM_PX = (-2.0, -0.3)
"""Signed distances of rim pixels to the silhouette: entirely on the object."""
_FACING_TOLERANCE = 0.05
"""Cosine by which a normal may face away from the camera."""
_AWAY_WEIGHT = 2.0
_MIN_FACING_COSINE = 0.25
"""Cosine to the ray for depth gradients; at grazing angles they are mostly rounding errors."""
_MAX_SMOOTH_CHANGE = 0.35
"""Change of a normal over two pixels without a crease."""
_EQUAL_COSINE = 0.999
_MAX_MISSING = 0.5
"""Fraction of an object's pixels that may have no normal."""
_CONSTANT_FRACTION = 0.98
_WEIGHT_PRIOR = 0.02
"""Regularises the mean of weights in 0..1: flat sides seen head-on are no evidence."""
_TWIST_PRIOR = 0.01
_PLATE_COSINE = 0.5
"""Opposite silhouettes whose normals have at least this cosine belong to one side of a plate."""
_FULL_EVIDENCE_FRACTION = 0.1
"""The curl has its full weight if it is known on this fraction of the pixels."""
_HEAD_ON_COSINE, _NEARBY_COSINE, _OTHER_PLANE_COSINE = 0.8, 0.7, 0.985


def check_normals(views: Views) -> None:
    """Raises InputError for missing normals, or normals that fit another convention better.

    Inconclusive objects (few views, boxes seen head-on) pass.

    Args:
        views: with masks, in any world and scale; without normals there is nothing to check.

    Raises:
        InputError: names the views whose normals are black or blank, or the frame or the channels
            that would fit; or there are no masks.
    """
    if views.normals is None:
        return
    if views.masks is None:
        raise InputError(
            "the views have no masks: normals cannot be checked.",
            "Provide masks, or images with an alpha channel.",
        )
    views = views.to("cpu")
    _check_present(views)
    chosen = torch.linspace(0, len(views) - 1, min(len(views), _MAX_VIEWS)).round().long()
    _check_frame(views, chosen)


def _check_present(views: Views) -> None:
    """Raises InputError for views with no normals, black ones, or the same normal everywhere."""
    missing, blank, constant = [], [], []
    for view, (mask, image) in enumerate(zip(views.masks, views.normals, strict=True)):
        normals = image[mask > 0.5]  # (P, 3)
        if len(normals) == 0:
            continue
        # black decodes to all components -1, white to all 1
        if float((normals.norm(dim=1) < 0.1).float().mean()) > _MAX_MISSING:
            missing.append(view)
        elif (
            float((normals.sum(dim=1).abs() > 3**0.5 * _EQUAL_COSINE).float().mean()) > _MAX_MISSING
        ):
            blank.append(view)
        else:
            mean = torch.nn.functional.normalize(normals.mean(dim=0), dim=0)
            if float((normals @ mean > _EQUAL_COSINE).float().mean()) > _CONSTANT_FRACTION:
                constant.append((view, mean))
    for which, found in (("no normals", missing), ("black or white normals", blank)):
        if found:
            raise _blank_error(found, which)
    same = _impossible_constants(views, constant)
    if same:
        raise _blank_error(same, "the same normal everywhere")


def _blank_error(found: list[int], which: str) -> InputError:
    named = f"view {found[0]} has" if len(found) == 1 else f"views {listed(found)} have"
    return InputError(
        f"{named} {which} on the object.",
        "Leave the normals out, or check the model that made them: it returned a blank image.",
    )


def _impossible_constants(views: Views, constant: list[tuple[int, Tensor]]) -> list[int]:
    """Of views with one constant normal (3,) each, those that cannot all show flat sides.

    A flat side that a camera sees head-on is visible from neighbouring cameras too. So neighbours
    that each see a single side, but not the same one, contradict each other.
    """
    to_world = frame_to_world(views.cameras, views.normal_frame)
    forward = views.cameras.view_directions
    seen = [(view, to_world[view] @ normal) for view, normal in constant]
    found = set()
    for (one, first), (other, second) in itertools.combinations(seen, 2):
        head_on = min(-first @ forward[one], -second @ forward[other])
        nearby = forward[one] @ forward[other]
        if (
            head_on > _HEAD_ON_COSINE
            and nearby > _NEARBY_COSINE
            and first @ second < _OTHER_PLANE_COSINE
        ):
            found |= {one, other}
    return sorted(found)


class NormalConvention(NamedTuple):
    """A convention of normals: their frame, and the sign of each channel (-1: flipped)."""

    frame: str
    signs: tuple[int, int, int]

    def to_world(self, cameras: Cameras) -> Tensor:
        """(V, 3, 3) matrices from given normals to the world."""
        frames = frame_to_world(cameras, self.frame)
        return frames * frames.new_tensor(self.signs)

    @property
    def flipped(self) -> list[str]:
        names = zip(("red", "green", "blue"), self.signs, strict=True)
        return [name for name, sign in names if sign < 0]


class NormalConventionError(InputError):
    """Normals that fit another convention than the declared one; `fitting` is that convention."""

    def __init__(self, message: str, hint: str, fitting: NormalConvention):
        self.fitting = fitting
        super().__init__(message, hint)


NORMAL_CONVENTIONS = tuple(
    NormalConvention(frame, signs)
    for signs in sorted(itertools.product((1, -1), repeat=3), key=lambda s: s.count(-1))
    for frame in NORMAL_FRAMES
)
"""All conventions, the simplest first."""


def _check_frame(views: Views, chosen: Tensor) -> None:
    """Raises InputError if another convention fits the normals clearly better."""
    stats = ConsistencyStats.of(views, chosen)
    if stats is None:
        return
    declared = NormalConvention(views.normal_frame, (1, 1, 1))
    inconsistency = stats.facing_inconsistency(declared) + stats.curl_inconsistency(declared)
    if inconsistency < MAX_INCONSISTENCY:
        return
    facing = {each: stats.facing_inconsistency(each) for each in NORMAL_CONVENTIONS}
    # the curl is slower to compute: only for conventions that can still win
    candidates = {
        each: value + stats.curl_inconsistency(each)
        for each, value in facing.items()
        if value < MAX_ALTERNATIVE_RATIO * inconsistency
    }
    least = min(candidates.values(), default=inconsistency)
    if least > MAX_ALTERNATIVE_RATIO * inconsistency:
        if inconsistency > 2 * MAX_INCONSISTENCY:  # small images of thin parts come close to this
            logger.warning("the normals contradict the silhouettes, and no other frame fits them")
        return
    good = [
        each for each in NORMAL_CONVENTIONS if candidates.get(each, inconsistency) < least + _TIE
    ]
    fewest = len(good[0].flipped)
    same_frame = [r for r in good if r.frame == declared.frame and len(r.flipped) == fewest]
    raise _convention_error(declared.frame, (same_frame or good)[0])


@dataclass(frozen=True, eq=False)
class ConsistencyStats:
    """Rays, normals and silhouettes of V chosen views, to measure a convention's inconsistency."""

    all_cameras: Cameras
    chosen: Tensor  # (V,) indices of the views among them
    views: Views  # V, downsampled
    rays: Tensor  # (V, H, W, 3) unit, in the world
    usable: Tensor  # (V, H, W) pixels that are entirely on the object and have a normal
    rim: Tensor  # (V, R) flat indices of sampled pixels just inside the silhouette
    outward: Tensor  # (V, R, 3) unit normals of the silhouette there, in the world
    is_evidence: Tensor  # (V, R) bool, whether the silhouette there may be smooth
    inner: Tensor  # (V, N) flat indices of sampled usable pixels

    @classmethod
    def of(cls, views: Views, chosen: Tensor) -> ConsistencyStats | None:
        """Statistics of chosen views (V,); None if no view has a usable silhouette."""
        small = _downsample_views(views, chosen)
        rays = _pixel_rays(small.cameras)
        usable = (small.masks > 0.95) & (small.normals.norm(dim=-1) > 0.5)
        found = []
        for view, mask in enumerate(small.masks):
            distance, outward, inward_px = _silhouette_directions(
                mask, small.cameras[view], rays[view]
            )
            low, high = _RIM_PX
            near = usable[view] & (distance > low) & (distance < high)
            near &= outward.norm(dim=-1) > 0.5
            if bool((mask > 0.5).all()) or not bool(near.any()):
                continue  # no silhouette in this image, or no normals next to it
            rim = sample_pixels(near, _RIM_PIXELS)
            inner = sample_pixels(usable[view], _INNER_PIXELS)
            on_plate = _is_plate(rim, inward_px, usable[view], mask > 0.5, small.normals[view])
            found.append((view, rim, outward.reshape(-1, 3)[rim], ~on_plate, inner))
        if not found:
            return None
        kept, *parts = zip(*found, strict=True)
        kept = torch.tensor(kept)
        stacked = (torch.stack(part) for part in parts)
        return cls(views.cameras, chosen[kept], small[kept], rays[kept], usable[kept], *stacked)

    def facing_inconsistency(self, convention: NormalConvention) -> float:
        """Mean by which normals point into the silhouette or away from the camera; 0 if right."""
        to_world = convention.to_world(self.all_cameras)[self.chosen].transpose(1, 2)
        rim, inner = (
            _at(self.views.normals, pixels) @ to_world for pixels in (self.rim, self.inner)
        )
        rim_rays, inner_rays = (_at(self.rays, pixels) for pixels in (self.rim, self.inner))
        # at a smooth silhouette normals are perpendicular to the ray; sharp edges prove nothing
        weight = (1.0 - (rim * rim_rays).sum(dim=-1) ** 2).clamp_min(0.0) ** 2  # (V, R)
        weight = weight * self.is_evidence
        inward = -(rim * self.outward).sum(dim=-1).clamp_max(0.0)
        inward = (weight * inward).sum() / (weight.sum() + _WEIGHT_PRIOR * weight.numel())
        away = (inner * inner_rays).sum(dim=-1) - _FACING_TOLERANCE
        return float(inward + _AWAY_WEIGHT * away.clamp_min(0.0).mean())

    def curl_inconsistency(self, convention: NormalConvention) -> float:
        """0 if the normals can be those of one depth map, up to 1 if one sign is wrong."""
        cameras = self.views.cameras
        to_camera = cameras.rotation @ convention.to_world(self.all_cameras)[self.chosen]
        normals = self.views.normals @ to_camera.transpose(1, 2)[:, None]  # (V, H, W, 3)
        rays = self.rays @ cameras.rotation.transpose(1, 2)[:, None]
        facing = -(normals * rays).sum(dim=-1) / rays[..., 2]  # (V, H, W)
        # image gradient of the log depth; of the depth itself if orthographic
        grad_x, grad_y = (
            normals[..., axis] / facing.clamp_min(_MIN_FACING_COSINE) for axis in (0, 1)
        )
        usable = self.usable & (facing > _MIN_FACING_COSINE)
        smooth_x, smooth_y = (_smooth(normals, usable, axis) for axis in (2, 1))
        smooth = smooth_x[:, 1:-1] & smooth_y[:, :, 1:-1]  # (V, H - 2, W - 2)
        twist_x = (grad_x[:, 2:] - grad_x[:, :-2])[:, :, 1:-1][smooth]  # d grad_x / dy
        twist_y = (grad_y[:, :, 2:] - grad_y[:, :, :-2])[:, 1:-1][smooth]  # d grad_y / dx
        size = (twist_x**2 + twist_y**2).sum() / 2 + _TWIST_PRIOR**2 * len(twist_x) + 1e-9
        agreement = float((twist_x * twist_y).sum() / size)  # -1 to 1
        evidence = len(twist_x) / (_FULL_EVIDENCE_FRACTION * float(self.usable.sum()))
        return max(-agreement, 0.0) * min(evidence, 1.0)


def _at(images: Tensor, pixels: Tensor) -> Tensor:
    """(V, P, 3) values of images (V, H, W, 3) at flat pixel indices (V, P)."""
    return images.flatten(1, 2).gather(1, pixels[..., None].expand(-1, -1, 3))


def _smooth(normals: Tensor, usable: Tensor, axis: int) -> Tensor:
    """Mask of pixels without a crease between their neighbours along an axis, border excluded.

    Args:
        normals: (V, H, W, 3).
        usable: (V, H, W) bool.
        axis: 1 for rows, 2 for columns.
    """
    length = normals.shape[axis] - 2
    before, here, after = (usable.narrow(axis, start, length) for start in (0, 1, 2))
    change = normals.narrow(axis, 2, length) - normals.narrow(axis, 0, length)
    return before & here & after & (change.norm(dim=-1) < _MAX_SMOOTH_CHANGE)


def _downsample_views(views: Views, chosen: Tensor) -> Views:
    """The chosen views with images of at most `_MAX_SIDE_PX`."""
    cameras, masks, normals = views.cameras[chosen], views.masks[chosen], views.normals[chosen]
    scale = _MAX_SIDE_PX / max(cameras.width, cameras.height)
    if scale < 1.0:
        cameras = cameras.resized(round(cameras.width * scale), round(cameras.height * scale))
        layers = torch.cat([masks[..., None], normals], dim=-1).permute(0, 3, 1, 2)
        size = (cameras.height, cameras.width)
        layers = torch.nn.functional.interpolate(layers, size=size, mode="area")
        masks = layers[:, 0]
        normals = layers[:, 1:].permute(0, 2, 3, 1)
        length = normals.norm(dim=-1, keepdim=True)
        normals = torch.where(length > 0.1, normals / length.clamp_min(0.1), 0.0)
    # the declared frame does not apply: view 0 of the subset may be another view
    return Views(cameras, torch.ones(*masks.shape, 3), masks, normals, "world")


def _pixel_rays(cameras: Cameras) -> Tensor:
    """(V, H, W, 3) unit directions through the pixels' centres."""
    pixels = pixel_centres(cameras.height, cameras.width)
    directions = cameras.rays(pixels.reshape(-1, 2))[1]
    return directions.reshape(len(cameras), cameras.height, cameras.width, 3)


def _is_plate(
    rim: Tensor, inward_px: Tensor, usable: Tensor, inside: Tensor, normals: Tensor
) -> Tensor:
    """(R,) bool, whether the silhouette opposite of each rim pixel has about the same normal.

    Opposite silhouettes of a smooth solid have opposite normals.

    Args:
        rim: (R,) flat indices of pixels just inside the silhouette.
        inward_px: (H, W, 2) unit x and y of the direction away from the silhouette in the image.
        usable: (H, W) bool, pixels with a normal.
        inside: (H, W) bool, pixels on the object.
        normals: (H, W, 3).
    """
    height, width = inside.shape
    start = torch.stack([rim % width, rim // width], dim=-1)  # (R, 2)
    steps = torch.arange(max(height, width))[:, None]  # (K, 1)
    path = start[:, None] + steps * inward_px.reshape(-1, 2)[rim][:, None]  # (R, K, 2)
    x, y = path.round().long().unbind(-1)
    in_image = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    pixels = y.clamp(0, height - 1) * width + x.clamp(0, width - 1)  # (R, K)
    on_object = (in_image & inside.reshape(-1)[pixels]).cumprod(dim=1).bool()  # until the exit
    order = torch.where(on_object & usable.reshape(-1)[pixels], steps[:, 0], -1)
    last = pixels.gather(1, order.argmax(dim=1, keepdim=True))[:, 0]  # (R,)
    flat = normals.reshape(-1, 3)
    return (flat[rim] * flat[last]).sum(dim=-1) > _PLATE_COSINE


def _silhouette_directions(
    mask: Tensor, camera: Cameras, rays: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Distance to a silhouette, the normal of a smooth surface there, and the way inside.

    Args:
        mask: (H, W).
        camera: its camera.
        rays: (H, W, 3) unit rays of the camera.

    Returns:
        Signed distance in pixels (H, W), negative inside; unit normals (H, W, 3) in the world, zero
        where the distance has no gradient; unit directions (H, W, 2) in the image to the inside.
    """
    focal_x, focal_y = camera.intrinsics[0].diagonal()[:2]
    row_px = float(focal_x / focal_y)
    distance = signed_distance_px(mask, 1, row_px)
    smooth = torch.nn.functional.avg_pool2d(
        distance[None, None], 3, 1, padding=1, count_include_pad=False
    )[0, 0]
    grad_y, grad_x = torch.gradient(smooth)
    gradient = torch.stack([grad_x, grad_y / row_px, torch.zeros_like(grad_x)], dim=-1)
    in_world = gradient @ camera.rotation[0]  # (H, W, 3)
    # perpendicular to the ray and to the silhouette's direction in the image
    forward = camera.view_directions[0]
    off_axis = (in_world * rays).sum(dim=-1) / (rays @ forward)  # (H, W)
    normal = in_world - off_axis[..., None] * forward
    defined = gradient.norm(dim=-1, keepdim=True) > 0.5
    inward_px = -torch.nn.functional.normalize(torch.stack([grad_x, grad_y], dim=-1), dim=-1)
    return distance, torch.nn.functional.normalize(normal, dim=-1) * defined, inward_px


def _convention_error(declared: str, fitting: NormalConvention) -> NormalConventionError:
    channels = fitting.flipped
    flipped = ""
    if channels:
        flipped = f"the {listed(channels)} channel{'s' * (len(channels) > 1)}"
    if fitting.frame == declared:
        verb = "is" if len(channels) == 1 else "are"
        return NormalConventionError(
            f"{flipped} of the normals {verb} flipped: the frame '{declared}' fits with "
            f"{'it' if len(channels) == 1 else 'them'} inverted.",
            "Invert the channel in the normal images (1 - value), or leave the normals out.",
            fitting,
        )
    return NormalConventionError(
        f"the normals do not fit their declared frame '{declared}', but "
        f"'{fitting.frame}'{f' with {flipped} flipped' if flipped else ''}.",
        f"Declare them as '{fitting.frame}'"
        + (" and invert the channel (1 - value)." if flipped else "."),
        fitting,
    )
