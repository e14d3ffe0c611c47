"""How well the silhouettes and colours of views fit to cameras: small, fast scores.

The silhouette score is the mean by which the silhouettes would have to grow until the ray of each
silhouette pixel meets a point inside all of them. The colour score is the mean difference between
the colours that neighbouring views see at the same point of the visual hull, relative to that of
unrelated pixels. Both compare hypotheses about the cameras of the same images; neither moves a
camera. See docs/design-notes/028-camera-hypotheses.md.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...cameras.cameras import Cameras
from ...views import Views
from ..hull.silhouettes import Silhouettes
from ..hull.visual_hull import bounding_sphere

_OBJECT_PX = 64
"""Object size after downsampling."""
_TOTAL_PIXELS, _MIN_PIXELS = 640, 32
"""Pixels of the silhouette score in all views together, and at least in each view."""
MAX_VIEWS = 32
"""Of more views, this many evenly spaced ones are scored: the cost grows with the square."""
_SAMPLES, _FINE_SAMPLES, _COLOUR_SAMPLES = 24, 9, 32
"""Samples along a ray; and between the neighbours of its best one, as thin parts may lie between
samples."""
_SEARCH_RADII = 1.2
"""Rays are searched this many radii to both sides of the centre."""
_MAX_RESIDUAL = 0.3
"""Larger residuals count as this one."""
_COLOUR_OBJECT_PX = 44
_SURFACE_TOLERANCE, _VISIBLE_TOLERANCE = 0.01, 0.1
"""Distances over the radius: of the hull from a ray, and between two views' surfaces."""
_MIN_COSINE, _MAX_COSINE = 0.35, 0.995
"""Cosine between the viewing directions of compared views."""
MIN_TEXTURE = 0.03
"""Mean colour difference of unrelated pixels of an object that has a texture."""
_MIN_PAIRS = 60
_ON_OBJECT = 0.8
"""Coverage of pixels whose colour is the object's."""


