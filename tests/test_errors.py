"""Errors reach the user from other processes as they were raised."""

from __future__ import annotations

import pickle

import pytest

from nova3d_core.errors import Cancelled, InputError, MissingDependencyError, StageError

EACH = (
    InputError("the mask is empty.", "Draw one."),
    StageError("fusing", "numbers became NaN.", "Try again."),
    MissingDependencyError("ray", "rendering on a cluster"),
    Cancelled("baking"),
)


@pytest.mark.parametrize("error", EACH, ids=lambda error: type(error).__name__)
def test_an_error_survives_the_way_between_processes(error):
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert vars(again) == vars(error)
