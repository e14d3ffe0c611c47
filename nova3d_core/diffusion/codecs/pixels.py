"""A codec without weights: pixels of small blocks, or their lowest cosines, are the latents."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from ...checks import check_between, check_shape
from ...errors import InputError
from ..model import check_encodable

MEAN, STD = 0.83, 0.435
"""Of pixels in -1..1, of colours and normals on white: measured on 32 procedural objects."""

Channels = float | Sequence[float]
"""One number for all colour channels, or one for each of red, green and blue."""


class PixelCodec(nn.Module):
    """Space to depth: a block of f x f pixels becomes one place of 3 k numbers.

    Nothing is learnt, so one codec serves colours and images of normals. Without `cosines` a
    place holds the block's pixels, k = f^2, and nothing is lost. With them it holds the block's
    discrete cosine coefficients of order u + v below their number, k = n (n + 1) / 2: a network
    that is narrower than a block's pixels cannot carry the noise of all of them, which its answer
    needs, and what is left out shows little (PSNR 31 dB with 6 of 16).

    *Unscaled* latents, which the network gets of the input image, hold pixels in -1..1, or the
    block's mean and the other cosines times their weights: white is 1 in the mean, and the zeros of
    the pass without image are a grey that no background is. *Scaled* latents, which the network
    paints, are (number - mean) / std, of about unit variance, as the noise levels expect; a
    cosine's mean is 0. All is computed in float32, whatever the network's format.

    Args:
        factor: f.
        mean: of pixels in -1..1, for all colour channels or for each.
        std: standard std of the unscaled numbers, likewise; above 0.
        cosines: weights of the orders 0, 1, ...; fine cosines are weak, and drown in noise that the
            mean withstands. None: pixels.

    Raises:
        InputError: on other numbers.
    """

    def __init__(
        self,
        factor: int = 4,
        mean: Channels = MEAN,
        std: Channels = STD,
        cosines: Sequence[float] | None = None,
    ):
        super().__init__()
        check_between("pixel codec factor", factor, 1, 64)
        self.factor = int(factor)
        self.cosines = None if cosines is None else _weights(cosines, self.factor)
        self._block = None if self.cosines is None else _block(self.factor, self.cosines)
        self.latent_channels = 3 * (self.factor**2 if self._block is None else len(self._block[0]))
        self.mean = _three("mean", mean)
        self.std = _three("std", std)
        if min(self.std) <= 0.0:
            raise InputError(f"pixel codec std is {self.std}, expected above 0.")

    def settings(self) -> dict[str, object]:
        """What a file keeps of it: the arguments, ready for JSON."""
        said: dict[str, object] = {
            "factor": self.factor,
            "mean": list(self.mean),
            "std": list(self.std),
        }
        return said if self.cosines is None else {**said, "cosines": list(self.cosines)}

    def encode(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Unscaled latents: the pixels themselves, or the weighted cosines of their blocks.

        Args:
            images: (N, 3, H, W) in -1..1, H and W multiples of `factor`.
            generator: not used; there is nothing to draw.

        Returns:
            (N, 3 k, H/f, W/f) float32.

        Raises:
            InputError: on another shape.
        """
        check_encodable(images, self.factor)
        blocks = functional.pixel_unshuffle(images.float(), self.factor)
        return blocks if self._block is None else _each_colour(self._block[0], blocks)

    def encode_scaled(self, images: Tensor) -> Tensor:
        """Latents (N, 3 k, H/f, W/f) float32 as the network paints them; see `encode`."""
        mean, std = self._constants(images)
        return self.encode((images.float() - mean) / std)

    def decode(self, latents: Tensor, views: int, chunk_size: int | None = None) -> Tensor:
        """Images of the network's latents; each alone, whatever `views` and `chunk_size`.

        Args:
            latents: (N, 3 k, h, w) scaled.
            views: how many consecutive ones belong to one walk around an object.
            at_once: decode so many together.

        Returns:
            (N, 3, H, W) float32, in about -1..1.

        Raises:
            InputError: on another shape.
        """
        check_shape("the latents to decode", latents, "N C H W", C=self.latent_channels)
        mean, std = self._constants(latents)
        blocks = latents.float()
        if self._block is not None:
            blocks = _each_colour(self._block[1], blocks)
        return functional.pixel_shuffle(blocks, self.factor) * std + mean

    def decode_peak_bytes(self, height: int, width: int, count: int, dtype: torch.dtype) -> int:
        """Memory that decoding `count` images of this size takes: the images, four times."""
        return 4 * count * 3 * height * width * 4

    def _constants(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and std (3, 1, 1) float32 on the tensor's device."""
        both = torch.tensor((self.mean, self.std), device=like.device)
        mean, std = both[..., None, None]
        return mean, std


def _weights(cosines: Sequence[float], factor: int) -> tuple[float, ...]:
    """The orders' weights, checked."""
    weights = tuple(float(weight) for weight in cosines)
    good = all(math.isfinite(weight) and weight > 0.0 for weight in weights)
    if not good or not 0 < len(weights) < 2 * factor:
        raise InputError(
            f"pixel codec cosines are {list(cosines)}, expected 1 to {2 * factor - 1} weights "
            "above 0."
        )
    return weights


def _block(factor: int, weights: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    """Matrices (k, f^2) from a block's pixels to its weighted cosines, and (f^2, k) back.

    A constant block of 1 has a mean of 1.
    """
    place = torch.arange(factor, dtype=torch.float64)
    waves = torch.cos(math.pi * (2.0 * place + 1.0) * place[:, None] / (2.0 * factor))  # (f, f)
    waves = waves / waves.norm(dim=1, keepdim=True)
    orders = [
        (u, order - u)
        for order in range(len(weights))
        for u in range(order + 1)
        if max(u, order - u) < factor
    ]
    rows = torch.stack([torch.outer(waves[u], waves[v]).flatten() for u, v in orders]) / factor
    weight = torch.tensor([weights[u + v] for u, v in orders], dtype=torch.float64)[:, None]
    back = rows.t() * factor**2 / weight.t()
    return (rows * weight).float(), back.float()


def _each_colour(matrix: Tensor, blocks: Tensor) -> Tensor:
    """(N, 3 i, h, w) -> (N, 3 j, h, w) by a matrix (j, i)."""
    coloured = blocks.unflatten(1, (3, -1))  # (N, 3, i, h, w)
    return torch.einsum("ji,ncihw->ncjhw", matrix.to(blocks), coloured).flatten(1, 2)


def _three(name: str, value: Channels) -> tuple[float, float, float]:
    """One finite number for each colour channel."""
    numbers = [value] * 3 if isinstance(value, int | float) else list(value)
    if len(numbers) != 3 or not all(math.isfinite(number) for number in numbers):
        raise InputError(f"pixel codec {name} is {value}, expected one number, or three.")
    red, green, blue = (float(number) for number in numbers)
    return red, green, blue
