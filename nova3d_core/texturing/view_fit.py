"""Whether views fit a mesh: its silhouettes in their cameras against their masks.

Where they do not, the scale, translation and rotation that would make the mesh fit are searched, so
that the message can name what is off.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ..cameras.cameras import Cameras
from ..cameras.rotations import axis_angle_to_matrix
from ..errors import InputError
from ..imaging.matte import matte_from_white
from ..mesh import Mesh
from ..progress import SILENT, Progress
from ..rendering.raycast import RayCaster
from ..rendering.views import sample_positions
from ..views import Views
from ..wording import sentence_case

logger = logging.getLogger(__name__)

STAGE = "checking"
_IMAGE_PX, _SEARCH_PX = 96, 48
"""Longest image side of the check and of the search."""
_MAX_VIEWS, _MAX_SEARCH_VIEWS = 24, 6
_SURE_GAIN, _LIKELY_GAIN = 0.2, 0.08
"""Gain in fit of a moved mesh from which the given one is surely, or likely, wrong."""
_GOOD_FIT, _EXACT_FIT = 0.85, 0.94
"""Fit that a moved mesh must reach to explain a sure, or a likely misfit: meshes from noisy views
also shrink."""
_POOR_FIT, _NO_FIT = 0.6, 0.25
"""Fit below which an unexplained misfit is a warning, or an error."""
_MIN_CONTAINED = 0.5
"""Ratio of one silhouette inside the other from which the mesh may be a part of the object."""
_OUTLIER_FIT, _OUTLIER_GAP = 0.5, 0.3
"""A view whose fit is below the first and this much below the median is named."""
_MIN_SCALE, _MIN_SHIFT = 1.04, 0.04
"""Smallest scale, and translation relative to the mesh's size, that are named."""
_ROTATION_GAIN = 0.1
"""Gain in fit that a rotation needs over scale and translation alone."""
_SAME_IOU = 0.02
"""Difference of two rotations' IoU below which the smaller rotation is chosen."""
_MIN_CORE, _THIN_TOLERANCE_PX = 0.4, 2
"""A silhouette is thin if a smaller part of its pixels is off its border. Slight rotations move it
by its own width: deviations of this many pixels do not count."""
_ALIGN_STEPS = 3
_SMALL_SCALE = 0.1
"""Size relative to the image at which the perspective of a box's projection is negligible."""
_YAW_STEP_DEG = 15


@dataclass(frozen=True)
class Similarity:
    """How a mesh is moved about its centre: rotation, then scale, then translation."""

    rotation: Tensor
    """(3, 3)."""
    scale: float
    shift: Tensor
    """(3,) world units."""

    def matrix(self, centre: Tensor) -> Tensor:
        """(4, 4) affine matrix in float64 that acts on the mesh."""
        matrix = torch.eye(4, dtype=torch.float64)
        matrix[:3, :3] = self.scale * self.rotation.double()
        matrix[:3, 3] = centre.double() - matrix[:3, :3] @ centre.double() + self.shift.double()
        return matrix


@dataclass(frozen=True)
class ViewFit:
    """How well V views fit a mesh."""

    views: tuple[int, ...]
    """Indices of the views that were compared."""
    fits: tuple[float, ...]
    """For each of them the overlap in 0..1; deviations of up to a pixel of 96 do not count, of thin
    silhouettes two."""
    iou: float
    """Mean intersection over union of silhouettes and masks."""
    is_partial: bool
    """Whether the mesh may be a part of the object, or the object a part of the mesh."""

    @property
    def fit(self) -> float:
        """Mean fit of the views."""
        return float(np.mean(self.fits))


