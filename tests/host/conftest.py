"""One ComfyUI for all host tests, with the shipped knight's views in its input folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from .client import Client
from .server import Checkout, Server, checkout_from_environment

NO_HOST = "COMFYUI_PATH is not set: nothing here ran in a real ComfyUI (dev.py test --host PATH)"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """One place for all skips for want of a ComfyUI: pytest then says it in one line."""
    report = yield
    if report.skipped and NO_HOST in str(report.longrepr):
        report.longrepr = (__file__, 1, f"Skipped: {NO_HOST}")
    return report


@pytest.fixture(scope="session")
def checkout() -> Checkout:
    """The ComfyUI to test with."""
    found = checkout_from_environment()
    if found is None:
        pytest.skip(NO_HOST)
    return found


@pytest.fixture(scope="session")
def server(checkout: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A running ComfyUI with this pack and nothing else."""
    with Server(checkout, tmp_path_factory.mktemp("comfyui")) as running:
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    """Talks to the server, and finds it alive and idle after each test."""
    talker = Client(server.url)
    yield talker
    assert server.is_alive, server.log[-4000:]
    assert talker.get_json("/prompt")["exec_info"]["queue_remaining"] == 0


@pytest.fixture
def output(server: Server) -> Path:
    """The host's output folder."""
    return server.base / "output"
