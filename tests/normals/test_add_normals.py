"""Normals added from images: exact decoding, every frame and flip, and refused images."""

from __future__ import annotations

import copy
import functools
import itertools
import json
from collections import Counter
from dataclasses import replace

import pytest
import torch

from nova3d_core.cameras.cameras import orbit_cameras
from nova3d_core.cameras.orbits import ORBIT_PRESETS
from nova3d_core.cameras.rigs import RigConfig
from nova3d_core.conventions import NORMAL_FRAMES, encode_normals
from nova3d_core.errors import InputError
from nova3d_core.io.mesh.read import read_mesh
from nova3d_core.mesh import Mesh
from nova3d_core.normals.add import add_normals
from nova3d_core.normals.config import NORMAL_FLIPS
from nova3d_core.rendering.config import RenderConfig
from nova3d_core.rendering.views import render_views
from nova3d_core.training.procedural.catalog import procedural_object
from nova3d_core.views import Views

RIG = RigConfig(count=6, azimuth_start_deg=90.0, elevation_deg=10.0, width_px=160, height_px=160)
"""The frames differ: view 0 looks neither along -Z nor level."""
OBJECTS = ("animal_bull", "scissors_red", "dino_crested")


@functools.cache
def render(mesh: Mesh, rig: RigConfig = RIG) -> Views:
    return render_views(mesh, orbit_cameras(rig), RenderConfig(2)).views


def real_object(object_files, name: str) -> Mesh:
    listed = json.loads((object_files / "manifest.json").read_text())["objects"]
    entry = next(entry for entry in listed if entry["name"] == name)
    return read_mesh(object_files / entry["file"], entry["up_axis"]).normalised()


def normal_images(views: Views, frame: str = "camera", flip: str = "none") -> torch.Tensor:
    """(V, H, W, 3) true normal maps of 8 bits in a frame, with inverted channels."""
    images = encode_normals(views.with_normals_in(frame).normals)
    images = (images * 255.0).round() / 255.0
    for channel, name in enumerate(("red", "green")):
        if name in flip:
            images[..., channel] = 1.0 - images[..., channel]
    return images


