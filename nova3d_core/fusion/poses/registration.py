"""Registration of all views to the current surface: Gauss-Newton on whole images.

The gradient steps of `pose_table.py` correct large errors together with a coarse surface, but
oscillate around the optimum: their length is fixed and their rays are sampled. Once the surface has
some detail, the images of all views (mask, normals, colour) are registered to the rendered ones:
Lucas-Kanade with the mean of both images' gradients, robust weights, and a prior by which the pose
errors of the views are independent.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from itertools import pairwise

import torch
from torch import Tensor

from ...cameras.cameras import Cameras
from ...cameras.rotations import matrix_to_axis_angle, skew_matrix
from ..fields.base import Field
from ..fields.render_output import RenderOutput
from ..rays import RayDataset, pixel_side
from .image_patch import ImagePatch, blur_pixels, window_sums
from .pose_table import PoseTable

WEIGHTS = (1.0, 0.5, 0.3)
"""Weights of the residuals of mask, normal and colour."""
_ROBUST_SCALE = 0.15
"""Residual at which the Geman-McClure weight has fallen to 1/4."""
_DAMPING = 1e-3
"""Levenberg-Marquardt damping, relative to the mean diagonal."""
_DEPTH_STIFFNESS = 0.3
"""Stiffness against translation of a single view along its axis, relative to the mean diagonal: it
is nearly unobservable."""
_CORRELATED_PIXELS = 25.0
"""Number of neighbouring pixels with correlated residuals, which count as one observation."""
_MOMENTUM = 0.5
"""Momentum: corrections spread only from neighbour to neighbour around the orbit."""
_MIN_OPACITY = 0.3
"""Opacity above which a ray ends on the object."""
_FILL_WINDOW_PX = 11
"""Side of the window from which rays next to the object take their depth."""
_BLUR_CELLS, _MIN_BLUR_PX = 0.7, 0.7
"""Blur of both images in grid cells: the field is softer than the input images."""
_MAX_STEP_RAD = 0.02
"""Maximum rotation of a step."""
_RAY_CHUNK_SIZE = 65_536


@dataclass(frozen=True, eq=False)
class _ViewTarget:
    """Target features of a view's n rays."""

    rays: slice
    """The view's rays among all."""
    patch: ImagePatch
    normal_weight: Tensor
    """(n,) weight of the residuals of normals."""
    features: Tensor
    """(7, n) mask, normal, colour, weighted and blurred."""
    gradient: Tensor
    """(2, 7, n) their image gradients, per pixel of the strided image."""


