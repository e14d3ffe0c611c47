"""Do the normals mean what they are said to mean?

Normals can be read in each frame, with each channel as it is or flipped. Three things hold for the
right reading of any object, whatever its poses: surfaces that are seen face the camera; where a
surface turns away at a silhouette, its normal lies in the plane of the ray and the silhouette's own
normal, and points outward; and the slopes of a smooth surface are those of one depth map (their
curl is zero). The first tells frames apart, the second insides from outsides, the third one flipped
channel from none.
"""

from __future__ import annotations

import itertools
import logging
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ...cameras.cameras import Cameras
from ...conventions import NORMAL_FRAMES
from ...errors import InputError
from ...views import Views, frame_to_world
from ..hull.silhouettes import signed_distance_px
from .silhouettes import listed, spread_pixels

logger = logging.getLogger(__name__)

MOST_FAULT = 0.12
"""Normals that break the rules by less are as declared. Measured on 12 objects: up to 0.04 for true
normals, also with 20 degrees of smooth noise; mostly 0.3 and more in a wrong reading."""
BETTER = 0.5
"""Another reading is named only if it breaks the rules by less than this share."""
_AS_GOOD = 0.05
"""Of readings that are equally good within this, the simplest is named."""
_LARGEST_PX = 256
_MOST_VIEWS = 16
_RIM_PIXELS, _INNER_PIXELS = 400, 800
"""Pixels of each view that are asked about."""
_RIM_PX = (-2.0, -0.3)
"""Distances to the silhouette of the pixels that tell of it: wholly on the object."""
_TURNED_AWAY = 0.05
"""How far off a normal may face without counting as turned away."""
_AWAY_WEIGHT = 2.0
_STEEPEST = 0.25
"""Cosine to the ray from which slopes are told; steeper they are mostly rounding errors."""
_SMOOTH = 0.35
"""Change of a normal over two pixels that is no crease."""
_SAME_COS = 0.999
_MOST_MISSING = 0.5
"""Share of an object's pixels that may have no normal."""
_CONSTANT_SHARE = 0.98
_LITTLE = 0.02
"""Weights near this, of 1 at most, count little: flat sides seen head-on tell nothing."""
_LITTLE_TWIST = 0.01
_KNOWN_SHARE = 0.1
"""Slopes have a say in full if they are known on this share of the pixels."""
_HEAD_ON_COS, _NEARBY_COS, _OTHER_PLANE_COS = 0.8, 0.7, 0.985


def check_normals(views: Views) -> None:
    """Raises unless the normals are there and fit their declared frame as well as any other.

    Objects that do not tell (few views, boxes seen head-on) pass.

    Args:
        views: with masks, in any world and scale; without normals there is nothing to check.

    Raises:
        InputError: naming the views whose normals are black or blank, or the frame or the channels
            that would fit; or there are no masks.
    """
    if views.normals is None:
        return
    if views.masks is None:
        raise InputError(
            "the views have no masks: normals cannot be checked.",
            "Give masks, or images with an alpha channel.",
        )
    views = views.to("cpu")
    _check_present(views)
    chosen = torch.linspace(0, len(views) - 1, min(len(views), _MOST_VIEWS)).round().long()
    _check_frame(views, chosen)


def _check_present(views: Views) -> None:
    """Raises InputError for views with no normals, black ones or one normal for all sides."""
    missing, blank, constant = [], [], []
    for view, (mask, image) in enumerate(zip(views.masks, views.normals, strict=True)):
        normals = image[mask > 0.5]  # (P, 3)
        if len(normals) == 0:
            continue
        # black decodes to all components -1, white to all 1
        if float((normals.norm(dim=1) < 0.1).float().mean()) > _MOST_MISSING:
            missing.append(view)
        elif float((normals.sum(dim=1).abs() > 3**0.5 * _SAME_COS).float().mean()) > _MOST_MISSING:
            blank.append(view)
        else:
            mean = torch.nn.functional.normalize(normals.mean(dim=0), dim=0)
            if float((normals @ mean > _SAME_COS).float().mean()) > _CONSTANT_SHARE:
                constant.append((view, mean))
    for which, found in (("no normals", missing), ("black or white normals", blank)):
        if found:
            raise _blank_error(found, which)
    same = _impossible_constants(views, constant)
    if same:
        raise _blank_error(same, "one and the same normal everywhere")


