"""Mattes of shapes with known coverage, and of rendered scans on white."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from nova3d_core.cameras.cameras import orbit_cameras
from nova3d_core.cameras.rigs import RigConfig
from nova3d_core.errors import InputError
from nova3d_core.imaging.matte import WHITE_TOLERANCE, is_mostly_white, matte_from_white
from nova3d_core.io.mesh.read import read_mesh
from nova3d_core.rendering.views import render_views

BLUE = torch.tensor([0.2, 0.3, 0.6])


def disc_coverage(size: int, radius: float, centre: tuple[float, float], fine: int = 16) -> Tensor:
    """(size, size) coverage of each pixel by a disc, from fine x fine samples."""
    x = (torch.arange(size * fine, dtype=torch.float64) + 0.5) / fine
    inside = ((x[None] - centre[0]) ** 2 + (x[:, None] - centre[1]) ** 2) < radius**2
    return inside.float().reshape(size, fine, size, fine).mean(dim=(1, 3))


def blend_with_white(coverage: Tensor, colour: Tensor) -> Tensor:
    """(1, H, W, 3) a shape of uniform colour on white."""
    return (coverage[..., None] * colour + (1 - coverage[..., None]))[None]


@pytest.mark.parametrize("radius", [5.0, 11.3, 20.7])
def test_matte_of_a_disc_is_its_coverage(radius):
    coverage = disc_coverage(64, radius, (31.2, 33.7))
    mask = matte_from_white(blend_with_white(coverage, BLUE))[0]
    tolerance = WHITE_TOLERANCE / (1 - float(BLUE.min()))  # a lower alpha counts as white
    assert float((mask - coverage).abs().max()) < tolerance + 1e-4
    assert float((mask.sum() - coverage.sum()).abs() / coverage.sum()) < 0.005


@pytest.mark.parametrize("gradient", [0.0, 0.2, 0.5, 1.0, 3.0])
def test_matte_of_a_straight_silhouette_is_its_coverage(gradient):
    samples = (torch.arange(40 * 16) + 0.5) / 16
    x, y = samples[None], samples[:, None]
    half_plane = (x - 20.3) + gradient * (y - 20.1) < 0
    box = (x > 4) & (y > 4) & (y < 36)
    coverage = (half_plane & box).float().reshape(40, 16, 40, 16).mean(dim=(1, 3))
    mask = matte_from_white(blend_with_white(coverage, BLUE))[0]
    assert float((mask - coverage).abs().max()) < 0.08  # corners have two edges in a pixel
    assert float((mask - coverage).abs().mean()) < 1e-3


def test_enclosed_white_is_object():
    coverage = disc_coverage(48, 18.0, (24.0, 24.0))
    hole = disc_coverage(48, 6.0, (24.0, 24.0))
    image = blend_with_white(coverage * (1 - hole), BLUE)
    assert float(image[0, 24, 24].min()) == 1.0
    mask = matte_from_white(image)[0]
    assert torch.equal(mask[16:32, 16:32], torch.ones(16, 16))
    assert float((mask - coverage).abs().max()) < 0.05


def test_white_connected_to_the_border_is_background():
    coverage = disc_coverage(48, 18.0, (24.0, 24.0))
    coverage[22:26, :24] = 0.0
    mask = matte_from_white(blend_with_white(coverage, BLUE))[0]
    assert float(mask[23:25, :23].max()) == 0.0


def test_white_inside_an_outline_of_one_pixel_is_object():
    rows, columns = torch.meshgrid(torch.arange(21), torch.arange(21), indexing="ij")
    from_centre = (rows - 10).abs() + (columns - 10).abs()
    image = torch.ones(1, 21, 21, 3)
    image[0, from_centre == 8] = 0.0  # a diamond: the pixels of its outline touch only at corners
    assert torch.equal(matte_from_white(image)[0], (from_centre <= 8).float())


def test_thin_lines_are_opaque():
    image = torch.ones(1, 16, 16, 3)
    image[0, 3:13, 7] = BLUE
    expected = torch.zeros(16, 16)
    expected[3:13, 7] = 1.0
    assert torch.equal(matte_from_white(image)[0], expected)


def test_matte_of_a_thin_slanted_line_is_its_coverage():
    samples = (torch.arange(40 * 16) + 0.5) / 16
    x, y = samples[None], samples[:, None]
    line = ((x - 20.3) + 0.7 * (y - 20.1)).abs() < 1.4  # 2.3 px wide: few pixels are fully covered
    coverage = (line & (y > 4) & (y < 36)).float().reshape(40, 16, 40, 16).mean(dim=(1, 3))
    mask = matte_from_white(blend_with_white(coverage, BLUE))[0]
    assert float((mask - coverage).abs().max()) < 0.35
    assert float((mask.sum() - coverage.sum()).abs() / coverage.sum()) < 0.05


def test_pale_surface_is_object():
    image = torch.ones(1, 16, 16, 3)
    image[0, 4:12, 4:12] = 1 - 2 * WHITE_TOLERANCE
    expected = torch.zeros(16, 16)
    expected[4:12, 4:12] = 1.0
    assert torch.equal(matte_from_white(image)[0], expected)


def test_almost_white_background_is_background():
    coverage = disc_coverage(48, 18.0, (24.0, 24.0))
    image = blend_with_white(coverage, BLUE)
    noise = torch.rand(image.shape, generator=torch.Generator().manual_seed(0)) * 6 / 255
    mask = matte_from_white((image - noise).clamp(0, 1))[0]
    assert float(mask[coverage == 0].max()) == 0.0
    assert float((mask - coverage).abs().max()) < 0.1


def test_matte_is_equivariant_to_flips_and_transposition():
    generator = torch.Generator().manual_seed(1)
    coverage = disc_coverage(40, 13.0, (18.0, 21.5))
    coverage[10:14, 20:40] *= 0.0
    image = blend_with_white(coverage, BLUE)
    image *= 1 - 0.4 * torch.rand(image.shape, generator=generator) * coverage[None, ..., None]
    inner = matte_from_white(image)
    assert torch.allclose(matte_from_white(image.flip(1)).flip(1), inner, atol=0.2)
    assert torch.equal(matte_from_white(image.flip(1)) > 0, inner.flip(1) > 0)
    assert torch.equal(matte_from_white(image.transpose(1, 2)) > 0, inner.transpose(1, 2) > 0)


def test_object_cropped_on_one_side_is_matted():
    coverage = disc_coverage(48, 18.0, (24.0, 44.0))
    mask = matte_from_white(blend_with_white(coverage, BLUE))[0]
    assert float((mask - coverage).abs().max()) < 0.05


def test_border_that_is_not_white_is_an_error():
    image = blend_with_white(disc_coverage(32, 9.0, (16.0, 16.0)), BLUE)
    grey = image * 0.9
    with pytest.raises(InputError, match="border of view 1 is not white"):
        matte_from_white(torch.cat([image, grey]))


def test_view_without_object_is_an_error():
    image = blend_with_white(disc_coverage(32, 9.0, (16.0, 16.0)), BLUE)
    with pytest.raises(InputError, match="view 2 is entirely white"):
        matte_from_white(torch.cat([image, image, torch.ones_like(image)]))


def test_nan_and_wrong_shapes_are_errors():
    with pytest.raises(InputError, match="NaN"):
        matte_from_white(torch.full((1, 8, 8, 3), torch.nan))
    with pytest.raises(InputError, match="shape"):
        matte_from_white(torch.ones(8, 8, 3))


@pytest.mark.parametrize("name", ["animal_bull/model.obj", "barrel_red.glb", "axe_frost.glb"])
def test_matte_of_a_rendered_scan_is_its_coverage(object_files, name):
    mesh = read_mesh(object_files / name).normalised()
    camera = orbit_cameras(RigConfig(count=1, width_px=384, height_px=384))
    views = render_views(mesh, camera).views
    matte = matte_from_white(views.colour)[0] > 0.5
    coverage = views.masks[0] > 0.5
    assert coverage.float().mean() > 0.02
    assert float((matte & coverage).sum() / (matte | coverage).sum()) > 0.99


@pytest.mark.parametrize(("ratio", "expected"), [(1.0, True), (0.97, True), (0.93, False)])
def test_mostly_white_tolerates_a_few_other_pixels(ratio, expected):
    pixels = torch.ones(100, 3)
    pixels[round(100 * ratio) :, 1] = 0.5
    assert is_mostly_white(pixels) == expected
    assert is_mostly_white(pixels[:0])