def degrees_between(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Angles between the unit vectors of two fields, where both are defined."""
    defined = (one.norm(dim=-1) > 0.5) & (other.norm(dim=-1) > 0.5)
    # the chord: arccos has no precision near 1
    chord = (one[defined] - other[defined]).norm(dim=-1)
    return torch.rad2deg(2.0 * torch.asin((chord / 2.0).clamp(max=1.0)))


def message_of(*arguments) -> str:
    with pytest.raises(InputError) as caught:
        add_normals(*arguments)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500
    return str(caught.value)


def test_sv3d_rig_keeps_normals_and_leaves_the_views_untouched(object_files):
    rig = replace(ORBIT_PRESETS["sv3d"].rig, width_px=144, height_px=144)
    views = render(real_object(object_files, "dino_crested"), rig)
    plain = views.without_normals()
    before = copy.deepcopy(plain)
    added = add_normals(plain, normal_images(views))

    assert len(added) == 21 and added.normal_frame == "camera"
    true = views.with_normals_in("camera").normals
    assert float(degrees_between(added.normals, true).max()) < 0.5
    defined = added.normals.norm(dim=-1) > 0.5
    assert torch.equal(defined, (true.norm(dim=-1) > 0.5) & (views.masks > 0))
    assert not bool(added.normals[views.masks == 0].any())
    for name in ("colour", "masks"):
        assert torch.equal(getattr(added, name), getattr(before, name)), name
    for name in ("world_to_camera", "intrinsics"):
        assert torch.equal(getattr(added.cameras, name), getattr(before.cameras, name)), name


@pytest.mark.slow
@pytest.mark.parametrize("name", OBJECTS)
def test_only_the_right_frame_and_flip_are_accepted(object_files, name):
    """Every encoding under all 12 settings: wrong ones are errors that name the right one."""
    views = render(real_object(object_files, name))
    plain, answers = views.without_normals(), Counter()
    settings = list(itertools.product(NORMAL_FRAMES, NORMAL_FLIPS))
    for frame, flip in settings:
        images = normal_images(views, frame, flip)
        added = add_normals(plain, images, frame, flip)
        true = views.with_normals_in(frame).normals
        assert float(degrees_between(added.normals, true).max()) < 0.5
        expected = f"Set normal_frame to '{frame}' and flip to '{flip}'."
        for wrong in settings:
            if wrong != (frame, flip):
                try:
                    add_normals(plain, images, *wrong)
                    answers["accepted"] += 1
                except InputError as error:
                    answers["corrected" if error.hint == expected else "refused"] += 1
    assert answers.total() == 132
    assert answers["corrected"] >= 0.9 * answers.total(), answers


def test_flipped_channel_is_named_with_the_setting(make_sphere):
    views = render(make_sphere(0.4))
    plain = views.without_normals()
    for flip in ("red", "green", "red and green"):
        images = normal_images(views, "camera", flip)
        channels = f"the {flip} channel{'s' * ('and' in flip)} of the normals"
        message = message_of(plain, images, "camera", "none")
        assert message.startswith(channels)
        assert message.endswith(f"Set normal_frame to 'camera' and flip to '{flip}'.")
        again = message_of(plain, normal_images(views), "camera", flip)
        assert again.startswith(channels)
        assert again.endswith("Set normal_frame to 'camera' and flip to 'none'.")
    blue = normal_images(views)
    blue[..., 2] = 1.0 - blue[..., 2]
    assert "invert the channels blue in the normal images" in message_of(plain, blue)


def test_wrong_frame_is_named(l_solid):
    views = render(l_solid)
    message = message_of(views.without_normals(), normal_images(views, "world", "green"), "camera")
    assert "do not fit their declared frame 'camera', but 'world' with the green channel" in message
    assert message.endswith("Set normal_frame to 'world' and flip to 'green'.")


@pytest.mark.parametrize("size", [80, 240])
def test_other_sizes_are_resized(make_sphere, size):
    mesh = make_sphere(0.4)
    views = render(mesh)
    images = normal_images(render(mesh, replace(RIG, width_px=size, height_px=size)))
    added = add_normals(views.without_normals(), images)
    inside = (views.masks == 1.0)[..., None]
    errors = degrees_between(added.normals * inside, views.with_normals_in("camera").normals)
    assert float(errors.mean()) < 0.7
    length = added.normals.norm(dim=-1)
    assert bool(((length - 1.0).abs() < 1e-5).logical_or(length == 0.0).all())


def test_existing_normals_are_replaced(l_solid):
    views = render(l_solid)
    world = views.with_world_normals()
    added = add_normals(world, normal_images(views))
    assert added.normal_frame == "camera"
    assert float(degrees_between(added.with_world_normals().normals, world.normals).max()) < 0.5


def test_unusable_images_are_refused(make_sphere):
    views = render(make_sphere(0.4))
    plain, images = views.without_normals(), normal_images(views)
    assert "there are 5 normal images but 6 views" in message_of(plain, images[:5])
    cropped = message_of(plain, images[:, 20:140])
    assert "160x120 px but the views are 160x160 px" in cropped
    assert "no masks" in message_of(replace(plain, masks=None), images)
    hole = images.clone()
    hole[2, 80, 80, 1] = torch.nan
    assert "NaN" in message_of(plain, hole)
    assert "expected 0 to 1" in message_of(plain, images * 2.0 - 1.0)
    blank = images.clone()
    blank[[1, 4]] = 0.5
    assert "views 1 and 4 have no normals" in message_of(plain, blank)
    assert "normal_frame is 'view'" in message_of(plain, images, "view")
    assert "flip is 'blue'" in message_of(plain, images, "camera", "blue")


def test_colour_images_are_no_normals():
    """The checks of frames alone find them inconclusive."""
    views = render(procedural_object(101, "quadruped"))
    with pytest.raises(InputError, match="normal images are the same as the colour images"):
        add_normals(views, views.colour)
    assert len(add_normals(views, normal_images(views))) == len(views)
