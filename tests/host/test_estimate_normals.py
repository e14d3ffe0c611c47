"""Estimate Normals in a host, with small estimators that read the normals from the colours."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from nova3d_core.cameras.cameras import orbit_cameras
from nova3d_core.cameras.rigs import RigConfig
from nova3d_core.io.views.transforms_json import read_views, write_views
from nova3d_core.rendering.config import RenderConfig
from nova3d_core.rendering.views import render_views
from nova3d_core.views import Views

from ..normals.pass_through import (
    colour_of_normals,
    expected_normals,
    save_pass_through_marigold,
    save_pass_through_normalcrafter,
)
from ..weights.test_load import key_map  # noqa: F401
from .client import error_message
from .prompts import node
from .server import Server
from .test_run_workflows import run_to_end
from .workflow_check import Prompt

pytestmark = pytest.mark.host

VIEWS, PIXELS = 4, 128
FOLDERS = {"marigold": "marigold-normals-v1-1", "normalcrafter": "NormalCrafter"}
MAX_ERROR_DEG = {"marigold": 3.0, "normalcrafter": 6.0}
"""Of the mean; latents are 4 and 8 pixels wide, and the sphere's radius is 36 pixels."""
MAX_SECONDS = 5.0
"""Limit of the time between the cancel and the end of the prompt."""


@pytest.fixture(scope="module")
def sphere_views(make_sphere) -> Views:
    """A sphere with normals in the camera frame."""
    rig = RigConfig(count=VIEWS, width_px=PIXELS, height_px=PIXELS, elevation_deg=10.0)
    views = render_views(make_sphere(0.4), orbit_cameras(rig), RenderConfig(2)).views
    return views.with_normals_in("camera")


@pytest.fixture(scope="module", autouse=True)
def estimators(server: Server, sphere_views: Views, key_map) -> Iterator[Path]:  # noqa: F811
    """Both estimators in models/diffusers, and the views in the input folder."""
    folder, source = server.base / "models" / "diffusers", server.base / "input" / "sphere"
    folder.mkdir(exist_ok=True)
    before = set(folder.iterdir())
    save_pass_through_marigold(folder / FOLDERS["marigold"])
    save_pass_through_normalcrafter(folder / FOLDERS["normalcrafter"], key_map)
    colour = colour_of_normals(sphere_views.normals, sphere_views.masks)
    write_views(replace(sphere_views.without_normals(), colour=colour), source)
    yield folder
    for added in {source, *folder.iterdir()} - before:  # other tests miss the estimators
        shutil.rmtree(added)


def test_only_folders_of_estimators_are_listed(client, models):
    """Wonder3D's folder has a unet too."""
    assert (models / "nova3d" / "wonder3d-v1.0" / "unet").is_dir()
    inputs = client.object_info()["EstimateNormals"]["input"]["required"]
    assert inputs["folder"][1]["options"] == ["auto", *sorted(FOLDERS.values())]
    message = error_message(client, estimate_prompt("marigold", folder="NormalCrafter"))
    assert "the folder 'NormalCrafter' does not hold the estimator marigold" in message


def estimate_prompt(estimator: str, **changes: Any) -> Prompt:
    settings = {"folder": "auto", "seed": 0, "steps": 1, "window": "overlapping"}
    settings |= {"precision": "fp16", "device": "auto", **changes}
    return {
        "1": node("LoadViews", folder="sphere"),
        "2": node("EstimateNormals", views=["1", 0], estimator=estimator, **settings),
        "3": node("SaveViews", views=["2", 0], filename_prefix=f"estimated/{estimator}"),
        "4": node("SaveImage", images=["2", 1], filename_prefix=f"estimated/{estimator}"),
    }


@pytest.mark.parametrize("estimator", FOLDERS)
def test_views_get_their_normals(client, output, sphere_views, estimator):
    run = run_to_end(client, estimate_prompt(estimator))
    steps = run.progress["2"]
    assert len(steps) > 1 and all(0 <= value <= total for value, total in steps)
    assert len(client.history(run.prompt_id)["outputs"]["4"]["images"]) == VIEWS
    (folder,) = (path for path in (output / "estimated").glob(f"{estimator}*") if path.is_dir())
    saved = read_views(folder)
    assert saved.normal_frame == "camera"
    masks = sphere_views.masks
    assert float((saved.masks - masks).abs().max()) < 1.0 / 255.0
    expected = expected_normals(sphere_views.normals, masks)
    cosine = (expected * saved.normals).sum(dim=-1)[masks == 1.0]
    error_deg = torch.rad2deg(torch.acos(cosine.clamp(-1.0, 1.0)))
    assert float(error_deg.mean()) < MAX_ERROR_DEG[estimator]
    assert float(error_deg.quantile(0.95)) < 2.5 * MAX_ERROR_DEG[estimator]


@pytest.mark.parametrize(
    ("estimator", "changes"),
    [("marigold", {"steps": 50}), ("normalcrafter", {"window": "all views"})],
)
def test_cancel_stops_the_estimation(client, server, estimator, changes):
    cancelled_at: list[float] = []

    def cancel(event: str, data: dict[str, Any]) -> None:
        is_running = event == "progress" and data["node"] == "2" and data["value"] >= 1
        if is_running and not cancelled_at:
            client.interrupt()
            cancelled_at.append(time.monotonic())

    run = client.run(estimate_prompt(estimator, seed=1, **changes), cancel)
    assert run.is_interrupted and run.error is None
    assert run.executed[-1] == "2" and time.monotonic() - cancelled_at[0] < MAX_SECONDS
    assert run_to_end(client, estimate_prompt(estimator, seed=2)).executed[-1] in "34"
