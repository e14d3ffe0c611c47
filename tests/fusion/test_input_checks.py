"""Input checks: injected faults are named, correct views pass despite noise."""

from __future__ import annotations

import functools
import json
import logging
import math
from dataclasses import replace

import pytest
import torch
import trimesh

from nova3d_core.cameras.cameras import cameras_at, orbit_cameras
from nova3d_core.cameras.rigs import RigConfig
from nova3d_core.conventions import NORMAL_FRAMES, decode_normals, encode_normals
from nova3d_core.errors import Cancelled, InputError
from nova3d_core.evaluation.config import PerturbationConfig
from nova3d_core.evaluation.perturbations import noisy_cameras, render_perturbed_views
from nova3d_core.fusion.checks import silhouettes as silhouette_checks
from nova3d_core.fusion.checks.inputs import border_views, check_views
from nova3d_core.fusion.checks.normals import ConsistencyStats, NormalConvention, check_normals
from nova3d_core.fusion.checks.silhouettes import check_silhouettes
from nova3d_core.io.mesh.read import read_mesh
from nova3d_core.mesh import Mesh
from nova3d_core.progress import Progress
from nova3d_core.rendering.config import RenderConfig
from nova3d_core.rendering.views import render_views
from nova3d_core.views import Views

SMALL = RigConfig(width_px=128, height_px=128)
ONE_SAMPLE, FOUR_SAMPLES = RenderConfig(1), RenderConfig(2)
ROTATED_RIG = RigConfig(
    count=6, azimuth_start_deg=90.0, elevation_deg=10.0, width_px=160, height_px=160
)
"""A rig in which the three frames differ: view 0 looks neither along -Z nor level."""


@functools.cache
def box(*size: float) -> Mesh:
    half = torch.tensor(size) / 2
    corners = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 3) * half
    quads = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    faces = [face for a, b, c, d in quads for face in ((a, b, c), (a, c, d))]
    return Mesh(corners, torch.tensor(faces))


def mesh_of(solid: trimesh.Trimesh) -> Mesh:
    return Mesh(torch.tensor(solid.vertices).float(), torch.tensor(solid.faces).long())


@functools.cache
def render(mesh, rig=SMALL, config=ONE_SAMPLE) -> Views:
    return render_views(mesh, orbit_cameras(rig), config).views


def render_noisy(mesh, seed, rig=SMALL) -> Views:
    """Images with pose errors of 4 degrees per axis and 2 % of the object."""
    config = PerturbationConfig("noisy", seed, rotation_sigma_deg=4.0, translation_sigma=0.02)
    cameras = orbit_cameras(rig)
    return replace(seen_from(mesh, noisy_cameras(cameras, config)), cameras=cameras)


def seen_from(mesh, cameras) -> Views:
    return render_views(mesh, cameras, ONE_SAMPLE).views


def with_masks_of(views, masks: dict[int, torch.Tensor]) -> Views:
    changed = views.masks.clone()
    for view, mask in masks.items():
        changed[view] = mask
    return replace(views, masks=changed)


def swapped(views, one, other) -> Views:
    return with_masks_of(views, {one: views.masks[other], other: views.masks[one]})


def real_object(object_files, name) -> Mesh:
    listed = json.loads((object_files / "manifest.json").read_text())["objects"]
    entry = next(entry for entry in listed if entry["name"] == name)
    return read_mesh(object_files / entry["file"], entry["up_axis"]).normalised()


def message_of(call, *arguments) -> str:
    with pytest.raises(InputError) as caught:
        call(*arguments)
    return str(caught.value)


# silhouettes


@pytest.mark.parametrize("seed", [0, 1])
def test_silhouettes_of_one_object_pass_with_noisy_poses(l_solid, seed):
    for mesh in (l_solid, box(1.0, 0.02, 0.4), box(0.03, 1.0, 0.03)):
        check_silhouettes(render_noisy(mesh, seed))
    check_silhouettes(render(l_solid))


def test_pose_noise_needs_camera_alignment(l_solid, monkeypatch):
    views = render_noisy(box(0.03, 1.0, 0.3), seed=0)
    check_silhouettes(views)
    monkeypatch.setattr(silhouette_checks, "_MAX_STEPS", 0)
    assert "contradicts the others" in message_of(check_silhouettes, views)