def check_views_fit(mesh: Mesh, views: Views, progress: Progress = SILENT) -> ViewFit | None:
    """Raises InputError if views surely do not fit a mesh; warns if they likely do not.

    Without masks, mattes from the white background are compared, and nothing is raised.

    Args:
        mesh: any mesh.
        views: their cameras in the same world frame.
        progress: checked for a cancel during the search.

    Returns:
        The fit, or None if no view has a mask that is neither empty nor full.

    Raises:
        InputError: the views do not fit; the message has the IoU and, where it can be found, the
            scale, translation or rotation that is off.
        Cancelled: on request.
    """
    mesh = mesh.to("cpu").with_origin(views.cameras.origin)
    masks = views.masks if views.masks is not None else matte_from_white(views.colour)
    caster, bounds = RayCaster.from_mesh(mesh), mesh.bounds
    cameras, masks = views.cameras.to("cpu"), masks.cpu()
    scene = _MaskedViews.of(caster, bounds, cameras, masks, _IMAGE_PX)
    if scene is None:
        return None
    found = scene.compare(torch.eye(4, dtype=torch.float64))
    logger.info("the views fit the mesh with an IoU of %.2f", found.iou)
    if found.fit < 1.0 - _LIKELY_GAIN:
        centre, size = bounds.mean(dim=0), float((bounds[1] - bounds[0]).max())
        search = _MaskedViews.of(caster, bounds, cameras, masks, _SEARCH_PX)
        if search is None or search.indices != scene.indices:
            search = scene  # thin objects vanish at the smaller size
        moved = _best_similarity(scene, search.select(_MAX_SEARCH_VIEWS), centre, progress)
        better = scene.compare(moved.matrix(centre))
        _report_misfit(found, better, moved, size, has_masks=views.masks is not None)
    _warn_outliers(found)
    return found


def _report_misfit(
    found: ViewFit, better: ViewFit, moved: Similarity, size: float, has_masks: bool
) -> None:
    """Raises or warns if a moved mesh fits clearly better, or if the fit is poor."""
    gain = better.fit - found.fit
    faults, remedies = _describe(moved, size)
    value = f"the views do not fit the mesh: masks and silhouettes have an IoU of {found.iou:.2f}"
    # thin masks may fit better within the tolerance only
    is_explained = bool(faults) and better.iou > found.iou
    is_sure = is_explained and gain >= _SURE_GAIN and better.fit >= _GOOD_FIT
    is_likely = is_explained and gain >= _LIKELY_GAIN and better.fit >= _EXACT_FIT
    if is_sure or is_likely:
        message = f"{value}. The mesh is {' and '.join(faults)} (corrected: {better.iou:.2f})."
        hint = " and ".join(remedies)
        hint = f"{sentence_case(hint)}, or use the cameras that belong to this mesh."
    elif found.fit < _POOR_FIT:
        message = f"{value}."
        hint = "Check that they show the same object in one world frame, up axis and unit."
        is_sure = found.fit < _NO_FIT and not found.is_partial
    else:
        return
    if is_sure and has_masks:
        raise InputError(message, hint)
    logger.warning("%s %s", message, hint)


def _warn_outliers(found: ViewFit) -> None:
    median = float(np.median(found.fits))
    outliers = [
        view
        for view, fit in zip(found.views, found.fits, strict=True)
        if fit < _OUTLIER_FIT and fit < median - _OUTLIER_GAP
    ]
    if outliers:
        logger.warning(
            "%s %s %s not fit the mesh, the others do: check their images and cameras",
            "view" if len(outliers) == 1 else "views",
            ", ".join(map(str, outliers)),
            "does" if len(outliers) == 1 else "do",
        )


def _describe(moved: Similarity, size: float) -> tuple[list[str], list[str]]:
    """What is off about a mesh that must be moved, and what to do: clauses."""
    faults, remedies = [], []
    cosine = (float(moved.rotation.trace()) - 1.0) / 2.0
    angle_deg = math.degrees(math.acos(min(max(cosine, -1.0), 1.0)))
    if angle_deg > 1.0:
        signed_deg, axis = _describe_axis(moved.rotation, angle_deg)
        faults.append(f"rotated by {angle_deg:.0f} degrees about {axis}")
        remedies.append(f"rotate it by {signed_deg:.0f} degrees about {axis}")
    if max(moved.scale, 1.0 / moved.scale) >= _MIN_SCALE:
        too_large = moved.scale < 1.0
        factor = 1.0 / moved.scale if too_large else moved.scale
        faults.append(f"{factor:.2f} times too {'large' if too_large else 'small'}")
        remedies.append(f"scale it by {moved.scale:.2f} about its centre")
    if float(moved.shift.norm()) >= _MIN_SHIFT * size:
        x, y, z = moved.shift.tolist()
        faults.append(f"displaced by {float(moved.shift.norm()) / size:.2f} of its size")
        remedies.append(f"move it by ({x:.3g}, {y:.3g}, {z:.3g})")
    return faults, remedies


