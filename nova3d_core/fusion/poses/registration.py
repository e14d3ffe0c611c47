"""All views aligned with the present surface at once: Gauss-Newton on whole images.

The gradient steps of `poses.py` find large errors together with a coarse surface, but they walk
about their goal: their length is set and their rays are drawn. Once the surface has some detail,
each view's image is compared with the rendered one (mask, normals, colour), and the turn and
shift that bring the two together are solved for: Lucas-Kanade with the mean of both images'
slopes, robust weights, and a prior that the given poses are wrong by chance, not all alike.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from itertools import pairwise

import torch
from torch import Tensor

from ...cameras.cameras import Cameras
from ..fields.base import Field, Rendered
from ..rays import RayBank, pixel_side
from .image_patch import Frame, softened, window_sums
from .pose_table import PoseTable, axis_angle, cross_matrix

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
"""Both images are blurred by so many cells: the field is softer than the given ones."""
_LONGEST_RAD = 0.02
"""A step turns by no more than this."""
_RAYS_AT_ONCE = 65_536


@dataclass(frozen=True, eq=False)
class _Given:
    """What a view's n rays should see."""

    rays: slice
    """Where they stand among all."""
    frame: Frame
    normal_weight: Tensor
    """(n,) what differences of normals count."""
    wanted: Tensor
    """(7, n) mask, normal, colour, weighted and blurred."""
    slope: Tensor
    """(2, 7, n) its slopes by x and y, for each pixel of the images looked at."""


