"""Smooth warps of views, which explain contradictions between generated views."""

from __future__ import annotations

import torch
from torch import Tensor

from ..imaging.warps import bicubic_image
from ..perceptual.registration import NODES


class ViewWarps:
    """Displacement and gain of each view; view 0 is fixed.

    Args:
        count: V, number of views.
        height: of the images in pixels.
        width: of the images in pixels.
        device: of the images.
        moves: whether views may be displaced.
        scales: whether colours may be scaled.
    """

    def __init__(
        self,
        count: int,
        height: int,
        width: int,
        device: torch.device,
        moves: bool = True,
        scales: bool = True,
    ):
        self.moves, self.scales = moves, scales
        self.nodes_px = torch.zeros(count, 2, NODES, NODES, device=device)
        """(V, 2, n, n) displacement x, y at the nodes in pixels."""
        self.log_gain = torch.zeros(count, 3, device=device)
        """(V, 3) logarithms of the factors on the colours."""
        self._size = (height, width)
        y = (torch.arange(height, device=device) + 0.5) / height * 2.0 - 1.0
        x = (torch.arange(width, device=device) + 0.5) / width * 2.0 - 1.0
        self._grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)  # (H, W, 2)

    def displacement_px(self, view: int) -> Tensor:
        """(H, W, 2) displacement of a view in pixels: bicubic between its nodes."""
        return bicubic_image(self.nodes_px[view], *self._size)

    def apply_to(self, image: Tensor, view: int) -> Tensor:
        """The image of a view at displaced pixels, its RGB multiplied by the gains.

        Args:
            image: (H, W, 3 + C) RGB and further channels; with C = 1 the channel is the mask of
                an object on white, and only the object's colours are multiplied.
            view: index of the view.
        """
        if view == 0:
            return image
        if self.moves:
            height, width = self._size
            scale = image.new_tensor([2.0 / width, 2.0 / height])
            grid = self._grid + self.displacement_px(view) * scale
            image = torch.nn.functional.grid_sample(
                image.permute(2, 0, 1)[None], grid[None], padding_mode="border", align_corners=False
            )[0].permute(1, 2, 0)
        if not self.scales:
            return image
        gain = torch.exp(self.log_gain[view])
        colour, rest = image[..., :3], image[..., 3:]
        white = 1.0 - rest if rest.shape[-1] == 1 else torch.zeros_like(colour)
        return torch.cat([(colour - white) * gain + white, rest], dim=-1)

    def rms_gain(self) -> float:
        """Root mean square of the logarithms of the gains of all views but the first."""
        return float(self.log_gain[1:].square().mean().sqrt())
