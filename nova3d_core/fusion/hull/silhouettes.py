"""The masks of all views as one question: how far is this point from being outside the object?

Each view measures how far the point's image lies from the silhouette, in pixels, and turns that
into world units at the point's depth. The largest of these signed distances over all views is zero
on the visual hull.

The exact hull has ridges wherever the cones of two views meet, which the object seldom has. Two
planes that touch a cylinder of radius r at an angle t stand out over it by r (1 / cos(t / 2) - 1),
about r t^2 / 8; a smooth maximum of width h = r t^2 / 2 takes just that much off and touches the
planes where the cylinder does. r is a share of the silhouettes' local thickness.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...cameras.cameras import Cameras
from ...compute.parallel import parallel_map
from ...progress import SILENT, Progress
from ...views import Views

STAGE = "carving"
MAX_UPSAMPLED_PX = 1024
SAMPLES_AT_ONCE = 1 << 22
"""Points times views that are asked about together: bounds the memory, whatever their number."""
_BOX_MARGIN_PX = 6
_THICKNESS_PX = 128
"""Local thickness is measured on images of at most this size: it changes slowly."""
_THICKNESS_STEP = 1.35
_GRADIENT_BLUR_PX = 5
_WIDEST_RIDGE_RAD = 0.9
"""Cones that meet at a wider angle may meet in a real edge: no more is taken off there."""
_RIDGE_VIEWS = 4


@dataclass(frozen=True, eq=False)
class Silhouettes:
    """What the masks of V views say about points in space."""

    cameras: Cameras
    """V cameras."""
    distance_px: Tensor
    """(V, 1, H * u, W * u) signed distance to the silhouette, negative on the object."""
    shape_px: Tensor
    """(V, 3, H, W) x and y of the distance's gradient, and local thickness in pixels."""
    ridge_rounding: float
    """Radius of ridges as a share of the local thickness; 0 keeps the exact hull."""
    boxes_px: Tensor
    """(V, 4) left, top, right, bottom of the object; the image's edge where a mask touches it."""
    touches_border: bool
    """Whether some mask touches the border of its image: the object may go on beyond it."""

    @classmethod
    def of(
        cls,
        views: Views,
        upsampling: int = 4,
        ridge_rounding: float = 0.0,
        progress: Progress = SILENT,
    ) -> Silhouettes:
        """Measures the masks of views.

        Args:
            views: V views with masks.
            upsampling: masks are enlarged up to this many times for sub-pixel edges.
            ridge_rounding: see the class.
            progress: told about each view.
        """
        cameras = views.cameras
        larger = max(cameras.width, cameras.height)
        upsampling = max(1, min(upsampling, MAX_UPSAMPLED_PX // larger))
        focal = cameras.intrinsics.diagonal(dim1=1, dim2=2)
        rows_px = (focal[:, 0] / focal[:, 1]).tolist()  # rows in units of columns

        def measured(view: int) -> tuple[Tensor, Tensor]:
            return _distance_and_shape(views.masks[view], upsampling, rows_px[view])

        answers = parallel_map(measured, range(len(views)))
        distances, shapes = zip(*progress.track(answers, STAGE, len(views)), strict=True)
        boxes, touching = zip(*[_object_box(mask) for mask in views.masks], strict=True)
        return cls(
            cameras,
            torch.stack(distances)[:, None],
            torch.stack(shapes),
            ridge_rounding,
            torch.stack(boxes),
            any(touching),
        )

    def in_parts(self, points: Tensor) -> tuple[Tensor, ...]:
        """Points (N, 3) cut into parts that may be asked about together."""
        return points.split(max(1, SAMPLES_AT_ONCE // len(self.cameras)))

    def sdf(self, points: Tensor) -> Tensor:
        """(N,) signed distance to the hull with its ridges rounded, at world points (N, 3)."""
        return torch.cat([self._part_sdf(part) for part in self.in_parts(points)])

    def _part_sdf(self, points: Tensor) -> Tensor:
        distances, where, unit = self._asked(points)
        if self.ridge_rounding == 0.0 or len(distances) == 1:
            return distances.amax(dim=0)
        return self._with_round_ridges(distances, where, unit)

    def per_view(self, points: Tensor) -> Tensor:
        """(V, N) signed distance of each point to each view's silhouette cone, in world units."""
        return self._asked(points)[0]

    def _asked(self, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Distances (V, N), places in the images (V, 1, N, 2) in -1..1, world size of a pixel."""
        cameras = self.cameras
        pixels, depth_z = cameras.project(points)
        size = pixels.new_tensor([cameras.width, cameras.height])
        where = (pixels / size * 2.0 - 1.0)[:, None]
        unit = (1.0 / cameras.intrinsics[:, 0, 0])[:, None].expand_as(depth_z)
        if cameras.kind == "perspective":
            unit = unit * depth_z.clamp_min(0.0)
        # beyond the image the border's value holds: a mask that touches it does not carve there
        distances = _read(self.distance_px, where)[:, 0] * unit
        if cameras.kind == "perspective":
            distances = torch.where(depth_z > 0, distances, -depth_z + 1e-3)  # behind is outside
        return distances, where, unit

    def _with_round_ridges(self, distances: Tensor, where: Tensor, unit: Tensor) -> Tensor:
        """(N,) the largest distance, lifted where the next largest come close to it."""
        largest, view = distances.topk(min(_RIDGE_VIEWS, len(distances)), dim=0)  # (4, N)
        shape = _read(self.shape_px, where)  # (V, 3, N)
        shape = shape.gather(0, view[:, None].expand(-1, 3, -1))  # (4, 3, N)
        radius = shape[:, 2] * unit.gather(0, view) * self.ridge_rounding
        # x and y in the camera's axes, so only the first two rows of its rotation are needed
        normals = torch.einsum("kcn,kncw->knw", shape[:, :2], self.cameras.rotation[view][:, :, :2])
        normals = torch.nn.functional.normalize(normals, dim=-1)  # (4, N, 3)
        lift = torch.zeros_like(largest[0])
        for other in range(1, len(largest)):
            cosine = (normals[0] * normals[other]).sum(dim=-1).clamp(-1.0, 1.0)
            angle = torch.acos(cosine).clamp_max(_WIDEST_RIDGE_RAD)
            width = torch.minimum(radius[0], radius[other]) * angle**2 / 2 + 1e-12
            near = (width - (largest[0] - largest[other])).clamp_min(0.0)
            lift = torch.maximum(lift, near**2 / (4 * width))
        return largest[0] + lift


def _distance_and_shape(mask: Tensor, upsampling: int, row_px: float) -> tuple[Tensor, Tensor]:
    """A mask's (H * u, W * u) part of `distance_px` and (3, H, W) part of `shape_px`."""
    distance = signed_distance_px(mask, upsampling, row_px)
    at_pixels = torch.nn.functional.avg_pool2d(distance[None], upsampling)[0]
    return distance, torch.cat([_gradient(at_pixels, row_px), local_thickness_px(mask)[None]])


def _object_box(mask: Tensor) -> tuple[Tensor, bool]:
    """Left, top, right, bottom (4,) of a mask's object, and whether it touches the border.

    The box is the whole image then: nobody knows how far the object goes on.
    """
    height, width = mask.shape
    top, bottom, left, right = _bounds(mask > 0.5)
    touches = left == 0 or top == 0 or right == width or bottom == height
    box = (0, 0, width, height) if touches else (left, top, right, bottom)
    return torch.tensor(box, dtype=torch.float32), touches


def _read(maps: Tensor, where: Tensor) -> Tensor:
    """(V, C, N) values of maps (V, C, H, W) at places (V, 1, N, 2) in -1..1."""
    return torch.nn.functional.grid_sample(maps, where, padding_mode="border", align_corners=False)[
        :, :, 0
    ]


def signed_distance_px(mask: Tensor, upsampling: int, row_px: float = 1.0) -> Tensor:
    """Signed distance (H * u, W * u) to the 0.5 level of a soft mask (H, W), in columns' pixels.

    Only the box around the object is measured at the fine resolution; the empty rest of the image
    is measured on its own pixels.

    Args:
        mask: (H, W) in 0..1.
        upsampling: u, how many times larger the result is.
        row_px: distance between rows, where that between columns is 1.
    """
    rough = _upsampled(_binary_distance(mask, row_px), upsampling)
    bounds = _bounds(mask > 0)
    if upsampling == 1 or bounds is None:
        return rough
    top, left = (max(start - _BOX_MARGIN_PX, 0) for start in (bounds[0], bounds[2]))
    bottom, right = bounds[1] + _BOX_MARGIN_PX, bounds[3] + _BOX_MARGIN_PX
    fine = _binary_distance(_upsampled(mask[top:bottom, left:right], upsampling), row_px)
    top, left = top * upsampling, left * upsampling
    rough[top : top + fine.shape[0], left : left + fine.shape[1]] = fine / upsampling
    return rough


def local_thickness_px(mask: Tensor) -> Tensor:
    """(H, W) radius in pixels of the largest disc within a mask (H, W) that covers each pixel.

    Just outside the mask the nearest inside value holds, so that the silhouette itself has one.
    """
    from scipy.ndimage import distance_transform_edt

    height, width = mask.shape
    scale = max(1.0, max(height, width) / _THICKNESS_PX)
    small = torch.nn.functional.interpolate(
        mask[None, None], size=(round(height / scale), round(width / scale)), mode="area"
    )[0, 0]
    inside = (small > 0.5).numpy()
    depth = distance_transform_edt(np.pad(inside, 1))[1:-1, 1:-1]
    thickness = np.where(inside, 0.5, 0.0)
    radius = 1.0
    while radius <= depth.max():
        reach = distance_transform_edt(depth < radius)
        thickness = np.where(reach <= radius + 1.5, radius, thickness)
        radius *= _THICKNESS_STEP
    large = torch.from_numpy(thickness * scale).float()
    return torch.nn.functional.interpolate(
        large[None, None], size=(height, width), mode="bilinear", align_corners=False
    )[0, 0]


def _bounds(found: Tensor) -> tuple[int, int, int, int] | None:
    """Top, bottom, left, right of the True pixels of an image (H, W); None if there are none."""
    rows, columns = (torch.nonzero(found.any(dim=axis))[:, 0] for axis in (1, 0))
    if len(rows) == 0:
        return None
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1


def _binary_distance(mask: Tensor, row_px: float) -> Tensor:
    """Signed distance (H, W) in columns of this image to where it crosses 0.5."""
    from scipy.ndimage import distance_transform_edt

    inside = (mask > 0.5).numpy()
    # an edge lies half a sample outside the last sample within
    outward = distance_transform_edt(~inside, sampling=(row_px, 1.0)) - 0.5 * ~inside
    inward = distance_transform_edt(inside, sampling=(row_px, 1.0)) - 0.5 * inside
    return torch.from_numpy(outward - inward).float()


def _upsampled(image: Tensor, factor: int) -> Tensor:
    """(H * factor, W * factor) bilinear enlargement of (H, W)."""
    return torch.nn.functional.interpolate(
        image[None, None], scale_factor=factor, mode="bilinear", align_corners=False
    )[0, 0]


def _gradient(distance: Tensor, row_px: float) -> Tensor:
    """(2, H, W) x and y slope of a distance map (H, W), blurred over the stairs of its pixels."""
    pad = _GRADIENT_BLUR_PX // 2
    padded = torch.nn.functional.pad(distance[None, None], (pad,) * 4, mode="replicate")
    smooth = torch.nn.functional.avg_pool2d(padded, _GRADIENT_BLUR_PX, 1)[0, 0]
    slope_y, slope_x = torch.gradient(smooth)
    return torch.stack([slope_x, slope_y / row_px])
