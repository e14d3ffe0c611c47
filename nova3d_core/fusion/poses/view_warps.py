"""Smooth warps of views that contradict each other, estimated against the current surface.

Multi-view models displace parts of an object by some pixels, differently in every view. The images
of a view (mask, normals, colour) are registered to the rendered ones by a smooth displacement of
the pixels: Gauss-Newton on blurred images, from coarse to fine, with robust weights and a prior of
small displacements. View 0, from which the others were generated, is never warped.

In the crops of this module an image contains the pixels of a view's rays, and is 0 elsewhere.
"""

from __future__ import annotations

import logging
from dataclasses import replace

import torch
from torch import Tensor

from ...cameras.cameras import Cameras
from ...imaging.filters import gaussian_blur, image_gradient
from ...imaging.warps import smooth_image, spline_weights, warp_image
from ...progress import SILENT, Progress
from ...views import Views
from ..rays import RayDataset, normal_weights, pixel_side
from .image_patch import ImagePatch
from .registration import WEIGHTS, geman_mcclure

logger = logging.getLogger(__name__)

_STAGE = "aligning views"
NODES = 8
"""Nodes of the spline along each axis of the image."""
_MIN_RMS_PX = 0.35
"""Views are warped if the median of their root mean square displacements is larger. Wrong poses,
blobs of wrong colour and the errors of a coarse surface cause half of that."""
_NEIGHBOURS, _MAX_SPREAD = 4, 0.2
"""Number of nearest views whose directions identify an orbit, and their maximum spread off it."""
_FRONT_NORMAL_WEIGHT = 4.0
"""Weight of the normals of view 0, which is exact, where the others contradict each other."""
_BLUR_CELLS, _MIN_BLUR_PX = 0.7, 0.7
"""Blur of both images in grid cells on the last pass, as in the registration of poses."""
_PASSES = ((4.0, 1.0), (2.0, 0.5), (1.0, 0.3))
"""Factor on the blur, and residual at which the robust weight has fallen to 1/4, of each pass."""
_STEPS_PER_PASS = 2
_STRIDE = 2
"""Every n-th row and column is compared: the images are blurred."""
_SIGMA_PX, _DIFFERENCE_SIGMA_PX = 4.0, 2.0
"""Prior standard deviations of the nodes and of differences between neighbouring nodes."""
_CORRELATED_PIXELS = 25.0 / _STRIDE**2
"""Number of neighbouring pixels with correlated residuals, which count as one observation."""
_MIN_ERROR = 1e-4
"""Minimum mean squared residual: images of 8 bits are no better."""
_MIN_NORMAL_LENGTH = 0.3
"""Interpolated normals that are shorter lie on an edge."""


class WarpRegistration:
    """Warps of the views of a fusion, inactive until the views are found to contradict each other.

    Args:
        rays: N rays of all views, sorted by view, with the images as given.
        cameras: V input cameras.
    """

    def __init__(self, rays: RayDataset, cameras: Cameras):
        self.given, self._cameras = rays, cameras
        self._nodes_px = rays.mask.new_zeros(len(cameras), 2, NODES, NODES)
        self._checked = False
        self.active = False
        """Whether the views are warped."""

    @property
    def is_due(self) -> bool:
        """Whether an update may change anything."""
        return self.active or not self._checked

    def update(
        self, rendered: Tensor, ray_weight: Tensor, cell: float, progress: Progress = SILENT
    ) -> bool:
        """Registers the views to rendered images.

        The first update decides whether views are warped at all.

        Args:
            rendered: (7, N) mask, normal, colour of the surface, as `image_features`.
            ray_weight: (N,) weight of each pixel in 0..1.
            cell: world size of the field's cells.
            progress: checked for a cancel before each view.

        Returns:
            Whether the views are warped.

        Raises:
            Cancelled: through `progress`.
        """
        args = (self.given, self._cameras, rendered, self._nodes_px, ray_weight, cell, progress)
        nodes_px = without_common_scale(self.given, self._cameras, estimate_warps(*args))
        if not self._checked:
            self._checked = True
            axes = unexplained_axes(self._cameras)
            rms_px = displacement_rms_px(self.given, self._cameras, nodes_px, axes)[1:]
            self.active = float(rms_px.median()) > _MIN_RMS_PX
            decision = "contradict each other and are warped" if self.active else "are not warped"
            logger.info("views %s: median %.2f px", decision, float(rms_px.median()))
        if self.active:
            self._nodes_px = nodes_px
        return self.active

    def rays(self) -> RayDataset:
        """The rays with warped images."""
        rays = warp_rays(self.given, self._cameras, self._nodes_px)
        weight = torch.where(rays.view == 0, _FRONT_NORMAL_WEIGHT, 1.0)
        return replace(rays, normal_weight=weight * rays.normal_weight)

    def nodes(self) -> Tensor | None:
        """(V, 2, n, n) nodes in fractions of the image's sides, on the CPU; None if inactive."""
        if not self.active:
            return None
        size = self._nodes_px.new_tensor([self._cameras.width, self._cameras.height])
        return (self._nodes_px / size[:, None, None]).cpu()

    def rms_px(self) -> tuple[float, ...]:
        """Root mean square displacement of each view's foreground; empty if inactive."""
        if not self.active:
            return ()
        return tuple(displacement_rms_px(self.given, self._cameras, self._nodes_px).tolist())


