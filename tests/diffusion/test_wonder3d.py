"""Wonder3D: its network, sampler and conditions, compared with outputs of its authors' code."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from nova3d_core.cameras.cameras import cameras_from_orbit, orbit_cameras
from nova3d_core.cameras.orbits import ORBIT_PRESETS, OrbitConfig, preset_orbit
from nova3d_core.cameras.rigs import RigConfig
from nova3d_core.diffusion.codecs.clip import OpenAiClipEncoder, build_clip
from nova3d_core.diffusion.codecs.clip_config import ClipConfig
from nova3d_core.diffusion.codecs.vae import VaeCodec, build_vae
from nova3d_core.diffusion.codecs.vae_config import VaeConfig
from nova3d_core.diffusion.families import FAMILIES, GuidanceConfig
from nova3d_core.diffusion.model import MultiviewModel, OneDevice
from nova3d_core.diffusion.network.unet_2d import MultiviewUNet2D
from nova3d_core.diffusion.network.unet_2d_config import UNet2DConfig
from nova3d_core.diffusion.sampling import process
from nova3d_core.diffusion.sampling.conditioning import camera_task_embeds
from nova3d_core.diffusion.sampling.config import SampleConfig
from nova3d_core.diffusion.sampling.cost import activation_bytes, forward_flops
from nova3d_core.diffusion.sampling.ddim import (
    StepNoise,
    ddim_sigmas,
    noise_prediction,
    sample_ddim,
    timestep_of,
    train_sigmas,
)
from nova3d_core.diffusion.sampling.pipeline import (
    draw_noise_inputs,
    make_conditioning,
    sample,
    sample_latents,
)
from nova3d_core.diffusion.sampling.sampler import sample_euler
from nova3d_core.diffusion.sampling.trajectory import plan_trajectory
from nova3d_core.errors import Cancelled, InputError
from nova3d_core.fusion.config import SdfFusionConfig
from nova3d_core.mesh import Mesh
from nova3d_core.pipeline.config import FuseConfig
from nova3d_core.pipeline.fuse import fuse_views
from nova3d_core.progress import SILENT, Progress
from nova3d_core.rendering.views import render_views
from nova3d_core.views import Views

from . import wonder3d_reference as reference
from .models import image_and_mask, small_model
from .test_cost import Allocations, flash

CPU = torch.device("cpu")
AUTHORS_ANGLES = (
    (0.0, 0.0),
    (-0.2362, 0.8125),
    (-0.1686, 1.6934),
    (0.5220, 3.1406),
    (0.6904, 4.8359),
    (0.3733, 5.5859),
)
"""The table in the authors' pipeline, which is float16."""


@pytest.fixture(scope="module")
def recorded() -> dict[str, np.ndarray]:
    path = Path(__file__).parents[1] / "data" / "wonder3d.npz"
    with np.load(path) as file:
        return dict(file)


def filled(module: nn.Module, seed: int) -> nn.Module:
    """Loads the weights of the reference."""
    state = {
        name: torch.tensor(reference.weight(name, tuple(value.shape), seed))
        for name, value in module.state_dict().items()
    }
    module.load_state_dict(state, assign=True)
    return module.requires_grad_(False).eval()


def reference_unet(class_dim: int = 10) -> MultiviewUNet2D:
    config = UNet2DConfig(
        model_channels=reference.WIDTHS[0],
        channel_mult=tuple(width // reference.WIDTHS[0] for width in reference.WIDTHS),
        num_heads=reference.HEADS,
        context_dim=reference.CONTEXT,
        camera_task_dim=class_dim,
        norm_num_groups=reference.GROUPS,
    )
    return filled(MultiviewUNet2D(config, device="meta"), reference.UNET_SEED)


@pytest.fixture(scope="module")
def model() -> MultiviewModel:
    """The reference's networks, conditioned with the authors' rounded angles."""
    angles = torch.tensor(AUTHORS_ANGLES).half().tolist()
    family = replace(
        FAMILIES["wonder3d"],
        size_px=reference.IMAGE_PX,
        condition_angles_rad=tuple(map(tuple, angles)),
    )
    clip = build_clip(ClipConfig(**reference.CLIP, hidden_act="quick_gelu"))
    vae = build_vae(VaeConfig(reference.VAE_WIDTHS, 1, 4, temporal=False))
    return MultiviewModel(
        family,
        reference_unet(),
        VaeCodec(filled(vae, reference.VAE_SEED)),
        OpenAiClipEncoder(filled(clip, reference.CLIP_SEED)),
    )


@pytest.mark.parametrize("halves", [1, 2], ids=["without guidance", "with guidance"])
@pytest.mark.parametrize(("name", "class_dim"), [("unet", 10), ("unet_plus", 14)])
def test_network_equals_the_authors(recorded, name, class_dim, halves):
    """With guidance, the authors' batch is [normal uncond, normal cond, colour uncond, ...]."""
    given = {key: torch.tensor(value) for key, value in reference.unet_inputs(class_dim).items()}
    x = given["x"][:, :halves]
    actual = reference_unet(class_dim)(
        x,
        torch.full((halves,), float(reference.TIMESTEP)),
        given["context"][0, :halves, 0],
        x.new_zeros(halves, 6, 0),
        given["camera_task"][:, :halves],
    )
    expected = torch.tensor(recorded[f"{name}_{halves}"])
    assert float(expected.std()) > 0.4
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)


