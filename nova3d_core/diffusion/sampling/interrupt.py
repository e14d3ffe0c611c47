"""Checks for a cancellation within a forward pass, which takes up to a minute on a CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import nn

from ..network.blocks import VideoResBlock
from ..network.blocks_2d import MultiviewTransformer, ResBlock2D
from ..network.feedback_adapters import AdapterBlock
from ..network.token_transformer import TokenBlock
from ..network.transformer import VideoTransformer

BLOCKS = (
    VideoResBlock,
    VideoTransformer,
    ResBlock2D,
    MultiviewTransformer,
    AdapterBlock,
    TokenBlock,
)
"""The blocks of the networks; a full-size one takes less than two seconds on two CPU cores."""


@contextmanager
def check_before_blocks(
    network: nn.Module, check: Callable[[], None], kinds: tuple[type[nn.Module], ...] = BLOCKS
) -> Iterator[None]:
    """Calls `check` before each block of the network; an exception in it ends the forward pass."""

    def hook(module: nn.Module, arguments: tuple) -> None:
        check()

    blocks = [module for module in network.modules() if isinstance(module, kinds)]
    handles = [block.register_forward_pre_hook(hook) for block in blocks]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
