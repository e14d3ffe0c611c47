"""The PixelNeRF conditioner of our own files with models for scenes.

Its keys start with `pixelnerf.`; its settings, and the number and size of the views of its
training, are an entry of the metadata.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import torch

from ...diffusion.families import SCENE_FAMILY
from ...diffusion.model import MultiviewModel
from ...diffusion.network.pixelnerf import PixelNerf
from ...diffusion.network.pixelnerf_config import PixelNerfConfig
from ...diffusion.scenes.model import SceneModel
from ...errors import InputError
from ...io.settings import config_from_dict
from ..discovery.layouts import CONDITIONER_PREFIX
from ..files.read import WeightFile
from ..infer_shapes import metadata_int, nova3d_metadata
from ..keymaps.unet import TensorSource
from .load_state import NetworkComponent, check_component, unused_names

_ENTRY = "scene"


def scene_metadata(model: MultiviewModel) -> dict[str, Any]:
    """The entry of a model for scenes in a file's metadata; {} for other models."""
    if not isinstance(model, SceneModel):
        return {}
    family = model.family
    conditioner = asdict(model.conditioner.config)
    entry = {"views": family.views, "size_px": family.size_px, "conditioner": conditioner}
    return {_ENTRY: entry}


def conditioner_component(file: WeightFile) -> NetworkComponent:
    """The conditioner on the meta device, with the key map of its weights, which stay float32.

    Raises:
        InputError: the metadata has no valid settings; keys are missing or unexpected, or shapes
            differ.
    """
    entry = _scene_entry(file).get("conditioner")
    where = f"the conditioner's settings in {file.path}"
    config = config_from_dict(entry, PixelNerfConfig, where)
    with torch.device("meta"):
        conditioner = PixelNerf(config)
    key_map = {name: TensorSource(CONDITIONER_PREFIX + name) for name in conditioner.state_dict()}
    unused = unused_names(file, (CONDITIONER_PREFIX,), key_map)
    component = NetworkComponent(
        "conditioner", conditioner, conditioner, file, key_map, unused, exact_prefixes=("",)
    )
    check_component(component)
    return component


def feature_channels(components: Sequence[NetworkComponent]) -> int:
    """Channels of the features of a conditioner, the only component; 0 without one."""
    return sum(component.module.config.feature_channels for component in components)


def scene_model(components: Sequence[NetworkComponent]) -> SceneModel:
    """The model of a UNet, codec, image encoder and conditioner with their weights."""
    file = components[0].file
    unet, codec, encoder, conditioner = (component.module for component in components)
    entry, source = _scene_entry(file), str(file.path)
    family = replace(
        SCENE_FAMILY,
        views=metadata_int(entry, "views", SCENE_FAMILY.views, source),
        size_px=metadata_int(entry, "size_px", SCENE_FAMILY.size_px, source),
    )
    return SceneModel(family, unet, codec, encoder, source, conditioner=conditioner.float())


def _scene_entry(file: WeightFile) -> dict[str, Any]:
    entry = nova3d_metadata(file.header.metadata, str(file.path)).get(_ENTRY)
    if not isinstance(entry, dict):
        raise InputError(
            f"{file.path} is damaged: its metadata has no settings of the scene model.",
            "Save the model again.",
        )
    return entry