def _describe_axis(rotation: Tensor, angle_deg: float) -> tuple[float, str]:
    """Signed angle and name of the axis of a rotation; an axis with a name if it has one."""
    axis = _rotation_axis(rotation)
    largest = int(axis.abs().argmax())
    if float(axis.abs()[largest]) > 0.999:
        return math.copysign(angle_deg, float(axis[largest])), "XYZ"[largest]
    x, y, z = axis.tolist()
    return angle_deg, f"({x:.2g}, {y:.2g}, {z:.2g})"


def _rotation_axis(rotation: Tensor) -> Tensor:
    """(3,) unit axis of a rotation by more than 0 degrees."""
    axis = torch.stack(
        [
            rotation[2, 1] - rotation[1, 2],
            rotation[0, 2] - rotation[2, 0],
            rotation[1, 0] - rotation[0, 1],
        ]
    )
    if float(axis.norm()) < 1e-3:  # 180 degrees: R + 1 = 2 a a^T
        columns = rotation + torch.eye(3)
        axis = columns[:, int(columns.norm(dim=0).argmax())]
    axis = torch.nn.functional.normalize(axis, dim=0)
    return torch.where(axis.abs() < 1e-3, torch.zeros(3), axis)


@dataclass(frozen=True, eq=False)
class _MaskedViews:
    """A mesh, cameras and masks at a small size."""

    caster: RayCaster
    cameras: Cameras
    corners: Tensor
    """(8, 3) corners of the mesh's bounding box."""
    masks: Tensor
    """(V, H, W) bool."""
    indices: tuple[int, ...]
    """Of the V views among all."""

    @classmethod
    def of(
        cls, caster: RayCaster, bounds: Tensor, cameras: Cameras, masks: Tensor, longest_px: int
    ) -> _MaskedViews | None:
        """The views that have something inside and outside their masks; None if there are none."""
        height, width = masks.shape[1:]
        scale = min(longest_px / max(height, width), 1.0)
        size = max(round(height * scale), 1), max(round(width * scale), 1)
        small = torch.nn.functional.interpolate(masks[:, None], size, mode="area")[:, 0] > 0.5
        coverage = small.flatten(1).float().mean(dim=1)
        usable = torch.nonzero((coverage > 0.0) & (coverage < 1.0))[:, 0].tolist()
        if not usable:
            return None
        corners = torch.cartesian_prod(*bounds.T)
        cameras = cameras.resized(size[1], size[0])[usable]
        scene = cls(caster, cameras, corners, small[usable], tuple(usable))
        return scene.select(_MAX_VIEWS)

    def select(self, count: int) -> _MaskedViews:
        """At most `count` views, evenly spaced."""
        if len(self.indices) <= count:
            return self
        chosen = np.linspace(0, len(self.indices) - 1, count).round().astype(int).tolist()
        indices = tuple(self.indices[each] for each in chosen)
        return replace(
            self, cameras=self.cameras[chosen], masks=self.masks[chosen], indices=indices
        )

    def silhouettes(self, matrix: Tensor) -> Tensor:
        """(V, H, W) bool silhouettes of the mesh under an affine (4, 4) matrix."""
        inverse = torch.linalg.inv(matrix.double()).float()
        pixels = sample_positions(self.cameras.width, self.cameras.height, 1)
        origins, directions = self.cameras.rays(pixels)  # (V, P, 3)
        origins = origins @ inverse[:3, :3].T + inverse[:3, 3]
        directions = torch.nn.functional.normalize(directions @ inverse[:3, :3].T, dim=-1)
        hits = self.caster.first_hits(
            origins.reshape(-1, 3).numpy(), directions.reshape(-1, 3).numpy()
        )
        return torch.from_numpy(hits.hit).reshape(self.masks.shape)

    def compare(self, matrix: Tensor) -> ViewFit:
        """The fit of the mesh under an affine (4, 4) matrix."""
        found, masks = self.silhouettes(matrix), self.masks
        common = (found & masks).flatten(1).sum(dim=1)
        union = (found | masks).flatten(1).sum(dim=1).clamp_min(1)
        tolerance = torch.where(_are_thin(masks), _THIN_TOLERANCE_PX, 1)
        wrong = (found & ~_dilate(masks, tolerance)) | (masks & ~_dilate(found, tolerance))
        fits = 1.0 - wrong.flatten(1).sum(dim=1) / union
        smaller = torch.minimum(found.flatten(1).sum(dim=1), masks.flatten(1).sum(dim=1))
        contained = float((common / smaller.clamp_min(1)).mean())
        iou = float((common / union).mean())
        return ViewFit(self.indices, tuple(fits.tolist()), iou, contained >= _MIN_CONTAINED)

    def aligned(self, rotation: Tensor, centre: Tensor) -> Similarity:
        """A rotated mesh, with the scale and the translation that fit areas and centroids best."""
        moved = self._roughly_aligned(rotation, centre)
        target, area = _centroids(self.masks), self.masks.flatten(1).sum(dim=1)
        for _ in range(_ALIGN_STEPS):
            found = self.silhouettes(moved.matrix(centre))
            sizes = found.flatten(1).sum(dim=1)
            seen = sizes > 0
            if not bool(seen.any()):
                break
            _, jacobian = _project_with_jacobian(self.cameras[seen], centre + moved.shift)
            offset = _least_squares(jacobian, (target - _centroids(found))[seen])
            scale = moved.scale * float((area[seen] / sizes[seen]).sqrt().median())
            moved = Similarity(rotation, scale, moved.shift + offset)
        return moved

    def _roughly_aligned(self, rotation: Tensor, centre: Tensor) -> Similarity:
        """A rotated mesh whose bounding box covers the masks' area and centroids.

        Unlike silhouettes, the box may be outside the images, or larger than they are.
        """
        target, shift = _centroids(self.masks), torch.zeros(3)
        for _ in range(_ALIGN_STEPS):
            projected, jacobian = _project_with_jacobian(self.cameras, centre + shift)
            shift = shift + _least_squares(jacobian, target - projected)
        corners = (self.corners - centre) @ rotation.T
        _, jacobian = _project_with_jacobian(self.cameras, centre + shift)
        size_px = float(corners.norm(dim=1).max() * jacobian.norm(dim=2).max())  # of the box
        small = _SMALL_SCALE * self.cameras.height / size_px
        pixels = self.cameras.project(centre + shift + small * corners)[0]  # (V, 8, 2)
        box = (pixels.amax(dim=1) - pixels.amin(dim=1)).prod(dim=1)
        ratios = (_box_areas(self.masks) / box.clamp_min(1e-12)).sqrt()
        return Similarity(rotation, small * float(ratios.median()), shift)