@pytest.mark.parametrize("name", ["scissors_red", "axe_frost", "dino_crested"])
def test_silhouettes_of_real_objects_pass(object_files, name):
    views = render_noisy(real_object(object_files, name), seed=0)
    check_silhouettes(views)
    message = message_of(check_silhouettes, swapped(views, 0, 4))
    assert {view for view in range(16) if names(message, view)} == {0, 4}


def names(message, view) -> bool:
    """Whether a message names a view as faulty, first or among others."""
    blamed = message.split(":")[0].split() + message.rpartition("; so does that of ")[2].split()
    return str(view) in [word.strip(",.") for word in blamed]


@pytest.mark.parametrize("kind", ["perspective", "orthographic"])
def test_two_swapped_views_are_both_named(l_solid, kind):
    views = render(l_solid, replace(SMALL, kind=kind))
    message = message_of(check_silhouettes, swapped(views, 3, 7))
    # parallel rays give mirror images from behind: views 11 and 15 may be the faulty ones too
    pairs = [{3, 7}] if kind == "perspective" else [{3, 7}, {11, 15}]
    assert {view for view in range(16) if names(message, view)} in pairs
    assert "Check that each image belongs to its camera" in message


def test_wrong_image_is_named_with_its_fault(l_solid, make_sphere):
    views = render(l_solid)
    big, little = (render(make_sphere(radius)).masks[5] for radius in (0.5, 0.2))
    message = message_of(check_silhouettes, with_masks_of(views, {5: big}))
    assert message.startswith("the silhouette of view 5 contradicts the others: ")
    assert "% of it lies outside the hull of the others" in message
    assert "so does" not in message and "still" not in message
    message = message_of(check_silhouettes, with_masks_of(views, {5: little}))
    assert message.startswith("the silhouette of view 5 contradicts the others: ")
    assert "it cuts off parts of the others, such as" in message
    assert "so does" not in message and "still" not in message


def test_wrong_image_is_found_among_noisy_poses(l_solid, make_sphere):
    views = render_noisy(l_solid, seed=3)
    message = message_of(
        check_silhouettes, with_masks_of(views, {9: render(make_sphere(0.5)).masks[9]})
    )
    assert message.startswith("the silhouette of view 9 contradicts the others: ")
    assert "so does" not in message


def test_image_from_a_wrong_azimuth_is_refused():
    views = render(box(1.0, 0.5, 0.2))
    for shown, wrong in ((4, 2), (3, 4)):  # the image of view 4 for view 2, 45 degrees away
        message = message_of(check_silhouettes, with_masks_of(views, {wrong: views.masks[shown]}))
        assert {view for view in range(16) if names(message, view)} == {wrong}


def test_masks_of_different_objects_are_refused(l_solid):
    views, others = render(box(0.1, 1.0, 0.1)), render(box(1.0, 0.1, 1.0))
    masks = {view: others.masks[view] for view in range(0, 16, 2)}
    message = message_of(check_silhouettes, with_masks_of(views, masks))
    assert "the rest still contradict each other" in message
    assert "Check that all images show one object" in message


def test_two_views_contradict_each_other():
    cameras = cameras_at([0.0, 90.0], [0.0, 0.0], SMALL)
    tall, flat = (seen_from(mesh, cameras) for mesh in (box(0.3, 1.0, 0.3), box(0.3, 0.3, 0.3)))
    check_silhouettes(tall)
    message = message_of(check_silhouettes, with_masks_of(tall, {1: flat.masks[1]}))
    assert message.startswith("the silhouettes of views 0 and 1 contradict each other")


def test_check_is_invariant_to_scale_and_translation(l_solid, make_sphere):
    good = render_noisy(l_solid, seed=1, rig=replace(SMALL, count=6))
    pose = good.cameras.world_to_camera.clone()
    pose[:, :3, 3] = pose[:, :3, 3] * 10.0 - pose[:, :3, :3] @ torch.tensor([3.0, -7.0, 40.0])
    far = replace(good.cameras, world_to_camera=pose)
    check_silhouettes(replace(good, cameras=far))
    bad = with_masks_of(good, {4: render(make_sphere(0.5)).masks[4]})
    near = message_of(check_silhouettes, bad)
    assert near == message_of(check_silhouettes, bad)  # bit for bit
    there = message_of(check_silhouettes, replace(bad, cameras=far))
    assert near.startswith("the silhouette of view 4") and there.startswith("the silhouette of v")
    assert names(there, 4) and not any(names(there, view) for view in (0, 1, 2, 3, 5))


