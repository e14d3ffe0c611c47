"""Checks that the silhouettes of all views are consistent with one object.

A silhouette pixel is consistent if some point on its ray lies inside all other silhouettes; else
those would have to grow for it, at least by its residual. Wrong poses cause residuals as large as
the image of another object does, but small camera motions remove them. So the cameras are first
moved by Gauss-Newton steps on the residuals, as far as plausible pose errors allow; what remains is
a contradiction.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...cameras.rotations import axis_angle_to_matrix
from ...errors import InputError
from ...progress import SILENT, Progress
from ...views import Views
from ..hull.silhouettes import Silhouettes
from ..hull.visual_hull import bounding_sphere, check_carvable

STAGE = "checking silhouettes"
RESIDUAL_TOLERANCE = 0.05
"""Maximum residual of a consistent pixel, relative to the object's radius. On 12 objects with poses
off by 4 degrees per axis and 2 %, at most 0.03 remains after moving the cameras; with the image of
another object, or two clearly different images swapped, 0.06 to 0.5 (16 views)."""
MAX_INCONSISTENT_FRACTION = 0.1
"""Maximum fraction of a silhouette's pixels that may be inconsistent."""
MAX_ROTATION_RAD = 0.3
MAX_TRANSLATION = 0.13
"""Maximum camera motion: rotation about the object, translation relative to its radius."""
_MAX_STEPS = 12
_OBJECT_PX = 96
"""Object size after downsampling the masks: the tolerance is still several pixels."""
_TOTAL_PIXELS, _MIN_PIXELS = 960, 48
"""Sampled pixels in all views together, and at least in each view."""
_COARSE_SAMPLES, _FINE_SAMPLES = 32, 9
"""Samples along a ray, and around its best sample."""
_SEARCH_RADII = 1.2
"""Rays are searched this many radii to both sides of the centre."""
_DIFFERENCE_STEP = 0.02
"""Step of the finite differences, relative to the radius."""
_ROBUST_SCALE = 0.05
"""Residual at which the robust weight is 1/2: no motion removes a contradiction."""
_DAMPING = 3e-3
"""Levenberg-Marquardt damping per residual: the common motion of all cameras is unobservable."""


def check_silhouettes(views: Views, progress: Progress = SILENT) -> None:
    """Raises InputError unless one object can explain all silhouettes under slightly wrong poses.

    Args:
        views: two or more with masks, in any world and scale.
        progress: reports each step.

    Raises:
        InputError: a view contradicts the others (the error names the worst, and any more); or the
            views cannot be carved at all, e.g. an empty mask.
        Cancelled: on request.
    """
    views = views.to("cpu")
    check_carvable(views)
    scene = _Scene.of(views)
    distances = _align_cameras(scene, progress)
    if not _is_consistent(distances):
        raise _contradiction(scene, distances, progress)


