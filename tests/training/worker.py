"""One of several processes that train together: `python -m tests.training.worker OUTPUT BATCH`.

Writes the gradients of its first step, and then trains to the end.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from nova3d_core.training import loop, runs
from nova3d_core.training.dtensor import whole
from nova3d_core.training.launch import settle_deepspeed
from nova3d_core.training.optimiser import make_optimiser
from nova3d_core.training.tensor_files import write_tensors

from .parts import SMALL, objects, of, run

FSDP_UNITS = ("VideoResBlock", "VideoTransformer", "VideoUNet", "SmallEncoder")
"""As the shipped settings for accelerate name them."""


def split_over_processes(trainee, config, accelerator):
    """What accelerate does for FSDP2, which it does not do on CPUs."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (accelerator.num_processes,))
    for module in reversed(list(trainee.modules())):
        if type(module).__name__ in FSDP_UNITS or module is trainee:
            fully_shard(module, mesh=mesh, reshard_after_forward=False)
    return trainee, make_optimiser(trainee, config.optimiser)


def zero_2(config, cpu):
    """Makes accelerate use DeepSpeed over gloo, which it does not do on CPUs by itself."""
    from accelerate import Accelerator, DeepSpeedPlugin, PartialState

    PartialState(cpu=True)
    accelerator = Accelerator(mixed_precision="no", deepspeed_plugin=DeepSpeedPlugin(zero_stage=2))
    settle_deepspeed(accelerator, config)
    return accelerator


def main(output: Path, changes: dict) -> None:
    """Trains, and keeps the gradients of the first step as they are before they are clipped."""
    plain = loop.TrainLoop._gradients
    kept: dict[str, torch.Tensor] = {}

    def noted(self, batch, draws):
        found = plain(self, batch, draws)
        if not kept:
            for name, weight in self.trainee.named_parameters():
                if weight.grad is not None:
                    kept[name] = whole(weight.grad).clone()
            rank = self.accelerator.process_index
            write_tensors(output.parent / f"{output.name}-{rank}.safetensors", kept)
        return found

    loop.TrainLoop._gradients = noted
    if changes.pop("split", False):
        runs.prepared = split_over_processes
    if changes.pop("zero", False):
        runs.make_accelerator = zero_2
    run(of(SMALL, **changes), output, objects(7), accept_changes=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