def estimate_warps(
    rays: RayDataset,
    cameras: Cameras,
    rendered: Tensor,
    start_px: Tensor,
    ray_weight: Tensor,
    cell: float,
    progress: Progress = SILENT,
) -> Tensor:
    """(V, 2, n, n) nodes of the warps in pixels that register the views to rendered images.

    Args:
        rays: N rays of all views, sorted by view, with the images as given.
        cameras: V input cameras.
        rendered: (7, N) mask, normal, colour of the surface, as `image_features`.
        start_px: (V, 2, n, n) nodes to start from.
        ray_weight: (N,) weight of each pixel in 0..1.
        cell: world size of the field's cells.
        progress: checked for a cancel before each view.

    Raises:
        Cancelled: through `progress`.
    """
    blur_px = max(_BLUR_CELLS * cell / pixel_side(rays, len(cameras)), _MIN_BLUR_PX)
    given = image_features(rays)
    compared = (rays.pixel.long() % _STRIDE == 0).all(dim=1)
    result = start_px.clone()
    for view, part in _warped_parts(rays, cameras):
        progress.check(_STAGE)
        pixel, kept = rays.pixel[part], compared[part]
        patch = ImagePatch.of_views([pixel])[0]
        images = patch.image(given[:, part]), patch.image(rendered[:, part])
        position = (pixel - pixel.amin(dim=0) + 0.5)[kept]  # in the crop
        basis = _basis(pixel[kept], cameras, start_px.shape[-1])
        weight = ray_weight[part][kept]
        result[view] = _register(*images, position, basis, start_px[view], weight, blur_px)
    return result


def image_features(rays: RayDataset) -> Tensor:
    """(7, N) mask, normal, colour of rays, weighted as in the registration of poses."""
    of_mask, of_normal, of_colour = WEIGHTS
    normal = of_normal * rays.mask[:, None] * rays.normal
    return torch.cat([of_mask * rays.mask[:, None], normal, of_colour * rays.colour], dim=1).T


def warp_rays(rays: RayDataset, cameras: Cameras, nodes_px: Tensor) -> RayDataset:
    """The rays with the images of their views warped.

    Args:
        rays: N rays of all views, sorted by view, with the images as given.
        cameras: V input cameras.
        nodes_px: (V, 2, n, n) nodes of the warps.
    """
    mask, colour, normal = rays.mask.clone(), rays.colour.clone(), rays.normal.clone()
    premultiplied = rays.normal * rays.mask[:, None]
    given = torch.cat([rays.mask[:, None], rays.colour, premultiplied], dim=1).T  # (7, N)
    for view, part in _warped_parts(rays, cameras):
        pixel = rays.pixel[part]
        image = ImagePatch.of_views([pixel])[0].image(given[:, part])
        shift = _basis(pixel, cameras, nodes_px.shape[-1]) @ nodes_px[view].flatten(1).T
        values = _sample(image, pixel - pixel.amin(dim=0) + 0.5 + shift, "bicubic").T
        mask[part] = values[:, 0].clamp(0.0, 1.0)
        colour[part] = values[:, 1:4].clamp(0.0, 1.0)
        normal[part] = _unit_or_zero(values[:, 4:])
    weight = normal_weights(rays.direction, normal, mask)
    return replace(rays, mask=mask, colour=colour, normal=normal, normal_weight=weight)


def without_common_scale(rays: RayDataset, cameras: Cameras, nodes_px: Tensor) -> Tensor:
    """The warps (V, 2, n, n) without the mean scaling of the object along x and along y.

    Independent displacements of the views have no common scale; a surface that is too large or too
    small does, and warps that follow it would keep it so.
    """
    nodes = nodes_px.shape[-1]
    size = nodes_px.new_tensor([cameras.width, cameras.height])
    at = (torch.arange(nodes, device=nodes_px.device) - 1.0) / (nodes - 3)
    node_position = torch.stack(torch.meshgrid(at, at, indexing="xy")) * size[:, None, None]
    scales, centred = [], torch.zeros_like(nodes_px)
    for view, part in _warped_parts(rays, cameras):
        pixel = rays.pixel[part][rays.mask[part] > 0.5]
        if len(pixel) == 0:
            continue
        centre = pixel.mean(dim=0)
        shift = _basis(pixel, cameras, nodes) @ nodes_px[view].flatten(1).T
        offset = pixel - centre
        scales.append((shift * offset).sum(dim=0) / offset.square().sum(dim=0).clamp_min(1.0))
        centred[view] = node_position - centre[:, None, None]
    if not scales:
        return nodes_px
    return nodes_px - torch.stack(scales).mean(dim=0)[:, None, None] * centred


