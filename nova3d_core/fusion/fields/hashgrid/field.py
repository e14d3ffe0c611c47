"""The paper's field: initial SDF plus an MLP on a hash encoding, in PyTorch.

f(x) = init(x) + scale * sdf_network(encoding(x)); the network starts at 0, so the field starts as
the visual hull. The scale is proportional to the level's cell size, so that an Adam step moves f
by the same fraction of a cell at every level.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ....compute.devices import seeded
from ....errors import InputError, StageError
from ....sdf_grid import SdfGrid, grid_points
from ...config import LevelConfig
from ...losses import LossConfig
from ..render_output import RayGradients, RenderOutput
from .encoding import cosine_window, make_encoding
from .networks import FEATURE_DIM, ColorNetwork, ConflictNetwork, SDFNetwork
from .rays import Samples, composite, march, trilinear

STAGE = "sdf fusion"
MIN_WEIGHT = 0.01
"""Samples with less weight contribute neither gradient nor colour."""
REGULARISER_SAMPLES = 2048
"""Sampled positions of the regularisers per step."""

_TABLE_LR, _NETWORK_LR = 1e-2, 1e-3
_CONFLICT_LR = 1e-2
_COLOUR_LR_RATIO = 0.1  # of the level's colour_lr: 5e-3 at its default
_SCALE_CELLS = 120.0  # times sdf_lr_cells: an Adam step then moves f by less than sdf_lr_cells
_CACHE_CELLS = 64
_CACHE_BAND = 4.0  # cells of the cache around the surface that `redistance` updates
_SAMPLE_BAND = 2.0  # cells of the cache around the surface that the regularisers sample
_CHUNK_SIZE = 2**16
_CONFLICT_LEVELS = 2  # h uses the coarse encoding levels only
_TAPS = ((1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, 1), (0, 0, -1))


@dataclass(frozen=True, eq=False)
class _ConflictInputs:
    """N samples of the last rendered rays, without gradients; see `render_conflict`."""

    num_rays: int
    """Number of rendered rays."""
    ray: Tensor
    """(N,) int64 index of the ray."""
    weight: Tensor
    """(N,) NeuS weight."""
    colour: Tensor
    """(N, 3) f_c."""
    features: Tensor
    """(N, 13) f_g."""
    direction: Tensor
    """(N, 3)"""
    position: Tensor
    """(N, 3 + F) x in -1..1, and its coarse encoding levels."""


class HashGridField:
    """Hash-grid field of the paper; implements `Field` and `ConflictRenderer`.

    Ray gradients and the regularisers of `step` are parts of one integral over the surface: the
    caller weights each ray by its world area, `step` weights the mean of the regularisers around
    the surface by `surface_area`. Adam is invariant to their common scale.

    Args:
        init: initial signed distances, such as the visual hull's.
        device: device of the field; CUDA gets larger tables.
        seed: seed of the network weights and of the regulariser samples.
        max_resolution: cells along the object's longest side of the finest encoding level; the
            maximum of the levels' resolutions.
        views: number of views of `render_conflict`.

    Raises:
        InputError: `init` encloses no volume.
    """

    def __init__(
        self,
        init: SdfGrid,
        device: torch.device | str = "cpu",
        seed: int = 0,
        max_resolution: int = 256,
        views: int = 64,
    ):
        self.device = torch.device(device)
        self.track_rays = True
        """Whether `render` tracks gradients with respect to rays; faster without."""
        self._init = init.values.float().to(self.device)
        self._init_spacing = float(init.spacing)
        self._low = init.origin.float().to(self.device)
        sides = torch.tensor(init.values.shape) - 1
        self._size = (sides * init.spacing).float().to(self.device)  # (3,) world
        self._longest = float(self._size.max())
        inside = (init.values < 0).nonzero()
        if len(inside) == 0:
            raise InputError(
                "the initial surface of the sdf fusion encloses no volume.",
                "Provide a closed shape.",
            )
        span = inside.max(dim=0).values - inside.min(dim=0).values + 1
        self._object_side = float(span.max()) * init.spacing
        with seeded(seed):
            max_res = max(round(max_resolution * self._longest / self._object_side), 16)
            self.encoding = make_encoding(self.device, max_res)
            self.sdf_network = SDFNetwork(self.encoding.out_dim).to(self.device)
            self.color_network = ColorNetwork(self.encoding.out_dim).to(self.device)
            position_dim = 3 + self.encoding.features_per_level * _CONFLICT_LEVELS
            self._conflict_position_dim = position_dim
            self.conflict_network = ConflictNetwork(position_dim, views).to(self.device)
        self._generator = torch.Generator().manual_seed(seed)
        self._adam = torch.optim.AdamW(
            [
                {"params": list(self.encoding.parameters()), "base_lr": _TABLE_LR},
                {"params": list(self.sdf_network.parameters()), "base_lr": _NETWORK_LR},
                {"params": list(self.color_network.parameters()), "base_lr": _NETWORK_LR},
            ],
            betas=(0.9, 0.99),
            eps=1e-15,
        )
        self._conflict_adam = torch.optim.AdamW(
            self.conflict_network.parameters(), lr=_CONFLICT_LR, betas=(0.9, 0.99), eps=1e-15
        )
        self._cache: Tensor | None = None
        self._cache_spacing = self._object_side / _CACHE_CELLS
        self._rays: tuple[Tensor, Tensor] | None = None
        self._outputs: list[Tensor] = []
        self._conflict_inputs: _ConflictInputs | None = None
        self.spacing, self._sharpness, self._scale = 0.0, 0.0, 0.0
        self.set_level(LevelConfig(64, 1, 1.0))

    def set_level(self, level: LevelConfig) -> None:
        """Changes to a level's resolution, keeping the shape: finer encoding levels fade in."""
        self.spacing = self._object_side / level.resolution
        self._sharpness = level.sharpness / self.spacing
        scale = _SCALE_CELLS * level.sdf_lr_cells * self.spacing
        before = self.encoding.weights
        cells = level.resolution * self._longest / self._object_side
        after = cosine_window(self.encoding.resolutions, cells)
        self.encoding.set_window(after)
        with torch.no_grad():
            if self._scale > 0:
                self.sdf_network.outer.weight[0] *= self._scale / scale
                self.sdf_network.outer.bias[0] *= self._scale / scale
                # rescale the networks' input weights to the new weights of the encoding levels
                for reader, first in (
                    (self.sdf_network.inner, 3),
                    (self.color_network[0], FEATURE_DIM + 6),
                ):
                    for k, (old, new) in enumerate(zip(before, after, strict=True)):
                        columns = slice(first + 2 * k, first + 2 * k + 2)
                        if old > 0 and new > 0:
                            reader.weight[:, columns] *= old / new
        self._scale = scale
        self._adam.param_groups[2]["base_lr"] = _COLOUR_LR_RATIO * level.colour_lr
        self._cache = None

    def distances(self, points: Tensor) -> Tensor:
        """Signed distances (N,) at world points (N, 3), clamped at the initial box."""
        unit = (points - self._low) / self._longest
        offset = self.sdf_network.sdf_offset(self.encoding(unit))
        return self._initial_sdf(points) + self._scale * offset

    def gradients(self, points: Tensor) -> Tensor:
        """(N, 3) central differences of the distances at world points, with one cell as step."""
        return self._differences(self._taps(points))

    def render(
        self, origins: Tensor, directions: Tensor, with_backward: bool = True
    ) -> RenderOutput:
        """Renders R world rays: origins (R, 3), unit directions (R, 3); see `Field`."""
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
        out = self.sdf_network(encoded)  # (N, 1 + 13)
        f = self._initial_sdf(points) + self._scale * out[:, 0]
        sample_weight, opacity = composite(self._sharpness * f, samples, len(origins))  # (N,), (R,)
        visible = (sample_weight > MIN_WEIGHT).nonzero()[:, 0]
        sdf_gradient = self.gradients(points[visible])  # (K, 3)
        colour = self._colours(encoded[visible], out[visible, 1:], sdf_gradient)
        weight = sample_weight[visible][:, None]
        zero = origins.new_zeros(len(origins), 3)
        gradient = zero.index_add(0, ray[visible], weight * sdf_gradient)
        colours = zero.index_add(0, ray[visible], weight * colour)
        depth = zero[:, 0].index_add(0, ray, sample_weight * t)
        self._outputs = [opacity, gradient, colours, depth]
        seen = ray[visible]
        self._conflict_inputs = _ConflictInputs(
            len(origins),
            seen,
            weight.detach()[:, 0],
            colour.detach(),
            out.detach()[visible, 1:],
            directions.detach()[seen],
            encoded.detach()[visible, : self._conflict_position_dim],
        )
        return RenderOutput(*(output.detach() for output in self._outputs))

    def backward(
        self,
        grad_opacity: Tensor,
        grad_gradient: Tensor,
        grad_colour: Tensor,
        with_rays: bool,
        grad_depth: Tensor | None = None,
    ) -> RayGradients | None:
        """Backpropagates gradients of the last `render`'s outputs; accumulates until `step`.

        Raises:
            StageError: no preceding `render`, or with_rays although `track_rays` is False.
        """
        if self._rays is None:
            raise StageError(STAGE, "backward was called without a preceding render.")
        if with_rays and not self.track_rays:
            raise StageError(STAGE, "gradients of rays need track_rays.")
        rays, outputs = self._rays, self._outputs
        self._rays, self._outputs = None, []
        grads = [grad.to(self.device) for grad in (grad_opacity, grad_gradient, grad_colour)]
        if grad_depth is not None:
            grads.append(grad_depth.to(self.device))
        torch.autograd.backward(outputs[: len(grads)], grads)
        if not with_rays:
            return None
        leaves = [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in rays]
        return RayGradients(*leaves)

    def step(self, losses: LossConfig, decay: float) -> None:
        """Adam step with the regularisers; `decay` scales the level's learning rates."""
        self.regularisers(losses).backward()
        for group in self._adam.param_groups:
            group["lr"] = group["base_lr"] * decay
        self._adam.step()
        self._adam.zero_grad()

    def regularisers(self, losses: LossConfig) -> Tensor:
        """R_eik, R_sparse and R_smooth as integrals over the surface, sampled around it.

        R_eik = (|grad f| - 1)^2, R_sparse = exp(-|f| / spacing), R_smooth = (laplacian of f)^2 in
        1 / world^2. Over a volume, the squared Laplacian equals the squared change of the gradient
        that Wonder3D penalises, and needs no samples beyond the six of the gradient.
        """
        self._cached()
        near = self._near
        if len(near) == 0:
            raise StageError(STAGE, "the surface vanished.", "Choose another preset.")
        pick = torch.randint(len(near), (REGULARISER_SAMPLES,), generator=self._generator)
        jitter = torch.rand(REGULARISER_SAMPLES, 3, generator=self._generator).to(self.device) - 0.5
        points = near[pick.to(self.device)] + jitter * self._cache_spacing  # (N, 3)
        taps, f = self._taps(points), self.distances(points)  # (N, 6), (N,)
        terms = losses.eikonal * (self._differences(taps).norm(dim=1) - 1.0).square()
        if losses.sparse > 0:
            terms = terms + losses.sparse * torch.exp(-f.abs() / self.spacing)
        if losses.smooth > 0:
            laplacian = (taps.sum(dim=1) - 6.0 * f) / self.spacing**2
            terms = terms + losses.smooth * laplacian.square()
        return self.surface_area * terms.mean()

    @property
    def surface_area(self) -> float:
        """World area of the current surface: the volume of the band over its thickness."""
        self._cached()
        return len(self._near) * self._cache_spacing**3 / (2.0 * _SAMPLE_BAND * self._cache_spacing)

    def redistance(self) -> None:
        """Updates the cached distances around the surface, with which rays are marched."""
        if self._cache is None:
            return
        points = self._cache_points()
        near = (self._cache.reshape(-1).abs() < _CACHE_BAND * self._cache_spacing).nonzero()[:, 0]
        self._cache.view(-1)[near] = self._in_chunks(self.distances, points[near])
        self._find_near()

    def is_finite(self) -> bool:
        """Whether all values are finite."""
        modules = (self.encoding, self.sdf_network, self.color_network, self.conflict_network)
        return all(bool(torch.isfinite(p).all()) for m in modules for p in m.parameters())

    def to_grid(self) -> SdfGrid:
        """Signed distances on the CPU at the level's resolution, over the initial box.

        The network is evaluated near the surface; elsewhere its offset is interpolated from the
        cache, as only the sign matters there.
        """
        self._cache = None  # the last steps moved the surface
        shape = (self._size / self.spacing - 1e-3).ceil().long().add(1).tolist()
        grid = SdfGrid(torch.zeros(shape), self._low.cpu(), self.spacing)
        values = torch.empty(shape).view(-1)
        cached = self._cached()
        offset = cached - self._initial_sdf(self._cache_points()).view_as(cached)
        band = 1.5 * self._cache_spacing
        points = grid.points()
        for start in range(0, len(points), _CHUNK_SIZE):
            part = points[start : start + _CHUNK_SIZE].to(self.device)
            with torch.no_grad():
                f = self._initial_sdf(part) + trilinear(
                    offset, self._low, self._cache_spacing, part
                )
                near = (f.abs() < band).nonzero()[:, 0]
                f[near] = self.distances(part[near])
            values[start : start + _CHUNK_SIZE] = f.cpu()
        return SdfGrid(values.view(shape), self._low.cpu(), self.spacing)

    def render_conflict(self, view: Tensor) -> Tensor:
        """H of eq. 4 for the rays of the last `render`: (R,) sum of w_i h(x_i), in 0..1.

        Args:
            view: (R,) int64 indices of the rays' views.

        Gradients flow to the network f_psi only: weights, colours and features are constants here,
        or the surface would move to where h is large.

        Raises:
            StageError: no preceding `render` of these rays.
            InputError: a view index beyond the field's number of views.
        """
        inputs = self._conflict_inputs
        if inputs is None or inputs.num_rays != len(view):
            raise StageError(STAGE, "render_conflict was called without a render of its rays.")
        views = self.conflict_network.view_embedding.num_embeddings
        low, high = torch.stack(view.aminmax()).tolist() if len(view) else (0, 0)
        if not 0 <= low <= high < views:
            raise InputError(
                f"conflict got the view index {high}, but the field has {views} views."
            )
        parts = (inputs.colour, inputs.features, inputs.direction, inputs.position)
        h = self.conflict_network(*parts, view[inputs.ray])  # (N,)
        return h.new_zeros(len(view)).index_add(0, inputs.ray, inputs.weight * h)

    def step_conflict(self, conflict: Tensor, grad_conflict: Tensor) -> None:
        """Adam step of f_psi, given the gradient (R,) of `render_conflict`'s result."""
        torch.autograd.backward([conflict], [grad_conflict])
        self._conflict_adam.step()
        self._conflict_adam.zero_grad()

    def _initial_sdf(self, points: Tensor) -> Tensor:
        return trilinear(self._init, self._low, self._init_spacing, points)

    def _taps(self, points: Tensor) -> Tensor:
        """Distances (N, 6) one cell away from points (N, 3) in +x, -x, +y, -y, +z, -z."""
        offsets = self.spacing * torch.tensor(_TAPS, dtype=torch.float32, device=self.device)
        return self.distances((points[:, None] + offsets).view(-1, 3)).view(-1, 6)

    def _differences(self, taps: Tensor) -> Tensor:
        return (taps[:, 0::2] - taps[:, 1::2]) / (2.0 * self.spacing)

    def _colours(self, encoded: Tensor, features: Tensor, sdf_gradient: Tensor) -> Tensor:
        normal = F.normalize(sdf_gradient.detach(), dim=1)
        return self.color_network(torch.cat([features, normal, encoded], dim=1))

    def _cached(self) -> Tensor:
        """Distances of the field on a coarse grid over the initial box, (X, Y, Z); cached."""
        if self._cache is None:
            shape = (self._size / self._cache_spacing - 1e-3).ceil().long().add(1).tolist()
            self._cache_shape = tuple(shape)
            self._cache = self._in_chunks(self.distances, self._cache_points()).view(shape)
            self._find_near()
        return self._cache

    def _find_near(self) -> None:
        near = self._cache.reshape(-1).abs() < _SAMPLE_BAND * self._cache_spacing
        self._near = self._cache_points()[near]

    def _cache_points(self) -> Tensor:
        points = grid_points(self._low.cpu(), self._cache_spacing, self._cache_shape)
        return points.to(self.device)

    def _in_chunks(self, function: Callable[[Tensor], Tensor], points: Tensor) -> Tensor:
        with torch.no_grad():
            parts = [function(part) for part in points.split(_CHUNK_SIZE)]
        return torch.cat(parts) if parts else points.new_zeros(0)
