"""Multi-resolution hash encoding of places, in plain torch; can be derived twice.

A place in the unit cube is read from several grids, coarse to fine. A grid that fits its table is
stored densely; a finer one shares the table's entries by a hash. On CUDA, tinycudann's encoder is
used instead where it is installed.
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

_LONGEST_REASON = 300
"""Characters of another package's error that a warning quotes."""
PRIMES = (1, 2654435761, 805459861)
"""One factor an axis for the hash; products with grid coordinates stay below 2^63."""


def level_resolutions(levels: int, base: int, finest: int) -> list[int]:
    """Cells along an axis of each level, growing by one factor from base to finest.

    Raises:
        InputError: without a level, or if base and finest are not 1 <= base <= finest.
    """
    if levels < 1:
        raise InputError(f"hash encoding has {levels} levels, expected at least 1.")
    if not 1 <= base <= finest:
        raise InputError(
            f"hash encoding goes from {base} to {finest} cells, expected 1 <= base <= finest."
        )
    growth = (finest / base) ** (1.0 / max(levels - 1, 1))
    return [round(base * growth**level) for level in range(levels)]


def cosine_window(resolutions: Sequence[int], resolution: float) -> list[float]:
    """BARF's weights w_k of the levels: 1 up to `resolution`, smoothly down to 0 beyond.

    Args:
        resolutions: of the levels, rising.
        resolution: the finest that is wanted in full; level 0 is always in full.

    Returns:
        One weight in 0..1 a level: (1 - cos(pi clamp(a - k, 0, 1))) / 2, where the progress a is 1
        at level 0's resolution and counts the levels on a logarithmic scale.
    """
    progress = 1.0
    for finer, coarser in zip(resolutions[1:], resolutions, strict=False):
        if finer > coarser and resolution > coarser:
            progress += min(math.log(resolution / coarser) / math.log(finer / coarser), 1.0)
        elif finer == coarser and resolution >= coarser:
            progress += 1.0
    shares = [min(max(progress - level, 0.0), 1.0) for level in range(len(resolutions))]
    return [0.5 * (1.0 - math.cos(math.pi * share)) for share in shares]


class HashEncoding(nn.Module):
    """Places to features: x itself, then `features` numbers a level, times the level's weight.

    Args:
        levels: number of grids.
        features: numbers a grid point.
        log2_table: a level's table has 2 to this many entries.
        base: cells along an axis of the coarsest level.
        finest: of the finest level.

    Raises:
        InputError: on sizes that make no encoding.
    """

    def __init__(
        self,
        levels: int = 7,
        features: int = 2,
        log2_table: int = 15,
        base: int = 16,
        finest: int = 256,
    ):
        super().__init__()
        if not 4 <= log2_table <= 24:
            raise InputError(f"hash encoding log2_table is {log2_table}, expected 4 to 24.")
        if features < 1:
            raise InputError(f"hash encoding has {features} features a level, expected 1 or more.")
        self.resolutions = level_resolutions(levels, base, finest)
        self.features = features
        self.weights = [1.0] * levels
        self._mask = 2**log2_table - 1
        # zeros: a level that sets in later then changes nothing at first; the networks behind break
        # the symmetry. Features lie apart (F, T), which gathers and scatters fastest.
        self.tables = nn.ParameterList(
            nn.Parameter(torch.zeros(features, 2**log2_table)) for _ in range(levels)
        )

    @property
    def width(self) -> int:
        """Numbers that one place becomes."""
        return 3 + self.features * len(self.resolutions)

    def set_window(self, weights: Sequence[float]) -> None:
        """Sets the levels' weights; a level of weight 0 costs nothing and does not learn."""
        _check_window(weights, len(self.resolutions))
        self.weights = list(weights)

    def forward(self, points: Tensor, levels: int | None = None) -> Tensor:
        """Features of places.

        Args:
            points: (N, 3) in 0..1; places outside read the border.
            levels: only the first so many; all others give 0.

        Returns:
            (N, width); x comes as -1..1.
        """
        axes = points.clamp(0.0, 1.0).t().contiguous()  # (3, N): long rows are fast
        rows = [2.0 * axes - 1.0]
        for level, weight in enumerate(self.weights):
            if weight == 0.0 or (levels is not None and level >= levels):
                rows.append(axes.new_zeros(self.features, len(points)))
                continue
            read = self._read(axes, level)  # (F, N)
            rows.append(read if weight == 1.0 else weight * read)
        return torch.cat(rows).t()

    def _read(self, axes: Tensor, level: int) -> Tensor:
        """Trilinear values (F, N) of one level at places (3, N)."""
        resolution, table = self.resolutions[level], self.tables[level]
        scaled = axes * resolution  # (3, N) in cells
        cell = scaled.detach().floor().clamp(0, resolution - 1)
        share = scaled - cell  # in 0..1
        index = self._corners(cell.long(), resolution)  # (8 N,)
        corner = torch.gather(table, 1, index.expand(self.features, -1))
        x, y, z = share
        value = corner.view(self.features, 8, -1)
        value = torch.lerp(value[:, :4], value[:, 4:], x)  # (F, 4, N)
        value = torch.lerp(value[:, :2], value[:, 2:], y)
        return torch.lerp(value[:, 0], value[:, 1], z)

    def _corners(self, cell: Tensor, resolution: int) -> Tensor:
        """Table entries (8 N,) of the corners of cells (3, N): x slowest, then y, z, cell."""
        side = resolution + 1
        x, y, z = torch.stack([cell, cell + 1], dim=1)  # (2, N) each
        if side**3 <= self._mask + 1:
            plane = (x * side**2)[:, None] + (y * side)[None]  # (2, 2, N)
            return (plane[:, :, None] + z).view(-1)
        # a power of two: the mask may be taken before the xor, and replaces the remainder
        x, y, z = (axis * prime & self._mask for axis, prime in zip((x, y, z), PRIMES, strict=True))
        return ((x[:, None] ^ y[None])[:, :, None] ^ z).view(-1)


