"""Fuzzing of all readers with mutated files: well-formed errors or valid results only.

The short run is part of the tests and repeats exactly. `python dev.py test --long tests/fuzz` goes
through `LONG_EXAMPLES` mutated files a reader, another choice with each `NOVA3D_FUZZ_SEED`.
"""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from .guards import guarded
from .mutations import MUTATIONS
from .targets import TARGETS, Target

SHORT_EXAMPLES = 40
LONG_EXAMPLES = int(os.environ.get("NOVA3D_FUZZ_EXAMPLES", "5000"))
_COMMON = {
    "deadline": None,
    "database": None,
    "suppress_health_check": list(HealthCheck),
}
CHANGES = st.tuples(st.integers(0, 7), st.booleans(), st.lists(MUTATIONS, min_size=1, max_size=4))
"""Which seed file, whether to mutate inside its container, and how."""


@pytest.fixture(scope="module", autouse=True)
def quiet():
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


def make_folder(target: Target, root: Path) -> Path:
    """A folder with the target's other files, next to a secret that must not be opened."""
    folder = root / "given"
    for name, content in target.others.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    (folder / target.file).parent.mkdir(parents=True, exist_ok=True)
    for name in ("secret.png", "secret.bin"):
        (root / name).write_bytes(TARGETS["png"].seeds[0])
    if not (folder / "link").exists():
        (folder / "link").symlink_to(root)
    return folder


def mutated(target: Target, which: int, inside: bool, changes: list) -> bytes:
    """A mutated seed file, in its container or its payload."""
    content = target.seeds[which % len(target.seeds)]

    def change(part: bytes) -> bytes:
        for mutation in changes:
            part = mutation.apply(part)
        return part

    return target.wrapped(content, change) if inside and target.wrapped else change(content)


def read_under_guard(target: Target, folder: Path, content: bytes) -> None:
    (folder / target.file).write_bytes(content)
    with guarded(folder, len(content), target.memory_mib):
        target.check(target.read(folder))


@pytest.mark.parametrize("name", TARGETS)
def test_unmodified_seed_files_are_read(name, tmp_path):
    target = TARGETS[name]
    folder = make_folder(target, tmp_path)
    for content in target.seeds:
        (folder / target.file).write_bytes(content)
        if content.startswith(b"\x80"):  # a pickle without tensors is rejected
            continue
        target.check(target.read(folder))


@pytest.mark.parametrize("name", TARGETS)
def test_mutated_files(name, tmp_path):
    target = TARGETS[name]
    folder = make_folder(target, tmp_path)

    @settings(max_examples=SHORT_EXAMPLES, derandomize=True, phases=[Phase.generate], **_COMMON)
    @given(CHANGES)
    def run(changes):
        read_under_guard(target, folder, mutated(target, *changes))

    run()
    shutil.rmtree(folder)


@pytest.mark.long
@pytest.mark.parametrize("name", TARGETS)
def test_many_mutated_files(name, tmp_path):
    target = TARGETS[name]
    folder = make_folder(target, tmp_path)

    @seed(int(os.environ.get("NOVA3D_FUZZ_SEED", "0")))
    @settings(max_examples=LONG_EXAMPLES, phases=[Phase.generate, Phase.shrink], **_COMMON)
    @given(CHANGES)
    def run(changes):
        read_under_guard(target, folder, mutated(target, *changes))

    run()
