"""Multi-resolution hash encoding of positions in PyTorch; twice differentiable.

A position in the unit cube is interpolated in several grids, coarse to fine. Grids that fit their
table are stored densely; finer ones share its entries by a spatial hash. On CUDA, tinycudann's
encoder is used where it is installed.
"""

from __future__ import annotations

import importlib.util
import logging
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ....compute.devices import is_out_of_memory
from ....errors import InputError, MissingDependencyError

logger = logging.getLogger(__name__)

_MAX_REASON_LENGTH = 300
"""Characters of another package's error quoted in a warning."""
PRIMES = (1, 2654435761, 805459861)
"""Hash factor of each axis; products with grid coordinates stay below 2^63."""


def level_resolutions(num_levels: int, base_res: int, max_res: int) -> list[int]:
    """Cells along an axis of each level, in a geometric progression from base_res to max_res.

    Raises:
        InputError: num_levels < 1, or not 1 <= base_res <= max_res.
    """
    if num_levels < 1:
        raise InputError(f"hash encoding num_levels is {num_levels}, expected at least 1.")
    if not 1 <= base_res <= max_res:
        raise InputError(
            f"hash encoding has base_res {base_res} and max_res {max_res}, expected 1 <= base_res "
            "<= max_res."
        )
    growth = (max_res / base_res) ** (1.0 / max(num_levels - 1, 1))
    return [round(base_res * growth**level) for level in range(num_levels)]


def cosine_window(resolutions: Sequence[int], resolution: float) -> list[float]:
    """BARF's coarse-to-fine weights w_k of the levels: 1 up to `resolution`, then falling to 0.

    Args:
        resolutions: of the levels, increasing.
        resolution: the finest with full weight; level 0 always has full weight.

    Returns:
        One weight in 0..1 per level: (1 - cos(pi clamp(a - k, 0, 1))) / 2, where progress a is 1 at
        level 0's resolution and counts the levels on a logarithmic scale.
    """
    progress = 1.0
    for finer, coarser in zip(resolutions[1:], resolutions, strict=False):
        if finer > coarser and resolution > coarser:
            progress += min(math.log(resolution / coarser) / math.log(finer / coarser), 1.0)
        elif finer == coarser and resolution >= coarser:
            progress += 1.0
    ramps = [min(max(progress - level, 0.0), 1.0) for level in range(len(resolutions))]
    return [0.5 * (1.0 - math.cos(math.pi * ramp)) for ramp in ramps]


class HashEncoding(nn.Module):
    """Positions to features: x itself, then the features of each level times the level's weight.

    Args:
        num_levels: number of grids.
        features_per_level: features of a grid point.
        log2_hashmap_size: log2 of the number of table entries of a level.
        base_res: cells along an axis of the coarsest level.
        max_res: cells along an axis of the finest level.

    Raises:
        InputError: invalid sizes.
    """

    def __init__(
        self,
        num_levels: int = 7,
        features_per_level: int = 2,
        log2_hashmap_size: int = 15,
        base_res: int = 16,
        max_res: int = 256,
    ):
        super().__init__()
        if not 4 <= log2_hashmap_size <= 24:
            raise InputError(
                f"hash encoding log2_hashmap_size is {log2_hashmap_size}, expected 4 to 24."
            )
        if features_per_level < 1:
            raise InputError(
                f"hash encoding features_per_level is {features_per_level}, expected at least 1."
            )
        self.resolutions = level_resolutions(num_levels, base_res, max_res)
        self.features_per_level = features_per_level
        self.weights = [1.0] * num_levels
        self._mask = 2**log2_hashmap_size - 1
        # zeros: a level that fades in later changes nothing at first; the networks break the
        # symmetry. The layout (F, T) gathers and scatters fastest.
        self.tables = nn.ParameterList(
            nn.Parameter(torch.zeros(features_per_level, 2**log2_hashmap_size))
            for _ in range(num_levels)
        )

    @property
    def out_dim(self) -> int:
        """Features of a position."""
        return 3 + self.features_per_level * len(self.resolutions)

    def set_window(self, weights: Sequence[float]) -> None:
        """Sets the levels' weights; levels of weight 0 are skipped and not trained."""
        _check_window(weights, len(self.resolutions))
        self.weights = list(weights)

    def forward(self, points: Tensor, num_levels: int | None = None) -> Tensor:
        """Features of positions.

        Args:
            points: (N, 3), clamped to 0..1.
            num_levels: use the first levels only; features of the others are 0.

        Returns:
            (N, out_dim); x is scaled to -1..1.
        """
        axes = points.clamp(0.0, 1.0).t().contiguous()  # (3, N): long rows are fast
        rows = [2.0 * axes - 1.0]
        for level, weight in enumerate(self.weights):
            if weight == 0.0 or (num_levels is not None and level >= num_levels):
                rows.append(axes.new_zeros(self.features_per_level, len(points)))
                continue
            features = self._interpolate(axes, level)  # (F, N)
            rows.append(features if weight == 1.0 else weight * features)
        return torch.cat(rows).t()

    def _interpolate(self, axes: Tensor, level: int) -> Tensor:
        """Trilinear features (F, N) of one level at positions (3, N)."""
        resolution, table = self.resolutions[level], self.tables[level]
        scaled = axes * resolution  # (3, N) in cells
        cell = scaled.detach().floor().clamp(0, resolution - 1)
        fraction = scaled - cell  # in 0..1
        index = self._corners(cell.long(), resolution)  # (8 N,)
        corner = torch.gather(table, 1, index.expand(self.features_per_level, -1))
        x, y, z = fraction
        value = corner.view(self.features_per_level, 8, -1)
        value = torch.lerp(value[:, :4], value[:, 4:], x)  # (F, 4, N)
        value = torch.lerp(value[:, :2], value[:, 2:], y)
        return torch.lerp(value[:, 0], value[:, 1], z)

    def _corners(self, cell: Tensor, resolution: int) -> Tensor:
        """Table indices (8 N,) of the corners of cells (3, N): x slowest, then y, z, cell."""
        side = resolution + 1
        x, y, z = torch.stack([cell, cell + 1], dim=1)  # (2, N) each
        if side**3 <= self._mask + 1:
            plane = (x * side**2)[:, None] + (y * side)[None]  # (2, 2, N)
            return (plane[:, :, None] + z).view(-1)
        # the size is a power of two: masking replaces the modulo and commutes with xor
        x, y, z = (axis * prime & self._mask for axis, prime in zip((x, y, z), PRIMES, strict=True))
        return ((x[:, None] ^ y[None])[:, :, None] ^ z).view(-1)


