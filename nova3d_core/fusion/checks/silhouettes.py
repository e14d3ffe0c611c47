"""Can the silhouettes of all views come from one object?

A pixel of a silhouette is explained if some point on its ray lies inside all other silhouettes;
else those would have to grow for it, at least by what is called its lack here. Wrong poses leave
lacks as large as another object's image does, but small motions of the cameras take them away.
So the cameras are first moved as far as honest poses may be off, by Gauss-Newton steps on the
lacks; what remains is a contradiction.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...errors import InputError
from ...progress import SILENT, Progress
from ...views import Views
from ..hull.silhouettes import Silhouettes
from ..hull.visual_hull import check_carvable, scene_ball

STAGE = "checking silhouettes"
TOLERANCE = 0.05
"""A larger lack than this, over the object's radius, leaves a pixel unexplained. Measured on 12
objects with poses off by 4 degrees an axis and 2 %, moved cameras leave up to 0.03; with another
object's image, or two swapped ones that differ clearly, 0.06 to 0.5 (16 views)."""
UNEXPLAINED_SHARE = 0.1
"""Share of a silhouette's pixels that may stay unexplained."""
LARGEST_TURN_RAD = 0.3
LARGEST_SHIFT = 0.13
"""How far a camera may be moved about the object, and along it over the object's radius."""
_STEPS = 12
_OBJECT_PX = 96
"""Masks are shrunk to show the object about this large: the tolerance is some pixels even then."""
_PIXELS, _FEWEST_PIXELS = 960, 48
"""Pixels asked about in all views together, and at least in each view."""
_COARSE_DEPTHS, _FINE_DEPTHS = 32, 9
_DEPTH_REACH = 1.2
"""Rays are searched so many radii to both sides of the middle."""
_SLOPE_STEP = 0.02
_SOFT_LACK = 0.05
"""Larger lacks pull less on the cameras: no motion mends a contradiction."""
_DAMPING = 3e-3
"""How strongly a step is held back, for each lack: no lack tells where the object as a whole is."""


def check_silhouettes(views: Views, progress: Progress = SILENT) -> None:
    """Raises unless the silhouettes can come from one object, be the poses a little wrong or not.

    Args:
        views: two or more with masks, in any world and scale.
        progress: told about each step.

    Raises:
        InputError: it names the view that contradicts the others most, and those that go with it;
            or the views cannot be carved at all, e.g. an empty mask.
        Cancelled: if so asked.
    """
    views = views.to("cpu")
    check_carvable(views)
    scene = _Scene.of(views)
    distances = _after_moving_cameras(scene, progress)
    if not _explained(distances):
        raise _contradiction(scene, distances, progress)


