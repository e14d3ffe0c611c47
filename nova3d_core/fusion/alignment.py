"""All views aligned with the present surface at once: Gauss-Newton on whole pictures.

The gradient steps of `poses.py` find large errors together with a coarse surface, but they walk
about their goal: their length is set and their rays are drawn. Once the surface has some detail,
each view's picture is compared with the rendered one (mask, normals, colour), and the turn and
shift that bring the two together are solved for: Lucas-Kanade with the mean of both pictures'
slopes, robust weights, and a prior that the given poses are wrong by chance, not all alike.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..cameras import Cameras
from .fields.base import Field, Rendered
from .poses import PoseTable, axis_angle, cross_matrix
from .rays import RayBank, pixel_side

WEIGHTS = (1.0, 0.5, 0.3)
"""Of the differences of mask, normal and colour."""
_ROBUST = 0.15
"""Differences beyond this count less and less (Geman-McClure)."""
_DAMPING = 1e-3
_DEPTH_STIFFNESS = 0.3
"""Against a view's own shift in depth, over the mean stiffness: it hardly shows."""
_ALIKE = 25.0
"""So many neighbouring pixels err alike: evidence counts less than its number of pixels says."""
_MOMENTUM = 0.5
"""Of the motion before: neighbouring views pull each other round the ring slowly."""
_SEEN = 0.3
"""A ray with more opacity than this ends on the object."""
_REACH_PX = 11
"""Rays beside the object borrow their depth from within a window so wide."""
_BLUR_CELLS, _LEAST_BLUR_PX = 0.7, 0.7
"""Both pictures are blurred by so many cells: the field is softer than the given ones."""
_LONGEST_RAD = 0.02
"""A step turns by no more than this."""
_RAYS_AT_ONCE = 65_536


@dataclass(frozen=True, eq=False)
class _Pictures:
    """What M rays show and should show."""

    seen: Tensor
    """(M, 7) opacity, normal, colour as rendered, weighted."""
    wanted: Tensor
    """(M, 7) the same as given, blurred."""
    wanted_slope: Tensor
    """(M, 7, 2) its slopes by x and y, for each pixel of the pictures looked at."""
    depth: Tensor
    """(M,) where each ray ends, world units along it; borrowed beside the object."""
    trust: Tensor
    """(M,) weights from conflict, 0 where there is no depth."""


