"""GPU workloads of the core, run on the pretend device and compared with the CPU.

    python -m tests.devices.workloads NAME

prints one line of JSON: for each case the difference from the CPU result (`difference`), device
tensors left in the result (`left`), and random operations on the device without a generator
(`unseeded`). Mixed devices and wrong generators raise. It needs its own process.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from .pretend_device import LEDGER, install, install_warp, left_on_device

DEVICE = install()
CPU = torch.device("cpu")
WORKLOADS: dict[str, Callable[[], dict[str, dict[str, Any]]]] = {}
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def workload(function: Callable) -> Callable:
    """Registers a workload under its name."""
    WORKLOADS[function.__name__] = function
    return function


def summarise(result: Any, difference: float) -> dict[str, Any]:
    """Measurements of one case."""
    unseeded = dict(LEDGER.unseeded)
    LEDGER.unseeded.clear()
    return {"difference": difference, "left": left_on_device(result), "unseeded": unseeded}


# Fusion


def small_views(normal_frame: str = "front_view"):
    """Eight views of 48 px of a coloured, bumpy ellipsoid."""
    import trimesh

    from nova3d_core.cameras.cameras import orbit_cameras
    from nova3d_core.cameras.rigs import RigConfig
    from nova3d_core.mesh import Mesh
    from nova3d_core.rendering.views import render_views

    ball = trimesh.creation.icosphere(subdivisions=3, radius=1.0)
    points = torch.tensor(ball.vertices, dtype=torch.float32)
    radius = 0.36 + 0.06 * (5 * points[:, 0] + 1).sin() * (4 * points[:, 1]).cos()
    vertices = points * radius[:, None] * torch.tensor([1.15, 1.0, 0.8])
    colours = 0.5 + 0.45 * (9 * points + torch.tensor([0.0, 1.0, 2.0])).sin()
    mesh = Mesh(vertices, torch.tensor(ball.faces, dtype=torch.int64), vertex_colours=colours)
    views = render_views(mesh, orbit_cameras(RigConfig(count=8, width_px=48, height_px=48))).views
    if normal_frame != "camera":
        return views
    world = views.with_world_normals()
    camera_normals = torch.einsum("vij,vhwj->vhwi", views.cameras.rotation, world.normals)
    return replace(views, normals=camera_normals, normal_frame="camera")


def small_fusion(**changes: Any):
    """Three short levels: gradient steps on poses, then registration with soft masks."""
    from nova3d_core.fusion.config import ConflictConfig, HullConfig, LevelConfig, SdfFusionConfig

    levels = (
        LevelConfig(16, 6, 0.5, pose_lr=4e-3),
        LevelConfig(24, 27, 0.5, pose_lr=2e-3),
        LevelConfig(
            24, 4, 0.5, register_every=2, register_stride=2, soft_masks=True, mask_weight=5.0
        ),
    )
    config = SdfFusionConfig(
        levels=levels,
        hull=HullConfig(resolution=32),
        min_rays=256,
        check_inputs=False,
        conflict=ConflictConfig(start_fraction=0.2),
    )
    return replace(config, **changes)


def compare_fusion(config: Any, views: Any = None) -> dict[str, Any]:
    """A fusion on the device against one on the CPU; `difference` is in cells."""
    from nova3d_core.fusion import fuse as optimise
    from nova3d_core.fusion import preview
    from nova3d_core.progress import Progress

    views = small_views() if views is None else views
    preview.PREVIEW_PX = 24
    optimise.PreviewClock = lambda: preview.PreviewClock(0.0)
    previews = []
    show = Progress(lambda event: previews.append(event.preview()) if event.preview else None)
    expected = optimise.fuse_sdf(views, config)
    actual = optimise.fuse_sdf(views, config, show, device=DEVICE)
    assert len(previews) == config.total_steps
    # bounding boxes may differ by a cell, so both are compared at the same points near the surface
    points = torch.rand(20_000, 3, generator=torch.Generator().manual_seed(0)) - 0.5
    distances, other = expected.sdf(points), actual.sdf(points)
    near = distances.abs() < 2.0 * expected.grid.spacing
    assert int(near.sum()) > 500
    error = (distances - other)[near].abs()
    return summarise([actual, previews], float(error.mean()) / expected.grid.spacing)


@workload
def fusion_grid() -> dict[str, dict[str, Any]]:
    install_warp_for_device()
    cases = {"model": compare_fusion(small_fusion())}
    assert LEDGER.kernels["render_backward"] >= 37
    return cases


@workload
def fusion_modes() -> dict[str, dict[str, Any]]:
    from nova3d_core.fusion.config import ConflictConfig, LossConfig

    install_warp_for_device()
    robust = small_fusion(conflict=ConflictConfig(mode="robust", start_fraction=0.2))
    off = small_fusion(conflict=ConflictConfig(mode="off", match_exposure=False))
    losses = small_fusion(losses=LossConfig(outlier_fraction=0.1, sparse=0.05), ray_chunk_size=500)
    return {
        "robust, camera-frame normals": compare_fusion(robust, small_views("camera")),
        "off": compare_fusion(off),
        "outliers and sparsity, in chunks": compare_fusion(losses),
    }


@workload
def fusion_torch() -> dict[str, dict[str, Any]]:
    from nova3d_core.fusion.fields.grid import warp_support

    warp_support.can_run_on = lambda device: False
    levels = tuple(replace(level, steps=2, ray_fraction=0.05) for level in small_fusion().levels)
    return {"model": compare_fusion(small_fusion(levels=levels, min_rays=64))}


@workload
def fusion_hashgrid() -> dict[str, dict[str, Any]]:
    from nova3d_core.fusion.fields.hashgrid import field as hashgrid
    from nova3d_core.fusion.fields.hashgrid.encoding import HashEncoding

    def encoding(device: torch.device, max_res: int = 256) -> HashEncoding:
        # as on CUDA
        return HashEncoding(num_levels=10, log2_hashmap_size=12, max_res=max_res).to(device)

    hashgrid.make_encoding = encoding
    levels = tuple(
        replace(level, steps=2, ray_fraction=0.05, register_every=0)
        for level in small_fusion().levels
    )
    config = small_fusion(field="hashgrid", levels=levels, min_rays=64, ray_chunk_size=256)
    return {"model": compare_fusion(config)}


def install_warp_for_device() -> None:
    """warp kernels for the device; fusions on the CPU are unchanged."""
    from nova3d_core.compute import warp_backend as launch
    from nova3d_core.fusion.fields.grid import warp_impl as grid_warp
    from nova3d_core.fusion.fields.grid import warp_support

    original = launch.warp, launch.as_warp
    install_warp()
    pretend = launch.warp, launch.as_warp

    def can_run_on(device: torch.device) -> bool:
        launch.warp, launch.as_warp = original if device.type == "cpu" else pretend
        grid_warp.as_warp = launch.as_warp
        return True

    warp_support.can_run_on = can_run_on


# Models


def compare_sample(model: Any, dtype: torch.dtype, steps: int = 2) -> dict[str, Any]:
    """A sample on the device against one on the CPU, both in `dtype`; `difference` is in 0..1."""
    from nova3d_core.diffusion.model import CODEC, IMAGE_ENCODER, UNET, OneDevice
    from nova3d_core.diffusion.sampling.config import SampleConfig
    from nova3d_core.diffusion.sampling.pipeline import sample
    from nova3d_core.progress import Progress

    from ..diffusion.models import image_and_mask

    for part in (UNET, CODEC, IMAGE_ENCODER):
        model.part(part).to(dtype)
    config = SampleConfig(seed=3, steps=steps)
    results, previews = [], []
    show = Progress(lambda event: previews.append(event.preview()) if event.preview else None)
    for device in (CPU, DEVICE):
        placement = OneDevice(model, device, dtype)
        inputs = image_and_mask()
        results.append(sample(model, *inputs, config, placement=placement, progress=show))
    expected, actual = (result.images for result in results)
    assert actual.dtype == torch.float32 and len(previews) >= 2
    return summarise([results[1], previews], float((actual - expected).abs().mean()))


def sampling_workload(name: str) -> Callable[[], dict[str, dict[str, Any]]]:
    """Workload: samples of a small model of a family in each dtype."""

    def run() -> dict[str, dict[str, Any]]:
        from nova3d_core.cameras.orbits import ORBIT_PRESETS, OrbitConfig
        from nova3d_core.cameras.rigs import RigConfig

        from ..diffusion.models import small_model

        ORBIT_PRESETS["of 4"] = OrbitConfig(RigConfig(count=4))
        views = None if name.startswith("wonder3d") else 4  # Wonder3D's conditions are of 6 views
        return {
            str(dtype): compare_sample(small_model(name, views=views), dtype) for dtype in DTYPES
        }

    return run


for family in ("nova3d", "nova3d-mini", "sv3d_u", "sv3d_p", "v3d", "wonder3d", "wonder3d_plus"):
    WORKLOADS[f"sampling_{family}"] = sampling_workload(family)


@workload
def loading() -> dict[str, dict[str, Any]]:
    """Loads the built-in model, moves it to the device and back."""
    from nova3d_core.diffusion.model import PARTS, OneDevice
    from nova3d_core.weights.discovery.built_in import built_in_file
    from nova3d_core.weights.load import load_model

    cases = {}
    for dtype in DTYPES:
        model = load_model(built_in_file(), dtype=dtype)
        before = {part: state_of(model.part(part)) for part in PARTS}
        placement = OneDevice(model, DEVICE, dtype, keep=True)
        for part in PARTS:
            placement.load_to_device(part, 0)
            assert all(value.device == DEVICE for value in model.part(part).parameters())
        for part in PARTS:
            model.part(part).to("cpu")
        for part in PARTS:
            for name, value in state_of(model.part(part)).items():
                assert torch.equal(value, before[part][name]), (part, name)
        cases[str(dtype)] = summarise([model.part(part) for part in PARTS], 0.0)
    return cases


def state_of(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Copies of the weights of a module, on the CPU."""
    return {name: value.detach().cpu().clone() for name, value in module.state_dict().items()}


