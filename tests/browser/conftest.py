"""A real page in headless Chromium, served by a real ComfyUI with this pack."""

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
"""Screenshots of the last run; git does not see them."""
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (
    "--use-gl=angle",  # WebGL without a graphics card
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
    """One place for all skips: pytest then says their reason in one line."""
    report = yield
    if report.skipped and isinstance(report.longrepr, tuple):
        report.longrepr = (__file__, 1, report.longrepr[2])
    return report


def _chromium() -> str:
    """The browser's path; skips where there is none or no driver for it."""
    pytest.importorskip("playwright", reason="playwright is not installed (dev.py test --browser)")
    found = os.environ.get("NOVA3D_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip("no Chromium or Chrome on this machine (NOVA3D_CHROMIUM may name one)")
    return found


@pytest.fixture(scope="session")
def server(
    checkout: Checkout, inputs: Path, models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A ComfyUI that may reach the net, as users have it.

    Told not to, some versions forbid their page what its 3D viewer does with textures.
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
    """A fresh page of the server, ready for use."""
    SHOTS.mkdir(exist_ok=True)
    context = browser.new_context(viewport={"width": 1600, "height": 900})
    opened = Page(context.new_page(), server.url, SHOTS / server.checkout.version)
    opened.open()
    yield opened
    context.close()