class Alignment:
    """Aligns V views with a field, a step at a time.

    Args:
        bank: N rays of all views, view after view.
        cameras: V given cameras.
        cell: world size of the field's cells.
        stride: render every so many-th row and column of the images only, M rays.
    """

    def __init__(self, bank: RayBank, cameras: Cameras, cell: float, stride: int = 1):
        self._stride, self._rays = stride, rays_at(bank, stride)
        self._bank, self._cameras = coarser(bank, cameras, self._rays, stride)
        self._velocity = torch.zeros(len(cameras), 6)  # as the poses, on the CPU
        cell_px = cell / pixel_side(bank, len(cameras))
        blur_px = max(_BLUR_CELLS * cell_px, _LEAST_BLUR_PX * stride)
        blur_px = min(blur_px, _REACH_PX / 4 * stride)
        self._blur_px = blur_px / stride
        weight = _normal_weight(bank)
        self._given = []
        whole, looked_at = (_parts(each, len(cameras)) for each in (bank, self._bank))
        all_frames = Frame.each([bank.pixel[rays] for rays in whole])
        frames = all_frames
        if stride > 1:
            frames = Frame.each([self._bank.pixel[rays] for rays in looked_at])
        # view by view: whole targets next to their cut-out copies would double the memory
        for view, rays in enumerate(looked_at):
            frame, rays_of_view = all_frames[view], whole[view]
            given, slopes = _blurred_targets(bank, weight, rays_of_view, frame, blur_px)
            if stride > 1:
                chosen = self._rays[rays] - whole[view].start
                given, slopes = given[:, chosen].contiguous(), slopes[..., chosen] * stride
            self._given.append(_Given(rays, frames[view], weight[self._rays][rays], given, slopes))

    def step(
        self,
        field: Field,
        poses: PoseTable,
        gains: Tensor,
        conflict: Tensor,
        spread_rad: float,
        narrowed: float = 1.0,
    ) -> None:
        """Moves all poses towards where their images fit best.

        Args:
            field: the surface as it is.
            poses: moved in place.
            gains: (V, 3) exposure of each view.
            conflict: (N,) H of the bank's pixels; what conflicts counts less.
            spread_rad: standard deviation of the given poses' errors, radians.
            narrowed: what is left of the bound beyond which differences count less, in 0..1.
        """
        bank, trust = self._bank, 1.0 - conflict[self._rays]
        origin, direction = poses.moved(bank.view, bank.origin, bank.direction)
        rendered = _render(field, origin, direction)
        bound = _ROBUST * narrowed
        systems = [
            self._system(view, rendered, (origin, direction), poses, gains[view], trust, bound)
            for view in range(len(self._cameras))
        ]
        packed = [torch.cat([part.reshape(-1) for part in system]) for system in systems]
        packed = torch.stack(packed).cpu()  # (V, 44), small: solved where the poses are
        parts = packed.split([36, 6, 1, 1], dim=1)
        normal, right, error, weight = (part.contiguous() for part in parts)
        normal = normal.unflatten(1, (6, 6))
        alike = max(_ALIKE / self._stride**2, 1.0)
        noise = alike * float(error.sum() / weight.sum().clamp_min(1e-12))
        motion = _solve(normal, right, noise, poses, spread_rad)
        self._velocity = _MOMENTUM * self._velocity + motion
        poses.apply(self._velocity[:, :3], self._velocity[:, 3:])

    def _system(
        self,
        view: int,
        rendered: Rendered,
        moved: tuple[Tensor, Tensor],
        poses: PoseTable,
        gain: Tensor,
        trust: Tensor,
        bound: float,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """A view's normal equations: (6, 6), (6,), and its summed weighted error and weight.

        Args:
            view: whose.
            rendered: what all M rays show.
            moved: (M, 3) origins and directions of the rays as the poses have them.
            poses: as they are.
            gain: (3,) the view's exposure.
            trust: (M,) what conflict leaves of the rays' weight.
            bound: differences beyond this count less.
        """
        given = self._given[view]
        rays, wanted, wanted_slope = given.rays, given.wanted, given.slope
        if self._bank.turns_normals:
            turn = poses.motions_on(wanted.device)[0][view]
            wanted, wanted_slope = wanted.clone(), wanted_slope.clone()
            wanted[1:4] = turn @ wanted[1:4]
            wanted_slope[:, 1:4] = turn @ wanted_slope[:, 1:4]
        shown = _one_view(rendered, rays)
        seen = _features(shown, given.normal_weight, gain)
        seen, slope = softened(seen, given.frame, self._blur_px)
        depth, known = _filled_depth(shown, given.frame, _odd(_REACH_PX / self._stride))
        origin, direction = (part[rays].T for part in moved)  # (3, n)
        points = origin + depth * direction
        slope = (slope + wanted_slope) / 2
        jacobian = by_motion(slope, points, view, poses, self._cameras)  # (6, 7, n)
        if self._bank.turns_normals:
            # given normals R N turn by w x R N with the pose
            jacobian[:3, 1:4] += cross_matrix(wanted[1:4].T).permute(2, 1, 0)
        residual = wanted - seen
        error = residual.square().sum(dim=0)
        weight = downweighted(known * trust[rays], error, bound)
        weighted, flat = (jacobian * weight).flatten(1), jacobian.flatten(1)
        return weighted @ flat.T, weighted @ residual.flatten(), weight @ error, weight.sum()


def downweighted(weight: Tensor, squared: Tensor, bound: float) -> Tensor:
    """Less weight for large squared differences d^2: w / (1 + d^2 / bound^2)^2 (Geman-McClure)."""
    return weight / (1.0 + squared / bound**2).square()


def rays_at(bank: RayBank, stride: int) -> Tensor | slice:
    """(M,) which of the rays lie in every `stride`-th row and column; at 1 all, uncopied."""
    if stride == 1:
        return slice(None)
    return (bank.pixel.long() % stride == 0).all(dim=1).nonzero()[:, 0]


def coarser(
    bank: RayBank, cameras: Cameras, rays: Tensor | slice, stride: int
) -> tuple[RayBank, Cameras]:
    """Some rays with their pixels counted in strides, and cameras with such images."""
    chosen = bank.each(lambda values: values[rays])
    scale = cameras.intrinsics.new_tensor([1.0 / stride, 1.0 / stride, 1.0])
    small = replace(
        cameras,
        intrinsics=cameras.intrinsics * scale[:, None],
        width=-(-cameras.width // stride),
        height=-(-cameras.height // stride),
    )
    return replace(chosen, pixel=chosen.pixel.long() // stride + 0.5), small


def _parts(bank: RayBank, views: int) -> list[slice]:
    """Where each view's rays stand."""
    bounds = torch.arange(views + 1, device=bank.view.device)
    begins = torch.searchsorted(bank.view, bounds).tolist()
    return [slice(begin, end) for begin, end in pairwise(begins)]


def _odd(number: float) -> int:
    """The nearest odd whole number."""
    return 2 * round((number - 1.0) / 2.0) + 1


def _normal_weight(bank: RayBank) -> Tensor:
    """(N,) what differences of normals count at each ray.

    Beside the object the given normal is zero, which shows its silhouette once more.
    """
    has_normal = bank.normal.norm(dim=1) > 0.5
    counts = has_normal | (bank.mask <= 0.5)
    return WEIGHTS[1] * counts.float() * has_normal.any().float()


def _blurred_targets(
    bank: RayBank, normal_weight: Tensor, rays: slice, frame: Frame, blur_px: float
) -> tuple[Tensor, Tensor]:
    """(7, n) mask, normal, colour of one view as given, blurred; and their slopes (2, 7, n).

    All pixels are blurred, those between the rows and columns that are rendered, too.
    """
    of_mask, _, of_colour = WEIGHTS
    mask, colour = bank.mask[rays, None], bank.colour[rays]
    normal = normal_weight[rays, None] * mask * bank.normal[rays]
    given = torch.cat([of_mask * mask, normal, of_colour * colour], dim=1).T
    return softened(given, frame, blur_px)


def _render(field: Field, origin: Tensor, direction: Tensor) -> Rendered:
    """M rays rendered, so many at once."""
    pairs = zip(origin.split(_RAYS_AT_ONCE), direction.split(_RAYS_AT_ONCE), strict=True)
    parts = [field.render(*pair) for pair in pairs]
    return Rendered(
        *(torch.cat([getattr(part, each.name) for part in parts]) for each in fields(Rendered))
    )


def _one_view(rendered: Rendered, rays: slice) -> Rendered:
    """What some of the rays show."""
    return Rendered(*(getattr(rendered, each.name)[rays] for each in fields(Rendered)))


def _features(rendered: Rendered, normal_weight: Tensor, gain: Tensor) -> Tensor:
    """(7, n) mask, normal, colour as rendered; normal_weight (n,), gain (3,)."""
    of_mask, _, of_colour = WEIGHTS
    gradient = rendered.gradient.T  # (3, n)
    length = gradient.square().sum(dim=0).sqrt().clamp_min(1e-3)
    normal = gradient * (normal_weight * rendered.opacity / length)
    colour = rendered.colour.T * (of_colour * gain[:, None])
    return torch.cat([of_mask * rendered.opacity[None], normal, colour])


def _filled_depth(rendered: Rendered, frame: Frame, reach_px: int) -> tuple[Tensor, Tensor]:
    """(n,) where each ray ends, those beside the object as their neighbours; (n,) 1 if known."""
    hit = (rendered.opacity > _SEEN).float()
    own = rendered.depth / rendered.opacity.clamp_min(1e-6)
    images = frame.image(torch.stack([own * hit, hit]))
    total, count = frame.pixels(window_sums(images, reach_px))
    borrowed = total / count.clamp_min(1.0)
    return torch.where(hit > 0, own, borrowed), (count > 0.5).float()


def by_motion(
    slope: Tensor, points: Tensor, view: int, poses: PoseTable, cameras: Cameras
) -> Tensor:
    """(6, C, n) how what a view sees of C channels changes with its turn and shift, sign turned.

    A motion by a turn w about the centre c and a shift t (`PoseTable.apply`) lets the view see at
    a point's old pixel what lies at x + w x (x - c) + t, so the point itself goes the other way in
    the image, by D (w x (x - c) + t), where D is what a point's own motion does to its pixel.

    Args:
        slope: (2, C, n) the channels' slopes by x and y, per pixel.
        points: (3, n) of the field.
        view: whose image.
        poses: as they are.
        cameras: as given.
    """
    rotations, shifts = poses.motions_on(points.device)
    centre = poses.centre_on(points.device)
    axes = cameras.rotation[view] @ rotations[view].T  # field to camera
    centred = points - centre[:, None]
    place = axes @ (centred - shifts[view][:, None])
    offset = cameras.rotation[view] @ centre + cameras.world_to_camera[view, :3, 3]
    x, y, depth = place + offset[:, None]  # in the given camera's frame
    focal_x, focal_y = cameras.intrinsics[view].diagonal()[:2]
    if cameras.kind == "orthographic":
        by_x, by_y = (focal_x * axes[0])[:, None], (focal_y * axes[1])[:, None]
    else:
        depth = depth.clamp_min(1e-3)
        toward = axes[2][:, None]
        by_x = focal_x / depth * (axes[0][:, None] - x / depth * toward)  # (3, n)
        by_y = focal_y / depth * (axes[1][:, None] - y / depth * toward)
    motion = slope.new_empty(6, *slope.shape[1:])
    shift = motion[3:]
    torch.mul(slope[0], by_x[:, None], out=shift).addcmul_(slope[1], by_y[:, None])
    for axis, (one, other) in enumerate(((1, 2), (2, 0), (0, 1))):
        turn = torch.mul(shift[other], centred[one], out=motion[axis])
        turn.addcmul_(shift[one], centred[other], value=-1.0)
    return motion


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
    weight = strength / poses.translation_per_radian**2
    common = (weight @ shift) / weight.sum()
    diagonal = torch.stack([strength] * 3 + [weight] * 3, dim=1)  # (V, 6)
    difference = torch.cat([towards, common - shift], dim=1)
    return torch.diag_embed(diagonal), diagonal * difference