# Normals


def compare_estimate(make: Callable[[torch.device], Any], bound_views: int = 4) -> dict[str, Any]:
    """Normal maps on the device against those on the CPU; `difference` is in 0..1."""
    from nova3d_core.progress import SILENT

    images = torch.rand(bound_views, 64, 64, 3, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected, actual = (make(device).estimate(images, SILENT) for device in (CPU, DEVICE))
    assert actual.dtype == torch.float32
    return summarise(actual, float((actual - expected).abs().mean()))


@workload
def estimating_normals() -> dict[str, dict[str, Any]]:
    """NormalCrafter, in two windows."""
    from nova3d_core.diffusion.model import CODEC, IMAGE_ENCODER, UNET, MultiviewModel, OneDevice
    from nova3d_core.normals import normalcrafter

    from ..diffusion.models import small_model

    normalcrafter.WINDOW, normalcrafter.STRIDE = 3, 2
    cases = {}
    for dtype in DTYPES:

        def make(device: torch.device, dtype: torch.dtype = dtype) -> Any:
            small = small_model("v3d", views=4)
            model = MultiviewModel(
                normalcrafter.NORMALCRAFTER, small.unet, small.codec, small.image_encoder
            )
            for part in (UNET, CODEC, IMAGE_ENCODER):
                model.part(part).to(dtype)
            placement = OneDevice(model, device, dtype)
            return normalcrafter.NormalCrafterEstimator(model, placement)

        cases[str(dtype)] = compare_estimate(make)
    return cases


@workload
def estimating_normals_marigold() -> dict[str, dict[str, Any]]:
    """Marigold, all views from one start noise."""
    import tempfile

    from nova3d_core.normals.config import EstimateConfig
    from nova3d_core.normals.marigold import MarigoldEstimator, load_marigold

    from ..normals.small_marigold import STEPS, save_small_marigold

    cases = {}
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "marigold-normals"
        save_small_marigold(folder)
        for dtype in DTYPES:

            def make(device: torch.device, dtype: torch.dtype = dtype) -> Any:
                pipeline = load_marigold(folder, CPU, dtype)
                # transformers leaves this buffer uninitialised next to a pretend device
                positions = pipeline.text_encoder.embeddings.position_ids
                positions.copy_(torch.arange(positions.shape[1])[None])
                config = EstimateConfig(steps=STEPS, chunk_size=2)
                return MarigoldEstimator(pipeline.to(device), config)

            cases[str(dtype)] = compare_estimate(make)
    return cases


@workload
def added_normals() -> dict[str, dict[str, Any]]:
    """Views and normal maps on the device: added there, checked on the CPU."""
    from nova3d_core.conventions import encode_normals
    from nova3d_core.normals.add import add_normals

    views = small_views().with_normals_in("camera")
    images = encode_normals(views.normals)
    expected = add_normals(views.without_normals(), images).normals
    actual = add_normals(views.without_normals().to(DEVICE), images.to(DEVICE))
    assert actual.normals.device == DEVICE
    difference = float((actual.normals.cpu() - expected).abs().max())
    return {"camera": summarise(None, difference)}


@workload
def reconstruction() -> dict[str, dict[str, Any]]:
    """Splats of four views by small networks, without and with time embedding, in each dtype."""
    from nova3d_core.reconstruction.model import ReconstructionOnDevice
    from nova3d_core.reconstruction.reconstruct import reconstruct_splats

    from ..reconstruction.conftest import EIGHTH, EIGHTH_WITH_TIME, random_model

    cases, views = {}, small_views()
    for config, family in ((EIGHTH, "lgm"), (EIGHTH_WITH_TIME, "ouroboros3d")):
        for dtype in DTYPES:
            results = []
            for device in (CPU, DEVICE):
                model = random_model(config, family, size_px=32)
                model.network.to(dtype)
                placement = ReconstructionOnDevice(model, device, dtype)
                results.append(reconstruct_splats(model, views, placement=placement))
            expected, actual = (result.splats for result in results)
            difference = float((actual.positions - expected.positions).abs().mean())
            cases[f"{family}, {dtype}"] = summarise(results[1], difference)
    return cases


# Training


@workload
def training() -> dict[str, dict[str, Any]]:
    """A training step of a small network: loss, backward, clipping, optimiser, EMA, validation."""
    from ..training.parts import SMALL, of

    return {
        "float32": compare_step(SMALL),
        "bfloat16": compare_step(of(SMALL, precision="bfloat16")),
        "muon": compare_step(of(SMALL, optimiser__name="muon")),
    }


def compare_step(config: Any) -> dict[str, Any]:
    """Weights after a step on the device against those on the CPU."""
    expected, actual = (train_step(config, device) for device in (CPU, DEVICE))
    errors = [float((actual[0][name] - value).abs().max()) for name, value in expected[0].items()]
    return summarise(actual[1], max(errors))


def train_step(config: Any, device: torch.device) -> tuple[dict[str, torch.Tensor], Any]:
    """Weights and EMA weights after a step on a device, and the result of a validation there."""
    from nova3d_core.diffusion.families import FAMILIES
    from nova3d_core.diffusion.model import OneDevice
    from nova3d_core.training.data.batches import collate_images
    from nova3d_core.training.ema import Ema
    from nova3d_core.training.objective import Objective
    from nova3d_core.training.optimiser import make_optimiser
    from nova3d_core.training.step_rng import draw_step_randomness
    from nova3d_core.training.train_module import init_train_module
    from nova3d_core.training.validation import validate, validation_sample

    from ..training.parts import FACTOR, SIZE, VIEWS, objects

    module = init_train_module(config.network, FAMILIES["nova3d-mini"], 0).to(device)
    if config.precision == "bfloat16":
        module.to(torch.bfloat16)
    optimiser = make_optimiser(module, config.optimiser)
    ema = Ema(module, config.optimiser.ema_decay)
    objective = Objective(config, module, module, device)
    side = SIZE // FACTOR
    randomness = draw_step_randomness(0, 0, range(2), (2, VIEWS, 3 * FACTOR**2, side, side), SIZE)
    losses, _ = objective.losses(collate_images(objects(2), VIEWS, SIZE), randomness, 0)
    losses.mean().backward()
    torch.nn.utils.clip_grad_norm_(module.parameters(), config.optimiser.max_grad_norm)
    optimiser.step()
    ema.update()
    model = module.model()
    dtype = next(module.unet.parameters()).dtype
    with ema.average_parameters():
        report = validate(
            model, [validation_sample(objects(1)[0])], OneDevice(model, device, dtype), 1
        )
    weights = state_of(module)
    weights |= {f"average.{name}": value.cpu() for name, value in ema.weights.items()}
    return weights, report


def main(name: str) -> None:
    sys.stdout.write(f"\n{json.dumps(WORKLOADS[name]())}\n")


if __name__ == "__main__":
    main(sys.argv[1])
