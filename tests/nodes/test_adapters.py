"""Conversions between ComfyUI's tensors and core bundles are lossless and modify no input."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch


@pytest.fixture(scope="module")
def adapters(pack):
    return pack("nodes.adapters")


@pytest.fixture(scope="module")
def input_error(pack):
    return pack("nova3d_core.errors").InputError


@pytest.fixture(scope="module")
def rig(pack):
    cameras, rigs = pack("nova3d_core.cameras.cameras"), pack("nova3d_core.cameras.rigs")
    return cameras.orbit_cameras(rigs.RigConfig(count=3, width_px=32, height_px=24))


def test_image_conversion_keeps_values_and_alpha(adapters):
    image = torch.rand(2, 5, 6, 4)
    images = adapters.tensor_from_image(image)
    assert torch.equal(images, image)
    assert torch.equal(adapters.rgb_from_image(image, "normals"), image[..., :3])
    assert torch.equal(adapters.tensor_from_image(image[0]), image[:1])
    grey = adapters.tensor_from_image(image[..., :1])
    assert torch.equal(grey, image[..., :1].expand(-1, -1, -1, 3))
    assert adapters.tensor_from_image(image.half()).dtype == torch.float32


def test_inference_mode_tensors_become_usable_in_autograd(adapters):
    with torch.inference_mode():
        image, mask = torch.rand(1, 4, 4, 3), torch.rand(1, 4, 4)
    images = adapters.tensor_from_image(image)
    for converted in (images, adapters.tensor_from_mask(mask, images)):
        assert not converted.is_inference()
        weight = torch.ones((), requires_grad=True)
        (converted * weight).sum().backward()
        assert float(weight.grad) == pytest.approx(float(converted.sum()))


@pytest.mark.parametrize("shape", [(4, 4), (1, 4, 4, 2), (0, 4, 4, 3), (1, 1, 4, 4, 3)])
def test_rejects_tensors_that_are_not_images(adapters, input_error, shape):
    with pytest.raises(input_error, match=r"normals has shape \("):
        adapters.tensor_from_image(torch.zeros(shape), "normals")


def test_accepts_all_mask_shapes(adapters):
    images = torch.zeros(3, 8, 9, 3)
    mask = torch.rand(3, 8, 9)
    assert torch.equal(adapters.tensor_from_mask(mask, images), mask)
    assert torch.equal(adapters.tensor_from_mask(mask[:, None], images), mask)
    assert torch.equal(adapters.tensor_from_mask(mask[..., None], images), mask)
    assert torch.equal(adapters.tensor_from_mask(mask[0], images), mask[:1].expand(3, -1, -1))
    assert adapters.tensor_from_mask(None, images) is None


def test_placeholder_mask_of_load_image_is_ignored(adapters):
    empty = torch.zeros(1, 64, 64)
    assert adapters.tensor_from_mask(empty, torch.zeros(1, 200, 100, 3)) is None
    converted = adapters.tensor_from_mask(empty, torch.zeros(1, 64, 64, 3))
    assert torch.equal(converted, empty)  # a real empty mask: the core reports it
    non_empty = empty.clone()
    non_empty[0, 3, 3] = 1.0
    assert adapters.tensor_from_mask(non_empty, torch.zeros(1, 200, 100, 3)) is not None


def test_edit_masks_are_never_dropped_or_repeated(adapters, input_error):
    images = torch.zeros(3, 200, 100, 3)
    assert adapters.edit_masks_from_mask(None, images) is None
    with pytest.raises(input_error, match="edit_masks is empty"):
        adapters.edit_masks_from_mask(torch.zeros(1, 64, 64), images)
    assert len(adapters.edit_masks_from_mask(torch.ones(200, 100), images)) == 1
    assert torch.equal(
        adapters.edit_masks_from_mask(2.0 * torch.ones(3, 200, 100), images),
        torch.ones(3, 200, 100),
    )


def test_rejects_tensors_that_are_not_masks(adapters, input_error):
    with pytest.raises(input_error, match="mask has shape"):
        adapters.tensor_from_mask(torch.zeros(1, 4, 4, 3), torch.zeros(1, 4, 4, 3))


def test_normals_survive_a_round_trip(adapters, pack, rig):
    generator = torch.Generator().manual_seed(1)
    normals = torch.nn.functional.normalize(torch.randn(3, 24, 32, 3, generator=generator), dim=-1)
    masks = torch.zeros(3, 24, 32)
    masks[:, 4:20, 4:28] = 1.0
    normals = normals * masks[..., None]
    colour = torch.where(masks[..., None] > 0, torch.rand(3, 24, 32, 3, generator=generator), 1.0)
    views = pack("nova3d_core.views").Views(rig, colour, masks, normals, "camera")
    image = adapters.image_from_normals(views)
    assert (image[masks <= 0] == 0.5).all()
    restored = pack("nova3d_core.imaging.assemble").assemble_views(
        adapters.tensor_from_image(adapters.image_from_tensor(views.colour)),
        rig,
        adapters.rgb_from_image(image, "normals"),
        adapters.tensor_from_mask(adapters.mask_from_tensor(views.masks), views.colour),
        "camera",
    )
    torch.testing.assert_close(restored.normals, normals, atol=1e-6, rtol=0)
    assert torch.equal(restored.colour, colour)


def test_reads_cameras_from_a_bundle_or_a_viewer(adapters, pack, rig, input_error):
    value = pack("nodes.socket_bundle").SocketBundle(rig)
    resized = adapters.cameras_from_socket(value, 64, 48)
    torch.testing.assert_close(resized.intrinsics[:, :2], rig.intrinsics[:, :2] * 2)
    pose = {"position": {"x": 0, "y": 0, "z": 3}, "target": {"x": 0, "y": 0, "z": 0}}
    front = adapters.cameras_from_socket({**pose, "zoom": 1, "cameraType": "perspective"}, 64, 48)
    assert len(front) == 1
    expected = math.tan(math.radians(17.5))
    assert float(24.0 / front.intrinsics[0, 1, 1]) == pytest.approx(expected, rel=1e-5)
    with pytest.raises(input_error, match="cameras is Tensor"):
        adapters.cameras_from_socket(torch.zeros(4, 4), 64, 48)


def test_rejects_mesh_types_of_other_packs(adapters, input_error):
    with pytest.raises(input_error, match="reference is list, expected ComfyUI's own MESH"):
        adapters.single_mesh_from_socket([object()], "reference")


def test_rejects_a_batch_where_one_mesh_is_expected(adapters, input_error):
    two = SimpleNamespace(vertices=torch.rand(2, 3, 3), faces=torch.tensor([[[0, 1, 2]]] * 2))
    assert len(adapters.meshes_from_socket(two)) == 2
    with pytest.raises(input_error, match="mesh is a batch of 2 meshes, expected one"):
        adapters.single_mesh_from_socket(two)


def test_reads_3d_files_from_memory_and_disk(adapters, pack, host_types, tmp_path):
    from io import BytesIO

    vertices = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]])
    mesh = pack("nova3d_core.mesh").Mesh(vertices, torch.tensor([[0, 1, 2]]))
    glb = pack("nova3d_core.io.mesh.write").mesh_to_glb_bytes(mesh)
    path = tmp_path / "one.glb"
    path.write_bytes(glb)
    for file in (host_types.File3D(BytesIO(glb), "glb"), host_types.File3D(str(path))):
        assert torch.equal(adapters.single_mesh_from_socket(file).vertices, vertices)