def _blank_error(found: list[int], which: str) -> InputError:
    named = f"view {found[0]} has" if len(found) == 1 else f"views {listed(found)} have"
    return InputError(
        f"{named} {which} on the object.",
        "Leave the normals out, or check the model that made them: it gave an empty image.",
    )


def _impossible_constants(views: Views, constant: list[tuple[int, Tensor]]) -> list[int]:
    """Of views with one constant normal (3,) each, those that cannot all be of flat sides.

    A flat side that a camera sees head-on is seen by the cameras beside it too. So neighbours that
    see nothing but one side each, and not the same one, see no object at all.
    """
    to_world = frame_to_world(views.cameras, views.normal_frame)
    forward = views.cameras.view_directions
    seen = [(view, to_world[view] @ normal) for view, normal in constant]
    found = set()
    for (one, first), (other, second) in itertools.combinations(seen, 2):
        head_on = min(-first @ forward[one], -second @ forward[other])
        nearby = forward[one] @ forward[other]
        if head_on > _HEAD_ON_COS and nearby > _NEARBY_COS and first @ second < _OTHER_PLANE_COS:
            found |= {one, other}
    return sorted(found)


class Reading(NamedTuple):
    """One way to understand normals: a frame, and each channel as it is (1) or flipped (-1)."""

    frame: str
    signs: tuple[int, int, int]

    def to_world(self, cameras: Cameras) -> Tensor:
        """(V, 3, 3) what turns normals as given into the world."""
        frames = frame_to_world(cameras, self.frame)
        return frames * frames.new_tensor(self.signs)

    @property
    def flipped(self) -> list[str]:
        names = zip(("red", "green", "blue"), self.signs, strict=True)
        return [name for name, sign in names if sign < 0]


READINGS = tuple(
    Reading(frame, signs)
    for signs in sorted(itertools.product((1, -1), repeat=3), key=lambda s: s.count(-1))
    for frame in NORMAL_FRAMES
)
"""All of them, the simplest first."""


def _check_frame(views: Views, chosen: Tensor) -> None:
    """Raises InputError if some views' normals break rules that they keep in another reading."""
    evidence = Evidence.of(views, chosen)
    if evidence is None:
        return
    declared = Reading(views.normal_frame, (1, 1, 1))
    fault = evidence.facing_fault(declared) + evidence.curl_fault(declared)
    if fault < MOST_FAULT:
        return
    faults = {reading: evidence.facing_fault(reading) for reading in READINGS}
    # the look at every pixel's slope is slower: only at those that may be right
    faults = {
        reading: facing + evidence.curl_fault(reading)
        for reading, facing in faults.items()
        if facing < BETTER * fault
    }
    least = min(faults.values(), default=fault)
    if least > BETTER * fault:
        if fault > 2 * MOST_FAULT:  # small images of thin parts come to nearly as much
            logger.warning("the normals contradict the silhouettes, and no other frame fits them")
        return
    good = [reading for reading in READINGS if faults.get(reading, fault) < least + _AS_GOOD]
    fewest = len(good[0].flipped)
    same_frame = [r for r in good if r.frame == declared.frame and len(r.flipped) == fewest]
    raise _reading_error(declared.frame, (same_frame or good)[0])


