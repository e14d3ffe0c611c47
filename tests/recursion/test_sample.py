"""The loop: what each step sees, which steps reconstruct, cancelling, outputs."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from nova3d_core.cameras.cameras import cameras_from_orbit
from nova3d_core.cameras.orbits import preset_orbit
from nova3d_core.diffusion.coordinate_maps import coordinate_maps
from nova3d_core.diffusion.network.feedback_adapters import AdapterBlock
from nova3d_core.diffusion.network.feedback_unet import Feedback
from nova3d_core.diffusion.sampling.config import SampleConfig
from nova3d_core.errors import Cancelled, InputError, StageError
from nova3d_core.progress import Progress
from nova3d_core.reconstruction.network import MultiviewAttention
from nova3d_core.recursion.config import RecursionConfig
from nova3d_core.recursion.feedback import initial_feedback, render_feedback
from nova3d_core.recursion.sample import RecursiveSample, sample_recursive
from nova3d_core.splats import Splats

from ..diffusion.models import SIZE, image_and_mask

STEPS = 4


def truth() -> Splats:
    """A few coloured opaque splats, asymmetric."""
    positions = torch.tensor([[0.25, 0.1, 0.0], [-0.2, -0.2, 0.2], [0.0, 0.3, -0.2]])
    return Splats(
        positions=positions,
        scales=torch.full((3, 3), 0.12),
        rotations=torch.tensor([[1.0, 0.0, 0.0, 0.0]]).expand(3, 4).clone(),
        opacities=torch.tensor([0.9, 0.95, 0.8]),
        colours=torch.tensor([[0.9, 0.1, 0.1], [0.1, 0.8, 0.2], [0.2, 0.2, 0.9]]),
    )


def rig():
    return cameras_from_orbit(preset_orbit("ouroboros3d", SIZE, SIZE))


@pytest.fixture
def seen(pair, monkeypatch) -> list[Feedback]:
    """The feedback of each forward pass of the UNet."""
    passes: list[Feedback] = []
    forward = pair.unet.forward

    def record(*arguments: Tensor, feedback: Feedback) -> Tensor:
        passes.append(feedback)
        return forward(*arguments, feedback=feedback)

    monkeypatch.setattr(pair.unet, "forward", record)
    return passes


def run(pair, recursion=None, progress=None, reconstruct=None, **settings) -> RecursiveSample:
    image, mask = image_and_mask()
    config = SampleConfig(**{"seed": 3, "steps": STEPS, **settings})
    return sample_recursive(
        pair, image, mask, config, recursion, None, progress or Progress(), reconstruct
    )


def test_the_second_step_sees_the_renders_of_the_reconstruction(pair, seen):
    levels = []

    def reconstruct(views: Tensor, c_noise: float) -> Splats:
        assert views.shape == (8, 3, SIZE, SIZE)
        levels.append(c_noise)
        return truth()

    result = run(pair, reconstruct=reconstruct)
    # guidance grows from 1: two passes per step on a CPU, with and without the image
    assert len(seen) == 2 * STEPS
    first, second = seen[:2], seen[2:4]
    for feedback in first:
        assert not feedback.colours.any() and not feedback.coordinates.any()
    expected = render_feedback(truth(), rig(), Progress())
    pose, focal = rig().camera_to_world, torch.full((8,), 25 / 18)
    maps = coordinate_maps(expected.depths, expected.opacities, pose, focal, "released")
    assert expected.colours.std() > 0.1 and maps.std() > 1e-3
    for feedback in second:
        torch.testing.assert_close(feedback.colours[0], expected.colours)
        torch.testing.assert_close(feedback.coordinates[0], maps)
        torch.testing.assert_close(feedback.camera_to_world[0], pose)
        torch.testing.assert_close(feedback.focal[0], focal)
    # the reconstruction gets the noise level of its step, ln(sigma) / 4
    assert levels[0] == pytest.approx(math.log(700.0) / 4)
    assert levels[-1] == pytest.approx(math.log(0.002) / 4)
    assert torch.equal(result.splats.positions, truth().positions)
    assert result.report.reconstructions == STEPS


def test_own_weights_see_true_coordinates(pair, seen):
    run(replace(pair, coordinates="true"), reconstruct=lambda views, c_noise: truth())
    renders = render_feedback(truth(), rig(), Progress())
    pose, focal = rig().camera_to_world, torch.full((8,), 25 / 18)
    maps = coordinate_maps(renders.depths, renders.opacities, pose, focal, "true")
    torch.testing.assert_close(seen[-1].coordinates[0], maps)


@pytest.mark.parametrize(
    ("source", "colours", "coordinates"),
    [("both", True, True), ("colour", True, False), ("coordinates", False, True),
     ("none", False, False)],
)  # fmt: skip
def test_what_is_not_fed_back_is_zero(pair, seen, source, colours, coordinates):
    result = run(pair, RecursionConfig(feedback=source), reconstruct=lambda views, c_noise: truth())
    assert bool(seen[-1].colours.any()) is colours
    assert bool(seen[-1].coordinates.any()) is coordinates
    assert result.report.reconstructions == (1 if source == "none" else STEPS)


@pytest.mark.parametrize(("every", "expected"), [(1, 4), (2, 2), (3, 2), (100, 1)])
def test_every_n_steps_and_after_the_last(pair, seen, every, expected):
    calls = []

    def reconstruct(views: Tensor, c_noise: float) -> Splats:
        calls.append(len(seen) // 2)
        return replace(truth(), colours=torch.full((3, 3), 0.1 * len(calls)))

    result = run(pair, RecursionConfig(every=every), reconstruct=reconstruct)
    assert calls == [step for step in range(1, STEPS + 1) if step % every == 0 or step == STEPS]
    assert len(calls) == expected == result.report.reconstructions
    for step in range(STEPS):  # steps between keep the latest feedback
        assert bool(seen[2 * step].colours.any()) is (step >= every)


def test_feedback_changes_the_views_and_a_seed_repeats_them(pair):
    first, again = run(pair), run(pair)
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.splats.positions, again.splats.positions)
    without = run(pair, RecursionConfig(feedback="none"))
    assert (first.images - without.images).abs().max() > 1e-3


def test_the_own_network_makes_the_splats(pair):
    result = run(pair)
    assert len(result.splats) + result.report.removed == 4 * 32 * 32
    identity = torch.tensor([1.0, 0.0, 0.0, 0.0])
    assert torch.equal(result.splats.rotations, identity.expand_as(result.splats.rotations))
    assert len(result.views) == 8 and result.images.shape == (1, 8, SIZE, SIZE, 3)
    assert torch.equal(result.views.cameras.world_to_camera, rig().world_to_camera)
    text = result.report.to_text()
    assert f"{len(result.splats)} splats by Ouroboros3D" in text and "4 reconstructions" in text


def test_splats_follow_the_elevation_of_the_input_image(pair):
    level = run(pair, reconstruct=lambda views, c_noise: truth())
    tilted = run(pair, reconstruct=lambda views, c_noise: truth(), elevation_deg=30.0)
    assert tilted.views.cameras.elevation_deg[0] == pytest.approx(30.0, abs=1e-3)
    for own, other in ((level, tilted),):
        a = render_feedback(own.splats, own.views.cameras, Progress())
        b = render_feedback(other.splats, other.views.cameras, Progress())
        torch.testing.assert_close(a.colours, b.colours, atol=1e-4, rtol=0)


def test_agreement_is_the_psnr_of_the_renders(pair):
    result = run(pair)
    renders = render_feedback(result.splats, rig(), Progress()).colours.movedim(1, -1)
    psnr = -10.0 * math.log10(float((renders - result.images[0]).square().mean()))
    assert result.report.agreement_db == pytest.approx(psnr, abs=0.05)


class _Cancel:
    """Cancels after a module of a network has run some number of times."""

    def __init__(self, network: torch.nn.Module, kind: type, count: int):
        self.left, self.after = count, 0
        modules = [module for module in network.modules() if isinstance(module, kind)]
        self.handles = [module.register_forward_hook(self._run) for module in modules]

    def _run(self, *_: object) -> None:
        self.left -= 1
        self.after += self.left < 0

    def progress(self) -> Progress:
        return Progress(None, lambda: self.left <= 0)


@pytest.mark.parametrize(
    ("part", "kind"), [("unet", AdapterBlock), ("reconstruction", MultiviewAttention)]
)
def test_cancel_takes_effect_within_a_step(pair, part, kind):
    cancel = _Cancel(pair.part(part), kind, 3)
    with pytest.raises(Cancelled):
        run(pair, progress=cancel.progress())
    for handle in cancel.handles:
        handle.remove()
    assert cancel.after == 0  # no further block of the network ran


def test_a_cancel_while_rendering(pair):
    done = []

    def reconstruct(views: Tensor, c_noise: float) -> Splats:
        done.append(c_noise)
        return truth()

    with pytest.raises(Cancelled):
        run(pair, progress=Progress(None, lambda: bool(done)), reconstruct=reconstruct)
    assert len(done) == 1


def test_previews_show_views_and_renders(pair):
    previews = []

    def report(event) -> None:
        if event.preview is not None:
            previews.append(event.preview())

    run(pair, progress=Progress(report), reconstruct=lambda views, c_noise: truth())
    assert len(previews) == STEPS
    renders = render_feedback(truth(), rig(), Progress()).colours.movedim(1, -1)
    height = previews[-1].shape[0] // 2
    columns = previews[-1].shape[1] // SIZE
    torch.testing.assert_close(previews[-1][height : height + SIZE, :SIZE], renders[0])
    assert columns * (height // SIZE) >= 8


def test_unusable_inputs_are_errors(pair):
    white = torch.ones(40, 40, 3)
    with pytest.raises(InputError, match=r"mask|object"):
        sample_recursive(pair, white, torch.zeros(40, 40), SampleConfig(steps=1))
    six = replace(pair, family=replace(pair.family, views=6))
    with pytest.raises(InputError, match="generates 6 views, but its reconstruction needs 4"):
        run(six)
    with pytest.raises(InputError, match="every"):
        RecursionConfig(every=0)
    with pytest.raises(InputError, match="feedback"):
        RecursionConfig(feedback="depth")  # type: ignore[arg-type]


def test_splats_without_opacity_are_an_error(pair):
    invisible = replace(truth(), opacities=torch.full((3,), 1e-3))
    with pytest.raises(StageError, match="no visible splat"):
        run(pair, reconstruct=lambda views, c_noise: invisible)


def test_nan_of_the_reconstruction_is_an_error(pair):
    broken = replace(pair, reconstruction=replace(pair.reconstruction))
    network = broken.reconstruction.network
    bias = network.conv.bias
    kept = bias.clone()
    bias.fill_(float("nan"))
    try:
        with pytest.raises(StageError, match="reconstructing splats"):
            run(broken)
    finally:
        bias.copy_(kept)


def test_memory_that_does_not_suffice_is_an_error(pair, monkeypatch):
    monkeypatch.setattr("nova3d_core.splatting.memory.available_bytes", lambda: 1000)
    with pytest.raises(InputError, match="memory"):
        run(pair, reconstruct=lambda views, c_noise: truth())


def test_the_initial_feedback_has_the_cameras():
    feedback = initial_feedback(rig(), SIZE)
    assert feedback.colours.shape == (1, 8, 3, SIZE, SIZE) and not feedback.colours.any()
    assert feedback.focal[0].tolist() == pytest.approx([25 / 18] * 8)
