"""One of several processes that train together: `python -m tests.training.worker OUTPUT BATCH`.

Writes the gradients of its first step, and then trains to the end.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from nova3d_core.training import loop
from nova3d_core.training.tensor_files import write_tensors

from .parts import SMALL, objects, of, run


def main(output: Path, changes: dict) -> None:
    """Trains, and keeps the gradients of the first step as they are before they are clipped."""
    plain = loop.Loop._gradients
    kept: dict[str, torch.Tensor] = {}

    def noted(self, batch, draws):
        found = plain(self, batch, draws)
        if not kept:
            for name, weight in self.trainee.named_parameters():
                if weight.grad is not None:
                    kept[name] = weight.grad.detach().clone()
            rank = self.accelerator.process_index
            write_tensors(output.parent / f"{output.name}-{rank}.safetensors", kept)
        return found

    loop.Loop._gradients = noted
    run(of(SMALL, **changes), output, objects(7))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
