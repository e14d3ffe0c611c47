"""Memory that runs out while a model file is read is said as such, in every form it comes in."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import torch

from nova3d_core.errors import InputError
from nova3d_core.weights.files.read import translate_read_errors


class PagingFileTooSmall(OSError):
    """What mapping a large file raises on Windows: errno EINVAL, and the system's own code."""

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
def test_a_file_beyond_the_memory_is_not_called_damaged(error):
    with pytest.raises(InputError) as caught, translate_read_errors(Path("m.safetensors")):
        raise error
    assert caught.value.message == "m.safetensors does not fit into memory."
    assert caught.value.__cause__ is error