def _best_similarity(
    scene: _MaskedViews, search: _MaskedViews, centre: Tensor, progress: Progress
) -> Similarity:
    """The placement of the mesh that fits best; unrotated unless a rotation fits clearly better.

    Rotations are ranked at the small size of `search` by their IoU, and then compared in `scene`.
    """
    plain = search.aligned(torch.eye(3), centre)
    plain_fit = scene.compare(plain.matrix(centre)).fit
    if plain_fit >= 1.0 - _LIKELY_GAIN:
        return plain
    best, best_iou = plain, 0.0
    for rotation in _rotations():
        progress.check(STAGE)
        moved = search.aligned(rotation, centre)
        iou = search.compare(moved.matrix(centre)).iou
        if iou > best_iou + _SAME_IOU:
            best, best_iou = moved, iou
        if best_iou >= _EXACT_FIT:
            break
    is_better = scene.compare(best.matrix(centre)).fit > plain_fit + _ROTATION_GAIN
    return best if is_better else plain


def _rotations() -> Iterator[Tensor]:
    """(3, 3) rotations: all that map axes to axes, then those about +Y in small steps.

    Smaller angles come first, since of equal silhouettes the first is named.
    """
    identity, axes = torch.eye(3), []
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((1.0, -1.0), repeat=3):
            matrix = identity[list(order)] * torch.tensor(signs)[:, None]
            if float(torch.linalg.det(matrix)) > 0.0 and not torch.equal(matrix, identity):
                axes.append(matrix)
    yield from sorted(axes, key=lambda matrix: -float(matrix.trace()))
    for angle_deg in range(_YAW_STEP_DEG, 180, _YAW_STEP_DEG):
        for signed_deg in (angle_deg, -angle_deg) if angle_deg % 90 else ():
            yield axis_angle_to_matrix(torch.tensor([0.0, math.radians(signed_deg), 0.0]))


