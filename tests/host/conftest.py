"""One ComfyUI for all host tests, with the shipped knight and its views in the input folder."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import nova3d_core as nova3d
from nova3d_core.rendering.config import RenderConfig

from .client import Client
from .models import write_models
from .prompts import PIXELS, VIEWS
from .server import PROJECT, Checkout, Server, checkout_from_environment

KNIGHT = PROJECT / "nova3d_core" / "assets" / "character_knight.glb"
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
def inputs(checkout: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the workflows expect in the input folder: the knight, views of it, a mesh like it."""
    folder = tmp_path_factory.mktemp("input")
    truth = nova3d.read_mesh(KNIGHT).normalised()
    rig = nova3d.orbit_cameras(nova3d.RigConfig(count=VIEWS, width_px=PIXELS, height_px=PIXELS))
    views = nova3d.render_views(truth, rig, RenderConfig(supersample=2)).views
    nova3d.write_views(views, folder / "knight" / "views")
    nova3d.write_glb(truth, folder / "knight" / "mesh.glb")
    shutil.copy2(KNIGHT, folder / KNIGHT.name)
    return folder


@pytest.fixture(scope="session")
def models(checkout: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models folder with small models under the names that the workflows ask for."""
    folder = tmp_path_factory.mktemp("files") / "models"
    write_models(folder)
    return folder


@pytest.fixture(scope="session")
def server(
    checkout: Checkout, inputs: Path, models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A running ComfyUI with this pack and nothing else."""
    base = tmp_path_factory.mktemp("comfyui")
    shutil.copytree(inputs, base / "input")
    shutil.copytree(models, base / "models")
    with Server(checkout, base) as running:
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
