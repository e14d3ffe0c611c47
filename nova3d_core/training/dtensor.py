"""Tensors that are split over processes (FSDP2's DTensors) beside plain ones."""

from __future__ import annotations

from torch import Tensor, nn


def is_sharded(tensor: Tensor) -> bool:
    """Whether each process holds only a part of it."""
    return hasattr(tensor, "full_tensor")


def local_shard(tensor: Tensor) -> Tensor:
    """The part that this process holds, not copied; of a plain tensor all of it."""
    return tensor.to_local() if is_sharded(tensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """All of it. Of a split tensor, every process has to ask at the same time."""
    return tensor.detach().full_tensor() if is_sharded(tensor) else tensor.detach()


def shard_like(complete: Tensor, like: Tensor) -> Tensor:
    """A whole tensor split as another one is; every process must have the same whole one."""
    if not is_sharded(like):
        return complete
    from torch.distributed.tensor import distribute_tensor

    complete = complete.to(like.device)
    try:
        return distribute_tensor(complete, like.device_mesh, like.placements, src_data_rank=None)
    except TypeError:  # torch before 2.6: the first process sends its own
        return distribute_tensor(complete, like.device_mesh, like.placements)


def reshard_all(module: nn.Module) -> None:
    """Drops whole weights that FSDP2 keeps after a pass: the parts were changed since."""
    for each in module.modules():
        reshard = getattr(each, "reshard", None)
        if callable(reshard):
            reshard()
