"""A codec without weights: pixels of small blocks become the numbers of a latent, exactly."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..checks import check_between, check_shape
from ..errors import InputError

MEAN, DEVIATION = 0.83, 0.435
"""Of pixels in -1..1, of colours and normals on white: measured on 32 procedural objects."""

Channels = float | Sequence[float]
"""One number for all colour channels, or one for each of red, green and blue."""


class PixelCodec(nn.Module):
    """Space to depth: a block of f x f pixels becomes one place of 3 f^2 numbers.

    Nothing is lost and nothing is learnt, so one codec serves colours and pictures of normals.
    *Unscaled* latents, which the network gets of the input picture, hold the pixels as they are, in
    -1..1: white is 1, and the zeros of the pass without picture are a grey that no background is.
    *Scaled* latents, which the network paints, are (pixel - mean) / deviation, of about unit
    variance, as the noise levels expect. All is computed in float32, whatever the network's format.

    Args:
        factor: f.
        mean: of pixels in -1..1, for all colour channels or for each.
        deviation: their standard deviation, likewise; above 0.

    Raises:
        InputError: on other numbers.
    """

    def __init__(self, factor: int = 4, mean: Channels = MEAN, deviation: Channels = DEVIATION):
        super().__init__()
        check_between("pixel codec factor", factor, 1, 64)
        self.factor = int(factor)
        self.channels = 3 * self.factor**2
        self.mean = _three("mean", mean)
        self.deviation = _three("deviation", deviation)
        if min(self.deviation) <= 0.0:
            raise InputError(f"pixel codec deviation is {self.deviation}, expected above 0.")

    def settings(self) -> dict[str, object]:
        """What a file keeps of it: the arguments, ready for JSON."""
        return {
            "factor": self.factor,
            "mean": list(self.mean),
            "deviation": list(self.deviation),
        }

    def encode(self, pictures: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Unscaled latents: the pixels themselves.

        Args:
            pictures: (N, 3, H, W) in -1..1, H and W multiples of `factor`.
            generator: not used; there is nothing to draw.

        Returns:
            (N, 3 f^2, H/f, W/f) float32.

        Raises:
            InputError: on another shape.
        """
        sizes = check_shape("the pictures to encode", pictures, "N 3 H W")
        if sizes["H"] % self.factor or sizes["W"] % self.factor:
            raise InputError(
                f"a picture to encode has {sizes['W']}x{sizes['H']} pixels, expected multiples of "
                f"{self.factor}."
            )
        return functional.pixel_unshuffle(pictures.float(), self.factor)

    def to_scaled(self, pictures: Tensor) -> Tensor:
        """Latents (N, 3 f^2, H/f, W/f) float32 as the network paints them; see `encode`."""
        mean, deviation = self._constants(pictures)
        return self.encode((pictures.float() - mean) / deviation)

    def decode(self, latents: Tensor, views: int, at_once: int | None = None) -> Tensor:
        """Pictures of the network's latents; each alone, whatever `views` and `at_once`.

        Args:
            latents: (N, 3 f^2, h, w) scaled.
            views: how many consecutive ones belong to one walk around an object.
            at_once: decode so many together.

        Returns:
            (N, 3, H, W) float32, in about -1..1.

        Raises:
            InputError: on another shape.
        """
        check_shape("the latents to decode", latents, "N C H W", C=self.channels)
        mean, deviation = self._constants(latents)
        return functional.pixel_shuffle(latents.float(), self.factor) * deviation + mean

    def decoding_bytes(self, height: int, width: int, count: int, dtype: torch.dtype) -> int:
        """Memory that decoding `count` pictures of this size takes: the pictures, four times."""
        return 4 * count * 3 * height * width * 4

    def _constants(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and deviation (3, 1, 1) float32 on the tensor's device."""
        both = torch.tensor((self.mean, self.deviation), device=like.device)
        mean, deviation = both[..., None, None]
        return mean, deviation


def _three(name: str, value: Channels) -> tuple[float, float, float]:
    """One finite number for each colour channel."""
    numbers = [value] * 3 if isinstance(value, int | float) else list(value)
    if len(numbers) != 3 or not all(math.isfinite(number) for number in numbers):
        raise InputError(f"pixel codec {name} is {value}, expected one number, or three.")
    red, green, blue = (float(number) for number in numbers)
    return red, green, blue