def test_context_of_several_tokens_is_attended():
    """Two equal tokens are one token; the general path agrees with the shortcut for one."""
    unet = reference_unet()
    given = {key: torch.tensor(value)[:, :1] for key, value in reference.unet_inputs(10).items()}
    arguments = (torch.tensor([7.0]), given["x"].new_zeros(1, 6, 0), given["camera_task"])
    one = unet(given["x"], arguments[0], given["context"][0, :, 0], *arguments[1:])
    twice = given["context"][0, :, 0].repeat(1, 2, 1)
    two = unet(given["x"], arguments[0], twice, *arguments[1:])
    torch.testing.assert_close(two, one, atol=1e-5, rtol=0)


def condition(model: MultiviewModel, image: Tensor):
    trajectory = plan_trajectory(model.family, image.shape[0])
    noise = draw_noise_inputs(model, image.shape[0], 0)
    placement = OneDevice(model, CPU)
    return trajectory, make_conditioning(model, image, trajectory, noise, placement, SILENT)


def test_conditions_equal_the_authors(recorded, model):
    """Image embedding, and the latent: the posterior's mode, scaled."""
    _, conditioning = condition(model, torch.tensor(reference.image()) / 255.0)
    context, latent = (torch.tensor(recorded[name]) for name in ("context", "image_latent"))
    torch.testing.assert_close(conditioning.context, context, atol=1e-5, rtol=0)
    torch.testing.assert_close(conditioning.latent, latent, atol=1e-5, rtol=0)
    assert not conditioning.unconditional().latent.any()
    assert not conditioning.unconditional().context.any()
    assert conditioning.added_embeds.shape == (1, 6, 0)


@pytest.mark.parametrize("scale", reference.SCALES)
@pytest.mark.parametrize("eta", reference.ETAS)
def test_sampling_equals_the_authors_pipeline(recorded, model, monkeypatch, eta, scale):
    """From the image to latents, with their noise."""
    start, steps = reference.noise()

    def colour_first(normal_first: np.ndarray) -> Tensor:
        return torch.tensor(normal_first).unflatten(0, (2, 6)).flip(0)[:, None]

    remaining = iter(steps)
    injected = lambda seed: lambda x: colour_first(next(remaining))  # noqa: E731
    monkeypatch.setattr(process, "StepNoise", injected)
    changed = replace(model, family=replace(model.family, eta=eta))
    trajectory, conditioning = condition(changed, torch.tensor(reference.image()) / 255.0)
    guidance = GuidanceConfig("constant", scale, scale)
    config = SampleConfig(steps=reference.STEPS, guidance=guidance)
    placement = OneDevice(changed, CPU)
    with torch.no_grad():
        actual = sample_latents(
            changed, conditioning, trajectory, colour_first(start), config, placement, SILENT
        )
    expected = torch.tensor(recorded[reference.sample_name(eta, scale)]).flip(0)[:, None]
    assert float(expected.std()) > 5.0
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=0)


def test_clip_preprocessing_equals_transformers(recorded):
    """Up to the rounding of the resized image to 8 bits, once per axis."""
    clip = build_clip(ClipConfig(32, 48, 1, 2, 24, 224, 56, "quick_gelu"))
    image = torch.tensor(reference.image(256)).movedim(-1, 0)[None] / 127.5 - 1.0
    pixels = OpenAiClipEncoder(clip).pixel_values(image)[:, :, ::4, ::4]
    rounding = 0.5 / 255.0 / 0.26
    torch.testing.assert_close(
        pixels, torch.tensor(recorded["pixels"]), atol=2.0 * rounding, rtol=0
    )


