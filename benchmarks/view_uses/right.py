"""Right sets of views; each must pass without a warning."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import torch
from torch import Tensor

from nova3d_core.cameras.cameras import Cameras, cameras_from_orbit
from nova3d_core.cameras.orbits import OrbitConfig
from nova3d_core.evaluation.config import PerturbationConfig
from nova3d_core.evaluation.perturbations import render_perturbed_views
from nova3d_core.fusion.checks.inputs import check_views
from nova3d_core.io.views.transforms_json import read_views
from nova3d_core.pipeline.stages import ensure_masks
from nova3d_core.rendering.config import RenderConfig
from nova3d_core.rendering.views import render_views
from nova3d_core.views import Views

from .inputs import (
    ROOT,
    Inputs,
    Use,
    clockwise_rig,
    load_object,
    model_rig,
    photographs,
    rendered,
    rig,
    sine_rig,
)


def _plain(orbit: OrbitConfig | Cameras, frame: str | None = None) -> Use:
    def run(name: str) -> None:
        if isinstance(orbit, Cameras):
            views = render_views(load_object(name), orbit, RenderConfig(2)).views
        else:
            views = rendered(name, orbit)
        Inputs.of(views, frame).check()

    return run


def _noisy(name: str) -> None:
    """Wrong poses of 2 degrees per axis and 1 %, wrong exposures, blobs of wrong colour."""
    cameras = cameras_from_orbit(rig(elevation_deg=10.0))
    config = PerturbationConfig("noisy+conflict", seed=3, supersample=2)
    Inputs.of(render_perturbed_views(load_object(name), cameras, config).views, "world").check()


def _bent(name: str) -> None:
    """Each view warped smoothly by up to 2.5 % of its width, as views of a model are."""
    inputs = Inputs.of(rendered(name, rig()))
    layers = torch.cat([inputs.images, inputs.masks[..., None]], dim=-1).permute(0, 3, 1, 2)
    warped = bend(layers, 0.025)
    replace(
        inputs, images=warped[:, :3].permute(0, 2, 3, 1).clamp(0, 1), masks=warped[:, 3].clamp(0, 1)
    ).check()


def bend(layers: Tensor, amplitude: float) -> Tensor:
    """Images (V, C, H, W) warped by smooth random displacements, relative to the image size."""
    random = torch.Generator().manual_seed(7)
    count, _, height, width = layers.shape
    coarse = 2.0 * torch.rand(count, 2, 4, 4, generator=random) - 1.0
    offset = torch.nn.functional.interpolate(
        coarse, size=(height, width), mode="bicubic", align_corners=True
    ).permute(0, 2, 3, 1)
    identity = torch.eye(2, 3).expand(count, 2, 3)
    grid = torch.nn.functional.affine_grid(identity, list(layers.shape), align_corners=False)
    grid = grid + 2.0 * amplitude * offset
    return torch.nn.functional.grid_sample(layers, grid, padding_mode="border", align_corners=False)


def check_generated_views(name: str) -> None:
    """Views and normals that the built-in model generates from the object's front image."""
    check_views(ensure_masks(generated_views(name)))


@cache
def generated_views(name: str) -> Views:
    from nova3d_core.diffusion.sampling.pipeline import sample_views
    from nova3d_core.weights.discovery.built_in import BUILT_IN_NAME
    from nova3d_core.weights.load import load_model

    front = rendered(name, rig(1))
    return sample_views(load_model(BUILT_IN_NAME), front.colour[0], front.masks[0])


def check_shipped_views(name: str) -> None:
    check_views(ensure_masks(read_views(ROOT / "nova3d_core" / "assets" / name / "views")))


RIGHT_SETS: dict[str, Use] = {
    "level 16, world normals": _plain(rig(), "world"),
    "level 16": _plain(rig()),
    "clockwise 12, elevation 20, camera normals": _plain(clockwise_rig(12, 20.0), "camera"),
    "photographs 14": _plain(photographs()),
    "orthographic level 8": _plain(rig(8, kind="orthographic")),
    "Wonder3D 6, camera normals": _plain(model_rig("wonder3d"), "camera"),
    "sine 21": _plain(sine_rig()),
    "noisy poses and conflict 16, elevation 10": _noisy,
    "bent views 16": _bent,
}
