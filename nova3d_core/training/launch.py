"""accelerate: devices, several processes, sharded weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from ..errors import InputError, MissingDependencyError


def make_accelerator(cpu: bool = False) -> Any:
    """An `accelerate.Accelerator` for this process, as configured by its launcher.

    Mixed precision is not left to accelerate: the network computes in the dtype of its input, and
    its weights stay float32.

    Args:
        cpu: use the CPU, whatever devices there are.

    Raises:
        MissingDependencyError: accelerate is not installed.
        InputError: DeepSpeed was launched.
    """
    try:
        from accelerate import Accelerator
    except ImportError as error:
        raise MissingDependencyError(
            "accelerate", "Training", "pip install -r requirements-train.txt"
        ) from error
    accelerator = Accelerator(cpu=cpu, mixed_precision="no")
    if str(accelerator.distributed_type).endswith("DEEPSPEED"):
        raise InputError(
            "training does not support DeepSpeed.",
            "Launch with DDP, or with FSDP2 to shard weights and optimiser state.",
        )
    return accelerator


def all_processes(accelerator: Any, condition: bool) -> bool:
    """Whether the condition holds in all processes."""
    if accelerator.num_processes == 1:
        return condition
    import torch

    votes = torch.tensor(float(condition), device=accelerator.device)
    return bool(accelerator.reduce(votes, "sum") == accelerator.num_processes)


def any_process(accelerator: Any, condition: bool) -> bool:
    """Whether the condition holds in any process."""
    return not all_processes(accelerator, not condition)


@contextmanager
def accumulate(accelerator: Any, network: Any, last: bool) -> Iterator[None]:
    """Context of one micro-batch; gradients are synchronised after the last one of a step."""
    accelerator.gradient_state._set_sync_gradients(last)
    with nullcontext() if last else accelerator.no_sync(network):
        yield