def test_activation_of_openais_clip_is_quick_gelu():
    kinds = [
        build_clip(ClipConfig(32, 48, 1, 2, 24, 32, 16, kind)).config.hidden_act
        for kind in ("gelu", "quick_gelu")
    ]
    assert kinds == ["gelu", "quick_gelu"]


def test_condition_angles_follow_from_the_pose_files(recorded):
    """Polar angle and azimuth of the camera's position, relative to the front view."""
    rotation, translation = recorded["poses"][:, :, :3], recorded["poses"][:, :, 3]
    x, y, z = -np.einsum("vji,vj->iv", rotation, translation)
    angles = np.stack([np.arctan2(np.hypot(x, y), z), np.arctan2(y, x)], axis=-1)
    relative = (angles - angles[0]) % (2.0 * math.pi)
    relative[:, 0] = angles[:, 0] - angles[0, 0]
    table = np.array(FAMILIES["wonder3d"].condition_angles_rad)
    assert np.abs(table - relative).max() < 5e-6
    assert np.abs(table - AUTHORS_ANGLES).max() < 2e-3  # rounded to float16


def author_view(mesh: Mesh, pose: np.ndarray, front: np.ndarray) -> Views:
    """The mesh as the authors' camera sees it, with normals in its own axes.

    The mesh is given in the front camera's axes; it is rotated into those of the other camera and
    rendered from the front.
    """
    rotation = torch.tensor(pose[:, :3] @ front[:, :3].T, dtype=torch.float32)
    rotated = replace(mesh, vertices=mesh.vertices @ rotation.T)
    rig = RigConfig(count=1, kind="orthographic", ortho_scale=1.35, width_px=128, height_px=128)
    return render_views(rotated, orbit_cameras(rig)).views.with_normals_in("camera")


def test_views_of_the_preset_equal_those_of_the_authors_poses(recorded, l_solid):
    """Silhouettes, colours and normals; the authors rotate normals into the front camera's axes."""
    own = render_views(l_solid, cameras_from_orbit(preset_orbit("wonder3d", 128, 128))).views
    own = own.with_normals_in("front_view")
    poses = recorded["poses"].astype(np.float64)
    for view, pose in enumerate(poses):
        expected = author_view(l_solid, pose, poses[0])
        masks = own.masks[view] > 0.5, expected.masks[0] > 0.5
        assert int((masks[0] & masks[1]).sum()) > 0.99 * int((masks[0] | masks[1]).sum())
        both = masks[0] & masks[1]
        to_front = torch.tensor(poses[0, :, :3] @ pose[:, :3].T, dtype=torch.float32)
        normals = expected.normals[0] @ to_front.T
        inner = both & (own.normals[view].norm(dim=-1) > 0.99) & (normals.norm(dim=-1) > 0.99)
        assert int(inner.sum()) > 500
        close = (own.normals[view] - normals)[inner].norm(dim=-1) < 1e-3
        assert float(close.float().mean()) > 0.99  # except pixels on an edge
        difference = (own.colour[view] - expected.colour[0])[inner].abs().amax(dim=-1)
        assert float((difference < 1e-3).float().mean()) > 0.99


def test_views_of_random_weights_are_an_input_error():
    """From noise to the fusion: nothing usable is reported, not fused to nonsense or a crash."""
    views = sample(small_model("wonder3d"), *image_and_mask(), SampleConfig(steps=4)).views
    assert len(views) == 6 and views.cameras.kind == "orthographic"
    config = FuseConfig(sdf=SdfFusionConfig(preset="draft"))
    with pytest.raises(InputError) as caught:
        fuse_views(views, config)
    assert len(str(caught.value)) < 500


def test_camera_and_task_embedding():
    """Sines, then cosines, of 0, elevation, azimuth, camera type and task; colour is [0, 1]."""
    for name, types in (("wonder3d", []), ("wonder3d_plus", [0.0, 1.0])):
        family = FAMILIES[name]
        embeds = camera_task_embeds(family, plan_trajectory(family, 64))
        width = 5 + len(types)
        assert embeds.shape == (2, 6, 2 * width)
        for domain, task in enumerate(([0.0, 1.0], [1.0, 0.0])):
            elevation, azimuth = family.condition_angles_rad[2]
            values = torch.tensor([0.0, elevation, azimuth, *types, *task])
            expected = torch.cat([values.sin(), values.cos()])
            torch.testing.assert_close(embeds[domain, 2], expected, atol=1e-6, rtol=0)


