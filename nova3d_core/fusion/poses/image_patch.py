"""Scattered pixels of a view as a small image, to blur it and to sum over windows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...imaging.filters import gaussian_blur, image_gradient


@dataclass(frozen=True, eq=False)
class ImagePatch:
    """The smallest image that contains n pixels of a view."""

    width: int
    height: int
    index: Tensor
    """(n,) flat index of each pixel: row * width + column."""

    @classmethod
    def of_views(cls, pixels: Sequence[Tensor]) -> list[ImagePatch]:
        """One patch for the pixels (n, 2), x and y, of each view; one device synchronisation."""
        offsets = [(pixel - pixel.amin(dim=0)).long() for pixel in pixels]
        sizes = torch.stack([offset.amax(dim=0) + 1 for offset in offsets]).tolist()
        return [
            cls(width, height, offset[:, 1] * width + offset[:, 0])
            for (width, height), offset in zip(sizes, offsets, strict=True)
        ]

    def image(self, values: Tensor) -> Tensor:
        """(C, height, width) image of the pixels' values (C, n), 0 elsewhere."""
        image = values.new_zeros(len(values), self.height * self.width)
        image.index_copy_(1, self.index, values)
        return image.reshape(-1, self.height, self.width)

    def pixels(self, image: Tensor) -> Tensor:
        """(..., n) values of an image (..., height, width) at the pixels."""
        rows = image.reshape(-1, self.height * self.width)  # faster in two dimensions
        return rows.index_select(1, self.index).reshape(*image.shape[:-2], -1)


def window_sums(image: Tensor, side_px: int) -> Tensor:
    """Box filter: sums of an image (..., H, W) over a square of odd side around each pixel."""
    reach, pad = side_px // 2, torch.nn.functional.pad
    for axis, sides in ((-1, (1, 1, 0, 0)), (-2, (0, 0, 1, 1))):
        count = image.shape[axis]
        padded = pad(image, [reach * side for side in sides])
        running = pad(padded.cumsum(axis), [sides[0], 0, sides[2], 0])
        image = running.narrow(axis, side_px, count) - running.narrow(axis, 0, count)
    return image


def blur_pixels(values: Tensor, patch: ImagePatch, sigma_px: float) -> tuple[Tensor, Tensor]:
    """Gaussian-blurred values (C, n) of a patch's pixels, and their image gradients (2, C, n).

    The image is 0 outside the pixels.
    """
    image = gaussian_blur(patch.image(values), sigma_px)
    return patch.pixels(image), patch.pixels(image_gradient(image))
