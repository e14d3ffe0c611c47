"""dev.py chooses the tests that its help text promises."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def dev(monkeypatch):
    """The module dev.py, in an environment that it may change."""
    monkeypatch.setenv("COMFYUI_PATH", "")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    spec = importlib.util.spec_from_file_location("dev", ROOT / "dev.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def host(tmp_path):
    """A folder that looks like a ComfyUI."""
    (tmp_path / "main.py").touch()
    return str(tmp_path)


def test_fast_tests_by_default(dev):
    workers = ["-n", str(dev.WORKERS), "--dist", "loadfile"]
    assert dev.pytest_arguments([]) == ["-m", "not slow", *workers]
    assert dev.pytest_arguments(["--all"]) == workers
    assert dev.pytest_arguments(["--long", "tests/fuzz"]) == [*workers, "--long", "tests/fuzz"]


def test_host_selects_the_tests_in_comfyui(dev, host):
    expected = ["tests/host", "tests/nodes", "-m", "host", "-x"]
    assert dev.pytest_arguments(["--host", host, "-x"]) == expected


def test_browser_with_a_host_selects_only_the_tests_of_the_page(dev, host):
    for arguments in (["--browser", "--host", host], ["--host", host, "--browser"]):
        assert dev.pytest_arguments(arguments) == ["tests/browser"]
