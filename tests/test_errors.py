"""Errors survive pickling, as they are sent between processes."""

from __future__ import annotations

import pickle

import pytest

from nova3d_core.errors import Cancelled, InputError, MissingDependencyError, StageError

EACH = (
    InputError("the mask is empty.", "Provide one."),
    StageError("fusing", "numbers became NaN.", "Try again."),
    MissingDependencyError("ray", "rendering on a cluster"),
    Cancelled("baking"),
)


@pytest.mark.parametrize("error", EACH, ids=lambda error: type(error).__name__)
def test_pickling_preserves_errors(error):
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)