@dataclass(frozen=True, eq=False)
class _Scene:
    """The silhouettes of V views and P pixels of each."""

    silhouettes: Silhouettes
    pixels: Tensor  # (V, P, 2) x and y, on the object
    centre: Tensor  # (3,)
    radius: float

    @classmethod
    def of(cls, views: Views) -> _Scene:
        views = _shrunk(views)
        silhouettes = Silhouettes.of(views, upsampling=1)
        centre, reach = scene_ball(silhouettes)
        count = max(_PIXELS // len(views), _FEWEST_PIXELS)
        chosen = torch.stack([spread_pixels(mask > 0.5, count) for mask in views.masks])
        width = views.cameras.width
        pixels = torch.stack([chosen % width, chosen // width], dim=-1) + 0.5
        return cls(silhouettes, pixels, centre, reach / 2)

    def only(self, chosen: list[int]) -> _Scene:
        """The same scene with some of its views."""
        old = self.silhouettes
        few = replace(
            old,
            cameras=old.cameras[chosen],
            distance_px=old.distance_px[chosen],
            shape_px=old.shape_px[chosen],
            boxes_px=old.boxes_px[chosen],
        )
        return replace(self, silhouettes=few, pixels=self.pixels[chosen])

    def moved(self, motion: Tensor) -> _Scene:
        """The same scene with each camera moved by (V, 6) a turn about the centre and a shift."""
        cameras = self.silhouettes.cameras
        turn = torch.linalg.matrix_exp(_cross_matrices(motion[:, :3]))  # (V, 3, 3)
        change = torch.eye(4).repeat(len(cameras), 1, 1)
        change[:, :3, :3] = turn
        change[:, :3, 3] = motion[:, 3:] * self.radius + self.centre - turn @ self.centre
        moved = replace(cameras, world_to_camera=cameras.world_to_camera @ change)
        return replace(self, silhouettes=replace(self.silhouettes, cameras=moved))

    def distances(self, points: Tensor) -> Tensor:
        """(V, P, S, V) how far points (V, P, S, 3) lie outside each silhouette, over the radius.

        The view whose pixel's ray a point is on does not count: -inf.
        """
        parts = self.silhouettes.in_parts(points.reshape(-1, 3))
        found = torch.cat([self.silhouettes.per_view(part) for part in parts], dim=1)
        found = found.reshape(-1, *points.shape[:-1]).movedim(0, -1) / self.radius
        views = torch.arange(len(points))
        found[views, ..., views] = -torch.inf
        return found

    def points_on_rays(self) -> tuple[Tensor, Tensor]:
        """Points (V, P, S, 3) on the pixels' rays and their distances (V, P, S, V).

        They are spread along the rays, then once more around where the silhouettes come closest.
        """
        cameras = self.silhouettes.cameras
        rays = [cameras[view].rays(pixels) for view, pixels in enumerate(self.pixels)]
        origins, directions = (torch.cat(part) for part in zip(*rays, strict=True))  # (V, P, 3)
        middle = ((self.centre - origins) * directions).sum(dim=-1)[..., None]  # (V, P, 1)
        reach = _DEPTH_REACH * self.radius
        along = middle + torch.linspace(-reach, reach, _COARSE_DEPTHS)
        points = origins[:, :, None] + along[..., None] * directions[:, :, None]
        distances = self.distances(points)
        best = along.gather(2, _closest(distances))
        step = 2 * reach / (_COARSE_DEPTHS - 1)
        fine = best + torch.linspace(-step, step, _FINE_DEPTHS)
        more = origins[:, :, None] + fine[..., None] * directions[:, :, None]
        return torch.cat([points, more], dim=2), torch.cat([distances, self.distances(more)], dim=2)


def _shrunk(views: Views) -> Views:
    """The views with smaller images, where the masks can be shrunk without losing an object."""
    cameras, masks = views.cameras, views.masks
    rows, columns = ((masks > 0.5).any(dim=axis).sum(dim=1).max() for axis in (2, 1))
    scale = _OBJECT_PX / float(max(rows, columns))
    width, height = round(cameras.width * scale), round(cameras.height * scale)
    if scale < 1.0:
        size = (height, width)
        small = torch.nn.functional.interpolate(masks[:, None], size=size, mode="area")[:, 0]
        if bool((small > 0.5).flatten(1).any(dim=1).all()):
            cameras, masks = cameras.resized(width, height), small
    return Views(cameras, torch.ones(*masks.shape, 3), masks)


def spread_pixels(inside: Tensor, count: int) -> Tensor:
    """(count,) some True pixels of an image (H, W), counted row by row, evenly spread."""
    found = inside.flatten().nonzero()[:, 0]
    return found[torch.linspace(0, len(found) - 1, count).round().long()]


def _closest(distances: Tensor) -> Tensor:
    """(V, P, 1) which of the points of a ray lies least outside the silhouettes."""
    # squares of all, so that the cameras are not led by whichever silhouette is ahead by a hair
    return distances.clamp_min(0.0).square().sum(dim=-1).argmin(dim=2, keepdim=True)


def _lacks(distances: Tensor) -> Tensor:
    """(V, P) by how much silhouettes would have to grow for each pixel, over the radius."""
    return distances.amax(dim=-1).amin(dim=-1).clamp_min(0.0)


def _explained(distances: Tensor) -> bool:
    unexplained = (_lacks(distances) > TOLERANCE).float().mean(dim=1)  # (V,)
    return bool((unexplained <= UNEXPLAINED_SHARE).all())


def _after_moving_cameras(scene: _Scene, progress: Progress) -> Tensor:
    """Distances (V, P, S, V) on the pixels' rays once the cameras were moved to explain them."""
    motion, moved = torch.zeros(len(scene.pixels), 6), scene
    for step in range(_STEPS + 1):
        progress.update(STAGE, step, _STEPS + 1)
        points, distances = moved.points_on_rays()
        if step == _STEPS or _explained(distances):
            break
        motion = _limited(motion + _step(moved, points, distances))
        moved = scene.moved(motion)
    progress.update(STAGE, _STEPS + 1, _STEPS + 1)
    return distances


def _step(scene: _Scene, points: Tensor, distances: Tensor) -> Tensor:
    """(V, 6) the Gauss-Newton step that shortens the lacks at points (V, P, S, 3)."""
    closest = _closest(distances)[..., None]
    point = points.gather(2, closest.expand(-1, -1, 1, 3))  # (V, P, 1, 3)
    lack = distances.gather(2, closest.expand(-1, -1, 1, len(points)))[:, :, 0].clamp_min(0.0)
    slope = _slopes(scene, point)  # (V, P, V, 3)
    arm = ((point - scene.centre) / scene.radius).expand_as(slope)
    # a motion of the silhouette's camera carries the point by `lever`; of the pixel's, against it
    lever = torch.cat([torch.linalg.cross(arm, slope), slope], dim=-1)  # (V, P, V, 6)
    weight = (lack > 0) / (1.0 + (lack / _SOFT_LACK) ** 2)
    pairs = torch.einsum("upvi,upvj,upv->uvij", lever, lever, weight)
    pulls = torch.einsum("upvi,upv->uvi", lever, weight * lack)
    views, lacks = len(points), lack.shape[1] * len(points)
    normal = -(pairs + pairs.transpose(0, 1))  # (V, V, 6, 6)
    diagonal = torch.arange(views)
    normal[diagonal, diagonal] += pairs.sum(dim=0) + pairs.sum(dim=1)
    normal = normal.permute(0, 2, 1, 3).reshape(6 * views, 6 * views)
    normal = normal + _DAMPING * lacks * torch.eye(6 * views)
    gradient = pulls.sum(dim=0) - pulls.sum(dim=1)
    return -torch.linalg.solve(normal, gradient.flatten()).reshape(views, 6)


def _slopes(scene: _Scene, point: Tensor) -> Tensor:
    """(V, P, V, 3) change of each silhouette's distance around points (V, P, 1, 3)."""
    step = _SLOPE_STEP * scene.radius
    changes = [
        scene.distances(point + axis * step) - scene.distances(point - axis * step)
        for axis in torch.eye(3)
    ]
    slopes = torch.stack(changes, dim=-1)[:, :, 0] / (2 * _SLOPE_STEP)
    return slopes.nan_to_num(0.0)  # a view's own, -inf on both sides


def _limited(motion: Tensor) -> Tensor:
    """Motions (V, 6), the turns and shifts no longer than honest poses need."""
    parts = zip(motion.split(3, dim=1), (LARGEST_TURN_RAD, LARGEST_SHIFT), strict=True)
    return torch.cat([part.renorm(2, 0, largest) for part, largest in parts], dim=1)


def _cross_matrices(turns: Tensor) -> Tensor:
    """(V, 3, 3) matrices that take the cross product with axes (V, 3)."""
    axes = torch.eye(3)[None].expand(len(turns), 3, 3)
    return torch.linalg.cross(turns[:, None].expand_as(axes), axes).transpose(1, 2)


def _contradiction(scene: _Scene, distances: Tensor, progress: Progress) -> InputError:
    """The error that names the views without which the others would agree."""
    rest = list(range(len(scene.pixels)))
    if len(rest) == 2:
        return InputError(
            "the silhouettes of views 0 and 1 contradict each other: no object looks like both.",
            "Check that each image belongs to its camera, and that both show one object.",
        )
    blamed, why = [], ""
    while not _explained(distances) and len(blamed) < max(1, len(scene.pixels) // 3):
        without = [_lacks_without(distances, view) for view in range(len(rest))]
        worst = int(torch.stack([lacks.mean() for lacks in without]).argmin())
        why = why or _why(distances, without[worst], worst)
        blamed.append(rest.pop(worst))
        distances = _after_moving_cameras(scene.only(rest), progress)
    message = f"the silhouette of view {blamed[0]} contradicts the others: {why}"
    if not _explained(distances):
        named = f"view {blamed[0]}" if len(blamed) == 1 else f"views {listed(sorted(blamed))}"
        return InputError(
            f"{message}; without {named} the rest still contradict each other.",
            "Check that all images show one object, each from its own camera.",
        )
    if len(blamed) > 1:
        message += f"; so does that of {'view' if len(blamed) == 2 else 'views'} "
        message += listed(sorted(blamed[1:]))
    return InputError(
        f"{message}.",
        "Check that each image belongs to its camera and shows the same object, or leave such "
        "views out.",
    )


def _lacks_without(distances: Tensor, view: int) -> Tensor:
    """(V - 1, P) lacks of the other views' pixels if one view did not count."""
    others = [other for other in range(len(distances)) if other != view]
    return _lacks(distances[others][..., others])


def _why(distances: Tensor, without: Tensor, view: int) -> str:
    """What is wrong with a view's silhouette, given the others' lacks (V - 1, P) without it."""
    lacks = _lacks(distances)
    beyond = float((lacks[view] > TOLERANCE).float().mean())
    others = torch.cat([lacks[:view], lacks[view + 1 :]])
    cut = ((others > TOLERANCE) & (without <= TOLERANCE)).float().mean(dim=1)  # (V - 1,)
    if beyond >= float(cut.max()):
        return f"{beyond:.0%} of it cannot be explained, it lies outside what the others leave"
    most = int(cut.argmax())
    return (
        f"it leaves no room for what the others show, such as {float(cut[most]):.0%} of view "
        f"{most + (most >= view)}'s silhouette"
    )


def listed(items: list[int] | list[str]) -> str:
    """Items as people write them: "3", "3 and 5", "3, 5 and 8"."""
    *first, last = map(str, items)
    return f"{', '.join(first)} and {last}" if first else last
