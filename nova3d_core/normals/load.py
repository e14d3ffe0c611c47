"""Loads a normal estimator by name, from the model folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from ..diffusion.model import OneDevice
from ..progress import SILENT, Progress
from ..weights.discovery.estimators import find_estimator_folder
from .config import EstimateConfig, EstimatorName
from .estimate import NormalEstimator


def load_estimator(
    name: EstimatorName,
    folder: Path | None = None,
    *,
    folders: Sequence[Path | str] = (),
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    config: EstimateConfig | None = None,
    progress: Progress = SILENT,
) -> NormalEstimator:
    """Loads an estimator; nothing is downloaded.

    Args:
        name: marigold or normalcrafter.
        folder: of the estimator; searched for in `folders` if None.
        folders: model folders; `locate.default_folders()` if empty.
        device: on which it runs.
        dtype: of the weights on a GPU; on a CPU they are float32.
        config: settings of the estimation.
        progress: reports each loaded tensor of NormalCrafter.

    Raises:
        InputError: there is no such folder, or it is incomplete.
        MissingDependencyError: diffusers is not installed.
        Cancelled: the user cancelled.
    """
    device = torch.device(device)
    dtype = torch.float32 if device.type == "cpu" else dtype
    folder = folder or find_estimator_folder(name, folders)
    if name == "marigold":
        from .marigold import MarigoldEstimator, load_marigold

        return MarigoldEstimator(load_marigold(folder, device, dtype), config)
    from .normalcrafter import NormalCrafterEstimator, load_normalcrafter

    model = load_normalcrafter(folder, dtype=dtype, folders=folders, progress=progress)
    return NormalCrafterEstimator(model, OneDevice(model, device, dtype), config)
