"""accelerate: devices, several processes, and weights split over them."""

from __future__ import annotations

from typing import Any

from ..errors import MissingDependencyError


def make_accelerator(cpu: bool = False) -> Any:
    """An `accelerate.Accelerator` for this process, as its launcher set the environment up.

    The numbers' format is not accelerate's business here: the network computes in the format of
    its input, and its weights stay float32.

    Args:
        cpu: compute on the CPU, whatever devices there are.

    Raises:
        MissingDependencyError: accelerate is not installed.
    """
    try:
        from accelerate import Accelerator
    except ImportError as error:
        raise MissingDependencyError(
            "accelerate", "Training", "pip install -r requirements-train.txt"
        ) from error
    return Accelerator(cpu=cpu, mixed_precision="no")


def everywhere(accelerator: Any, good: bool) -> bool:
    """Whether all processes say so."""
    if accelerator.num_processes == 1:
        return good
    import torch

    votes = torch.tensor(float(good), device=accelerator.device)
    return bool(accelerator.reduce(votes, "sum") == accelerator.num_processes)


def anywhere(accelerator: Any, asked: bool) -> bool:
    """Whether any process says so."""
    return not everywhere(accelerator, not asked)