def test_noise_levels_and_timesteps_agree():
    levels = train_sigmas()
    assert float(levels[-1]) == pytest.approx(14.61, abs=0.01)
    assert float(levels[0]) == pytest.approx(0.0292, abs=1e-4)
    for timestep in (0, 1, 17, 500, 999):
        assert timestep_of(float(levels[timestep].float())) == timestep
    between = timestep_of(float((levels[500] * levels[501]).sqrt()))
    assert between == pytest.approx(500.5, abs=1e-6)
    sigmas = ddim_sigmas(50)
    expected = [*range(981, 0, -20), 0]
    assert [timestep_of(float(each)) for each in sigmas] == expected


def test_steps_that_start_too_late_are_reported(caplog):
    for steps in (20, 25, 40, 50, 100, 200, 250, 500):
        ddim_sigmas(steps)
    assert not caplog.records
    ddim_sigmas(400)  # timesteps 1, 3, ... 799
    assert "with steps = 400, sampling starts at timestep 799 of 1000" in caplog.text
    ddim_sigmas(1)  # noise of level 14 at timestep 1, where 0.04 is expected
    assert "with steps = 1, sampling starts at timestep 1 of 1000" in caplog.text
    for steps in (0, 501):
        with pytest.raises(InputError, match="takes 1 to 500"):
            ddim_sigmas(steps)


def test_without_fresh_noise_ddim_is_eulers_method():
    def denoise(x: Tensor, sigma: float) -> Tensor:
        return torch.tanh(x / sigma)

    generator = torch.Generator().manual_seed(0)
    x = 14.0 * torch.randn(50, generator=generator)
    sigmas = ddim_sigmas(20)
    expected = sample_euler(denoise, x, sigmas)
    torch.testing.assert_close(sample_ddim(denoise, x, sigmas, eta=0.0), expected)
    fresh = sample_ddim(denoise, x, sigmas, eta=1.0, noise=StepNoise(0))
    assert float((fresh - expected).abs().mean()) > 1e-3


def test_fresh_noise_keeps_the_variance():
    """For data of one point, x - data must have the standard deviation of each noise level."""
    sigmas = ddim_sigmas(20)
    noise = StepNoise(0)
    x = 1.0 + float(sigmas[0]) * noise(torch.zeros(100_000))
    deviations = []

    def denoise(x: Tensor, sigma: float) -> Tensor:
        deviations.append(float((x - 1.0).std()) / sigma)
        return torch.ones_like(x)

    x = sample_ddim(denoise, x, sigmas, eta=1.0, noise=noise)
    deviations.append(float((x - 1.0).std()) / float(sigmas[-1]))
    assert max(abs(each - 1.0) for each in deviations) < 0.02


def test_noise_prediction_recovers_data_and_noise():
    for sigma in (0.03, 1.0, 14.0):
        edm = noise_prediction(sigma)
        data, noise = torch.tensor([0.3, -2.0]), torch.tensor([1.0, 0.5])
        x = data + sigma * noise
        torch.testing.assert_close(edm.c_skip * x + edm.c_out * noise, data, atol=1e-5, rtol=0)
        assert edm.c_in == pytest.approx(1.0 / math.sqrt(1.0 + sigma**2))


def test_step_noise_depends_on_the_seed_only():
    x = torch.zeros(8)
    first, again, other = StepNoise(5), StepNoise(5), StepNoise(6)
    drawn = first(x)
    assert drawn.equal(again(x)) and not drawn.equal(first(x)) and not drawn.equal(other(x))
    start = torch.randn(8, generator=torch.Generator().manual_seed(5))
    assert not drawn.equal(start)  # independent of the start noise


def test_plus_starts_both_domains_from_the_same_noise():
    for name, same in (("wonder3d", False), ("wonder3d_plus", True)):
        noise = draw_noise_inputs(small_model(name), 16, 0).latents
        assert noise.shape[0] == 2 and noise[0].equal(noise[1]) == same


