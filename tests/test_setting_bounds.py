"""Every numeric field of every settings class has bounds and rejects NaN, infinity and text."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import math
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

import nova3d_core
from nova3d_core.cameras.rigs import RigConfig
from nova3d_core.checks import check_between, check_bounds
from nova3d_core.errors import InputError
from nova3d_core.fusion.config import HullConfig, LevelConfig, SdfFusionConfig
from nova3d_core.training.config import NoiseStage

PACKAGE = Path(nova3d_core.__file__).parent
REQUIRED = {LevelConfig: (32, 3, 0.5), NoiseStage: (0.0, 1.0, 1.0)}
"""Arguments of classes with required fields."""
ABSURD = (math.nan, math.inf, -math.inf, 1e300, -1e300, 10**30, -(10**30), True, "1")
UNBOUNDED_ABOVE = {("SampleConfig", "guidance_interval")}
"""A range of noise levels whose end may be infinite."""


def settings_classes() -> list[type]:
    """All settings classes of the core, by their names."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = [node.name for node in tree.body if isinstance(node, ast.ClassDef)]
        names = [name for name in names if name.endswith("Config") or name == "NoiseStage"]
        if names:
            parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
            module = importlib.import_module(".".join(parts))
            found += [getattr(module, name) for name in names]
    return found


CLASSES = settings_classes()


def number_fields(kind: type) -> list[str]:
    """Numeric fields, also optional ones and tuples of numbers."""
    hints = get_type_hints(kind)
    return [name for name, hint in hints.items() if _leaves(hint) & {int, float}]


def _leaves(hint: Any) -> set[Any]:
    inner = get_args(hint)
    return set().union(*(_leaves(each) for each in inner)) if inner else {hint}


CASES = [(kind, name) for kind in CLASSES for name in number_fields(kind)]


def test_finds_all_settings():
    assert len(CLASSES) > 25
    assert len(CASES) > 150


@pytest.mark.parametrize(
    ("kind", "name"), CASES, ids=[f"{kind.__name__}.{name}" for kind, name in CASES]
)
def test_absurd_values_are_errors_that_name_the_field(kind, name):
    config = kind(*REQUIRED.get(kind, ()))
    value = getattr(config, name)
    in_tuple = "tuple" in str(get_type_hints(kind)[name])
    for bad in ABSURD:
        candidates = [bad]
        if in_tuple:
            length = len(value) or 2
            candidates = [
                tuple(bad if position == index else 1 for position in range(length))
                for index in range(length)
            ]
            if (kind.__name__, name) in UNBOUNDED_ABOVE and bad == math.inf:
                candidates = candidates[:1]
        for each in candidates:
            with pytest.raises(InputError) as caught:
                dataclasses.replace(config, **{name: each})
            line = str(caught.value)
            assert len(line) < 500
            assert "\n" not in line
            assert name in line or name.removesuffix("s_deg") in line


@pytest.mark.parametrize("kind", CLASSES, ids=[kind.__name__ for kind in CLASSES])
def test_integer_fields_reject_fractions(kind):
    config = kind(*REQUIRED.get(kind, ()))
    for name, hint in get_type_hints(kind).items():
        if hint is int:
            with pytest.raises(InputError):
                dataclasses.replace(config, **{name: getattr(config, name) + 0.5})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: HullConfig(resolution=1025), "hull resolution is 1025, expected 16 to 1024"),
        (lambda: RigConfig(count=4097), "rig count is 4097, expected 1 to 4096"),
        (lambda: RigConfig(count=0), "rig count is 0, expected 1 to 4096"),
        (lambda: RigConfig(width_px=20_000), "rig width_px is 20000, expected 1 to 16384"),
        (lambda: SdfFusionConfig(min_rays=0), "sdf min_rays is 0, expected 1 to 1,000,000,000"),
        (lambda: SdfFusionConfig(min_rays=2_000_000_000), "sdf min_rays is 2000000000"),
    ],
)
def test_out_of_bounds_values_are_errors(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_bounds_are_inclusive_and_errors_show_the_value():
    check_between("it", 1, 1, 2)
    check_between("it", 2.0, 1, 2)
    with pytest.raises(InputError, match=r"^it is '1', expected 1 to 2\.$"):
        check_between("it", "1", 1, 2)
    with pytest.raises(InputError, match="thousands of digits"):
        check_between("it", 10**5000, 1, 2)


def test_fields_are_checked_according_to_their_annotations():
    @dataclasses.dataclass(frozen=True)
    class Example:
        whole: int | None = None
        several: tuple[float, ...] = (1.0,)

        def __post_init__(self):
            check_bounds(self, "example", whole=(0, 3), several=(0.0, 1.0))

    assert Example(3, (0.0, 1)).whole == 3
    with pytest.raises(InputError, match=r"example whole is 1\.5, expected a whole number"):
        Example(1.5)
    with pytest.raises(InputError, match=r"example several is 2\.0, expected 0 to 1"):
        Example(1, (0.5, 2.0))