@dataclass(frozen=True, eq=False)
class Evidence:
    """What V chosen views tell of the way to read their normals, as given."""

    all_cameras: Cameras
    chosen: Tensor  # (V,) which views of them
    views: Views  # V, shrunk
    rays: Tensor  # (V, H, W, 3) unit, in the world
    usable: Tensor  # (V, H, W) pixels that are wholly on the object and have a normal
    rim: Tensor  # (V, R) some just inside the silhouette, counted row by row
    outward: Tensor  # (V, R, 3) unit normals of the silhouette there, in the world
    inner: Tensor  # (V, N) some of all

    @classmethod
    def of(cls, views: Views, chosen: Tensor) -> Evidence | None:
        """Gathers the evidence of some views (V,); None if no view has any."""
        small = _shrunk(views, chosen)
        rays = _pixel_rays(small.cameras)
        usable = (small.masks > 0.95) & (small.normals.norm(dim=-1) > 0.5)
        found = []
        for view, mask in enumerate(small.masks):
            distance, outward = _outward_directions(mask, small.cameras[view], rays[view])
            low, high = _RIM_PX
            near = usable[view] & (distance > low) & (distance < high)
            near &= outward.norm(dim=-1) > 0.5
            if bool((mask > 0.5).all()) or not bool(near.any()):
                continue  # no silhouette in this image, or no normals beside it
            rim = spread_pixels(near, _RIM_PIXELS)
            inner = spread_pixels(usable[view], _INNER_PIXELS)
            found.append((view, rim, outward.reshape(-1, 3)[rim], inner))
        if not found:
            return None
        kept, rim, outward, inner = zip(*found, strict=True)
        kept = torch.tensor(kept)
        stacked = (torch.stack(part) for part in (rim, outward, inner))
        return cls(views.cameras, chosen[kept], small[kept], rays[kept], usable[kept], *stacked)

    def facing_fault(self, reading: Reading) -> float:
        """How far normals look into the silhouette or away from their cameras; 0 if right."""
        to_world = reading.to_world(self.all_cameras)[self.chosen].transpose(1, 2)
        rim, inner = (
            _at(self.views.normals, pixels) @ to_world for pixels in (self.rim, self.inner)
        )
        rim_rays, inner_rays = (_at(self.rays, pixels) for pixels in (self.rim, self.inner))
        # a smooth silhouette's normals stand across the ray; those of a sharp edge tell nothing
        weight = (1.0 - (rim * rim_rays).sum(dim=-1) ** 2).clamp_min(0.0) ** 2  # (V, R)
        inward = -(rim * self.outward).sum(dim=-1).clamp_max(0.0)
        inward = (weight * inward).sum() / (weight.sum() + _LITTLE * weight.numel())
        away = (inner * inner_rays).sum(dim=-1) - _TURNED_AWAY
        return float(inward + _AWAY_WEIGHT * away.clamp_min(0.0).mean())

    def curl_fault(self, reading: Reading) -> float:
        """0 where the slopes can be those of one depth map, up to 1 where one sign is wrong."""
        cameras = self.views.cameras
        to_camera = cameras.rotation @ reading.to_world(self.all_cameras)[self.chosen]
        normals = self.views.normals @ to_camera.transpose(1, 2)[:, None]  # (V, H, W, 3)
        rays = self.rays @ cameras.rotation.transpose(1, 2)[:, None]
        facing = -(normals * rays).sum(dim=-1) / rays[..., 2]  # (V, H, W)
        # slopes of the depth's logarithm in the image; of the depth itself if orthographic
        slope_x, slope_y = (normals[..., axis] / facing.clamp_min(_STEEPEST) for axis in (0, 1))
        usable = self.usable & (facing > _STEEPEST)
        smooth_x, smooth_y = (_smooth(normals, usable, axis) for axis in (2, 1))
        smooth = smooth_x[:, 1:-1] & smooth_y[:, :, 1:-1]  # (V, H - 2, W - 2)
        twist_x = (slope_x[:, 2:] - slope_x[:, :-2])[:, :, 1:-1][smooth]  # d slope_x / dy
        twist_y = (slope_y[:, :, 2:] - slope_y[:, :, :-2])[:, 1:-1][smooth]  # d slope_y / dx
        size = (twist_x**2 + twist_y**2).sum() / 2 + _LITTLE_TWIST**2 * len(twist_x) + 1e-9
        agreement = float((twist_x * twist_y).sum() / size)  # -1 to 1
        known = len(twist_x) / (_KNOWN_SHARE * float(self.usable.sum()))
        return max(-agreement, 0.0) * min(known, 1.0)


def _at(images: Tensor, pixels: Tensor) -> Tensor:
    """(V, P, 3) values of images (V, H, W, 3) at pixels (V, P), counted row by row."""
    return images.flatten(1, 2).gather(1, pixels[..., None].expand(-1, -1, 3))