def test_repeats_in_float32_after_an_overflow_with_the_same_noise():
    """The retry draws the same fresh noise again."""
    expected = sample(small_model("wonder3d"), *image_and_mask(), SampleConfig(steps=4)).images
    model = small_model("wonder3d")
    calls = []

    def overflow_once(module, arguments, output):
        calls.append(output.dtype)
        return output * torch.inf if len(calls) == 3 else output

    model.unet.register_forward_hook(overflow_once)
    placement = OneDevice(model, CPU, torch.bfloat16)
    actual = sample(model, *image_and_mask(), SampleConfig(steps=4), placement=placement).images
    assert calls == [torch.bfloat16] * 3 + [torch.float32] * 4
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["wonder3d", "nova3d"])
def test_cancel_takes_effect_within_a_pass(few_views, name):
    model = small_model(name, views=None if name == "wonder3d" else 4)
    finished = []
    blocks = 0

    def check() -> bool:
        nonlocal blocks
        blocks += sampling
        return blocks > 3

    sampling = False

    def event(event) -> None:
        nonlocal sampling
        sampling = event.stage == "sampling"

    model.unet.register_forward_hook(lambda *_: finished.append(1))
    with pytest.raises(Cancelled):
        sample(model, *image_and_mask(), SampleConfig(steps=2), progress=Progress(event, check))
    assert blocks > 3 and not finished
    assert not any(module._forward_pre_hooks for module in model.unet.modules())


def test_other_samplers_are_ignored_with_a_warning(caplog):
    given = image_and_mask()
    expected = sample(small_model("wonder3d"), *given, SampleConfig(steps=4)).images
    assert "ignored" not in caplog.text
    heun = sample(small_model("wonder3d"), *given, SampleConfig(steps=4, sampler="heun")).images
    assert heun.equal(expected)
    assert "Wonder3D is sampled by DDIM: the sampler heun is ignored" in caplog.text


def test_cameras_of_other_orbits_are_rejected():
    family = FAMILIES["wonder3d"]
    own = cameras_from_orbit(ORBIT_PRESETS["wonder3d"])
    assert len(plan_trajectory(family, 64, cameras=own).cameras) == 6
    even = cameras_from_orbit(OrbitConfig(RigConfig(count=6)))
    with pytest.raises(
        InputError, match="at 120 degrees from the input view instead of 90"
    ) as caught:
        plan_trajectory(family, 64, cameras=even)
    assert "preset 'wonder3d'" in str(caught.value)


def test_flops_and_memory_match_counts_at_full_width():
    config = UNet2DConfig()
    with torch.device("meta"):
        given = (
            torch.empty(2, 1, 6, 8, 32, 32, dtype=torch.float16),
            torch.empty(1),
            torch.empty(1, 1, 768),
            torch.empty(1, 6, 0),
            torch.empty(2, 1, 6, 10),
        )
        unet = MultiviewUNet2D(config, dtype=torch.float16)
        with torch.no_grad(), FlopCounterMode(display=False) as flops:
            unet(*given)
        unet = MultiviewUNet2D(config, attention=flash, dtype=torch.float16)
        with torch.no_grad(), Allocations(unet) as memory:
            unet(*given)
    assert forward_flops(unet, 6, 32, 32) == pytest.approx(flops.get_total_flops(), rel=0.01)
    assert forward_flops(unet, 6, 32, 32) == pytest.approx(2.835e12, rel=0.01)
    estimate = activation_bytes(config, 1, 6, 32, 32, torch.float16)
    largest_layer = 2 * 288 * 320**2
    assert memory.peak <= estimate <= 1.02 * memory.peak + largest_layer


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(1, 1, 6, 8, 8, 8)}, "x has shape"),
        ({"x": torch.zeros(2, 1, 6, 8, 6, 8)}, "8x6 latents, expected multiples of 8"),
        ({"camera_task": None}, "needs the UNet's camera_task"),
        ({"camera_task": torch.zeros(2, 1, 6, 14)}, "camera_task has shape"),
        ({"added_embeds": torch.zeros(1, 6, 4)}, "added_embeds has shape"),
        ({"context": torch.zeros(1, 1, 25)}, "context has shape"),
    ],
)
def test_network_rejects_wrong_shapes(change, message):
    given = {
        "x": torch.zeros(2, 1, 6, 8, 8, 8),
        "c_noise": torch.zeros(1),
        "context": torch.zeros(1, 1, 24),
        "added_embeds": torch.zeros(1, 6, 0),
        "camera_task": torch.zeros(2, 1, 6, 10),
    }
    with pytest.raises(InputError, match=message):
        reference_unet()(**given | change)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_heads": 7}, "7 heads"),
        ({"channel_mult": (1, 2)}, "2 levels got 4 attention_levels"),
        ({"domains": 1}, "domains is 1"),
    ],
)
def test_config_rejects_invalid_values(settings, message):
    with pytest.raises(InputError, match=message):
        UNet2DConfig(**settings)
