"""Splats from views: the whole path with networks whose answer is known, and its failures."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from nova3d_core.cameras.rotations import quaternion_to_matrix, skew_matrix
from nova3d_core.errors import Cancelled, InputError, StageError
from nova3d_core.imaging.sampling import sample_image
from nova3d_core.progress import Progress
from nova3d_core.reconstruction.config import FAMILIES, ReconstructConfig
from nova3d_core.reconstruction.model import ReconstructionModel, ReconstructionOnDevice
from nova3d_core.reconstruction.reconstruct import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    reconstruct_splats,
)

from .conftest import EIGHTH, EIGHTH_WITH_TIME, random_model, random_network

CPU = torch.device("cpu")
PER_VIEW = 128 * 128


class Billboards(nn.Module):
    """Returns each view as opaque splats on the plane through the origin that faces its camera.

    It knows nothing but its input: camera centres follow from the Pluecker coordinates.
    """

    config = EIGHTH

    def __init__(self, opacity: float = 0.9):
        super().__init__()
        self.opacity = opacity

    def forward(self, x: Tensor, c_noise: Tensor | None = None) -> Tensor:
        """(1, 4, 9, 256, 256) -> (1, 4, 14, 128, 128)."""
        small = nn.functional.avg_pool2d(x[0].float(), 2).movedim(1, -1)  # (4, 128, 128, 9)
        mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
        colours = small[..., :3] * std + mean
        moments = small[..., 3:6]
        directions = nn.functional.normalize(small[..., 6:], dim=-1)
        points = torch.stack([_on_plane(*each) for each in zip(moments, directions, strict=True)])
        opacity = torch.full_like(colours[..., :1], self.opacity).logit()
        scale = torch.full_like(colours, -2.0)
        rotation = torch.cat([opacity * 0.0 + 2.0, opacity * 0.0 + 1.0, 0.0 * colours[..., :2]], -1)
        shown = torch.atanh((2.0 * colours - 1.0).clamp(-0.9999, 0.9999))
        return torch.cat([points, opacity, scale, rotation, shown], -1).movedim(-1, 1)[None]


def _on_plane(moments: Tensor, directions: Tensor) -> Tensor:
    """Points (h, w, 3) of rays on the plane through the origin that faces their common centre."""
    matrix = -skew_matrix(directions[::8, ::8].flatten(0, 1)).flatten(0, 1)  # m = o x d = -d x o
    target = moments[::8, ::8].flatten(0, 1).flatten()[:, None]
    origin = torch.linalg.lstsq(matrix, target).solution[:, 0]
    depth = -origin.square().sum() / (directions @ origin)
    return origin + depth[..., None] * directions


def billboards(family: str = "lgm", **settings) -> ReconstructionModel:
    return ReconstructionModel(FAMILIES[family], Billboards(**settings))


AROUND = {
    "lgm's own cameras": ({}, "image"),
    "start at the side": ({"azimuths_deg": (90.0, 180.0, 270.0, 0.0)}, "image"),
    "weaker perspective": ({"radius": 2.2, "fov_deg": 39.6}, "object"),
    "of eight views": (
        {"azimuths_deg": tuple(33.0 + 45.0 * index for index in range(8)), "radius": 1.25,
         "fov_deg": 60.0},
        "object",
    ),
    "orthographic": ({"kind": "orthographic", "ortho_scale": 1.35}, "object"),
}  # fmt: skip


@pytest.mark.parametrize("family", ["lgm", "ouroboros3d"])
@pytest.mark.parametrize("case", sorted(AROUND))
def test_splats_of_billboards_lie_where_the_views_show_them(render_orbit, case, family):
    rig, framing = AROUND[case]
    views = render_orbit(**rig)
    result = reconstruct_splats(billboards(family), views, ReconstructConfig(framing=framing))
    assert result.report.count == 65_536 and result.report.removed == 0
    for slot, view in enumerate(result.report.views):
        splats = result.splats[slot * PER_VIEW : (slot + 1) * PER_VIEW]
        pixels, _ = views.cameras[view].project(splats.positions)
        inside = ((pixels[0] > 1.0) & (pixels[0] < 255.0)).all(dim=1)
        truth = sample_image(views.colour[view], pixels[0][inside])
        error = (splats.colours[inside] - truth).abs().amax(dim=1)
        assert float(error.median()) < 1e-3
        assert float((error > 0.1).float().mean()) < 0.03  # edges, at another resolution


def test_the_red_face_is_where_the_object_has_it(render_orbit):
    """It is at x -0.1, y -0.2..0.5, z -0.2..0.1, and faces +X."""
    azimuths = (90.0, 180.0, 270.0, 0.0)
    result = reconstruct_splats(
        billboards(), render_orbit(azimuths), ReconstructConfig(framing="image")
    )
    colours = result.splats.colours
    is_red = (colours[:, 0] > 2.0 * colours[:, 1]) & (colours[:, 0] > 0.2)
    slots = is_red.nonzero()[:, 0] // PER_VIEW
    assert set(slots.tolist()) == {0, 1, 3}  # a sliver of it from the front and the back
    red = result.splats.positions[is_red][slots == 0]
    nearer = 1.5 / 1.6  # the face is 1.6 from the camera, the billboard 1.5
    low, high = red.amin(dim=0), red.amax(dim=0)
    expected = nearer * torch.tensor([[0.0, -0.2, -0.2], [0.0, 0.5, 0.1]])
    torch.testing.assert_close(torch.stack([low, high]), expected, rtol=0.0, atol=0.012)


def test_rotations_are_those_of_the_model_in_our_world(render_orbit):
    views = render_orbit((33.0, 123.0, 213.0, 303.0))
    turned = quaternion_to_matrix(torch.tensor([[2.0, 1.0, 0.0, 0.0]]))[0]
    angle = torch.deg2rad(torch.tensor(33.0))
    to_world = torch.tensor(
        [
            [torch.cos(angle), 0.0, torch.sin(angle)],
            [0.0, 1.0, 0.0],
            [-torch.sin(angle), 0.0, torch.cos(angle)],
        ]
    )
    for rotations, expected in (("normalised", to_world @ turned), ("identity", to_world)):
        config = ReconstructConfig(framing="image", rotations=rotations)
        result = reconstruct_splats(billboards(), views, config)
        actual = quaternion_to_matrix(result.splats.rotations[:1])[0]
        torch.testing.assert_close(actual, expected, rtol=0.0, atol=1e-5)
        assert result.report.rotations == rotations
    scale = 0.1 * torch.nn.functional.softplus(torch.tensor(-2.0)) / result.report.scale
    assert float(result.splats.scales[0, 0]) == pytest.approx(float(scale), rel=1e-5)


@pytest.mark.parametrize("has_rotations", [True, False])
def test_auto_follows_the_file(render_orbit, has_rotations):
    model = replace(billboards(), has_rotations=has_rotations)
    report = reconstruct_splats(model, render_orbit(size_px=64)).report
    assert report.rotations == ("normalised" if has_rotations else "identity")


def test_random_weights_make_splats_of_all_views(render_orbit):
    views = render_orbit(radius=2.2, fov_deg=39.6, size_px=128)
    result = reconstruct_splats(random_model(), views)
    report = result.report
    assert len(result.splats) == report.count and report.count + report.removed == 65_536
    assert report.views == (0, 1, 2, 3) and report.model == "LGM"
    assert float(result.splats.opacities.min()) >= 0.005
    limit = 3.0**0.5 / report.scale + 0.2
    assert float(result.splats.positions.norm(dim=1).max()) <= limit
    assert report.to_dict()["views"] == [0, 1, 2, 3]


def test_transparent_splats_are_removed(render_orbit):
    with pytest.raises(StageError, match="LGM returned no visible splat"):
        reconstruct_splats(billboards(opacity=0.004), render_orbit(size_px=64))


def test_half_precision_is_close_and_overflow_is_repeated_in_float32(render_orbit, caplog):
    views = render_orbit(size_px=64)
    model = random_model(size_px=32)
    exact = reconstruct_splats(model, views)
    half = reconstruct_splats(
        model, views, placement=ReconstructionOnDevice(model, CPU, torch.bfloat16)
    )
    assert half.report.count == exact.report.count == 4 * 16 * 16
    difference = (half.splats.positions - exact.splats.positions).abs()
    assert float(difference.mean()) < 0.01
    model.network.unet.conv_in.weight *= 1e5  # overflows float16, not float32
    with caplog.at_level(logging.WARNING):
        result = reconstruct_splats(
            model, views, placement=ReconstructionOnDevice(model, CPU, torch.float16)
        )
    assert "overflowed in float16; retrying in float32" in caplog.text
    assert bool(torch.isfinite(result.splats.positions).all())
    model.network.conv.bias[0] = torch.nan
    with pytest.raises(StageError, match="NaN or infinite values, even in float32"):
        reconstruct_splats(model, views)


def test_blocks_are_reported_and_a_cancel_stops_at_the_next(render_orbit):
    views = render_orbit(size_px=64)
    events = []
    model = random_model(size_px=64)
    reconstruct_splats(model, views, progress=Progress(events.append))
    steps = [event.step for event in events]
    # 12 + 2 + 15 residual blocks; attention after 6 and 9 of them and in the middle
    assert steps == list(range(46)) and {event.total for event in events} == {45}
    events.clear()
    with pytest.raises(Cancelled):
        progress = Progress(events.append, lambda: len(events) >= 7)
        reconstruct_splats(model, views, progress=progress)
    assert len(events) == 7


def test_ouroboros3d_sees_its_own_cameras_and_clean_views(render_orbit):
    seen = {}

    class Recording(Billboards):
        def forward(self, x, c_noise=None):
            seen.update(x=x, c_noise=c_noise)
            return super().forward(x, c_noise)

    model = ReconstructionModel(FAMILIES["ouroboros3d"], Recording())
    reconstruct_splats(model, render_orbit(radius=1.7417, fov_deg=39.59775, size_px=256))
    centre = seen["x"][0, 0, 3:, 127:129, 127:129].mean(dim=(1, 2))
    torch.testing.assert_close(
        centre, torch.tensor([0.0, 0.0, 0.0, 0.0, 0.0, -1.0]), rtol=0.0, atol=1e-3
    )
    corner = seen["x"][0, 0, :, 0, 0]  # o x d with o = (0, 0, r)
    expected = 1.7417 * torch.stack([-corner[7], corner[6], torch.tensor(0.0)])
    torch.testing.assert_close(corner[3:6], expected, rtol=0.0, atol=1e-4)
    assert seen["c_noise"] is None
    timed = random_network(EIGHTH_WITH_TIME)
    with torch.no_grad():
        x = seen["x"][..., :64, :64]
        assert torch.equal(timed(x), timed(x, torch.zeros(1)))


def test_unusable_views_are_rejected_before_the_network_runs(render_orbit):
    model = ReconstructionModel(FAMILIES["lgm"], None)
    with pytest.raises(InputError, match="there is 1 view, but LGM needs 4"):
        reconstruct_splats(model, render_orbit((0.0,), size_px=32))
    with pytest.raises(InputError, match="no view is near azimuth"):
        reconstruct_splats(model, render_orbit((0.0, 20.0, 40.0, 60.0), size_px=32))


@pytest.mark.parametrize("settings", [{"framing": "crop"}, {"rotations": "per splat"}])
def test_settings_are_checked(settings):
    with pytest.raises(InputError, match="expected one of"):
        ReconstructConfig(**settings)
