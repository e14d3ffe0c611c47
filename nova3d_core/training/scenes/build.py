"""The module for scenes that a run trains, from a file or with random weights."""

from __future__ import annotations

import torch

from ...compute.devices import seeded
from ...diffusion.families import SCENE_FAMILY
from ...diffusion.network.pixelnerf import PixelNerf
from ...diffusion.scenes.model import SceneModel, widen_input
from ...errors import InputError
from ...progress import SILENT, Progress
from ...weights.discovery.built_in import resolve_model_file
from ...weights.discovery.companions import resolve_unet_file
from ...weights.discovery.locate import describe, inspect_file
from ...weights.load import load_model, load_svd
from ..config import TrainConfig
from ..train_module import copy_weights
from .module import SceneTrainModule, init_scene_module, scene_family


def build_scene_module(config: TrainConfig, progress: Progress = SILENT) -> SceneTrainModule:
    """The module of a run.

    SVD and V3D get input channels with zero weights for the features, and a conditioner with random
    weights, as in the paper.

    Raises:
        InputError: the start file is neither SVD nor V3D nor a model for scenes.
    """
    size_px, scene = config.data.size_px, config.scene
    if not config.start:
        return init_scene_module(config.network, scene, size_px, config.seed)
    path = resolve_unet_file(resolve_model_file(config.start))
    family = scene_family(scene, size_px)
    found = inspect_file(path).identity
    if found is not None and found.family not in ("svd", "v3d", SCENE_FAMILY.name):
        raise InputError(
            f"{path} is {describe(found)}; a model for scenes starts from SVD, V3D or another "
            "model for scenes.",
            "Change `start` in the training settings.",
        )
    if found is not None and found.family == "svd":
        unet, codec, encoder = load_svd(path, dtype=torch.float32, progress=progress)
    else:
        model = load_model(path, dtype=torch.float32, progress=progress)
        unet, codec, encoder = model.unet, model.codec, model.image_encoder
        if isinstance(model, SceneModel):
            copied = map(copy_weights, (unet, model.conditioner, encoder))
            return SceneTrainModule(*copied, codec, family)
    with seeded(config.seed):
        conditioner = PixelNerf(scene.conditioner)
    widen_input(copy_weights(unet), scene.conditioner.feature_channels)
    return SceneTrainModule(unet, conditioner, copy_weights(encoder), codec, family)
