"""accelerate: devices, several processes, and weights split over them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from ..errors import MissingDependencyError
from .config import OptimiserConfig


def make_accelerator(config: OptimiserConfig, cpu: bool = False) -> Any:
    """An `accelerate.Accelerator` for this process, as its launcher set the environment up.

    The numbers' format is not accelerate's business here: the network computes in the format of
    its input, and its weights stay float32.

    Args:
        config: what DeepSpeed has to know too.
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
    accelerator = Accelerator(cpu=cpu, mixed_precision="no")
    settle_deepspeed(accelerator, config)
    return accelerator


def settle_deepspeed(accelerator: Any, config: OptimiserConfig) -> None:
    """Tells DeepSpeed, if it was launched, what the run's settings say; it clips by itself."""
    if not is_deepspeed(accelerator):
        return
    accelerator.state.deepspeed_plugin.deepspeed_config.update(
        train_micro_batch_size_per_gpu=config.at_once,
        gradient_accumulation_steps=1,  # the loop tells it which part of a step is the last
        gradient_clipping=config.clip,
        zero_allow_untested_optimizer=True,
    )


def is_deepspeed(accelerator: Any) -> bool:
    """Whether DeepSpeed was launched."""
    return str(accelerator.distributed_type).endswith("DEEPSPEED")


def all_processes(accelerator: Any, good: bool) -> bool:
    """Whether all processes say so."""
    if accelerator.num_processes == 1:
        return good
    import torch

    votes = torch.tensor(float(good), device=accelerator.device)
    return bool(accelerator.reduce(votes, "sum") == accelerator.num_processes)


def any_process(accelerator: Any, asked: bool) -> bool:
    """Whether any process says so."""
    return not all_processes(accelerator, not asked)


@contextmanager
def accumulate(accelerator: Any, network: Any, last: bool) -> Iterator[None]:
    """Inside, one part of a step's gradient is computed; the processes meet at the last one.

    DeepSpeed also clips and steps by itself there.
    """
    accelerator.gradient_state._set_sync_gradients(last)
    whole = last or is_deepspeed(accelerator)
    with nullcontext() if whole else accelerator.no_sync(network):
        yield