@dataclass(frozen=True, eq=False)
class _Scene:
    """Silhouettes of V views with P sampled pixels each."""

    silhouettes: Silhouettes
    pixels: Tensor  # (V, P, 2) x and y, on the object
    centre: Tensor  # (3,) of the bounding sphere
    radius: float

    @classmethod
    def of(cls, views: Views) -> _Scene:
        views = _downsample(views)
        silhouettes = Silhouettes.of(views, upsampling=1)
        centre, radius = bounding_sphere(silhouettes)
        count = max(_TOTAL_PIXELS // len(views), _MIN_PIXELS)
        chosen = torch.stack([sample_pixels(mask > 0.5, count) for mask in views.masks])
        width = views.cameras.width
        pixels = torch.stack([chosen % width, chosen // width], dim=-1) + 0.5
        return cls(silhouettes, pixels, centre, radius / 2)

    def select(self, chosen: list[int]) -> _Scene:
        """The scene with a subset of its views."""
        old = self.silhouettes
        subset = replace(
            old,
            cameras=old.cameras[chosen],
            distance_px=old.distance_px[chosen],
            shape_px=old.shape_px[chosen],
            boxes_px=old.boxes_px[chosen],
        )
        return replace(self, silhouettes=subset, pixels=self.pixels[chosen])

    def move_cameras(self, motion: Tensor) -> _Scene:
        """The scene with cameras moved by (V, 6): rotation about the centre, translation."""
        cameras = self.silhouettes.cameras
        rotation = axis_angle_to_matrix(motion[:, :3])  # (V, 3, 3)
        change = torch.eye(4).repeat(len(cameras), 1, 1)
        change[:, :3, :3] = rotation
        change[:, :3, 3] = motion[:, 3:] * self.radius + self.centre - rotation @ self.centre
        moved = replace(cameras, world_to_camera=cameras.world_to_camera @ change)
        return replace(self, silhouettes=replace(self.silhouettes, cameras=moved))

    def distances(self, points: Tensor) -> Tensor:
        """(V, P, S, V) distance of points (V, P, S, 3) outside each silhouette, over the radius.

        -inf for the view on whose pixel's ray the point lies.
        """
        chunks = self.silhouettes.split(points.reshape(-1, 3))
        distances = torch.cat([self.silhouettes.per_view(chunk) for chunk in chunks], dim=1)
        distances = distances.reshape(-1, *points.shape[:-1]).movedim(0, -1) / self.radius
        views = torch.arange(len(points))
        distances[views, ..., views] = -torch.inf
        return distances

    def sample_rays(self) -> tuple[Tensor, Tensor]:
        """Points (V, P, S, 3) on the pixels' rays and their distances (V, P, S, V).

        Uniform samples along each ray, then finer ones around the one closest to the silhouettes.
        """
        cameras = self.silhouettes.cameras
        rays = [cameras[view].rays(pixels) for view, pixels in enumerate(self.pixels)]
        origins, directions = (torch.cat(part) for part in zip(*rays, strict=True))  # (V, P, 3)
        middle = ((self.centre - origins) * directions).sum(dim=-1)[..., None]  # (V, P, 1)
        reach = _SEARCH_RADII * self.radius
        along = middle + torch.linspace(-reach, reach, _COARSE_SAMPLES)
        points = origins[:, :, None] + along[..., None] * directions[:, :, None]
        distances = self.distances(points)
        best = along.gather(2, _closest(distances))
        step = 2 * reach / (_COARSE_SAMPLES - 1)
        fine = best + torch.linspace(-step, step, _FINE_SAMPLES)
        near = origins[:, :, None] + fine[..., None] * directions[:, :, None]
        return torch.cat([points, near], dim=2), torch.cat([distances, self.distances(near)], dim=2)


def _downsample(views: Views) -> Views:
    """The views with smaller images, unless an object would vanish from its mask."""
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


def sample_pixels(inside: Tensor, count: int) -> Tensor:
    """(count,) flat indices of evenly spaced True pixels of an image (H, W)."""
    indices = inside.flatten().nonzero()[:, 0]
    return indices[torch.linspace(0, len(indices) - 1, count).round().long()]


def _closest(distances: Tensor) -> Tensor:
    """(V, P, 1) index of the sample of each ray that is least outside the silhouettes."""
    # sum of squares: the maximum would jump between silhouettes at nearly equal distance
    return distances.clamp_min(0.0).square().sum(dim=-1).argmin(dim=2, keepdim=True)


def _silhouette_residuals(distances: Tensor) -> Tensor:
    """(V, P) by how much silhouettes would have to grow for each pixel, over the radius."""
    return distances.amax(dim=-1).amin(dim=-1).clamp_min(0.0)


def _is_consistent(distances: Tensor) -> bool:
    inconsistent = (
        (_silhouette_residuals(distances) > RESIDUAL_TOLERANCE).float().mean(dim=1)
    )  # (V,)
    return bool((inconsistent <= MAX_INCONSISTENT_FRACTION).all())


def _align_cameras(scene: _Scene, progress: Progress) -> Tensor:
    """Distances (V, P, S, V) on the pixels' rays after aligning the cameras to the silhouettes."""
    motion, moved = torch.zeros(len(scene.pixels), 6), scene
    for step in range(_MAX_STEPS + 1):
        progress.update(STAGE, step, _MAX_STEPS + 1)
        points, distances = moved.sample_rays()
        if step == _MAX_STEPS or _is_consistent(distances):
            break
        motion = _clamp_motion(motion + _gauss_newton_step(moved, points, distances))
        moved = scene.move_cameras(motion)
    progress.update(STAGE, _MAX_STEPS + 1, _MAX_STEPS + 1)
    return distances


def _gauss_newton_step(scene: _Scene, points: Tensor, distances: Tensor) -> Tensor:
    """(V, 6) Gauss-Newton step on the residuals at points (V, P, S, 3)."""
    closest = _closest(distances)[..., None]
    point = points.gather(2, closest.expand(-1, -1, 1, 3))  # (V, P, 1, 3)
    residual = distances.gather(2, closest.expand(-1, -1, 1, len(points)))[:, :, 0].clamp_min(0.0)
    gradient = _distance_gradient(scene, point)  # (V, P, V, 3)
    arm = ((point - scene.centre) / scene.radius).expand_as(gradient)
    # Jacobian for the silhouette's camera; its negative for the pixel's camera
    jacobian = torch.cat([torch.linalg.cross(arm, gradient), gradient], dim=-1)  # (V, P, V, 6)
    weight = (residual > 0) / (1.0 + (residual / _ROBUST_SCALE) ** 2)
    pairs = torch.einsum("upvi,upvj,upv->uvij", jacobian, jacobian, weight)
    pulls = torch.einsum("upvi,upv->uvi", jacobian, weight * residual)
    views, residuals = len(points), residual.shape[1] * len(points)
    normal = -(pairs + pairs.transpose(0, 1))  # (V, V, 6, 6)
    diagonal = torch.arange(views)
    normal[diagonal, diagonal] += pairs.sum(dim=0) + pairs.sum(dim=1)
    normal = normal.permute(0, 2, 1, 3).reshape(6 * views, 6 * views)
    normal = normal + _DAMPING * residuals * torch.eye(6 * views)
    right = pulls.sum(dim=0) - pulls.sum(dim=1)
    return -torch.linalg.solve(normal, right.flatten()).reshape(views, 6)


def _distance_gradient(scene: _Scene, point: Tensor) -> Tensor:
    """(V, P, V, 3) gradient of the distance to each silhouette at points (V, P, 1, 3)."""
    step = _DIFFERENCE_STEP * scene.radius
    changes = [
        scene.distances(point + axis * step) - scene.distances(point - axis * step)
        for axis in torch.eye(3)
    ]
    gradient = torch.stack(changes, dim=-1)[:, :, 0] / (2 * _DIFFERENCE_STEP)
    return gradient.nan_to_num(0.0)  # a view's own: -inf on both sides


def _clamp_motion(motion: Tensor) -> Tensor:
    """Motions (V, 6) with rotations and translations clamped to plausible pose errors."""
    parts = zip(motion.split(3, dim=1), (MAX_ROTATION_RAD, MAX_TRANSLATION), strict=True)
    return torch.cat([part.renorm(2, 0, limit) for part, limit in parts], dim=1)


def _contradiction(scene: _Scene, distances: Tensor, progress: Progress) -> InputError:
    """Error that names the views without which the rest is consistent."""
    rest = list(range(len(scene.pixels)))
    if len(rest) == 2:
        return InputError(
            "the silhouettes of views 0 and 1 contradict each other: no object looks like both.",
            "Check that each image belongs to its camera, and that both show one object.",
        )
    blamed, why = [], ""
    while not _is_consistent(distances) and len(blamed) < max(1, len(scene.pixels) // 3):
        without = [_residuals_without(distances, view) for view in range(len(rest))]
        worst = int(torch.stack([residuals.mean() for residuals in without]).argmin())
        why = why or _describe_contradiction(distances, without[worst], worst)
        blamed.append(rest.pop(worst))
        distances = _align_cameras(scene.select(rest), progress)
    message = f"the silhouette of view {blamed[0]} contradicts the others: {why}"
    if not _is_consistent(distances):
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


def _residuals_without(distances: Tensor, view: int) -> Tensor:
    """(V - 1, P) residuals of the other views' pixels without one view."""
    others = [other for other in range(len(distances)) if other != view]
    return _silhouette_residuals(distances[others][..., others])


def _describe_contradiction(distances: Tensor, without: Tensor, view: int) -> str:
    """Describes the fault of a view, given the others' residuals (V - 1, P) without it."""
    residuals = _silhouette_residuals(distances)
    outside = float((residuals[view] > RESIDUAL_TOLERANCE).float().mean())
    others = torch.cat([residuals[:view], residuals[view + 1 :]])
    removed = (others > RESIDUAL_TOLERANCE) & (without <= RESIDUAL_TOLERANCE)
    cut = removed.float().mean(dim=1)  # (V - 1,)
    if outside >= float(cut.max()):
        return f"{outside:.0%} of it lies outside the hull of the others"
    worst = int(cut.argmax())
    return (
        f"it cuts off parts of the others, such as {float(cut[worst]):.0%} of view "
        f"{worst + (worst >= view)}'s silhouette"
    )


def listed(items: list[int] | list[str]) -> str:
    """Items as an enumeration: "3", "3 and 5", "3, 5 and 8"."""
    *first, last = map(str, items)
    return f"{', '.join(first)} and {last}" if first else last
