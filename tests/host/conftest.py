"""A ComfyUI server for all host tests, with the knight and its views in the input folder."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from .client import Client
from .inputs import write_inputs
from .models import write_models
from .server import Checkout, Server, checkout_from_environment
from .tiny_moge import write_tiny_moge

NO_HOST = "COMFYUI_PATH is not set: no test ran in a real ComfyUI (dev.py test --host PATH)"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Gives all skips without ComfyUI one location, so that pytest reports them in one line."""
    report = yield
    if report.skipped and NO_HOST in str(report.longrepr):
        report.longrepr = (__file__, 1, f"Skipped: {NO_HOST}")
    return report


@pytest.fixture(scope="session")
def checkout() -> Checkout:
    """The ComfyUI checkout under test."""
    checkout = checkout_from_environment()
    if checkout is None:
        pytest.skip(NO_HOST)
    return checkout


@pytest.fixture(scope="session")
def inputs(checkout: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Input folder for the workflows: the knight, its views, and its normalised mesh."""
    folder = tmp_path_factory.mktemp("input")
    write_inputs(folder)
    return folder


@pytest.fixture(scope="session")
def models(checkout: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models folder with small models under the names that the workflows use."""
    folder = tmp_path_factory.mktemp("files") / "models"
    write_models(folder)
    write_tiny_moge(folder)
    return folder


@pytest.fixture(scope="session")
def server(
    checkout: Checkout, inputs: Path, models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A running ComfyUI with this pack only."""
    base = tmp_path_factory.mktemp("comfyui")
    shutil.copytree(inputs, base / "input")
    shutil.copytree(models, base / "models")
    with Server(checkout, base) as running:
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    """Client of the server; after each test the server must be alive and idle."""
    client = Client(server.url)
    yield client
    assert server.is_alive, server.log[-4000:]
    assert client.get_json("/prompt")["exec_info"]["queue_remaining"] == 0


@pytest.fixture
def output(server: Server) -> Path:
    """ComfyUI's output folder."""
    return server.base / "output"
