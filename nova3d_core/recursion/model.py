"""A pair of a multi-view and a reconstruction model, and its placement on one device."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import nn

from ..diffusion.model import PARTS, UNET, MultiviewModel, OneDevice
from ..diffusion.network.config import CoordinateKind
from ..reconstruction.config import RECONSTRUCTION
from ..reconstruction.model import ReconstructionModel


@dataclass(eq=False)
class RecursiveModel(MultiviewModel):
    """Ouroboros3D: a multi-view model whose UNet takes feedback, and its reconstruction model."""

    reconstruction: ReconstructionModel = field(kw_only=True)
    """Makes splats of the views; conditioned on the noise level."""
    coordinates: CoordinateKind = field(default="released", kw_only=True)
    """The coordinate maps that it was trained with."""

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of its parts."""
        return (*PARTS, RECONSTRUCTION)

    def part(self, name: str) -> nn.Module:
        """One of its `parts` by name."""
        if name == RECONSTRUCTION:
            return self.reconstruction.network
        return super().part(name)


@dataclass(eq=False)
class RecursiveOnDevice(OneDevice):
    """Placement on one device: only the part that runs is on a GPU, unless `keep` is set."""

    def load_to_device(self, part: str, activation_bytes: int) -> tuple[torch.device, torch.dtype]:
        """Moves the part to the device; both networks compute in `dtype`."""
        device, dtype = super().load_to_device(part, activation_bytes)
        return device, self.dtype if part in (UNET, RECONSTRUCTION) else dtype