def test_cut_off_separate_and_pierced_objects_pass(l_solid, make_sphere):
    check_silhouettes(render(l_solid, replace(SMALL, focal_per_width=2.4)))  # beyond the border
    ball = make_sphere(0.15)
    parts = torch.cat([ball.vertices - 0.3, ball.vertices + 0.3])
    two = Mesh(parts, torch.cat([ball.faces, ball.faces + len(ball.vertices)]))
    check_silhouettes(render_noisy(two, seed=0))
    holed = render_noisy(make_sphere(0.4), seed=0)
    mask = holed.masks[4].clone()
    mask[55:75, 55:75] = 0.0
    check_silhouettes(with_masks_of(holed, {4: mask}))


def test_empty_mask_is_named_and_checks_can_be_cancelled(l_solid):
    views = render(l_solid)
    empty = with_masks_of(views, {2: torch.zeros(128, 128)})
    assert "the mask of view 2 is empty" in message_of(check_silhouettes, empty)
    with pytest.raises(Cancelled):
        check_silhouettes(views, Progress(is_cancelled=lambda: True))
    steps = []
    check_silhouettes(views, Progress(steps.append))
    assert steps[0].step == 0 and steps[-1].step == steps[-1].total


# normals


def as_files_hold(views) -> Views:
    """The same views with normals rounded to eight bits."""
    normals = decode_normals((encode_normals(views.normals) * 255).round() / 255)
    return replace(views, normals=normals * (views.masks > 0)[..., None])


def flipped(views, *channels) -> Views:
    sign = torch.ones(3)
    for channel in channels:
        sign[["red", "green", "blue"].index(channel)] = -1.0
    return replace(views, normals=views.normals * sign)


def declared_as(views, frame) -> Views:
    return replace(views, normal_frame=frame)


@pytest.mark.parametrize("frame", NORMAL_FRAMES)
def test_true_normals_pass_in_every_frame(l_solid, make_sphere, frame):
    for mesh in (l_solid, make_sphere(0.4), box(0.9, 0.9, 0.9), box(0.9, 0.7, 0.03)):
        for rig in (
            ROTATED_RIG,
            replace(ROTATED_RIG, count=4, kind="orthographic", elevation_deg=0.0),
        ):
            check_normals(as_files_hold(render(mesh, rig)).with_normals_in(frame))


@pytest.mark.parametrize("kind", ["perspective", "orthographic"])
@pytest.mark.parametrize("declared", NORMAL_FRAMES)
@pytest.mark.parametrize("true_frame", NORMAL_FRAMES)
def test_fitting_frame_is_named(l_solid, true_frame, declared, kind):
    views = as_files_hold(render(l_solid, replace(ROTATED_RIG, kind=kind))).with_normals_in(
        true_frame
    )
    if declared == true_frame:
        check_normals(views)
        return
    message = message_of(check_normals, declared_as(views, declared))
    assert f"do not fit their declared frame '{declared}', but '{true_frame}'. " in message
    assert f"Declare them as '{true_frame}'." in message


@pytest.mark.parametrize("channels", [("green",), ("red",), ("blue",), ("green", "blue")])
def test_flipped_channels_are_named(l_solid, make_sphere, channels):
    for mesh in (l_solid, make_sphere(0.4)):
        wrong = flipped(as_files_hold(render(mesh, ROTATED_RIG)), *channels)
        message = message_of(check_normals, wrong)
        one = len(channels) == 1
        assert message.startswith(
            f"the {' and '.join(channels)} channel{'' if one else 's'} of the normals "
            f"{'is' if one else 'are'} flipped"
        )


def test_wrong_frame_with_a_flipped_channel_is_named(l_solid):
    views = flipped(as_files_hold(render(l_solid, ROTATED_RIG)).with_normals_in("camera"), "green")
    message = message_of(check_normals, declared_as(views, "world"))
    assert "frame 'world', but 'camera' with the green channel flipped" in message
    assert "Declare them as 'camera' and invert the channel" in message


@pytest.mark.parametrize("count", [4, 8])
@pytest.mark.parametrize("thickness", [0.02, 0.005])
def test_thin_plates_pass_in_every_frame(thickness, count):
    """Seen almost edge-on, a plate has the same normal at both silhouettes: one points inward."""
    tilt = trimesh.transformations.rotation_matrix(math.radians(35.0), [1.0, 0.3, 0.0])
    rig = RigConfig(count=count, azimuth_start_deg=20.0, width_px=96, height_px=96)
    plate, disc = (
        trimesh.creation.box((0.9, 0.6, thickness)),
        trimesh.creation.cylinder(0.45, thickness),
    )
    for solid in (plate, disc):
        solid.apply_transform(tilt)
        views = as_files_hold(render(mesh_of(solid), rig))
        for frame in NORMAL_FRAMES:
            check_normals(views.with_normals_in(frame))


