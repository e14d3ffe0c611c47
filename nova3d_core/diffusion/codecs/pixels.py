"""A codec without weights: latents are pixel blocks, or their lowest DCT coefficients."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from ...checks import check_between, check_shape
from ...errors import InputError
from ..model import check_encodable

MEAN, STD = 0.83, 0.435
"""Of pixels in -1..1 in colour and normal images on white, over 32 procedural objects."""

Channels = float | Sequence[float]
"""One value for all colour channels, or one each for red, green and blue."""


class PixelCodec(nn.Module):
    """Space-to-depth codec: a block of f x f pixels becomes one latent of 3 k channels.

    Nothing is learned, so the same codec serves colour and normal images. Without `cosines` the
    channels are the block's pixels, k = f^2, and the codec is lossless. With n weights in `cosines`
    they are the block's DCT coefficients of order u + v < n, k = n (n + 1) / 2 for n <= f: a
    network narrower than the block's pixels could not carry the noise of all of them, and little is
    lost (PSNR 31 dB with 6 of 16).

    *Unscaled* latents, given to the network for the input image, hold pixels in -1..1, or the
    block's mean and the weighted higher coefficients: white has a mean of 1, and the zeros of the
    unconditional pass are a grey that no background has. *Scaled* latents, which the network
    generates, are (value - mean) / std, of about unit variance as the noise levels assume; the mean
    of the higher coefficients is 0. Computes in float32, whatever the network's dtype.

    Args:
        factor: f, the spatial downsampling factor.
        mean: mean of pixels in -1..1, for all colour channels or for each.
        std: standard deviation of the unscaled values, likewise; above 0.
        cosines: weights of the DCT orders 0, 1, ...; high orders have little energy, and would
            drown in noise that the mean survives. None: pixels.

    Raises:
        InputError: an argument out of range.
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
        self.cosines = None if cosines is None else _order_weights(cosines, self.factor)
        self._dct = None if self.cosines is None else _dct_matrices(self.factor, self.cosines)
        self.latent_channels = 3 * (self.factor**2 if self._dct is None else len(self._dct[0]))
        self.mean = _rgb("mean", mean)
        self.std = _rgb("std", std)
        if min(self.std) <= 0.0:
            raise InputError(f"pixel codec std is {self.std}, expected above 0.")

    temporal: ClassVar[bool] = False
    dtype: ClassVar[torch.dtype] = torch.float32

    def cast(
        self, encode: torch.dtype | None = None, decode: torch.dtype | None = None
    ) -> PixelCodec:
        """The codec itself, which always computes in float32."""
        return self

    def settings(self) -> dict[str, object]:
        """The constructor arguments, as JSON values, for a model file's metadata."""
        values: dict[str, object] = {
            "factor": self.factor,
            "mean": list(self.mean),
            "std": list(self.std),
        }
        return values if self.cosines is None else {**values, "cosines": list(self.cosines)}

    def encode(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Unscaled latents: the pixels, or the weighted DCT coefficients of each block.

        Args:
            images: (N, 3, H, W) in -1..1, H and W multiples of `factor`.
            generator: unused, the encoding is deterministic.

        Returns:
            (N, 3 k, H/f, W/f) float32.

        Raises:
            InputError: on another shape.
        """
        check_encodable(images, self.factor)
        blocks = functional.pixel_unshuffle(images.float(), self.factor)
        return blocks if self._dct is None else _apply_per_colour(self._dct[0], blocks)

    def encode_scaled(self, images: Tensor) -> Tensor:
        """Scaled latents (N, 3 k, H/f, W/f) float32, which the network predicts; see `encode`."""
        mean, std = self._constants(images)
        return self.encode((images.float() - mean) / std)

    def decode(self, latents: Tensor, views: int, chunk_size: int | None = None) -> Tensor:
        """Decodes scaled latents, each independently of `views` and `chunk_size`.

        Args:
            latents: (N, 3 k, h, w) scaled.
            views: number of consecutive latents that belong to one object.
            chunk_size: number of latents decoded together.

        Returns:
            (N, 3, H, W) float32, in about -1..1.

        Raises:
            InputError: on another shape.
        """
        check_shape("the latents to decode", latents, "N C H W", C=self.latent_channels)
        mean, std = self._constants(latents)
        blocks = latents.float()
        if self._dct is not None:
            blocks = _apply_per_colour(self._dct[1], blocks)
        return functional.pixel_shuffle(blocks, self.factor) * std + mean

    def decode_peak_bytes(self, height: int, width: int, count: int, dtype: torch.dtype) -> int:
        """Peak memory of decoding `count` images of this size: four copies of them."""
        return 4 * count * 3 * height * width * 4

    def _constants(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (3, 1, 1) float32 on the tensor's device."""
        stacked = torch.tensor((self.mean, self.std), device=like.device)
        mean, std = stacked[..., None, None]
        return mean, std


def _order_weights(cosines: Sequence[float], factor: int) -> tuple[float, ...]:
    """Validates the weights of the DCT orders."""
    weights = tuple(float(weight) for weight in cosines)
    valid = all(math.isfinite(weight) and weight > 0.0 for weight in weights)
    if not valid or not 0 < len(weights) < 2 * factor:
        raise InputError(
            f"pixel codec cosines are {list(cosines)}, expected 1 to {2 * factor - 1} weights "
            "above 0."
        )
    return weights


def _dct_matrices(factor: int, weights: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    """Weighted DCT matrix (k, f^2) of a block and its inverse (f^2, k).

    A constant block of ones has a mean coefficient of 1.
    """
    index = torch.arange(factor, dtype=torch.float64)
    waves = torch.cos(math.pi * (2.0 * index + 1.0) * index[:, None] / (2.0 * factor))  # (f, f)
    waves = waves / waves.norm(dim=1, keepdim=True)
    orders = [
        (u, order - u)
        for order in range(len(weights))
        for u in range(order + 1)
        if max(u, order - u) < factor
    ]
    rows = torch.stack([torch.outer(waves[u], waves[v]).flatten() for u, v in orders]) / factor
    weight = torch.tensor([weights[u + v] for u, v in orders], dtype=torch.float64)[:, None]
    inverse = rows.t() * factor**2 / weight.t()
    return (rows * weight).float(), inverse.float()


def _apply_per_colour(matrix: Tensor, blocks: Tensor) -> Tensor:
    """Applies a matrix (j, i) to each colour channel: (N, 3 i, h, w) -> (N, 3 j, h, w)."""
    per_colour = blocks.unflatten(1, (3, -1))  # (N, 3, i, h, w)
    return torch.einsum("ji,ncihw->ncjhw", matrix.to(blocks), per_colour).flatten(1, 2)


def _rgb(name: str, value: Channels) -> tuple[float, float, float]:
    """One finite value per colour channel."""
    values = [value] * 3 if isinstance(value, int | float) else list(value)
    if len(values) != 3 or not all(math.isfinite(each) for each in values):
        raise InputError(f"pixel codec {name} is {value}, expected one number, or three.")
    red, green, blue = (float(each) for each in values)
    return red, green, blue