def warp_views(views: Views, nodes: Tensor) -> Views:
    """Masked views with warped images; nodes (V, 2, n, n) in fractions of the images' sides."""
    colour, masks = views.colour.clone(), views.masks.clone()
    normals = None if views.normals is None else views.normals.clone()
    height, width = masks.shape[1:]
    size = nodes.new_tensor([width, height])
    for view in range(1, len(views)):
        shift = smooth_image(nodes[view], height, width) * size
        on_black = colour[view] - (1.0 - masks[view, ..., None])
        masks[view] = warp_image(masks[view, ..., None], shift)[..., 0].clamp(0.0, 1.0)
        # bicubic interpolation oscillates next to the white background
        on_black = warp_image(on_black, shift)
        colour[view] = (on_black + (1.0 - masks[view, ..., None])).clamp(0.0, 1.0)
        if normals is not None:
            normals[view] = _unit_or_zero(warp_image(normals[view], shift))
    return replace(views, colour=colour, masks=masks, normals=normals)


def displacement_rms_px(
    rays: RayDataset, cameras: Cameras, nodes_px: Tensor, axes: Tensor | None = None
) -> Tensor:
    """(V,) root mean square displacement of each view's foreground pixels, on the CPU.

    Args:
        rays: N rays of all views, sorted by view.
        cameras: V input cameras.
        nodes_px: (V, 2, n, n) nodes of the warps.
        axes: (V, 2, 2) of each view: displacements are multiplied by it first.
    """
    rms = torch.zeros(len(cameras))
    for view, part in _warped_parts(rays, cameras):
        pixel = rays.pixel[part][rays.mask[part] > 0.5]
        if len(pixel) == 0:
            continue
        shift = _basis(pixel, cameras, nodes_px.shape[-1]) @ nodes_px[view].flatten(1).T
        if axes is not None:
            shift = shift @ axes[view].to(shift)
        rms[view] = float(shift.square().sum(dim=1).mean().sqrt())
    return rms


def unexplained_axes(cameras: Cameras) -> Tensor:
    """(V, 2, 2) matrices that keep of displacements what a wrong depth does not explain.

    A surface at a wrong depth has the colours of its neighbouring views displaced along epipolar
    lines. Around an orbit these have one direction, and only displacements across it count, times
    sqrt(2), as random ones have both components. Where the neighbours lie in all directions, all
    displacements count.
    """
    baselines = cameras.positions - cameras.positions[:, None]  # (V, V, 3)
    in_image = torch.einsum("vij,vuj->vui", cameras.rotation[:, :2], baselines)
    distance = baselines.norm(dim=2).fill_diagonal_(torch.inf)
    nearest = distance.argsort(dim=1)[:, : min(_NEIGHBOURS, len(cameras) - 1)]
    towards = in_image.gather(1, nearest[..., None].expand(-1, -1, 2))
    towards = torch.nn.functional.normalize(towards, dim=2)
    spread, vectors = torch.linalg.eigh(towards.transpose(1, 2) @ towards)  # ascending
    across = 2.0**0.5 * vectors[..., :1] @ vectors[..., :1].transpose(1, 2)
    is_orbit = spread[:, :1] < _MAX_SPREAD * spread[:, 1:]
    return torch.where(is_orbit[..., None], across, torch.eye(2).to(across))