def _dilate(masks: Tensor, radius_px: Tensor) -> Tensor:
    """(V, H, W) bool masks, each grown in all directions by its radius (V,) of 1 or more pixels."""
    grown, result = masks, masks
    for radius in range(1, int(radius_px.max()) + 1):
        grown = torch.nn.functional.max_pool2d(grown[:, None].float(), 3, 1, 1)[:, 0] > 0.5
        result = torch.where((radius_px >= radius)[:, None, None], grown, result)
    return result


def _are_thin(masks: Tensor) -> Tensor:
    """(V,) whether less than a part of each mask (V, H, W) is off its border."""
    core = ~_dilate(~masks, torch.ones(len(masks)))
    return core.flatten(1).sum(dim=1) < _MIN_CORE * masks.flatten(1).sum(dim=1)


def _centroids(masks: Tensor) -> Tensor:
    """(V, 2) mean x and y of the pixels inside masks (V, H, W); 0 for empty ones."""
    height, width = masks.shape[1:]
    pixels = sample_positions(width, height, 1).reshape(height, width, 2)
    inside = masks[..., None].float()
    return (pixels * inside).sum(dim=(1, 2)) / inside.sum(dim=(1, 2)).clamp_min(1.0)


def _box_areas(masks: Tensor) -> Tensor:
    """(V,) areas of the bounding boxes of non-empty masks (V, H, W), in pixels."""
    heights, widths = (
        torch.stack([_span(line) for line in masks.any(dim=axis)]) for axis in (2, 1)
    )
    return heights * widths


def _span(line: Tensor) -> Tensor:
    """Distance between the ends of the set pixels in a line (N,) bool."""
    positions = torch.nonzero(line)[:, 0].float()
    return positions.max() - positions.min() + 1.0


def _least_squares(jacobian: Tensor, residual: Tensor) -> Tensor:
    """(3,) smallest step with J step = residual, for J (V, 2, 3) and residuals (V, 2)."""
    system, right = jacobian.reshape(-1, 3).double(), residual.reshape(-1, 1).double()
    return torch.linalg.lstsq(system, right, driver="gelsd").solution[:, 0].float()


def _project_with_jacobian(cameras: Cameras, point: Tensor) -> tuple[Tensor, Tensor]:
    """Pixels (V, 2) of a world point (3,), and their derivatives by the point (V, 2, 3)."""
    step = 1e-3 * float((cameras.positions - point).norm(dim=-1).mean())
    offsets = torch.cat([torch.zeros(1, 3), step * torch.eye(3)])
    pixels = cameras.project(point + offsets)[0]  # (V, 4, 2)
    jacobian = (pixels[:, 1:] - pixels[:, :1]) / step  # (V, 3, 2)
    return pixels[:, 0], jacobian.transpose(1, 2)