def _smooth(normals: Tensor, usable: Tensor, axis: int) -> Tensor:
    """Which pixels, but the first and last along an axis, have no crease between neighbours.

    Args:
        normals: (V, H, W, 3).
        usable: (V, H, W) bool.
        axis: 1 for rows, 2 for columns.
    """
    length = normals.shape[axis] - 2
    before, here, after = (usable.narrow(axis, start, length) for start in (0, 1, 2))
    change = normals.narrow(axis, 2, length) - normals.narrow(axis, 0, length)
    return before & here & after & (change.norm(dim=-1) < _SMOOTH)


def _shrunk(views: Views, chosen: Tensor) -> Views:
    """Some of the views, their images no larger than `_LARGEST_PX`."""
    cameras, masks, normals = views.cameras[chosen], views.masks[chosen], views.normals[chosen]
    scale = _LARGEST_PX / max(cameras.width, cameras.height)
    if scale < 1.0:
        cameras = cameras.resized(round(cameras.width * scale), round(cameras.height * scale))
        layers = torch.cat([masks[..., None], normals], dim=-1).permute(0, 3, 1, 2)
        size = (cameras.height, cameras.width)
        layers = torch.nn.functional.interpolate(layers, size=size, mode="area")
        masks = layers[:, 0]
        normals = layers[:, 1:].permute(0, 2, 3, 1)
        length = normals.norm(dim=-1, keepdim=True)
        normals = torch.where(length > 0.1, normals / length.clamp_min(0.1), 0.0)
    # the frame is kept track of elsewhere: view 0 of these may be another
    return Views(cameras, torch.ones(*masks.shape, 3), masks, normals, "world")


def _pixel_rays(cameras: Cameras) -> Tensor:
    """(V, H, W, 3) unit directions through the pixels' centres."""
    y, x = torch.meshgrid(
        torch.arange(cameras.height) + 0.5, torch.arange(cameras.width) + 0.5, indexing="ij"
    )
    directions = cameras.rays(torch.stack([x, y], dim=-1).reshape(-1, 2))[1]
    return directions.reshape(len(cameras), cameras.height, cameras.width, 3)


def _outward_directions(mask: Tensor, camera: Cameras, rays: Tensor) -> tuple[Tensor, Tensor]:
    """Distance to a silhouette, and the normal that a smooth surface has where it ends there.

    Args:
        mask: (H, W).
        camera: the one that saw it.
        rays: (H, W, 3) its unit rays.

    Returns:
        Pixels (H, W), negative inside, and unit normals (H, W, 3) in the world, zero where the
        distance has no direction.
    """
    focal_x, focal_y = camera.intrinsics[0].diagonal()[:2]
    row_px = float(focal_x / focal_y)
    distance = signed_distance_px(mask, 1, row_px)
    smooth = torch.nn.functional.avg_pool2d(
        distance[None, None], 3, 1, padding=1, count_include_pad=False
    )[0, 0]
    slope_y, slope_x = torch.gradient(smooth)
    slope = torch.stack([slope_x, slope_y / row_px, torch.zeros_like(slope_x)], dim=-1)
    in_world = slope @ camera.rotation[0]  # (H, W, 3)
    # across the ray, and still across the silhouette's direction in the image
    forward = camera.view_directions[0]
    off_axis = (in_world * rays).sum(dim=-1) / (rays @ forward)  # (H, W)
    across = in_world - off_axis[..., None] * forward
    clear = slope.norm(dim=-1, keepdim=True) > 0.5
    return distance, torch.nn.functional.normalize(across, dim=-1) * clear


def _reading_error(declared: str, fitting: Reading) -> InputError:
    channels = fitting.flipped
    flipped = ""
    if channels:
        flipped = f"the {listed(channels)} channel{'s' * (len(channels) > 1)}"
    if fitting.frame == declared:
        verb = "is" if len(channels) == 1 else "are"
        return InputError(
            f"{flipped} of the normals {verb} flipped: the frame '{declared}' fits with "
            f"{'it' if len(channels) == 1 else 'them'} turned over.",
            "Turn over the channel in the normal images (1 - value), or leave the normals out.",
        )
    return InputError(
        f"the normals do not fit their declared frame '{declared}', but "
        f"'{fitting.frame}'{f' with {flipped} flipped' if flipped else ''}.",
        f"Declare them as '{fitting.frame}'"
        + (" and turn over the channel (1 - value)." if flipped else "."),
    )