def _register(
    given: Tensor,
    rendered: Tensor,
    position: Tensor,
    basis: Tensor,
    start_px: Tensor,
    weight: Tensor,
    blur_px: float,
) -> Tensor:
    """(2, n, n) nodes of the warp of one view, from crops of its images.

    Args:
        given: (7, h, w) features of the view.
        rendered: (7, h, w) features of the surface.
        position: (P, 2) pixels to compare in the crop.
        basis: (P, K) weights of the K = n * n nodes at these pixels.
        start_px: (2, n, n)
        weight: (P,)
        blur_px: of the last pass.
    """
    nodes = start_px.flatten(1)  # (2, K)
    stiffness = _stiffness(start_px.shape[-1]).to(nodes)
    for factor, scale in _PASSES:
        moving, fixed = (_with_gradient(each, factor * blur_px) for each in (given, rendered))
        target = _sample(fixed, position)
        for _ in range(_STEPS_PER_PASS):
            sampled = _sample(moving, position + basis @ nodes.T)
            residual = target[:7] - sampled[:7]
            # the mean of both images' gradients, as in the registration of poses
            gradient = (sampled[7:] + target[7:]).unflatten(0, (2, 7)) / 2
            error = residual.square().sum(dim=0)
            robust = geman_mcclure(weight, error, scale)
            mean = float((robust @ error) / robust.sum().clamp_min(1e-9))
            noise = _CORRELATED_PIXELS * max(mean, _MIN_ERROR)
            nodes = nodes + _step(basis, gradient, residual, robust, noise * stiffness, nodes)
    return nodes.reshape(start_px.shape)


def _step(
    basis: Tensor, gradient: Tensor, residual: Tensor, weight: Tensor, prior: Tensor, nodes: Tensor
) -> Tensor:
    """(2, K) Gauss-Newton step of nodes (2, K).

    Args:
        basis: (P, K)
        gradient: (2, 7, P) of the features in x and y.
        residual: (7, P)
        weight: (P,)
        prior: (K, K) stiffness of the nodes of each component.
        nodes: (2, K)
    """
    count = basis.shape[1]
    system, right = basis.new_zeros(2, count, 2, count), basis.new_zeros(2, count)
    for i, j in ((0, 0), (0, 1), (1, 1)):
        product = weight * (gradient[i] * gradient[j]).sum(dim=0)
        system[i, :, j] = basis.T @ (product[:, None] * basis)
    system[1, :, 0] = system[0, :, 1]  # its blocks are symmetric
    for i in range(2):
        system[i, :, i] += prior
        right[i] = basis.T @ (weight * (gradient[i] * residual).sum(dim=0)) - prior @ nodes[i]
    # small systems on the CPU in float64, as those of the poses
    flat = system.reshape(2 * count, 2 * count).double().cpu()
    solution = torch.linalg.solve(flat, right.flatten().double().cpu())
    return solution.float().reshape(2, count).to(nodes.device)


def _stiffness(nodes: int) -> Tensor:
    """(K, K) inverse covariance of the K = nodes^2 values of a component."""
    eye = torch.eye(nodes * nodes).reshape(nodes * nodes, nodes, nodes)
    differences = torch.cat([eye.diff(dim=axis).flatten(1) for axis in (1, 2)], dim=1)
    smoothness = differences @ differences.T / _DIFFERENCE_SIGMA_PX**2
    return torch.eye(nodes * nodes) / _SIGMA_PX**2 + smoothness


def _with_gradient(image: Tensor, blur_px: float) -> Tensor:
    """(21, h, w) blurred image of (7, h, w) and its gradients in x and y."""
    blurred = gaussian_blur(image, blur_px)
    return torch.cat([blurred, *image_gradient(blurred)])


def _sample(image: Tensor, position: Tensor, mode: str = "bilinear") -> Tensor:
    """(C, P) values of an image (C, h, w) at positions (P, 2); 0 outside."""
    size = position.new_tensor([image.shape[2], image.shape[1]])
    coordinates = position / size * 2.0 - 1.0
    return torch.nn.functional.grid_sample(
        image[None], coordinates[None, None], mode=mode, align_corners=False
    )[0, :, 0]


def _basis(pixel: Tensor, cameras: Cameras, nodes: int) -> Tensor:
    """(P, K) weights of the K = nodes^2 nodes at pixels (P, 2), row by row."""
    columns = spline_weights(pixel[:, 0] / cameras.width, nodes)
    rows = spline_weights(pixel[:, 1] / cameras.height, nodes)
    return (rows[:, :, None] * columns[:, None, :]).flatten(1)


def _warped_parts(rays: RayDataset, cameras: Cameras) -> list[tuple[int, slice]]:
    """Index and slice of rays of each view but the first, those without rays left out."""
    bounds = torch.arange(len(cameras) + 1, device=rays.view.device)
    starts = torch.searchsorted(rays.view, bounds).tolist()
    parts = [(view, slice(*starts[view : view + 2])) for view in range(1, len(cameras))]
    return [(view, part) for view, part in parts if part.stop > part.start]


def _unit_or_zero(normals: Tensor) -> Tensor:
    """Interpolated normals (..., 3) with unit length, or 0 on edges."""
    length = normals.norm(dim=-1, keepdim=True)
    unit = normals / length.clamp_min(_MIN_NORMAL_LENGTH)
    return torch.where(length > _MIN_NORMAL_LENGTH, unit, 0.0)
