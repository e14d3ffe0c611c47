"""Some pixels of a view as a small image: blurred, differentiated, summed over windows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Frame:
    """Where n pixels of a view stand in the smallest image that holds them."""

    width: int
    height: int
    place: Tensor
    """(n,) row * width + column."""

    @classmethod
    def of(cls, pixel: Tensor) -> Frame:
        """The frame of pixels (n, 2), x and y."""
        return cls.each([pixel])[0]

    @classmethod
    def each(cls, pixels: Sequence[Tensor]) -> list[Frame]:
        """A frame for the pixels (n, 2) of each view; waits for their device once for all."""
        offsets = [(pixel - pixel.amin(dim=0)).long() for pixel in pixels]
        sizes = torch.stack([offset.amax(dim=0) + 1 for offset in offsets]).tolist()
        return [
            cls(width, height, offset[:, 1] * width + offset[:, 0])
            for (width, height), offset in zip(sizes, offsets, strict=True)
        ]

    def image(self, values: Tensor) -> Tensor:
        """(C, height, width) of the pixels' values (C, n), black where there is no pixel."""
        image = values.new_zeros(len(values), self.height * self.width)
        image.index_copy_(1, self.place, values)
        return image.reshape(-1, self.height, self.width)

    def pixels(self, image: Tensor) -> Tensor:
        """(..., n) what an image (..., height, width) shows at the pixels."""
        rows = image.reshape(-1, self.height * self.width)  # in more dimensions it takes longer
        return rows.index_select(1, self.place).reshape(*image.shape[:-2], -1)


def window_sums(image: Tensor, side_px: int) -> Tensor:
    """Sums of an image (..., H, W) over a square about each pixel, its side an odd number."""
    reach, pad = side_px // 2, torch.nn.functional.pad
    for axis, sides in ((-1, (1, 1, 0, 0)), (-2, (0, 0, 1, 1))):
        count = image.shape[axis]
        padded = pad(image, [reach * side for side in sides])
        running = pad(padded.cumsum(axis), [sides[0], 0, sides[2], 0])
        image = running.narrow(axis, side_px, count) - running.narrow(axis, 0, count)
    return image


def softened(values: Tensor, frame: Frame, sigma_px: float) -> tuple[Tensor, Tensor]:
    """Pixels' values (C, n), blurred in their image, and its slopes (2, C, n).

    The image is black where there is no pixel.
    """
    image = blurred(frame.image(values), sigma_px)
    return frame.pixels(image), frame.pixels(slopes_of(image))


def blurred(image: Tensor, sigma_px: float) -> Tensor:
    """An image (C, H, W) under a Gaussian; black beyond its border."""
    reach = math.ceil(2.5 * sigma_px)
    weights = [math.exp(-(step**2) / (2 * sigma_px**2)) for step in range(-reach, reach + 1)]
    total = sum(weights)
    # taps one by one: a convolution of so few takes three times as long
    for axis, sides in ((2, (reach, reach)), (1, (0, 0, reach, reach))):
        padded = torch.nn.functional.pad(image, sides)
        image = torch.zeros_like(image)
        for step, weight in enumerate(weights):
            part = padded.narrow(axis, step, image.shape[axis])
            image.add_(part, alpha=weight / total)
    return image


def slopes_of(image: Tensor) -> Tensor:
    """(2, C, H, W) central differences by x and y of an image (C, H, W), black beyond it."""
    padded = torch.nn.functional.pad(image, (1, 1, 1, 1))
    by_x = (padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]) / 2
    by_y = (padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]) / 2
    return torch.stack([by_x, by_y])
