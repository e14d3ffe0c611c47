"""One process of a distributed run: `python -m tests.training.worker OUTPUT CHANGES`.

OUTPUT is the folder of the run, CHANGES a JSON object of changed settings. Writes the gradients of
the first step to OUTPUT-RANK.safetensors, then trains to the end.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from nova3d_core.training import loop, runs
from nova3d_core.training.dtensor import full_tensor
from nova3d_core.training.optimiser import make_optimiser
from nova3d_core.training.tensor_files import write_tensors

from .parts import SMALL, objects, of, run

FSDP_UNITS = ("VideoResBlock", "VideoTransformer", "VideoUNet", "SmallEncoder")
"""As in the shipped configuration for accelerate."""


def shard_over_processes(module, config, accelerator):
    """Applies FSDP2 as accelerate does on GPUs; it does not on CPUs."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (accelerator.num_processes,))
    for each in reversed(list(module.modules())):
        if type(each).__name__ in FSDP_UNITS or each is module:
            fully_shard(each, mesh=mesh, reshard_after_forward=False)
    return module, make_optimiser(module, config.optimiser)


def main(output: Path, changes: dict) -> None:
    """Trains, and saves the gradients of the first step."""
    original = loop.TrainLoop._backward
    gradients: dict[str, torch.Tensor] = {}

    def recorded(self, batch, randomness):
        result = original(self, batch, randomness)
        if not gradients:
            for name, weight in self.module.named_parameters():
                if weight.grad is not None:
                    gradients[name] = full_tensor(weight.grad).clone()
            rank = self.accelerator.process_index
            write_tensors(output.parent / f"{output.name}-{rank}.safetensors", gradients)
        return result

    loop.TrainLoop._backward = recorded
    if changes.pop("fsdp", False):
        runs.prepare = shard_over_processes
    run(of(SMALL, **changes), output, objects(7), accept_changes=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
