"""Silhouettes of all views as one signed distance function.

Each view measures the distance of a point's projection to its silhouette in pixels and scales it to
world units at the point's depth. The maximum of these signed distances over all views is zero on
the visual hull.

The exact hull has ridges wherever the cones of two views meet, which real objects seldom have. Two
planes tangent to a cylinder of radius r at an angle t exceed it by r (1 / cos(t / 2) - 1), about
r t^2 / 8; a smooth maximum of width h = r t^2 / 2 removes exactly that and touches the planes where
the cylinder does. r is a fraction of the silhouettes' local thickness.
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
SAMPLE_CHUNK_SIZE = 1 << 22
"""Points times views evaluated together, which bounds the memory."""
_BOX_MARGIN_PX = 6
_THICKNESS_PX = 128
"""Maximum image size for measuring local thickness, which varies slowly."""
_THICKNESS_STEP = 1.35
_GRADIENT_BLUR_PX = 5
_MAX_RIDGE_ANGLE_RAD = 0.9
"""Rounding is limited at larger angles between cones, which may be real edges."""
_RIDGE_VIEWS = 4


@dataclass(frozen=True, eq=False)
class Silhouettes:
    """Signed distances to the silhouette cones of V masked views."""

    cameras: Cameras
    """V cameras."""
    distance_px: Tensor
    """(V, 1, H * u, W * u) signed distance to the silhouette, negative on the object."""
    shape_px: Tensor
    """(V, 3, H, W) x and y of the distance's gradient, and local thickness in pixels."""
    ridge_rounding: float
    """Radius of ridges relative to the local thickness; 0 keeps the exact hull."""
    boxes_px: Tensor
    """(V, 4) left, top, right, bottom of the object; the whole image if it touches the border."""
    touches_border: bool
    """Whether any mask touches the border of its image: the object may extend beyond it."""

    @classmethod
    def of(
        cls,
        views: Views,
        upsampling: int = 4,
        ridge_rounding: float = 0.0,
        progress: Progress = SILENT,
    ) -> Silhouettes:
        """Computes distance maps and local thickness of the masks.

        Args:
            views: V views with masks.
            upsampling: maximum upsampling of the masks, for sub-pixel edges.
            ridge_rounding: see the class.
            progress: reports each view.
        """
        cameras = views.cameras
        larger = max(cameras.width, cameras.height)
        upsampling = max(1, min(upsampling, MAX_UPSAMPLED_PX // larger))
        focal = cameras.intrinsics.diagonal(dim1=1, dim2=2)
        rows_px = (focal[:, 0] / focal[:, 1]).tolist()  # rows in units of columns

        def measure(view: int) -> tuple[Tensor, Tensor]:
            return _distance_and_shape(views.masks[view], upsampling, rows_px[view])

        maps = parallel_map(measure, range(len(views)))
        distances, shapes = zip(*progress.track(maps, STAGE, len(views)), strict=True)
        boxes, touching = zip(*[_object_box(mask) for mask in views.masks], strict=True)
        return cls(
            cameras,
            torch.stack(distances)[:, None],
            torch.stack(shapes),
            ridge_rounding,
            torch.stack(boxes),
            any(touching),
        )

    def split(self, points: Tensor) -> tuple[Tensor, ...]:
        """Points (N, 3) in chunks that fit the memory."""
        return points.split(max(1, SAMPLE_CHUNK_SIZE // len(self.cameras)))

    def sdf(self, points: Tensor) -> Tensor:
        """(N,) signed distance to the hull with rounded ridges at world points (N, 3)."""
        return torch.cat([self._chunk_sdf(chunk) for chunk in self.split(points)])

    def _chunk_sdf(self, points: Tensor) -> Tensor:
        distances, coordinates, pixel_size = self._project(points)
        if self.ridge_rounding == 0.0 or len(distances) == 1:
            return distances.amax(dim=0)
        return self._round_ridges(distances, coordinates, pixel_size)

    def per_view(self, points: Tensor) -> Tensor:
        """(V, N) signed distance of each point to each view's silhouette cone, in world units."""
        return self._project(points)[0]

    def _project(self, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Distances (V, N), image positions (V, 1, N, 2) in -1..1, world size of a pixel (V, N)."""
        cameras = self.cameras
        pixels, depth_z = cameras.project(points)
        size = pixels.new_tensor([cameras.width, cameras.height])
        coordinates = (pixels / size * 2.0 - 1.0)[:, None]
        pixel_size = (1.0 / cameras.intrinsics[:, 0, 0])[:, None].expand_as(depth_z)
        if cameras.kind == "perspective":
            pixel_size = pixel_size * depth_z.clamp_min(0.0)
        # outside the image the border value is used: a mask that touches it does not carve there
        distances = _sample(self.distance_px, coordinates)[:, 0] * pixel_size
        if cameras.kind == "perspective":
            distances = torch.where(depth_z > 0, distances, -depth_z + 1e-3)  # behind is outside
        return distances, coordinates, pixel_size

    def _round_ridges(self, distances: Tensor, coordinates: Tensor, pixel_size: Tensor) -> Tensor:
        """(N,) smooth maximum of the distances: raised where the next largest are close."""
        largest, view = distances.topk(min(_RIDGE_VIEWS, len(distances)), dim=0)  # (4, N)
        shape = _sample(self.shape_px, coordinates)  # (V, 3, N)
        shape = shape.gather(0, view[:, None].expand(-1, 3, -1))  # (4, 3, N)
        radius = shape[:, 2] * pixel_size.gather(0, view) * self.ridge_rounding
        # gradients lie in the image plane: only the first two rows of the rotation are needed
        normals = torch.einsum("kcn,kncw->knw", shape[:, :2], self.cameras.rotation[view][:, :, :2])
        normals = torch.nn.functional.normalize(normals, dim=-1)  # (4, N, 3)
        lift = torch.zeros_like(largest[0])
        for other in range(1, len(largest)):
            cosine = (normals[0] * normals[other]).sum(dim=-1).clamp(-1.0, 1.0)
            angle = torch.acos(cosine).clamp_max(_MAX_RIDGE_ANGLE_RAD)
            width = torch.minimum(radius[0], radius[other]) * angle**2 / 2 + 1e-12
            near = (width - (largest[0] - largest[other])).clamp_min(0.0)
            lift = torch.maximum(lift, near**2 / (4 * width))
        return largest[0] + lift


def _distance_and_shape(mask: Tensor, upsampling: int, row_px: float) -> tuple[Tensor, Tensor]:
    """A view's slices of `distance_px` (H * u, W * u) and `shape_px` (3, H, W)."""
    distance = signed_distance_px(mask, upsampling, row_px)
    at_pixels = torch.nn.functional.avg_pool2d(distance[None], upsampling)[0]
    return distance, torch.cat([_gradient(at_pixels, row_px), local_thickness_px(mask)[None]])


def _object_box(mask: Tensor) -> tuple[Tensor, bool]:
    """Left, top, right, bottom (4,) of a mask's object, and whether it touches the border.

    The box of an object that touches the border is the whole image, as its extent is unknown.
    """
    height, width = mask.shape
    top, bottom, left, right = _bounds(mask > 0.5)
    touches = left == 0 or top == 0 or right == width or bottom == height
    box = (0, 0, width, height) if touches else (left, top, right, bottom)
    return torch.tensor(box, dtype=torch.float32), touches


def _sample(maps: Tensor, coordinates: Tensor) -> Tensor:
    """(V, C, N) bilinear samples of maps (V, C, H, W) at positions (V, 1, N, 2) in -1..1."""
    return torch.nn.functional.grid_sample(
        maps, coordinates, padding_mode="border", align_corners=False
    )[:, :, 0]


def signed_distance_px(mask: Tensor, upsampling: int, row_px: float = 1.0) -> Tensor:
    """Signed distance (H * u, W * u) to the 0.5 level set of a soft mask (H, W), in columns.

    Only the box around the object is measured at the upsampled resolution, the rest at the
    original one.

    Args:
        mask: (H, W) in 0..1.
        upsampling: u.
        row_px: distance between rows in units of the distance between columns.
    """
    rough = _upsample(_binary_distance(mask, row_px), upsampling)
    bounds = _bounds(mask > 0)
    if upsampling == 1 or bounds is None:
        return rough
    top, left = (max(start - _BOX_MARGIN_PX, 0) for start in (bounds[0], bounds[2]))
    bottom, right = bounds[1] + _BOX_MARGIN_PX, bounds[3] + _BOX_MARGIN_PX
    fine = _binary_distance(_upsample(mask[top:bottom, left:right], upsampling), row_px)
    top, left = top * upsampling, left * upsampling
    rough[top : top + fine.shape[0], left : left + fine.shape[1]] = fine / upsampling
    return rough


def local_thickness_px(mask: Tensor) -> Tensor:
    """(H, W) local thickness: radius in pixels of the largest disc inside the mask over each pixel.

    Just outside the mask (H, W) the nearest inside value is used, so that the silhouette has one.
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


def _bounds(mask: Tensor) -> tuple[int, int, int, int] | None:
    """Bounding box (top, bottom, left, right) of the True pixels of (H, W); None without any."""
    rows, columns = (torch.nonzero(mask.any(dim=axis))[:, 0] for axis in (1, 0))
    if len(rows) == 0:
        return None
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1


def _binary_distance(mask: Tensor, row_px: float) -> Tensor:
    """Signed distance (H, W), in columns, to the 0.5 level set without interpolation."""
    from scipy.ndimage import distance_transform_edt

    inside = (mask > 0.5).numpy()
    # an edge lies half a sample outside the last inside sample
    outward = distance_transform_edt(~inside, sampling=(row_px, 1.0)) - 0.5 * ~inside
    inward = distance_transform_edt(inside, sampling=(row_px, 1.0)) - 0.5 * inside
    return torch.from_numpy(outward - inward).float()


def _upsample(image: Tensor, factor: int) -> Tensor:
    """(H * factor, W * factor) bilinear upsampling of (H, W)."""
    return torch.nn.functional.interpolate(
        image[None, None], scale_factor=factor, mode="bilinear", align_corners=False
    )[0, 0]


def _gradient(distance: Tensor, row_px: float) -> Tensor:
    """(2, H, W) gradient in x and y of a distance map (H, W), blurred against its staircase."""
    pad = _GRADIENT_BLUR_PX // 2
    padded = torch.nn.functional.pad(distance[None, None], (pad,) * 4, mode="replicate")
    smooth = torch.nn.functional.avg_pool2d(padded, _GRADIENT_BLUR_PX, 1)[0, 0]
    grad_y, grad_x = torch.gradient(smooth)
    return torch.stack([grad_x, grad_y / row_px])