def test_wrong_convention_of_a_thin_ring_is_named():
    ring = mesh_of(trimesh.creation.torus(0.4, 0.02))
    views = as_files_hold(render(ring, replace(ROTATED_RIG, width_px=96, height_px=96)))
    check_normals(views)
    assert "the green channel" in message_of(check_normals, flipped(views, "green"))
    in_camera = declared_as(views.with_normals_in("camera"), "world")
    assert "but 'camera'." in message_of(check_normals, in_camera)


def test_simplest_of_equally_good_conventions_is_named(l_solid):
    # from behind, the camera's red and blue are those of the world inverted: flips fit as well
    behind = as_files_hold(seen_from(l_solid, cameras_at([180.0], [0.0], SMALL)))
    message = message_of(check_normals, declared_as(behind.with_normals_in("camera"), "world"))
    assert "but 'camera'." in message


def test_warns_about_normals_that_fit_no_convention(make_sphere, caplog):
    views = render(make_sphere(0.4))
    random = torch.Generator().manual_seed(0)
    noise = torch.nn.functional.normalize(
        torch.randn(views.normals.shape, generator=random), dim=-1
    )
    with caplog.at_level(logging.WARNING):
        check_normals(replace(views, normals=noise))
    assert "no other frame fits them" in caplog.text


def test_inconclusive_views_pass(l_solid):
    single = as_files_hold(seen_from(l_solid, cameras_at([0.0], [0.0], SMALL)))
    for frame in NORMAL_FRAMES:  # from the front all frames are the same
        check_normals(declared_as(single, frame))
    head_on = replace(SMALL, count=4, kind="orthographic")
    for mesh in (box(0.9, 0.9, 0.9), box(0.9, 0.7, 0.03)):
        check_normals(
            flipped(render(mesh, head_on), "green")
        )  # green is the neutral value everywhere
    check_normals(replace(single, normals=None, normal_frame=None))
    assert "no masks" in message_of(check_normals, replace(single, masks=None))


@pytest.mark.parametrize("name", ["barrel_red", "scissors_red"])
def test_real_objects_are_conclusive(object_files, name):
    mesh = real_object(object_files, name)
    cameras = orbit_cameras(RigConfig(count=6))
    noisy = render_perturbed_views(
        mesh, cameras, PerturbationConfig("noisy+conflict", supersample=2)
    ).views
    for views in (noisy, noisy.with_normals_in("camera")):
        check_normals(views)
        check_normals(with_smooth_noise(views, degrees=12.0))
        # the barrel's lip faces inward at the rim: only the curl shows that all is well
        assert "green channel" in message_of(check_normals, flipped(views, "green"))
        other = "camera" if views.normal_frame == "world" else "world"
        message = message_of(check_normals, declared_as(views, other))
        assert f"but '{views.normal_frame}'." in message


