"""Helpers for sharded tensors (FSDP2's DTensor) that also accept plain ones."""

from __future__ import annotations

from torch import Tensor, nn


def is_sharded(tensor: Tensor) -> bool:
    """Whether each process holds only a shard of the tensor."""
    return hasattr(tensor, "full_tensor")


def has_sharded_weights(module: nn.Module) -> bool:
    """Whether a module's weights are sharded over processes."""
    return any(is_sharded(weight) for weight in module.parameters())


def local_shard(tensor: Tensor) -> Tensor:
    """The shard that this process holds, not copied; a plain tensor itself."""
    return tensor.to_local() if is_sharded(tensor) else tensor


def full_tensor(tensor: Tensor) -> Tensor:
    """The complete tensor. Collective for sharded tensors: every process must call it."""
    return tensor.detach().full_tensor() if is_sharded(tensor) else tensor.detach()


def shard_like(full: Tensor, like: Tensor) -> Tensor:
    """Shards a complete tensor, equal in all processes, like another one."""
    if not is_sharded(like):
        return full
    from torch.distributed.tensor import distribute_tensor

    full = full.to(like.device)
    try:
        return distribute_tensor(full, like.device_mesh, like.placements, src_data_rank=None)
    except TypeError:  # torch before 2.6: scatters from rank 0
        return distribute_tensor(full, like.device_mesh, like.placements)


def reshard_all(module: nn.Module) -> None:
    """Frees full weights that FSDP2 keeps after a pass, because the shards have changed."""
    for each in module.modules():
        reshard = getattr(each, "reshard", None)
        if callable(reshard):
            reshard()
