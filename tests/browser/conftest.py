"""ComfyUI's front end in headless Chromium, served by a real ComfyUI with this pack."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..host.conftest import checkout, inputs, models
from ..host.server import PROJECT, Checkout, Server
from .page import Page

__all__ = ["checkout", "inputs", "models"]

SHOTS = PROJECT / "browser_output"
"""Screenshots of the last run; ignored by git."""
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (
    "--use-gl=angle",  # WebGL without a GPU
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--ignore-gpu-blocklist",
    "--no-first-run",
    "--disable-quic",
    "--disable-sync",
    "--disable-component-update",
    "--disable-background-networking",
)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Gives all skips the same location, so that pytest reports them in one line."""
    report = yield
    if report.skipped and isinstance(report.longrepr, tuple):
        report.longrepr = (__file__, 1, report.longrepr[2])
    return report


def _chromium() -> str:
    """Path of the browser; skips the tests without a browser or its driver."""
    pytest.importorskip("playwright", reason="playwright is not installed (dev.py test --browser)")
    path = os.environ.get("NOVA3D_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip("no Chromium or Chrome found (set NOVA3D_CHROMIUM to its path)")
    return path


@pytest.fixture(scope="session")
def server(
    checkout: Checkout, inputs: Path, models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A ComfyUI without offline flags, as users run it.

    With these flags, some versions set a content security policy that blocks textures in the 3D
    viewer.
    """
    base = tmp_path_factory.mktemp("comfyui")
    shutil.copytree(inputs, base / "input")
    shutil.copytree(models, base / "models")
    with Server(checkout, base, is_offline=False) as running:
        yield running


@pytest.fixture(scope="session")
def browser(checkout: Checkout) -> Iterator:
    """Headless Chromium."""
    path = _chromium()
    from playwright.sync_api import sync_playwright

    root = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    with sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=path, args=[*FLAGS, *root])
        yield running
        running.close()


@pytest.fixture
def page(browser, server: Server) -> Iterator[Page]:
    """A new page of the server, ready for use."""
    SHOTS.mkdir(exist_ok=True)
    context = browser.new_context(viewport={"width": 1600, "height": 900})
    opened = Page(context.new_page(), server.url, SHOTS / server.checkout.version)
    opened.open()
    yield opened
    context.close()