class PoseRegistration:
    """Registers V views to a field, one Gauss-Newton step at a time.

    Args:
        rays: N rays of all views, sorted by view.
        cameras: V input cameras.
        cell: world size of the field's cells.
        stride: renders every n-th row and column of the images only, M rays.
    """

    def __init__(self, rays: RayDataset, cameras: Cameras, cell: float, stride: int = 1):
        self._stride, self._ids = stride, strided_rays(rays, stride)
        self._rays, self._cameras = downsample(rays, cameras, self._ids, stride)
        self._velocity = torch.zeros(len(cameras), 6)  # as the poses, on the CPU
        self._pixel_side = pixel_side(rays, len(cameras))
        self.moved_px = float("inf")
        """Largest motion of a view in the last step, in pixels of the full image at the object."""
        cell_px = cell / self._pixel_side
        blur_px = max(_BLUR_CELLS * cell_px, _MIN_BLUR_PX * stride)
        blur_px = min(blur_px, _FILL_WINDOW_PX / 4 * stride)
        self._blur_px = blur_px / stride
        weight = _normal_weight(rays)
        self._targets = []
        full, strided = (_view_slices(each, len(cameras)) for each in (rays, self._rays))
        full_patches = ImagePatch.of_views([rays.pixel[part] for part in full])
        patches = full_patches
        if stride > 1:
            patches = ImagePatch.of_views([self._rays.pixel[part] for part in strided])
        # view by view: the full targets next to their strided copies would double the memory
        for view, part in enumerate(strided):
            features, gradient = _target_features(
                rays, weight, full[view], full_patches[view], blur_px
            )
            if stride > 1:
                ids = self._ids[part] - full[view].start
                features, gradient = features[:, ids].contiguous(), gradient[..., ids] * stride
            self._targets.append(
                _ViewTarget(part, patches[view], weight[self._ids][part], features, gradient)
            )

    def step(
        self,
        field: Field,
        poses: PoseTable,
        gains: Tensor,
        conflict: Tensor,
        prior_sigma_rad: float,
        robust_scale_factor: float = 1.0,
    ) -> None:
        """One Gauss-Newton step with momentum for the poses of all views.

        Args:
            field: the current surface.
            poses: updated in place.
            gains: (V, 3) exposure of each view.
            conflict: (N,) H of the rays' pixels, which reduces their weight.
            prior_sigma_rad: standard deviation of the input poses' errors, in radians.
            robust_scale_factor: factor on the scale of the robust weights, in 0..1.
        """
        rays, ray_weight = self._rays, 1.0 - conflict[self._ids]
        origin, direction = poses.transform_rays(rays.view, rays.origin, rays.direction)
        rendered = _render(field, origin, direction)
        scale = _ROBUST_SCALE * robust_scale_factor
        transformed = (origin, direction)
        systems = [
            self._system(view, rendered, transformed, poses, gains[view], ray_weight, scale)
            for view in range(len(self._cameras))
        ]
        packed = [torch.cat([part.reshape(-1) for part in system]) for system in systems]
        packed = torch.stack(packed).cpu()  # (V, 44): solved on the CPU, like the poses
        parts = packed.split([36, 6, 1, 1], dim=1)
        normal, right, error, weight = (part.contiguous() for part in parts)
        normal = normal.unflatten(1, (6, 6))
        correlated = max(_CORRELATED_PIXELS / self._stride**2, 1.0)
        noise = correlated * float(error.sum() / weight.sum().clamp_min(1e-12))
        motion = _solve(normal, right, noise, poses, prior_sigma_rad)
        self._velocity = _MOMENTUM * self._velocity + motion
        poses.apply(self._velocity[:, :3], self._velocity[:, 3:])
        rotation, translation = (part.norm(dim=1) for part in self._velocity.split(3, dim=1))
        moved = rotation * poses.translation_per_radian + translation
        self.moved_px = float(moved.max()) / self._pixel_side

    def _system(
        self,
        view: int,
        rendered: RenderOutput,
        transformed: tuple[Tensor, Tensor],
        poses: PoseTable,
        gain: Tensor,
        ray_weight: Tensor,
        robust_scale: float,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Normal equations of a view, (6, 6) and (6,), and its sums of weighted error and weight.

        Args:
            view: index of the view.
            rendered: of all M rays.
            transformed: (M, 3) origins and directions of the rays under the current poses.
            poses: current poses.
            gain: (3,) exposure of the view.
            ray_weight: (M,) 1 - H.
            robust_scale: scale of the robust weights.
        """
        given = self._targets[view]
        rays, target, target_gradient = given.rays, given.features, given.gradient
        if self._rays.normals_in_camera_frame:
            rotation = poses.motions_on(target.device)[0][view]
            target, target_gradient = target.clone(), target_gradient.clone()
            target[1:4] = rotation @ target[1:4]
            target_gradient[:, 1:4] = rotation @ target_gradient[:, 1:4]
        of_view = _slice_output(rendered, rays)
        features = _features(of_view, given.normal_weight, gain[:, None])
        features, gradient = blur_pixels(features, given.patch, self._blur_px)
        window_px = _odd(_FILL_WINDOW_PX / self._stride)
        depth, valid = _fill_depth(of_view, given.patch, window_px)
        origin, direction = (part[rays].T for part in transformed)  # (3, n)
        points = origin + depth * direction
        gradient = (gradient + target_gradient) / 2
        jacobian = pose_jacobian(gradient, points, view, poses, self._cameras)  # (6, 7, n)
        if self._rays.normals_in_camera_frame:
            # camera-frame normals R N rotate with the pose, by w x R N
            jacobian[:3, 1:4] += skew_matrix(target[1:4].T).permute(2, 1, 0)
        residual = target - features
        error = residual.square().sum(dim=0)
        weight = geman_mcclure(valid * ray_weight[rays], error, robust_scale)
        weighted, flat = (jacobian * weight).flatten(1), jacobian.flatten(1)
        return weighted @ flat.T, weighted @ residual.flatten(), weight @ error, weight.sum()


def render_features(field: Field, rays: RayDataset, poses: PoseTable, gains: Tensor) -> Tensor:
    """(7, N) mask, normal, colour of the surface as the views show it, weighted by `WEIGHTS`.

    Args:
        field: the current surface.
        rays: N rays of the views.
        poses: their current poses.
        gains: (V, 3) exposure of each view.
    """
    origin, direction = poses.transform_rays(rays.view, rays.origin, rays.direction)
    rendered = _render(field, origin, direction)
    features = _features(rendered, _normal_weight(rays), gains.index_select(0, rays.view).T)
    if rays.normals_in_camera_frame:
        rotation = poses.motions_on(direction.device)[0].index_select(0, rays.view)
        features[1:4] = torch.einsum("nij,in->jn", rotation, features[1:4])
    return features


def geman_mcclure(weight: Tensor, squared: Tensor, scale: float) -> Tensor:
    """Robust weights for squared residuals r^2: w / (1 + r^2 / scale^2)^2 (Geman-McClure)."""
    return weight / (1.0 + squared / scale**2).square()


def strided_rays(rays: RayDataset, stride: int) -> Tensor | slice:
    """(M,) indices of the rays in every `stride`-th row and column; a slice of all for 1."""
    if stride == 1:
        return slice(None)
    return (rays.pixel.long() % stride == 0).all(dim=1).nonzero()[:, 0]


def downsample(
    rays: RayDataset, cameras: Cameras, ids: Tensor | slice, stride: int
) -> tuple[RayDataset, Cameras]:
    """The rays `ids` with pixels of the image downsampled by `stride`, and its cameras."""
    chosen = rays.map(lambda values: values[ids])
    scale = cameras.intrinsics.new_tensor([1.0 / stride, 1.0 / stride, 1.0])
    small = replace(
        cameras,
        intrinsics=cameras.intrinsics * scale[:, None],
        width=-(-cameras.width // stride),
        height=-(-cameras.height // stride),
    )
    return replace(chosen, pixel=chosen.pixel.long() // stride + 0.5), small


def _view_slices(rays: RayDataset, views: int) -> list[slice]:
    """The slice of each view among rays that are sorted by view."""
    bounds = torch.arange(views + 1, device=rays.view.device)
    starts = torch.searchsorted(rays.view, bounds).tolist()
    return [slice(start, end) for start, end in pairwise(starts)]


def _odd(number: float) -> int:
    """The nearest odd integer."""
    return 2 * round((number - 1.0) / 2.0) + 1


def _normal_weight(rays: RayDataset) -> Tensor:
    """(N,) weight of the normal residual of each ray.

    Rays outside the mask keep it: their normal of zero is another silhouette term.
    """
    has_normal = rays.normal.norm(dim=1) > 0.5
    valid = has_normal | (rays.mask <= 0.5)
    return WEIGHTS[1] * valid.float() * has_normal.any().float()


def _target_features(
    rays: RayDataset, normal_weight: Tensor, part: slice, patch: ImagePatch, blur_px: float
) -> tuple[Tensor, Tensor]:
    """(7, n) blurred mask, normal, colour of one view, and their image gradients (2, 7, n).

    Blurred at full resolution, before strides are taken.
    """
    of_mask, _, of_colour = WEIGHTS
    mask, colour = rays.mask[part, None], rays.colour[part]
    normal = normal_weight[part, None] * mask * rays.normal[part]
    features = torch.cat([of_mask * mask, normal, of_colour * colour], dim=1).T
    return blur_pixels(features, patch, blur_px)


def _render(field: Field, origin: Tensor, direction: Tensor) -> RenderOutput:
    """Renders M rays in chunks."""
    pairs = zip(origin.split(_RAY_CHUNK_SIZE), direction.split(_RAY_CHUNK_SIZE), strict=True)
    parts = [field.render(*pair, with_backward=False) for pair in pairs]
    return RenderOutput(
        *(torch.cat([getattr(part, each.name) for part in parts]) for each in fields(RenderOutput))
    )


def _slice_output(rendered: RenderOutput, rays: slice) -> RenderOutput:
    """The output of a slice of the rays."""
    return RenderOutput(*(getattr(rendered, each.name)[rays] for each in fields(RenderOutput)))


def _features(rendered: RenderOutput, normal_weight: Tensor, gain: Tensor) -> Tensor:
    """(7, n) rendered mask, normal, colour, weighted; normal_weight (n,), gain (3, 1 or n)."""
    of_mask, _, of_colour = WEIGHTS
    gradient = rendered.gradient.T  # (3, n)
    length = gradient.square().sum(dim=0).sqrt().clamp_min(1e-3)
    normal = gradient * (normal_weight * rendered.opacity / length)
    colour = rendered.colour.T * (of_colour * gain)
    return torch.cat([of_mask * rendered.opacity[None], normal, colour])


def _fill_depth(rendered: RenderOutput, patch: ImagePatch, window_px: int) -> tuple[Tensor, Tensor]:
    """(n,) depth along each ray, filled in next to the object from a window; (n,) 1 where valid."""
    hit = (rendered.opacity > _MIN_OPACITY).float()
    own = rendered.depth / rendered.opacity.clamp_min(1e-6)
    images = patch.image(torch.stack([own * hit, hit]))
    total, count = patch.pixels(window_sums(images, window_px))
    mean = total / count.clamp_min(1.0)
    return torch.where(hit > 0, own, mean), (count > 0.5).float()


def pose_jacobian(
    gradient: Tensor, points: Tensor, view: int, poses: PoseTable, cameras: Cameras
) -> Tensor:
    """(6, C, n) negative Jacobian of a view's C channels with respect to its pose.

    After a rotation w about the centre c and a translation t (`PoseTable.apply`), the pixel of a
    point x shows what lies at x + w x (x - c) + t. The point itself moves the opposite way in the
    image, by D (w x (x - c) + t), where D is the Jacobian of its projection.

    Args:
        gradient: (2, C, n) image gradients of the channels in x and y, per pixel.
        points: (3, n) of the field.
        view: index of the view.
        poses: current poses.
        cameras: input cameras.
    """
    rotations, translations = poses.motions_on(points.device)
    centre = poses.centre_on(points.device)
    axes = cameras.rotation[view] @ rotations[view].T  # field to camera
    centred = points - centre[:, None]
    position = axes @ (centred - translations[view][:, None])
    offset = cameras.rotation[view] @ centre + cameras.world_to_camera[view, :3, 3]
    x, y, depth = position + offset[:, None]  # in the frame of the input camera
    focal_x, focal_y = cameras.intrinsics[view].diagonal()[:2]
    if cameras.kind == "orthographic":
        grad_x, grad_y = (focal_x * axes[0])[:, None], (focal_y * axes[1])[:, None]
    else:
        depth = depth.clamp_min(1e-3)
        forward = axes[2][:, None]
        grad_x = focal_x / depth * (axes[0][:, None] - x / depth * forward)  # (3, n)
        grad_y = focal_y / depth * (axes[1][:, None] - y / depth * forward)
    jacobian = gradient.new_empty(6, *gradient.shape[1:])
    translation = jacobian[3:]
    torch.mul(gradient[0], grad_x[:, None], out=translation).addcmul_(gradient[1], grad_y[:, None])
    for axis, (one, other) in enumerate(((1, 2), (2, 0), (0, 1))):
        rotation = torch.mul(translation[other], centred[one], out=jacobian[axis])
        rotation.addcmul_(translation[one], centred[other], value=-1.0)
    return jacobian


def _solve(
    normal: Tensor, right: Tensor, noise: float, poses: PoseTable, prior_sigma_rad: float
) -> Tensor:
    """(V, 6) rotations and translations that solve the normal equations (V, 6, 6), (V, 6) jointly.

    The views share one unknown: the common translation of object and views, which moves each view
    along its axis. It is observable only in the perspective of all views together, so a single view
    has no depth translation of its own.
    """
    # small systems in float64: bit-identical results whatever the memory alignment
    normal, right = normal.double(), right.double()
    count, like = len(normal), normal
    scale = normal.diagonal(dim1=1, dim2=2).mean(dim=1).clamp_min(1e-12)[:, None, None]
    stiffness, pull = _prior(poses, noise, prior_sigma_rad)
    axes = poses.view_axes.double()
    along = _DEPTH_STIFFNESS * scale * axes[:, :, None] * axes[:, None, :]  # (V, 3, 3)
    full = normal + stiffness + _DAMPING * scale * torch.eye(6).to(like)
    full[:, 3:, 3:] += along
    coupling = torch.zeros(count, 6, 3).to(like)
    coupling[:, 3:] = along
    own = torch.linalg.solve(full, right + pull)  # (V, 6) without common translation
    motion = own
    if poses.observes_depth:
        per_common = torch.linalg.solve(full, coupling)  # (V, 6, 3)
        left = (along - along @ per_common[:, 3:]).sum(dim=0)
        left = left + 1e-6 * scale.sum() * torch.eye(3).to(like)
        common = torch.linalg.solve(left, torch.einsum("vij,vj->i", along, own[:, 3:]))
        motion = own + per_common @ common
    longest = motion[:, :3].norm(dim=1, keepdim=True).clamp_min(1e-12)
    return (motion * (_MAX_STEP_RAD / longest).clamp_max(1.0)).float()


def _prior(poses: PoseTable, noise: float, prior_sigma_rad: float) -> tuple[Tensor, Tensor]:
    """Stiffness (V, 6, 6) and pull (V, 6) of the prior: independent errors of the input poses.

    View 0 is exact, so the error of a view is its motion relative to view 0. View 0 itself is
    pulled towards the mean of all others.
    """
    rotations = matrix_to_axis_angle(poses.rotation.double())
    count = len(rotations)
    strength = torch.full((count,), noise / prior_sigma_rad**2).to(rotations)
    strength[0] *= count - 1
    towards = rotations[:1] - rotations
    towards[0] = rotations[1:].mean(dim=0) - rotations[0]
    translation = poses.translation.double()
    weight = strength / poses.translation_per_radian**2
    common = (weight @ translation) / weight.sum()
    diagonal = torch.stack([strength] * 3 + [weight] * 3, dim=1)  # (V, 6)
    difference = torch.cat([towards, common - translation], dim=1)
    return torch.diag_embed(diagonal), diagonal * difference