class TcnnEncoding(nn.Module):
    """tinycudann's hash grid behind the same interface; CUDA only, one derivative by places.

    Raises:
        MissingDependencyError: where tinycudann cannot be imported.
        InputError: on sizes that make no encoding.
    """

    def __init__(
        self,
        levels: int = 10,
        features: int = 2,
        log2_table: int = 19,
        base: int = 16,
        finest: int = 256,
    ):
        super().__init__()
        self.resolutions = level_resolutions(levels, base, finest)
        try:
            import tinycudann
        except (ImportError, OSError) as problem:
            # it also refuses to import without a GPU, or when built for another one
            raise MissingDependencyError("tinycudann", "the CUDA hash encoding") from problem
        self.features = features
        self.weights = [1.0] * levels
        self.encoder = tinycudann.Encoding(
            3,
            {
                "otype": "HashGrid",
                "n_levels": levels,
                "n_features_per_level": features,
                "log2_hashmap_size": log2_table,
                "base_resolution": base,
                "per_level_scale": (finest / base) ** (1.0 / max(levels - 1, 1)),
            },
            dtype=torch.float32,
        )
        with torch.no_grad():
            self.encoder.params.zero_()  # as HashEncoding starts

    @property
    def width(self) -> int:
        """Numbers that one place becomes."""
        return 3 + self.features * len(self.resolutions)

    def set_window(self, weights: Sequence[float]) -> None:
        """Sets the levels' weights."""
        _check_window(weights, len(self.resolutions))
        self.weights = list(weights)

    def forward(self, points: Tensor, levels: int | None = None) -> Tensor:
        """Features (N, width) of places (N, 3) in 0..1, as `HashEncoding.forward`."""
        points = points.clamp(0.0, 1.0)
        used = len(self.weights) if levels is None else levels
        window = [w if level < used else 0.0 for level, w in enumerate(self.weights)]
        scale = points.new_tensor(window).repeat_interleave(self.features)
        return torch.cat([2.0 * points - 1.0, self.encoder(points).float() * scale], dim=1)


def make_encoding(device: torch.device, finest: int = 256) -> HashEncoding | TcnnEncoding:
    """The encoding for a device: tinycudann's on CUDA where it is installed and works, else plain
    torch.

    Args:
        device: where it will run; CUDA gets the larger tables.
        finest: cells along an axis of the finest level.
    """
    if device.type != "cuda":
        return HashEncoding(finest=finest)
    if importlib.util.find_spec("tinycudann") is not None:
        try:
            return TcnnEncoding(finest=finest).to(device)
        except Exception as error:  # a build for another GPU or PyTorch fails anywhere, in any way
            if is_out_of_memory(error):
                raise
            cause = error.__cause__ or error
            reason = " ".join(str(cause).split())[:_LONGEST_REASON] or type(cause).__name__
            logger.warning(
                "tinycudann is installed but does not work here (%s): the hash grid runs in plain "
                "PyTorch, which is slower",
                reason,
            )
    return HashEncoding(levels=10, log2_table=19, finest=finest).to(device)


def _check_window(weights: Sequence[float], levels: int) -> None:
    if len(weights) != levels or not all(0.0 <= weight <= 1.0 for weight in weights):
        raise InputError(f"the window {list(weights)} is not {levels} weights in 0..1.")
