"""Numbers that ran out of their format's range: tried again in float32, never shown as black."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ...errors import StageError
from ..model import module_dtype

logger = logging.getLogger(__name__)


class NonFiniteError(Exception):
    """A NaN or infinite number came up."""


def ensure_finite(batch: Tensor) -> Tensor:
    """The batch itself; raises NotFinite if any of its numbers is NaN or infinite."""
    if not bool(torch.isfinite(batch).all()):
        raise NonFiniteError
    return batch


def with_fp32_fallback(
    stage: str, run: Callable[[torch.dtype], Tensor], dtype: torch.dtype, source: str = ""
) -> Tensor:
    """What a stage makes, in its number format, or else in float32.

    Args:
        stage: as users know it: encoding, sampling, decoding.
        run: does the whole stage in a number format; may raise NotFinite early.
        dtype: the format to begin with.
        source: the model's file, for the message.

    Returns:
        The result, all of it finite.

    Raises:
        StageError: it is not finite in float32 either.
    """
    for tried in dict.fromkeys((dtype, torch.float32)):
        try:
            return ensure_finite(run(tried))
        except NonFiniteError:
            if tried != torch.float32:
                logger.warning("%s ran out of %s's range: again in float32.", stage, _name(tried))
    raise StageError(
        stage,
        f"the model{f' {source}' if source else ''} gave numbers that are NaN or infinite, even in "
        "float32.",
        "Its file is probably damaged: compare its checksum with `models`, or download it again.",
    )


def module_to_dtype(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The module itself if its weights have this format, else a copy in it."""
    if module_dtype(module) == dtype:
        return module
    return copy.deepcopy(module).to(dtype)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