def with_smooth_noise(views, degrees) -> Views:
    """Normals rotated by about `degrees`, varying every 16 pixels."""
    count, height, width = views.masks.shape
    random = torch.Generator().manual_seed(0)
    coarse = torch.randn(count, 3, height // 16, width // 16, generator=random)
    noise = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bicubic")
    noise = noise / noise.std() * math.tan(math.radians(degrees)) / math.sqrt(2)
    noisy = views.normals + noise.permute(0, 2, 3, 1)
    noisy = torch.nn.functional.normalize(noisy, dim=-1)
    return replace(views, normals=noisy * (views.normals.norm(dim=-1, keepdim=True) > 0.5))


def test_inconsistencies_are_far_from_the_limits(make_sphere):
    views = render(make_sphere(0.4), config=FOUR_SAMPLES)
    stats = ConsistencyStats.of(views, torch.arange(16))
    # at a ball's silhouette the normal is known: perpendicular to the ray
    rays = stats.rays.flatten(1, 2).gather(1, stats.rim[..., None].expand(-1, -1, 3))
    assert (stats.outward * rays).sum(dim=-1).abs().max() < 1e-5
    rim = stats.views.normals.flatten(1, 2).gather(1, stats.rim[..., None].expand_as(rays))
    assert (stats.outward * rim).sum(dim=-1).median() > 0.95
    true_frame, green = NormalConvention("world", (1, 1, 1)), NormalConvention("world", (1, -1, 1))
    both = NormalConvention("camera", (-1, -1, 1))
    assert stats.facing_inconsistency(true_frame) == pytest.approx(0.0, abs=0.01)
    assert stats.curl_inconsistency(true_frame) == 0.0
    assert stats.curl_inconsistency(green) > 0.8
    # a ball with both signs wrong is a bowl: a valid surface, but facing inward at its rim
    in_camera = ConsistencyStats.of(views.with_normals_in("camera"), torch.arange(16))
    assert in_camera.curl_inconsistency(both) < 0.01
    assert in_camera.facing_inconsistency(both) > 0.7


@pytest.mark.parametrize("black", [0.0, 1.0])
def test_black_and_white_normal_images_are_named(l_solid, black):
    views = render(l_solid)
    image = encode_normals(views.normals)
    image[[3, 7]] = black
    message = message_of(check_normals, replace(views, normals=decode_normals(image)))
    assert message.startswith("views 3 and 7 have black or white normals on the object.")
    assert "Leave the normals out" in message
    image[:] = black
    everywhere = replace(views, normals=decode_normals(image))
    assert "views 0, 1, 2" in message_of(check_normals, everywhere)
    everywhere = replace(everywhere, normals=everywhere.normals * (views.masks > 0)[..., None])
    assert "views 0, 1, 2" in message_of(check_normals, everywhere)


def test_missing_normals_are_named(l_solid):
    views = render(l_solid)
    normals = views.normals.clone()
    normals[6] = 0.0
    message = message_of(check_normals, replace(views, normals=normals))
    assert message.startswith("view 6 has no normals on the object.")


def test_constant_normals_on_all_sides_are_refused(l_solid):
    views = render(l_solid)
    flat = torch.tensor([0.0, 0.0, 1.0]) * (views.masks > 0)[..., None]
    message = message_of(check_normals, replace(views, normals=flat, normal_frame="camera"))
    assert "have the same normal everywhere on the object" in message
    # a box seen head-on from its four sides truly has one normal in each image
    head_on = render(box(0.9, 0.9, 0.9), replace(SMALL, count=4, kind="orthographic"))
    check_normals(head_on.with_normals_in("camera"))
    # or a blade seen along its edge, one side of it from each side
    edge = [[x, y, z] for y in (-0.5, 0.5) for x, z in ((0.0, 0.5), (-0.06, -0.5), (0.06, -0.5))]
    sides = [[0, 1, 4], [0, 4, 3], [0, 3, 5], [0, 5, 2], [1, 2, 5], [1, 5, 4], [0, 2, 1], [3, 4, 5]]
    blade = Mesh(torch.tensor(edge), torch.tensor(sides))
    parallel = replace(SMALL, kind="orthographic")
    check_normals(seen_from(blade, cameras_at([-20.0, 20.0], [0.0, 0.0], parallel)))
    # and so has a plate in all images of its front
    cameras = cameras_at([-20.0, 0.0, 20.0], [0.0] * 3, SMALL)
    check_normals(seen_from(box(0.9, 0.7, 1e-4), cameras).with_normals_in("camera"))


# image borders, and all checks


def test_views_that_touch_the_border_are_listed(l_solid, caplog):
    views = render(l_solid)
    assert border_views(views) == []
    assert border_views(replace(views, masks=None)) == []
    for rows, columns in ((0, 50), (-1, 50), (50, 0), (50, -1)):
        masks = views.masks.clone()
        masks[2, rows, columns] = 1.0
        masks[9, rows, columns] = 0.6
        masks[11, rows, columns] = 0.4
        assert border_views(replace(views, masks=masks)) == [2, 9]
    with caplog.at_level(logging.WARNING):
        check_views(replace(views, masks=masks))
    assert "touches the image's border in views 2 and 9" in caplog.text


def test_all_checks_are_made(l_solid, caplog):
    views = render(l_solid)
    with caplog.at_level(logging.WARNING):
        check_views(views)
    assert not caplog.records
    assert "views 3 and 7 are swapped" in message_of(check_views, swapped(views, 3, 7))
    assert "'camera', but 'world'" in message_of(check_views, declared_as(views, "camera"))