class TcnnEncoding(nn.Module):
    """tinycudann's hash grid with the same interface; CUDA only, once differentiable in positions.

    Raises:
        MissingDependencyError: tinycudann cannot be imported.
        InputError: invalid sizes.
    """

    def __init__(
        self,
        num_levels: int = 10,
        features_per_level: int = 2,
        log2_hashmap_size: int = 19,
        base_res: int = 16,
        max_res: int = 256,
    ):
        super().__init__()
        self.resolutions = level_resolutions(num_levels, base_res, max_res)
        try:
            import tinycudann
        except (ImportError, OSError) as problem:
            # its import also fails without a GPU, or when built for another one
            raise MissingDependencyError("tinycudann", "the CUDA hash encoding") from problem
        self.features_per_level = features_per_level
        self.weights = [1.0] * num_levels
        self.encoder = tinycudann.Encoding(
            3,
            {
                "otype": "HashGrid",
                "n_levels": num_levels,
                "n_features_per_level": features_per_level,
                "log2_hashmap_size": log2_hashmap_size,
                "base_resolution": base_res,
                "per_level_scale": (max_res / base_res) ** (1.0 / max(num_levels - 1, 1)),
            },
            dtype=torch.float32,
        )
        with torch.no_grad():
            self.encoder.params.zero_()  # as in HashEncoding

    @property
    def out_dim(self) -> int:
        """Features of a position."""
        return 3 + self.features_per_level * len(self.resolutions)

    def set_window(self, weights: Sequence[float]) -> None:
        """Sets the levels' weights."""
        _check_window(weights, len(self.resolutions))
        self.weights = list(weights)

    def forward(self, points: Tensor, num_levels: int | None = None) -> Tensor:
        """Features (N, out_dim) of positions (N, 3) in 0..1, as `HashEncoding.forward`."""
        points = points.clamp(0.0, 1.0)
        used = len(self.weights) if num_levels is None else num_levels
        window = [w if level < used else 0.0 for level, w in enumerate(self.weights)]
        scale = points.new_tensor(window).repeat_interleave(self.features_per_level)
        return torch.cat([2.0 * points - 1.0, self.encoder(points).float() * scale], dim=1)


def make_encoding(device: torch.device, max_res: int = 256) -> HashEncoding | TcnnEncoding:
    """The encoding for a device: tinycudann on CUDA where it works, else PyTorch.

    Args:
        device: device of the encoding; CUDA gets the larger tables.
        max_res: cells along an axis of the finest level.
    """
    if device.type != "cuda":
        return HashEncoding(max_res=max_res)
    if importlib.util.find_spec("tinycudann") is not None:
        try:
            return TcnnEncoding(max_res=max_res).to(device)
        except Exception as error:  # builds for another GPU or PyTorch fail anywhere, in any way
            if is_out_of_memory(error):
                raise
            cause = error.__cause__ or error
            reason = " ".join(str(cause).split())[:_MAX_REASON_LENGTH] or type(cause).__name__
            logger.warning(
                "tinycudann is installed but does not work here (%s): the hash grid runs in plain "
                "PyTorch, which is slower",
                reason,
            )
    return HashEncoding(num_levels=10, log2_hashmap_size=19, max_res=max_res).to(device)


def _check_window(weights: Sequence[float], levels: int) -> None:
    if len(weights) != levels or not all(0.0 <= weight <= 1.0 for weight in weights):
        raise InputError(f"the window {list(weights)} is not {levels} weights in 0..1.")
