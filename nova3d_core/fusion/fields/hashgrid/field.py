"""The paper's field: the start's distances plus a small network on a hash encoding, in plain torch.

f(x) = start(x) + scale * geometry(encoding(x)); the network starts at 0, so the field starts as the
visual hull. The scale follows the level's cell size, so that one step of Adam moves f by a share of
a cell, whatever the level.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ....compute.devices import seeded
from ....errors import InputError, StageError
from ....sdf_grid import SdfGrid, grid_points
from ...config import LevelConfig
from ...losses import LossConfig
from ..base import RayGradients, RenderOutput
from .encoding import cosine_window, make_encoding
from .networks import FEATURES, ColorNetwork, ConflictNetwork, SDFNetwork
from .rays import Samples, composite, march, trilinear

STAGE = "sdf fusion"
MIN_WEIGHT = 0.01
"""Samples with less weight than this add no gradient and no colour."""
REGULARISED = 2048
"""Places where the regularisers look in a step."""

_TABLE_STEP, _NETWORK_STEP = 1e-2, 1e-3
_COLOUR_STEP_SHARE = 0.1  # of the level's colour step: 5e-3 at its default
_SCALE_CELLS = 120.0  # of the level's step_cells: a step of Adam then moves f by less than those
_CACHE_CELLS = 64
_REACH = 4.0  # cells of the cache around the surface that `redistance` renews
_NEAR = 2.0  # cells of the cache around the surface where the regularisers look
_CHUNK = 2**16
_CONFLICT_LEVELS = 2  # h sees the coarse levels only
_TAPS = ((1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, 1), (0, 0, -1))


class HashGridField:
    """Signed distance and colour as in the paper; implements `Field`.

    Rays' derivatives, and the regularisers of `step`, are parts of one integral over the surface:
    the caller weights each ray by the world area it stands for; `step` weights the mean of the
    regularisers around the surface by `surface_area`. Adam does not care for their common scale.

    Args:
        start: signed distances to begin with, such as the visual hull's.
        device: where to optimise; CUDA gets larger tables.
        seed: of the networks' start and the choice of places.
        finest: cells along the object's longest side of the finest encoding level; give the finest
            resolution that `begin_level` will ask for.
        views: how many views `conflict` can tell apart.

    Raises:
        InputError: if the start holds no inside.
    """

    def __init__(
        self,
        start: SdfGrid,
        device: torch.device | str = "cpu",
        seed: int = 0,
        finest: int = 256,
        views: int = 64,
    ):
        self.device = torch.device(device)
        self.track_rays = True
        """Whether `render` keeps what derivatives by the rays need; without it is faster."""
        self._start = start.values.float().to(self.device)
        self._start_spacing = float(start.spacing)
        self._low = start.origin.float().to(self.device)
        sides = torch.tensor(start.values.shape) - 1
        self._size = (sides * start.spacing).float().to(self.device)  # (3,) world
        self._longest = float(self._size.max())
        inside = (start.values < 0).nonzero()
        if len(inside) == 0:
            raise InputError("the start of the sdf fusion has no inside.", "Give a closed shape.")
        span = inside.max(dim=0).values - inside.min(dim=0).values + 1
        self._object_side = float(span.max()) * start.spacing
        with seeded(seed):
            finest_here = max(round(finest * self._longest / self._object_side), 16)
            self.encoding = make_encoding(self.device, finest_here)
            self.geometry = SDFNetwork(self.encoding.width).to(self.device)
            self.colour = ColorNetwork(self.encoding.width).to(self.device)
            self.conflict_head = ConflictNetwork(self.encoding.width, views).to(self.device)
        self._generator = torch.Generator().manual_seed(seed)
        self._adam = torch.optim.AdamW(
            [
                {"params": list(self.encoding.parameters()), "step": _TABLE_STEP},
                {"params": list(self.geometry.parameters()), "step": _NETWORK_STEP},
                {"params": list(self.colour.parameters()), "step": _NETWORK_STEP},
            ],
            betas=(0.9, 0.99),
            eps=1e-15,
        )
        self._conflict_adam = torch.optim.AdamW(
            self.conflict_parameters(), lr=5e-3, betas=(0.9, 0.99), eps=1e-15
        )
        self._cache: Tensor | None = None
        self._cache_spacing = self._object_side / _CACHE_CELLS
        self._rays: tuple[Tensor, Tensor] | None = None
        self._outputs: list[Tensor] = []
        self.spacing, self._sharpness, self._scale = 0.0, 0.0, 0.0
        self.begin_level(LevelConfig(64, 1, 1.0))

    def begin_level(self, level: LevelConfig) -> None:
        """Goes to a level's resolution, keeping the shape: finer encoding levels fade in."""
        self.spacing = self._object_side / level.resolution
        self._sharpness = level.sharpness / self.spacing
        scale = _SCALE_CELLS * level.sdf_lr_cells * self.spacing
        before = self.encoding.weights
        cells = level.resolution * self._longest / self._object_side
        after = cosine_window(self.encoding.resolutions, cells)
        self.encoding.set_window(after)
        with torch.no_grad():
            if self._scale > 0:
                self.geometry.outer.weight[0] *= self._scale / scale
                self.geometry.outer.bias[0] *= self._scale / scale
                # what a level's features grow by now, the networks that read them give back
                for reader, first in ((self.geometry.inner, 3), (self.colour[0], FEATURES + 6)):
                    for k, (old, new) in enumerate(zip(before, after, strict=True)):
                        columns = slice(first + 2 * k, first + 2 * k + 2)
                        if old > 0 and new > 0:
                            reader.weight[:, columns] *= old / new
        self._scale = scale
        self._adam.param_groups[2]["step"] = _COLOUR_STEP_SHARE * level.colour_lr
        self._cache = None

    def distances(self, points: Tensor) -> Tensor:
        """Signed distances (N,) at world points (N, 3); outside the start's box, its border's."""
        unit = (points - self._low) / self._longest
        return self._base(points) + self._scale * self.geometry.shift(self.encoding(unit))

    def gradients(self, points: Tensor) -> Tensor:
        """(N, 3) finite differences of the distances at world points, one cell to both sides."""
        return self._slopes(self._taps(points))

    def render(self, origins: Tensor, directions: Tensor) -> RenderOutput:
        """Renders R world rays: origins (R, 3), unit directions (R, 3)."""
        origins = origins.detach().to(self.device).requires_grad_(self.track_rays)
        directions = directions.detach().to(self.device).requires_grad_(self.track_rays)
        cache = SdfGrid(self._cached(), self._low, self._cache_spacing)
        with torch.no_grad():
            samples = march(cache, self._size, origins, directions, self._sharpness, self.spacing)
        return self.render_samples(origins, directions, samples)

    def render_samples(self, origins: Tensor, directions: Tensor, samples: Samples) -> RenderOutput:
        """NeuS compositing of given samples of R rays; see `render`."""
        self._rays = (origins, directions)
        ray, t = samples.ray, samples.t
        points = origins[ray] + t[:, None] * directions[ray]  # (N, 3)
        encoded = self.encoding((points - self._low) / self._longest)
        out = self.geometry(encoded)  # (N, 1 + 13)
        f = self._base(points) + self._scale * out[:, 0]
        share, opacity = composite(self._sharpness * f, samples, len(origins))  # (N,), (R,)
        seen = (share > MIN_WEIGHT).nonzero()[:, 0]
        slope = self.gradients(points[seen])  # (K, 3)
        colour = self._colours(encoded[seen], out[seen, 1:], slope)
        weight = share[seen][:, None]
        zero = origins.new_zeros(len(origins), 3)
        gradient = zero.index_add(0, ray[seen], weight * slope)
        colours = zero.index_add(0, ray[seen], weight * colour)
        depth = zero[:, 0].index_add(0, ray, share.detach() * t)
        self._outputs = [opacity, gradient, colours]
        return RenderOutput(opacity.detach(), gradient.detach(), colours.detach(), depth)

    def backward(
        self, grad_opacity: Tensor, grad_gradient: Tensor, grad_colour: Tensor, with_rays: bool
    ) -> RayGradients | None:
        """Takes the loss's derivatives by the last `render`'s outputs; adds up until `step`.

        Raises:
            StageError: without a render before, or with_rays although `track_rays` is off.
        """
        if self._rays is None:
            raise StageError(STAGE, "backward was called without a render before it.")
        if with_rays and not self.track_rays:
            raise StageError(STAGE, "derivatives by rays were asked for with track_rays off.")
        rays, outputs = self._rays, self._outputs
        self._rays, self._outputs = None, []
        grads = [by.to(self.device) for by in (grad_opacity, grad_gradient, grad_colour)]
        torch.autograd.backward(outputs, grads)
        if not with_rays:
            return None
        by = [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in rays]
        return RayGradients(*by)

    def step(self, loss: LossConfig, decay: float) -> None:
        """Adds the regularisers and moves; `decay` in 0..1 scales the level's step sizes."""
        self.regularisers(loss).backward()
        for group in self._adam.param_groups:
            group["lr"] = group["step"] * decay
        self._adam.step()
        self._adam.zero_grad()

    def regularisers(self, loss: LossConfig) -> Tensor:
        """R_eik, R_sparse and R_smooth, as integrals over the surface, from places around it.

        R_eik = (|grad f| - 1)^2, R_sparse = exp(-|f| / spacing), R_smooth = (laplacian of f)^2 in
        1 / world^2; over a volume, the squared Laplacian is the squared change of the gradient that
        Wonder3D penalises, and the gradient's own six places give it.
        """
        self._cached()
        near = self._near
        if len(near) == 0:
            raise StageError(STAGE, "the surface vanished.", "Lower the levels' step_cells.")
        pick = torch.randint(len(near), (REGULARISED,), generator=self._generator)
        jitter = torch.rand(REGULARISED, 3, generator=self._generator).to(self.device) - 0.5
        points = near[pick.to(self.device)] + jitter * self._cache_spacing  # (N, 3)
        taps, f = self._taps(points), self.distances(points)  # (N, 6), (N,)
        terms = loss.eikonal * (self._slopes(taps).norm(dim=1) - 1.0).square()
        if loss.sparse > 0:
            terms = terms + loss.sparse * torch.exp(-f.abs() / self.spacing)
        if loss.smooth > 0:
            bend = (taps.sum(dim=1) - 6.0 * f) / self.spacing**2
            terms = terms + loss.smooth * bend.square()
        return self.surface_area * terms.mean()

    @property
    def surface_area(self) -> float:
        """World area of the present surface: the volume around it over its thickness."""
        self._cached()
        return len(self._near) * self._cache_spacing**3 / (2.0 * _NEAR * self._cache_spacing)

    def redistance(self) -> None:
        """Brings the distances that rays are marched with up to date around the surface."""
        if self._cache is None:
            return
        points = self._cache_points()
        near = (self._cache.reshape(-1).abs() < _REACH * self._cache_spacing).nonzero()[:, 0]
        self._cache.view(-1)[near] = self._in_chunks(self.distances, points[near])
        self._find_near()

    def is_finite(self) -> bool:
        """Whether all values are finite."""
        modules = (self.encoding, self.geometry, self.colour, self.conflict_head)
        return all(bool(torch.isfinite(p).all()) for m in modules for p in m.parameters())

    def to_grid(self) -> SdfGrid:
        """The signed distances on the CPU, at the level's resolution, over the start's box.

        The network is asked near the surface; elsewhere its shift is interpolated from the cache,
        because there only the sign is of use.
        """
        self._cache = None  # the last steps moved the surface
        shape = (self._size / self.spacing - 1e-3).ceil().long().add(1).tolist()
        grid = SdfGrid(torch.zeros(shape), self._low.cpu(), self.spacing)
        values = torch.empty(shape).view(-1)
        shift = self._cached() - self._base(self._cache_points()).view_as(self._cached())
        reach = 1.5 * self._cache_spacing
        points = grid.points()
        for begin in range(0, len(points), _CHUNK):
            part = points[begin : begin + _CHUNK].to(self.device)
            with torch.no_grad():
                f = self._base(part) + trilinear(shift, self._low, self._cache_spacing, part)
                near = (f.abs() < reach).nonzero()[:, 0]
                f[near] = self.distances(part[near])
            values[begin : begin + _CHUNK] = f.cpu()
        return SdfGrid(values.view(shape), self._low.cpu(), self.spacing)

    def conflict(self, points: Tensor, directions: Tensor, view: Tensor) -> Tensor:
        """h of eq. 4, (N,) in 0..1, at N world points.

        Args:
            points: (N, 3) in the world.
            directions: (N, 3) unit, of the rays that see them.
            view: (N,) int64 indices of the views that see them.

        Its derivative reaches `conflict_parameters` only, never geometry or colour.

        Raises:
            InputError: for a view beyond those the field was made for.
        """
        views = self.conflict_head.view_embedding.num_embeddings
        if len(view) and not 0 <= int(view.min()) <= int(view.max()) < views:
            raise InputError(
                f"conflict was asked for view {int(view.max())}, the field knows {views} views."
            )
        with torch.no_grad():
            unit = (points - self._low) / self._longest
            encoded = self.encoding(unit)
            features = self.geometry(encoded)[:, 1:]
            colour = self._colours(encoded, features, self.gradients(points))
            coarse = self.encoding(unit, levels=_CONFLICT_LEVELS)
            known = torch.cat([colour, features, directions, coarse], dim=1)
        return self.conflict_head(known, view)

    def conflict_parameters(self) -> list[Tensor]:
        """What `conflict` learns, for the caller's own optimiser or `step_conflict`."""
        return list(self.conflict_head.parameters())

    def step_conflict(self, conflict: Tensor, grad_conflict: Tensor) -> None:
        """Moves the conflict head, given the loss's derivative (N,) by what `conflict` returned."""
        torch.autograd.backward([conflict], [grad_conflict])
        self._conflict_adam.step()
        self._conflict_adam.zero_grad()

    def _base(self, points: Tensor) -> Tensor:
        return trilinear(self._start, self._low, self._start_spacing, points)

    def _taps(self, points: Tensor) -> Tensor:
        """Distances (N, 6) one cell to +x, -x, +y, -y, +z, -z of points (N, 3)."""
        offsets = self.spacing * torch.tensor(_TAPS, dtype=torch.float32, device=self.device)
        return self.distances((points[:, None] + offsets).view(-1, 3)).view(-1, 6)

    def _slopes(self, taps: Tensor) -> Tensor:
        return (taps[:, 0::2] - taps[:, 1::2]) / (2.0 * self.spacing)

    def _colours(self, encoded: Tensor, features: Tensor, slope: Tensor) -> Tensor:
        normal = F.normalize(slope.detach(), dim=1)
        return self.colour(torch.cat([features, normal, encoded], dim=1))

    def _cached(self) -> Tensor:
        """The field's own distances on a coarse grid over the start's box, (X, Y, Z)."""
        if self._cache is None:
            shape = (self._size / self._cache_spacing - 1e-3).ceil().long().add(1).tolist()
            self._cache_shape = tuple(shape)
            self._cache = self._in_chunks(self.distances, self._cache_points()).view(shape)
            self._find_near()
        return self._cache

    def _find_near(self) -> None:
        near = self._cache.reshape(-1).abs() < _NEAR * self._cache_spacing
        self._near = self._cache_points()[near]

    def _cache_points(self) -> Tensor:
        points = grid_points(self._low.cpu(), self._cache_spacing, self._cache_shape)
        return points.to(self.device)

    def _in_chunks(self, function: Callable[[Tensor], Tensor], points: Tensor) -> Tensor:
        with torch.no_grad():
            parts = [function(part) for part in points.split(_CHUNK)]
        return torch.cat(parts) if parts else points.new_zeros(0)