class Alignment:
    """Aligns V views with a field, a step at a time.

    Args:
        bank: N rays of all views, view after view.
        cameras: V given cameras.
        cell: world size of the field's cells.
        stride: render every so many-th row and column of the pictures only, M rays.
    """

    def __init__(self, bank: RayBank, cameras: Cameras, cell: float, stride: int = 1):
        self._stride, self._rays = stride, rays_at(bank, stride)
        self._bank, self._cameras = coarser(bank, cameras, self._rays, stride)
        self._rays_of = _parts(self._bank, len(cameras))
        self._velocity = torch.zeros(len(cameras), 6, device=bank.origin.device)
        cell_px = cell / pixel_side(bank, len(cameras))
        blur_px = max(_BLUR_CELLS * cell_px, _LEAST_BLUR_PX * stride)
        blur_px = min(blur_px, _REACH_PX / 4 * stride)
        self._blur_px = blur_px / stride
        weight = _normal_weight(bank)
        given, slopes = _given(bank, weight, len(cameras), blur_px)
        self._normal_weight, self._given = weight[self._rays], given[self._rays]
        self._given_slope = slopes[self._rays] * stride

    def step(
        self, field: Field, poses: PoseTable, gains: Tensor, conflict: Tensor, spread_rad: float
    ) -> None:
        """Moves all poses towards where their pictures fit best.

        Args:
            field: the surface as it is.
            poses: moved in place.
            gains: (V, 3) exposure of each view.
            conflict: (N,) H of the bank's pixels; what conflicts counts less.
            spread_rad: standard deviation of the given poses' errors, radians.
        """
        pictures, origin, direction = self._render(field, poses, gains, conflict[self._rays])
        systems = [
            self._system(view, pictures, origin, direction, poses)
            for view in range(len(self._cameras))
        ]
        normal, right, error, weight = (torch.stack(part) for part in zip(*systems, strict=True))
        alike = max(_ALIKE / self._stride**2, 1.0)
        noise = alike * float(error.sum() / weight.sum().clamp_min(1e-12))
        motion = _solve(normal, right, noise, poses, spread_rad)
        self._velocity = _MOMENTUM * self._velocity + motion
        poses.apply(self._velocity[:, :3], self._velocity[:, 3:])

    def _render(
        self, field: Field, poses: PoseTable, gains: Tensor, conflict: Tensor
    ) -> tuple[_Pictures, Tensor, Tensor]:
        """All rays rendered where the poses have them; their origins and directions (M, 3)."""
        bank, cameras = self._bank, self._cameras
        origin, direction = poses.moved(bank.view, bank.origin, bank.direction)
        parts = [
            field.render(*pair)
            for pair in zip(
                origin.split(_RAYS_AT_ONCE), direction.split(_RAYS_AT_ONCE), strict=True
            )
        ]
        names = ("opacity", "gradient", "colour", "depth")
        rendered = Rendered(*(torch.cat([getattr(part, n) for part in parts]) for n in names))
        seen = _features(rendered, self._normal_weight, gains[bank.view])
        wanted, slope = self._given, self._given_slope
        if bank.turns_normals:
            turn = poses.rotation[bank.view]  # (M, 3, 3)
            wanted, slope = wanted.clone(), slope.clone()
            wanted[:, 1:4] = (turn @ wanted[:, 1:4, None])[..., 0]
            slope[:, 1:4] = turn @ slope[:, 1:4]
        place = (bank.view, bank.pixel[:, 1].long(), bank.pixel[:, 0].long())
        shape = (len(cameras), cameras.height, cameras.width)
        depth, known = _filled_depth(rendered, place, shape, _odd(_REACH_PX / self._stride))
        pictures = _Pictures(seen, wanted, slope, depth, known * (1.0 - conflict))
        return pictures, origin, direction

    def _system(
        self,
        view: int,
        pictures: _Pictures,
        origin: Tensor,
        direction: Tensor,
        poses: PoseTable,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """A view's normal equations: (6, 6), (6,), and its summed weighted error and weight."""
        bank, rays = self._bank, self._rays_of[view]
        seen, slope = softened(pictures.seen[rays], bank.pixel[rays].long(), self._blur_px)
        wanted = pictures.wanted[rays]
        slope = (slope + pictures.wanted_slope[rays]) / 2
        points = origin[rays] + pictures.depth[rays, None] * direction[rays]
        jacobian = -slope @ flow_of(points, view, poses, self._cameras)  # (n, 7, 6)
        if bank.turns_normals:
            # given normals R N turn by w x R N with the pose
            jacobian[:, 1:4, :3] += cross_matrix(wanted[:, 1:4])
        residual = wanted - seen
        error = residual.square().sum(dim=1)
        weight = pictures.trust[rays] / (1.0 + error / _ROBUST**2).square()
        weighted = (jacobian * weight[:, None, None]).reshape(-1, 6)
        flat = jacobian.reshape(-1, 6)
        return weighted.T @ flat, weighted.T @ residual.reshape(-1), weight @ error, weight.sum()


def rays_at(bank: RayBank, stride: int) -> Tensor | slice:
    """(M,) which of the rays lie in every `stride`-th row and column; at 1 all, uncopied."""
    if stride == 1:
        return slice(None)
    return (bank.pixel.long() % stride == 0).all(dim=1).nonzero()[:, 0]


def coarser(
    bank: RayBank, cameras: Cameras, rays: Tensor | slice, stride: int
) -> tuple[RayBank, Cameras]:
    """Some rays with their pixels counted in strides, and cameras with such pictures."""
    chosen = {name: value[rays] for name, value in vars(bank).items() if isinstance(value, Tensor)}
    chosen["pixel"] = (chosen["pixel"].long() // stride) + 0.5
    scale = cameras.intrinsics.new_tensor([1.0 / stride, 1.0 / stride, 1.0])
    small = replace(
        cameras,
        intrinsics=cameras.intrinsics * scale[:, None],
        width=-(-cameras.width // stride),
        height=-(-cameras.height // stride),
    )
    return replace(bank, **chosen), small


def _parts(bank: RayBank, views: int) -> list[slice]:
    """Where each view's rays stand."""
    counts = torch.bincount(bank.view, minlength=views).tolist()
    ends = torch.tensor(counts).cumsum(0).tolist()
    return [slice(end - n, end) for n, end in zip(counts, ends, strict=True)]


def _odd(number: float) -> int:
    """The nearest odd whole number."""
    return 2 * round((number - 1.0) / 2.0) + 1


def _normal_weight(bank: RayBank) -> Tensor:
    """(N, 1) what differences of normals count at each ray.

    Beside the object the given normal is zero, which shows its silhouette once more.
    """
    has_normal = bank.normal.norm(dim=1, keepdim=True) > 0.5
    counts = has_normal | (bank.mask[:, None] <= 0.5)
    return WEIGHTS[1] * counts.float() * float(has_normal.any())


def _given(
    bank: RayBank, normal_weight: Tensor, views: int, blur_px: float
) -> tuple[Tensor, Tensor]:
    """(N, 7) mask, normal, colour as given, blurred; and their slopes (N, 7, 2).

    All pixels are blurred, those between the rows and columns that are rendered, too.
    """
    of_mask, _, of_colour = WEIGHTS
    mask, pixel = bank.mask[:, None], bank.pixel.long()
    normal = normal_weight * bank.normal * mask
    given = torch.cat([of_mask * mask, normal, of_colour * bank.colour], dim=1)
    parts = [softened(given[rays], pixel[rays], blur_px) for rays in _parts(bank, views)]
    values, slopes = zip(*parts, strict=True)
    return torch.cat(values), torch.cat(slopes)


def _features(rendered: Rendered, normal_weight: Tensor, gains: Tensor) -> Tensor:
    """(M, 7) mask, normal, colour as rendered; gains (M, 3)."""
    of_mask, _, of_colour = WEIGHTS
    opacity = rendered.opacity[:, None]
    length = rendered.gradient.norm(dim=1, keepdim=True).clamp_min(1e-3)
    normal = normal_weight * rendered.gradient / length * opacity
    return torch.cat([of_mask * opacity, normal, of_colour * rendered.colour * gains], dim=1)


def _filled_depth(
    rendered: Rendered, place: tuple, shape: tuple[int, int, int], reach_px: int
) -> tuple[Tensor, Tensor]:
    """(N,) where each ray ends, those beside the object as their neighbours; (N,) 1 if known."""
    hit = (rendered.opacity > _SEEN).float()
    own = rendered.depth / rendered.opacity.clamp_min(1e-6)
    images = torch.zeros(2, *shape, device=hit.device)
    images[(slice(None), *place)] = torch.stack([own * hit, hit])
    total, count = window_sums(images, reach_px)[(slice(None), *place)]
    borrowed = total / count.clamp_min(1.0)
    return torch.where(hit > 0, own, borrowed), (count > 0.5).float()


def window_sums(image: Tensor, side_px: int) -> Tensor:
    """Sums of an image (..., H, W) over a square about each pixel, its side an odd number."""
    reach, pad = side_px // 2, torch.nn.functional.pad
    for axis, sides in ((-1, (1, 1, 0, 0)), (-2, (0, 0, 1, 1))):
        count = image.shape[axis]
        padded = pad(image, [reach * side for side in sides])
        running = pad(padded.cumsum(axis), [sides[0], 0, sides[2], 0])
        image = running.narrow(axis, side_px, count) - running.narrow(axis, 0, count)
    return image


def softened(values: Tensor, pixel: Tensor, sigma_px: float) -> tuple[Tensor, Tensor]:
    """Values (n, C) of pixels (n, 2), blurred in their picture, and its slopes (n, C, 2).

    The picture is black where there is no pixel.
    """
    pixel = pixel - pixel.amin(dim=0)  # beyond this box all is black
    x, y = pixel.unbind(dim=1)
    width, height = (pixel.amax(dim=0) + 1).tolist()
    image = torch.zeros(values.shape[1], height, width, device=values.device)
    image[:, y, x] = values.T
    image = blurred(image, sigma_px)
    return image[:, y, x].T, _slopes(image)[:, :, y, x].permute(2, 1, 0)


def blurred(image: Tensor, sigma_px: float) -> Tensor:
    """An image (C, H, W) under a Gaussian; black beyond its border."""
    reach = math.ceil(2.5 * sigma_px)
    x = torch.arange(-reach, reach + 1, device=image.device)
    kernel = torch.exp(-x.square() / (2 * sigma_px**2))
    kernel = (kernel / kernel.sum()).expand(len(image), 1, 1, -1)
    along_x = torch.nn.functional.conv2d(image, kernel, padding=(0, reach), groups=len(image))
    kernel = kernel.transpose(2, 3)
    return torch.nn.functional.conv2d(along_x, kernel, padding=(reach, 0), groups=len(image))


def _slopes(image: Tensor) -> Tensor:
    """(2, C, H, W) central differences by x and y of an image (C, H, W), black beyond it."""
    padded = torch.nn.functional.pad(image, (1, 1, 1, 1))
    by_x = (padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]) / 2
    by_y = (padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]) / 2
    return torch.stack([by_x, by_y])


def flow_of(points: Tensor, view: int, poses: PoseTable, cameras: Cameras) -> Tensor:
    """(n, 2, 6) how a field's points (n, 3) move in a view's picture, pixels, with its motion.

    A motion by a turn w about the centre c and a shift t (`PoseTable.apply`) lets the view see at
    a point's old pixel what lies at x + w x (x - c) + t, so the point itself goes the other way.
    """
    rotation = poses.rotation[view]
    axes = cameras.rotation[view] @ rotation.T  # field to camera
    centred = points - poses.centre
    as_given = (centred - poses.shift[view]) @ rotation + poses.centre
    inside = as_given @ cameras.rotation[view].T + cameras.world_to_camera[view, :3, 3]  # (n, 3)
    back = axes.expand(len(points), 3, 3)
    moved = torch.cat([back @ cross_matrix(centred), -back], dim=2)  # (n, 3, 6)
    focal = cameras.intrinsics[view].diagonal()[:2, None]
    if cameras.kind == "orthographic":
        return focal * moved[:, :2]
    depth = inside[:, 2, None, None].clamp_min(1e-3)
    return focal / depth * (moved[:, :2] - inside[:, :2, None] / depth * moved[:, 2:])


def _solve(
    normal: Tensor, right: Tensor, noise: float, poses: PoseTable, spread_rad: float
) -> Tensor:
    """(V, 6) turns and shifts that solve the views' equations (V, 6, 6), (V, 6) together.

    Views share one unknown: a shift of object and views together, which moves each view along its
    depth. It shows only in the perspective of all of them, so no view may choose its own.
    """
    # small systems in double: results repeat bit for bit whatever the memory's alignment
    normal, right = normal.double(), right.double()
    count, like = len(normal), normal
    scale = normal.diagonal(dim1=1, dim2=2).mean(dim=1).clamp_min(1e-12)[:, None, None]
    stiffness, pull = _prior(poses, noise, spread_rad)
    depths = poses.depths.double()
    along = _DEPTH_STIFFNESS * scale * depths[:, :, None] * depths[:, None, :]  # (V, 3, 3)
    full = normal + stiffness + _DAMPING * scale * torch.eye(6).to(like)
    full[:, 3:, 3:] += along
    coupling = torch.zeros(count, 6, 3).to(like)
    coupling[:, 3:] = along
    own = torch.linalg.solve(full, right + pull)  # (V, 6) without a common shift
    motion = own
    if poses.sees_depth:
        by_common = torch.linalg.solve(full, coupling)  # (V, 6, 3)
        left = (along - along @ by_common[:, 3:]).sum(dim=0)
        left = left + 1e-6 * scale.sum() * torch.eye(3).to(like)
        common = torch.linalg.solve(left, torch.einsum("vij,vj->i", along, own[:, 3:]))
        motion = own + by_common @ common
    longest = motion[:, :3].norm(dim=1, keepdim=True).clamp_min(1e-12)
    return (motion * (_LONGEST_RAD / longest).clamp_max(1.0)).float()


def _prior(poses: PoseTable, noise: float, spread_rad: float) -> tuple[Tensor, Tensor]:
    """Stiffness (V, 6, 6) and pull (V, 6) towards poses that differ from the given ones by chance.

    View 0 was given exactly, so a view's error is its motion against view 0's. View 0 itself is
    drawn by all others towards their mean.
    """
    turns = axis_angle(poses.rotation.double())
    count = len(turns)
    strength = torch.full((count,), noise / spread_rad**2).to(turns)
    strength[0] *= count - 1
    towards = turns[:1] - turns
    towards[0] = turns[1:].mean(dim=0) - turns[0]
    shift = poses.shift.double()
    weight = strength / poses.shift_per_turn**2
    common = (weight @ shift) / weight.sum()
    diagonal = torch.stack([strength] * 3 + [weight] * 3, dim=1)  # (V, 6)
    difference = torch.cat([towards, common - shift], dim=1)
    return torch.diag_embed(diagonal), diagonal * difference
