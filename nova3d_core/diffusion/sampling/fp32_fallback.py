"""Retry in float32 after an overflow: NaN must be an error, never a black image."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ...errors import StageError
from ..model import cast_copy, module_dtype

logger = logging.getLogger(__name__)


class NonFiniteError(Exception):
    """A tensor holds NaN or infinite values."""


def ensure_finite(batch: Tensor) -> Tensor:
    """Returns the batch; raises NonFiniteError if it holds NaN or infinite values."""
    if not bool(torch.isfinite(batch).all()):
        raise NonFiniteError
    return batch


def with_fp32_fallback(
    stage: str, run: Callable[[torch.dtype], Tensor], dtype: torch.dtype, source: str = ""
) -> Tensor:
    """Runs a stage in its dtype, and again in float32 if the result is not finite.

    Args:
        stage: its name in messages: encoding, sampling or decoding.
        run: runs the whole stage in a dtype; may raise NonFiniteError early.
        dtype: the dtype of the first attempt.
        source: the model's file, for messages.

    Returns:
        The finite result.

    Raises:
        StageError: the result is not finite in float32 either.
    """
    for attempt in dict.fromkeys((dtype, torch.float32)):
        try:
            return ensure_finite(run(attempt))
        except NonFiniteError:
            if attempt != torch.float32:
                name = str(attempt).removeprefix("torch.")
                logger.warning("%s overflowed in %s; retrying in float32.", stage, name)
    model = f"the model {source}" if source else "the model"
    raise StageError(
        stage,
        f"{model} returned NaN or infinite values, even in float32.",
        "Its file is probably damaged: compare its checksum with `models`, or download it again.",
    )


def module_to_dtype(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The module if its weights have this dtype, else a converted copy."""
    if module_dtype(module) == dtype:
        return module
    return cast_copy(module, dtype)
