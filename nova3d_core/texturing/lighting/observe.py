"""Colours of points on a surface, one per point, from all views that see it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ...io.images.srgb import linear_from_srgb
from ...mesh import Mesh
from ...progress import Progress
from ...rendering.raycast import RayCaster
from ...rendering.shading import interpolate
from ...rendering.surface_samples import random_surface_points
from ...views import Views
from ..exposure import estimate_gains
from ..observations import Observations, collect_observations
from ..texels import Texels
from ..view_images import extend_foreground
from ..visibility import boundary_weight, depth_discontinuities, visible_points

STAGE = "observing"
MIN_COSINE = 0.2
"""Views with a smaller cosine between surface normal and viewing direction are ignored."""
BOUNDARY_PX = 2.0
"""Weights ramp up over this distance from silhouettes and depth discontinuities."""
BLACK, SATURATED = 0.01, 0.985
"""Linear colours outside this range say nothing about the ratio of two points' shading."""


@dataclass(frozen=True, eq=False)
class SurfaceColours:
    """P points on a surface with the colours that the views show of them."""

    position: Tensor
    """(P, 3) in the world."""
    normal: Tensor
    """(P, 3) smooth unit normals."""
    colour: Tensor
    """(P, 3) linear, in 0..1: the weighted median over the views, without their gains."""
    num_seen: int
    """Number of points that views see, including those that are black or saturated."""
    contradiction: float
    """Median over the points of the standard deviation of their log brightness among the views."""


def observe_surface(
    mesh: Mesh, views: Views, count: int, seed: int, progress: Progress
) -> SurfaceColours:
    """Samples a surface evenly by area and asks the views for the colours of the samples.

    Args:
        mesh: with vertex normals, in the world of the cameras.
        views: V views with masks.
        count: number of samples; those that no view sees, and those that are black or saturated,
            are left out of the result.
        seed: of the samples.
        progress: reports each view.
    """
    samples = sample_points(mesh, count, seed)
    caster = RayCaster.from_mesh(mesh)
    confidence = torch.zeros_like(views.masks)
    visible = []
    for view in progress.track(range(len(views)), STAGE, len(views)):
        camera = views.cameras[view]
        discontinuities = depth_discontinuities(caster, camera)
        confidence[view] = boundary_weight(views.masks[view], discontinuities, BOUNDARY_PX)
        points = (samples.position, samples.normal)
        visible.append(visible_points(caster, *points, camera, MIN_COSINE))
    images = (extend_foreground(*pair) for pair in zip(views.colour, views.masks, strict=True))
    observations = collect_observations(samples, images, confidence, visible)
    progress.check(STAGE)
    observations = observations.without_gains(estimate_gains(observations))
    progress.check(STAGE)
    seen, colour = _median_colours(observations)
    linear = torch.from_numpy(linear_from_srgb(colour.numpy())).float()
    brightest = linear.amax(dim=1)
    kept = (brightest > BLACK) & (brightest < SATURATED)
    index = seen[kept]
    return SurfaceColours(
        samples.position[index],
        samples.normal[index],
        linear[kept],
        len(seen),
        _contradiction(observations),
    )


def sample_points(mesh: Mesh, count: int, seed: int) -> Texels:
    """Random points on a mesh, uniform by area, as the texels of a texture of one column.

    Args:
        mesh: with vertex normals.
        count: number of points.
        seed: the same seed on the same mesh gives the same points.
    """
    face, barycentric = random_surface_points(mesh, count, seed)
    corners = mesh.faces[face]
    normal = functional.normalize(interpolate(mesh.normals, corners, barycentric), dim=1, eps=1e-12)
    position = interpolate(mesh.vertices, corners, barycentric)
    return Texels((count, 1), torch.arange(count), face, barycentric, position, normal)


def _median_colours(observations: Observations) -> tuple[Tensor, Tensor]:
    """Indices (P,) of the observed points and the weighted median (P, 3) of their colours.

    The weight of a view is its confidence times the cosine. Medians ignore highlights and views
    that contradict the others.
    """
    weights = (observations.confidence * observations.cosine).double().numpy()
    texel = observations.texel.numpy()
    seen, starts = np.unique(texel, return_index=True)
    medians = np.zeros((len(seen), 3), np.float32)
    for channel in range(3):
        values = observations.colour[:, channel].numpy()
        order = np.lexsort((values, texel))  # by point, then by value
        summed = np.cumsum(weights[order])
        before = np.concatenate([[0.0], summed])[starts]  # (P,) sum up to the point's first sample
        total = np.concatenate([before[1:], summed[-1:]]) - before if len(seen) else before
        middle = np.searchsorted(summed, before + 0.5 * total)
        medians[:, channel] = values[order[np.clip(middle, 0, len(values) - 1)]]
    return torch.from_numpy(seen), torch.from_numpy(medians)


def _contradiction(observations: Observations) -> float:
    """Median over the points of the spread of their log brightness among the views that see them.

    A light that stands still in the world gives nearly 0, one that moves with the camera does not.
    """
    points, texel = observations.num_texels, observations.texel
    linear = linear_from_srgb(observations.colour.amax(dim=1).numpy())
    logs = torch.from_numpy(linear).clamp_min(BLACK).log().double()
    number = torch.bincount(texel, minlength=points)
    mean = torch.zeros(points, dtype=torch.float64).index_add_(0, texel, logs) / number
    squares = torch.zeros(points, dtype=torch.float64)
    squares.index_add_(0, texel, (logs - mean[texel]).square())
    shared = number > 1
    if not bool(shared.any()):
        return 0.0
    return float((squares[shared] / (number[shared] - 1)).sqrt().median())
