"""A model for scenes: the multi-view parts, and the PixelNeRF conditioner."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from ...errors import InputError
from ..model import CONDITIONER, PARTS, MultiviewModel
from ..network.pixelnerf import PixelNerf
from ..network.unet import VideoUNet


@dataclass(eq=False)
class SceneModel(MultiviewModel):
    """A loaded model that generates views along a camera path."""

    conditioner: PixelNerf = field(kw_only=True)
    """Renders the features that are concatenated with the noisy latents."""

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of its parts."""
        return (*PARTS, CONDITIONER)


def check_scene_model(model: Any) -> SceneModel:
    """Returns the model; raises InputError for one that generates no camera paths."""
    if isinstance(model, SceneModel):
        return model
    raise InputError(
        f"the model is {model.family.label}, which generates no views along a camera path.",
        "That needs a model for scenes, trained with `train v3d_scenes`; none is published.",
    )


@torch.no_grad()
def widen_input(unet: VideoUNet, channels: int) -> VideoUNet:
    """Adds input channels to a UNet, with zero weights: its output does not depend on them yet.

    As InstructPix2Pix (Brooks et al. 2023) and V3D do; SVD's 8 channels become 8 + 128 = 136.

    Args:
        unet: changed in place.
        channels: number of channels to add, after the existing ones.

    Returns:
        The same UNet.
    """
    old = unet.input_blocks[0][0]
    weight = old.weight.new_zeros(old.out_channels, old.in_channels + channels, *old.kernel_size)
    weight[:, : old.in_channels] = old.weight
    old.weight, old.in_channels = nn.Parameter(weight), old.in_channels + channels
    unet.config = replace(unet.config, in_channels=old.in_channels)
    return unet
