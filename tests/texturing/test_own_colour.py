"""Baking over a mesh's own colours: unseen texels and texels outside edit masks keep them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from nova3d_core.cameras.cameras import cameras_at
from nova3d_core.cameras.rigs import RigConfig
from nova3d_core.errors import InputError, StageError
from nova3d_core.imaging.sampling import sample_texture
from nova3d_core.mesh import Mesh
from nova3d_core.meshing.config import UnwrapConfig
from nova3d_core.pipeline.config import FuseConfig
from nova3d_core.pipeline.stages import bake_views
from nova3d_core.progress import Progress
from nova3d_core.rendering.shading import surface_colour
from nova3d_core.rendering.views import render_views
from nova3d_core.texturing.config import BakeConfig
from nova3d_core.texturing.texels import rasterise_texels
from nova3d_core.views import Views

PX = 128
CONFIG = FuseConfig(unwrap=UnwrapConfig(method="box"), bake=BakeConfig(PX))
GREEN = torch.tensor([0.1, 0.8, 0.2])


@pytest.fixture(scope="module")
def textured(globe) -> Mesh:
    """The globe with random texels, no two alike."""
    texture = torch.rand(PX, PX, 3, generator=torch.Generator().manual_seed(0))
    return replace(globe, texture=texture, vertex_colours=None)


@pytest.fixture(scope="module")
def green_front(globe) -> Views:
    """Two views of the front half, 60 degrees apart, in which the globe is green."""
    cameras = cameras_at([-30.0, 30.0], [0.0, 0.0], RigConfig(width_px=96, height_px=96))
    green = replace(globe, vertex_colours=GREEN.expand(len(globe.vertices), 3))
    return render_views(green, cameras).views


@pytest.fixture(scope="module")
def square_edit(green_front) -> torch.Tensor:
    """Edit masks of 20 x 20 pixels in the middle of view 0, none in view 1."""
    masks = torch.zeros_like(green_front.masks)
    masks[0, 38:58, 38:58] = 1.0
    return masks


def test_unseen_texels_keep_the_texture_bit_for_bit(textured, green_front):
    baked = bake_views(textured, green_front, CONFIG)
    unseen = baked.coverage == 0.0
    assert 0.3 < unseen.float().mean() < 0.7
    assert torch.equal(baked.mesh.texture[unseen], textured.texture[unseen])
    seen = baked.coverage == 1.0
    assert (baked.mesh.texture[seen] - GREEN).abs().max() < 0.01


def test_unseen_texels_are_inpainted_on_request(textured, green_front):
    filled = bake_views(textured, green_front, CONFIG, keep_colour=False)
    assert (filled.mesh.texture - GREEN).abs().max() < 0.01
    bare = replace(textured, texture=None)
    assert torch.equal(filled.mesh.texture, bake_views(bare, green_front, CONFIG).mesh.texture)


@pytest.mark.parametrize("own", ["texture", "vertex colours"])
def test_own_colours_follow_the_surface_to_other_uv(globe, green_front, own):
    """On new uv each unseen texel shows the old colour of its surface point."""
    source = globe
    if own == "texture":
        rows = torch.linspace(0.0, 1.0, 64)
        texture = torch.stack([rows[:, None].expand(64, 64), rows.expand(64, 64)], dim=-1)
        texture = torch.cat([texture, torch.zeros(64, 64, 1)], dim=-1)
        source = replace(globe, texture=texture, vertex_colours=None)
    baked = bake_views(source, green_front, CONFIG, keep_uv=False)
    texels = rasterise_texels(baked.mesh, PX)
    expected = surface_colour(source, texels.face, texels.barycentric)
    unseen = baked.coverage.reshape(-1)[texels.index] == 0.0
    assert unseen.float().mean() > 0.3
    found = baked.mesh.texture.reshape(-1, 3)[texels.index]
    assert torch.equal(found[unseen], expected[unseen])


def test_a_texture_of_another_size_is_resampled(textured, green_front):
    small = replace(textured, texture=torch.full((16, 32, 3), 0.25))
    baked = bake_views(small, green_front, CONFIG)
    assert baked.mesh.texture.shape == (PX, PX, 3)
    assert (baked.mesh.texture[baked.coverage == 0.0] == 0.25).all()


def test_edit_masks_change_only_their_pixels(textured, green_front, square_edit):
    baked = bake_views(textured, green_front, CONFIG, edit_masks=square_edit)
    changed = (baked.mesh.texture != textured.texture).any(dim=-1)
    texels = rasterise_texels(textured, PX)
    pixels = green_front.cameras[0].project(texels.position)[0][0]
    front = (texels.normal * green_front.cameras[0].positions).sum(dim=1) > 0
    distance = (pixels - 48.0).abs().amax(dim=1) - 10.0  # px outside the square
    inside, outside = front & (distance < -0.5), ~front | (distance > 0.5)
    at_texels = changed.reshape(-1)[texels.index]
    assert int(inside.sum()) > 50 and not bool(at_texels[outside].any())
    found = baked.mesh.texture.reshape(-1, 3)[texels.index]
    assert (found[inside] - GREEN).abs().max() < 0.01
    assert (baked.coverage.reshape(-1)[texels.index][inside] == 1.0).all()


def test_unedited_views_do_not_outvote_an_edit(textured, green_front, square_edit):
    """View 1 shows the unedited object at the same surface points."""
    red = green_front.colour.clone()
    red[0, 38:58, 38:58] = torch.tensor([0.9, 0.1, 0.1])
    baked = bake_views(textured, replace(green_front, colour=red), CONFIG, edit_masks=square_edit)
    edited = baked.coverage == 1.0
    assert (baked.mesh.texture[edited] - torch.tensor([0.9, 0.1, 0.1])).abs().median() < 0.02


def test_edits_keep_the_size_of_the_texture(textured, green_front, square_edit):
    """A texture of 96 x 160 keeps its size and all bits of its untouched texels."""
    texture = torch.rand(96, 160, 3, generator=torch.Generator().manual_seed(1))
    wide = replace(textured, texture=texture)
    baked = bake_views(wide, green_front, CONFIG, edit_masks=square_edit)
    assert baked.mesh.texture.shape == (96, 160, 3)
    changed = (baked.mesh.texture != texture).any(dim=-1)
    assert 0.005 < changed.float().mean() < 0.1
    assert torch.equal(changed | (baked.coverage > 0), changed | changed)
    uv = wide.uv[wide.faces].mean(dim=1)
    middle = (wide.vertices[wide.faces].mean(dim=1) - torch.tensor([-0.2, 0.0, 0.346])).norm(dim=1)
    centre = sample_texture(baked.mesh.texture, uv[middle.argmin()][None])
    assert (centre - GREEN).abs().max() < 0.01


def test_edit_masks_keep_the_colours_in_any_case(textured, green_front, square_edit, caplog):
    kept = bake_views(textured, green_front, CONFIG, edit_masks=square_edit)
    assert not caplog.records
    off = bake_views(textured, green_front, CONFIG, keep_colour=False, edit_masks=square_edit)
    assert torch.equal(kept.mesh.texture, off.mesh.texture)
    assert [record.getMessage() for record in caplog.records] == [
        "--no-keep-texture has no effect with edit masks: the mesh's colours are kept."
    ]


def test_half_masks_blend(textured, green_front, square_edit):
    baked = bake_views(textured, green_front, CONFIG, edit_masks=0.5 * square_edit)
    half = baked.coverage == 0.5
    assert int(half.sum()) > 50
    expected = 0.5 * (textured.texture[half] + GREEN)
    assert (baked.mesh.texture[half] - expected).abs().max() < 0.01


def test_invalid_edit_masks_are_rejected(textured, globe, green_front, square_edit):
    bare = replace(globe, vertex_colours=None)
    # before any work: the first check of the progress would raise
    stopped = Progress(is_cancelled=lambda: True)
    with pytest.raises(InputError, match="need a mesh with a texture or vertex colours"):
        bake_views(bare, green_front, CONFIG, None, False, stopped, edit_masks=square_edit)
    with pytest.raises(InputError, match="need a mesh with a texture or vertex colours"):
        bake_views(bare, green_front, CONFIG, edit_masks=square_edit)
    with pytest.raises(InputError, match="there is 1 edit mask of 96x96 px for 2 views of 96x96"):
        bake_views(textured, green_front, CONFIG, edit_masks=square_edit[:1])
    with pytest.raises(InputError, match="empty"):
        bake_views(textured, green_front, CONFIG, edit_masks=0 * square_edit)
    corner = torch.zeros_like(square_edit)
    corner[0, :4, :4] = 1.0
    with pytest.raises(StageError, match="edit masks cover no part"):
        bake_views(textured, green_front, CONFIG, edit_masks=corner)
