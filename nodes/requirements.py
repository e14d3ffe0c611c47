"""Checks the pack's Python packages before a node does any work."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path

PACKAGES = {"PIL": "pillow", "scipy": "scipy", "skimage": "scikit-image", "trimesh": "trimesh"}
"""Module and name of the packages that the core cannot do without. What else it uses comes with
ComfyUI, has a fallback in the core, or is needed by a model, whose loading then names it."""


@contextmanager
def required_packages() -> Iterator[None]:
    """Context of a node's work: a package that is missing or broken is an error of one line.

    Raises:
        RuntimeError: a package is not installed, before the work, or cannot be imported.
    """
    missing = missing_packages()
    if missing:
        plural = "package is" if len(missing) == 1 else "packages are"
        raise RuntimeError(
            f"the Python {plural} not installed: {', '.join(missing)}. {install_hint()}"
        )
    try:
        yield
    except ImportError as error:
        reason = " ".join(str(error).split())
        message = f"a Python package cannot be imported: {reason}. {install_hint()}"
        raise RuntimeError(message) from error


@cache
def missing_packages() -> tuple[str, ...]:
    """Names, as pip knows them, of the packages that are not installed."""
    return tuple(package for module, package in PACKAGES.items() if not is_installed(module))


def is_installed(module: str) -> bool:
    """Whether a module can be found; it is not imported."""
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):  # a parent that cannot be imported, a module without a spec
        return False


def install_hint() -> str:
    """The command that installs everything, with the Python that runs ComfyUI."""
    requirements = Path(__file__).resolve().parents[1] / "requirements.txt"
    return (
        f'Install it with: "{sys.executable}" -m pip install -r "{requirements}" '
        "Then restart ComfyUI."
    )