@dataclass(frozen=True, eq=False)
class ConsistencyScorer:
    """Scores the images of V views under other camera poses, by at most `MAX_VIEWS` of them."""

    silhouettes: Silhouettes
    pixels: Tensor  # (K, P, 2) x and y, on the object
    views: Views  # K, downsampled
    radius: float  # of the object
    chosen: Tensor  # (K,) indices of the scored views among V

    @classmethod
    def of(cls, views: Views) -> ConsistencyScorer:
        """A scorer for masked views on the CPU; each mask must contain some object."""
        chosen = evenly_spaced(len(views), MAX_VIEWS)
        small = downsampled(views.without_normals()[chosen], _OBJECT_PX)
        silhouettes = Silhouettes.of(small, upsampling=1)
        count = max(_TOTAL_PIXELS // len(small), _MIN_PIXELS)
        pixels = torch.stack([_sampled_pixels(mask, count) for mask in small.masks])
        return cls(silhouettes, pixels, small, bounding_sphere(silhouettes)[1] / 2, chosen)

    def with_poses(self, world_to_camera: Tensor) -> Silhouettes:
        """The scored silhouettes with other poses (V, 4, 4)."""
        poses = world_to_camera[self.chosen]
        cameras = replace(self.silhouettes.cameras, world_to_camera=poses)
        return replace(self.silhouettes, cameras=cameras)

    def silhouette_score(self, world_to_camera: Tensor) -> float:
        """Mean residual of the silhouettes' pixels over the radius; 0 for exact cameras."""
        silhouettes = self.with_poses(world_to_camera)
        points, _ = _ray_points(silhouettes, self.pixels, self.radius, _SAMPLES)
        distances = _distances_to_silhouettes(silhouettes, points)
        residual, best = distances.amax(dim=0).min(dim=-1)  # (K, P)
        for view in range(len(points)):
            outside = (residual[view] > 0.0).nonzero()[:, 0]
            fine = _points_around(points[view, outside], best[view, outside])  # (Q, F, 3)
            distances = silhouettes.per_view(fine.reshape(-1, 3))
            distances[view] = -torch.inf
            nearest = distances.amax(dim=0).reshape(fine.shape[:2]).amin(dim=-1)
            residual[view, outside] = torch.minimum(residual[view, outside], nearest)
        return float((residual / self.radius).clamp(0.0, _MAX_RESIDUAL).mean())

    def suspects(self, count: int) -> list[int]:
        """The views without which the silhouettes of the others agree best, the worst first."""
        silhouettes = self.silhouettes
        points, _ = _ray_points(silhouettes, self.pixels, self.radius, _SAMPLES)
        distances = _distances_to_silhouettes(silhouettes, points) / self.radius  # (V, V, P, S)
        views = range(len(points))
        scores = []
        for view in views:
            others = [other for other in views if other != view]
            residual = distances[others][:, others].amax(dim=0).amin(dim=-1)
            scores.append(float(residual.clamp(0.0, _MAX_RESIDUAL).mean()))
        worst = sorted(views, key=scores.__getitem__)[:count]
        return self.chosen[worst].tolist()

    def colour_scorer(self) -> ColourScorer:
        """A scorer for the colours of the same views."""
        return ColourScorer.of(self.views, self.radius, self.chosen)


@dataclass(frozen=True, eq=False)
class ColourScorer:
    """Scores the colours of K of V views on the visual hull of other camera poses."""

    silhouettes: Silhouettes
    views: Views  # K, downsampled
    pixels: list[Tensor]  # K of (P_v, 2) x and y of all pixels on the object
    radius: float
    chosen: Tensor  # (K,) indices of the views among V

    @classmethod
    def of(cls, views: Views, radius: float, chosen: Tensor) -> ColourScorer:
        small = downsampled(views, _COLOUR_OBJECT_PX)
        width = small.cameras.width
        pixels = []
        for mask in small.masks:
            inside = (mask > _ON_OBJECT).flatten().nonzero()[:, 0]
            pixels.append(torch.stack([inside % width, inside // width], dim=-1) + 0.5)
        return cls(Silhouettes.of(small, upsampling=1), small, pixels, radius, chosen)

    @property
    def texture(self) -> float:
        """Mean difference of the colours of unrelated pixels on the object, 0..1."""
        colours = self.views.colour[self.views.masks > _ON_OBJECT]  # (P, 3)
        if len(colours) < 2:
            return 0.0
        order = torch.randperm(len(colours), generator=torch.Generator().manual_seed(0))
        return float((colours - colours[order]).abs().mean())

    def score(self, world_to_camera: Tensor) -> float | None:
        """Mean colour difference at points that two views see; None if there are too few."""
        poses = world_to_camera[self.chosen]  # of (V, 4, 4)
        cameras = replace(self.silhouettes.cameras, world_to_camera=poses)
        silhouettes = replace(self.silhouettes, cameras=cameras)
        centre, _ = bounding_sphere(silhouettes)
        surfaces = [self._surface(silhouettes, centre, view) for view in range(len(cameras))]
        depth = torch.stack([depth for _, depth in surfaces])[:, None]  # (V, 1, H, W)
        images = self.views.colour.permute(0, 3, 1, 2)
        layers = torch.cat([images, self.views.masks[:, None]], dim=1)
        forward = cameras.view_directions
        cosine = forward @ forward.T
        differences = []
        size = torch.tensor([cameras.width, cameras.height], dtype=torch.float32)
        for view, (points, _) in enumerate(surfaces):
            others = ((cosine[view] > _MIN_COSINE) & (cosine[view] < _MAX_COSINE)).nonzero()[:, 0]
            if len(points) == 0 or len(others) == 0:
                continue
            own = self._colours(layers[view], self.pixels[view], size)  # (P, 4)
            projected, depth_z = cameras[others].project(points)  # (K, P, 2), (K, P)
            grid = (projected / size * 2.0 - 1.0)[:, None]
            seen = torch.nn.functional.grid_sample(layers[others], grid, align_corners=False)
            there = torch.nn.functional.grid_sample(
                depth[others], grid, mode="nearest", align_corners=False
            )[:, 0, 0]  # (K, P)
            visible = (there - depth_z).abs() < _VISIBLE_TOLERANCE * self.radius
            visible &= seen[:, 3, 0] > _ON_OBJECT
            change = (seen[:, :3, 0] - own[:, :3].T).abs().mean(dim=1)  # (K, P)
            differences.append(change[visible])
        found = torch.cat(differences) if differences else torch.zeros(0)
        return float(found.mean()) if len(found) >= _MIN_PAIRS else None

    def _surface(
        self, silhouettes: Silhouettes, centre: Tensor, view: int
    ) -> tuple[Tensor, Tensor]:
        """Points (P, 3) of the hull that a view sees, and its depth map (H, W), inf elsewhere."""
        cameras, pixels = silhouettes.cameras, self.pixels[view]
        depth = torch.full((cameras.height, cameras.width), torch.inf)
        if len(pixels) == 0:
            return torch.zeros(0, 3), depth
        points, along = _ray_points_of_view(
            cameras[view], centre, pixels, self.radius, _COLOUR_SAMPLES
        )  # (P, S, 3), (P, S)
        distances = silhouettes.per_view(points.reshape(-1, 3))
        distances[view] = -torch.inf
        worst = distances.amax(dim=0).reshape(along.shape) / self.radius  # (P, S)
        limit = worst.amin(dim=1, keepdim=True).clamp_min(0.0) + _SURFACE_TOLERANCE
        first = (worst <= limit).float().argmax(dim=1, keepdim=True)  # (P, 1)
        before = (first - 1).clamp_min(0)
        inner, outer = worst.gather(1, first) - limit, worst.gather(1, before) - limit
        step = (outer / (outer - inner).clamp_min(1e-6)).clamp(0.0, 1.0)
        blend = torch.where(first > 0, step, torch.ones_like(step))[..., None]
        start, end = (_take(points, index) for index in (before, first))
        surface = torch.lerp(start, end, blend[:, 0])
        _, depth_z = cameras[view].project(surface)
        columns, rows = pixels.long().unbind(dim=1)
        depth[rows, columns] = depth_z[0]
        return surface, depth

    @staticmethod
    def _colours(layers: Tensor, pixels: Tensor, size: Tensor) -> Tensor:
        """(P, C) values of layers (C, H, W) at pixels (P, 2)."""
        columns, rows = pixels.long().unbind(dim=1)
        return layers[:, rows, columns].T


def evenly_spaced(count: int, limit: int) -> Tensor:
    """(K,) indices of at most `limit` evenly spaced ones of `count` views, with first and last."""
    return torch.linspace(0, count - 1, min(count, limit)).round().long()


def downsampled(views: Views, object_px: int) -> Views:
    """The views without normals, with an object of at most `object_px`, unless one would vanish."""
    plain = Views(views.cameras, views.colour, views.masks)
    inside = views.masks > 0.5
    rows, columns = (inside.any(dim=axis).sum(dim=1).max() for axis in (2, 1))
    scale = object_px / float(max(rows, columns))
    if scale >= 1.0:
        return plain
    cameras = views.cameras
    small = plain.resized(
        *(max(round(side * scale), 1) for side in (cameras.width, cameras.height))
    )
    has_object = bool((small.masks > 0.5).flatten(1).any(dim=1).all())
    return small if has_object else plain


def _sampled_pixels(mask: Tensor, count: int) -> Tensor:
    """(count, 2) x and y of evenly spaced pixels of a mask's object (H, W)."""
    indices = (mask > 0.5).flatten().nonzero()[:, 0]
    chosen = indices[torch.linspace(0, len(indices) - 1, count).round().long()]
    width = mask.shape[1]
    return torch.stack([chosen % width, chosen // width], dim=-1) + 0.5


def _ray_points(
    silhouettes: Silhouettes, pixels: Tensor, radius: float, samples: int
) -> tuple[Tensor, Tensor]:
    """Points (V, P, S, 3) on the rays of pixels (V, P, 2), and their distances along (V, P, S)."""
    centre, _ = bounding_sphere(silhouettes)
    parts = [
        _ray_points_of_view(silhouettes.cameras[view], centre, pixels[view], radius, samples)
        for view in range(len(pixels))
    ]
    points, along = zip(*parts, strict=True)
    return torch.stack(points), torch.stack(along)


def _ray_points_of_view(
    camera: Cameras, centre: Tensor, pixels: Tensor, radius: float, samples: int
) -> tuple[Tensor, Tensor]:
    """Points (P, S, 3) on the rays of a view's pixels (P, 2), and their distances along (P, S)."""
    origins, directions = (part[0] for part in camera.rays(pixels))
    middle = ((centre - origins) * directions).sum(dim=-1, keepdim=True)  # (P, 1)
    reach = _SEARCH_RADII * radius
    along = middle + torch.linspace(-reach, reach, samples)
    return origins[:, None] + along[..., None] * directions[:, None], along


def _points_around(points: Tensor, index: Tensor) -> Tensor:
    """(Q, F, 3) fine samples on rays of uniform samples (Q, S, 3), around those at indices (Q,)."""
    step = (points[:, 1] - points[:, 0])[:, None]  # (Q, 1, 3)
    offsets = torch.linspace(-1.0, 1.0, _FINE_SAMPLES + 2)[1:-1, None]
    return _take(points, index[:, None])[:, None] + offsets * step


def _distances_to_silhouettes(silhouettes: Silhouettes, points: Tensor) -> Tensor:
    """(V, V, P, S) distances of points (V, P, S, 3) outside each silhouette, the first axis.

    -inf for the silhouette of the view on whose pixel's ray a point lies.
    """
    chunks = silhouettes.split(points.reshape(-1, 3))
    distances = torch.cat([silhouettes.per_view(chunk) for chunk in chunks], dim=1)
    distances = distances.reshape(-1, *points.shape[:-1])
    views = torch.arange(len(points))
    distances[views, views] = -torch.inf
    return distances


def _take(points: Tensor, index: Tensor) -> Tensor:
    """(P, 3) points (P, S, 3) at indices (P, 1)."""
    return points.gather(1, index[..., None].expand(-1, -1, 3))[:, 0]
