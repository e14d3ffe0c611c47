"""Running out of memory while a model file is read is reported as such, in all its forms."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import torch

from nova3d_core.errors import InputError
from nova3d_core.weights.files.read import translate_read_errors


class PagingFileTooSmall(OSError):
    """Raised on Windows when a large file is memory-mapped: EINVAL, with a system code."""

    winerror = 1455


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        PagingFileTooSmall(errno.EINVAL, "The paging file is too small"),
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("Couldn't open shared file mapping: <torch_1_2>, error code: <1455>"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_running_out_of_memory_is_not_reported_as_damage(error):
    with pytest.raises(InputError) as caught, translate_read_errors(Path("m.safetensors")):
        raise error
    assert caught.value.message == "m.safetensors does not fit into memory."
    assert caught.value.__cause__ is error
