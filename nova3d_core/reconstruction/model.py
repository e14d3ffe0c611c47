"""A loaded reconstruction model, and its placement on one device."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from ..diffusion.model import module_dtype
from .config import RECONSTRUCTION, ReconstructionFamily
from .network import Lgm


@dataclass(eq=False)
class ReconstructionModel:
    """LGM or Ouroboros3D's reconstruction model. It is never modified."""

    family: ReconstructionFamily
    """The cameras that it was trained with."""
    network: Lgm
    """The network."""
    source: str = ""
    """The file it was loaded from, for messages."""
    has_rotations: bool | None = True
    """Whether its quaternions are normalised one by one; False for weights trained with LGM's old
    normalisation, whose splats have no rotation; None where the file does not tell."""

    def part(self, name: str) -> nn.Module:
        """The network, by the name of the part."""
        if name != RECONSTRUCTION:
            raise KeyError(name)
        return self.network


@dataclass(eq=False)
class ReconstructionOnDevice:
    """Placement of a reconstruction model on one device; see `diffusion.model.Placement`."""

    model: ReconstructionModel
    """The model to place."""
    device: torch.device
    """Where it runs."""
    dtype: torch.dtype | None = None
    """The compute dtype; that of the weights if None."""

    def load_to_device(self, part: str, activation_bytes: int) -> tuple[torch.device, torch.dtype]:
        """Moves the network to the device."""
        network = self.model.part(part).to(self.device)
        return self.device, self.dtype or module_dtype(network)
