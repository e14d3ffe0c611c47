"""What differs between families: the module to train, and its objective."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from ..diffusion.families import SCENE_FAMILY
from ..progress import SILENT, Progress
from .config import TrainConfig
from .joint.build import build_joint_module
from .joint.config import FAMILY as JOINT_FAMILY
from .joint.objective import JointObjective
from .joint.validation import validate_pair
from .objective import Objective
from .scenes.build import build_scene_module
from .scenes.module import SceneTrainModule
from .scenes.objective import SceneObjective
from .scenes.validation import validate_scenes
from .train_module import TrainModule, build_train_module
from .validation import ValidationResult, validate


def build_module(
    config: TrainConfig, progress: Progress = SILENT
) -> TrainModule | SceneTrainModule:
    """The module that a run trains; see `build_train_module` and `build_joint_module`."""
    if config.family == SCENE_FAMILY.name:
        return build_scene_module(config, progress)
    if config.family == JOINT_FAMILY:
        return build_joint_module(config, progress)
    return build_train_module(config, progress)


def validation_of(config: TrainConfig) -> Callable[..., ValidationResult]:
    """The validation of a run; called as `validate`."""
    if config.family == SCENE_FAMILY.name:
        return validate_scenes
    if config.family == JOINT_FAMILY:
        return partial(validate_pair, feedback=config.joint.feedback)
    return validate


def make_objective(
    config: TrainConfig, module: TrainModule | SceneTrainModule, network: Any, device: torch.device
) -> Objective:
    """The objective of a run; see `Objective` for its arguments."""
    if config.family == SCENE_FAMILY.name:
        return SceneObjective(config, module, network, device)
    kind = JointObjective if config.family == JOINT_FAMILY else Objective
    return kind(config, module, network, device)
