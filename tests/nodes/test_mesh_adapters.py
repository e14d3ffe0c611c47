"""Conversion to ComfyUI's MESH and back: attributes, padding, batches, unknown attributes."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

ATTRIBUTES = ("vertices", "faces", "uv", "texture", "normals", "vertex_colours")


class BareMesh:
    """MESH of older ComfyUI versions: geometry only."""

    def __init__(self, vertices, faces):
        self.vertices = vertices
        self.faces = faces


def mesh_namespace(vertices, faces, **attributes):
    return SimpleNamespace(vertices=vertices, faces=faces, **attributes)


@pytest.fixture(scope="module")
def meshes(pack):
    return pack("nodes.mesh_adapters")


@pytest.fixture
def mesh_class(request):
    """ComfyUI's MESH class: stand-ins for newer and older versions, and the real one."""
    if request.param == "host":
        return request.getfixturevalue("host_types").MESH
    return {"new": mesh_namespace, "old": BareMesh}[request.param]


ALL_CLASSES = pytest.mark.parametrize("mesh_class", ["new", "old", "host"], indirect=True)


def random_mesh(pack, count: int, seed: int, size: int | None = 8, colours: bool = False):
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int):
        return torch.rand(*shape, generator=generator)

    return pack("nova3d_core.mesh").Mesh(
        random(count, 3),
        torch.stack([torch.randperm(count, generator=generator)[:3] for _ in range(count + 1)]),
        uv=None if size is None else random(count, 2),
        texture=None if size is None else random(size, size, 3),
        normals=torch.nn.functional.normalize(random(count, 3), dim=1),
        vertex_colours=random(count, 3) if colours else None,
    )


def assert_same(expected, actual):
    for name in ATTRIBUTES:
        one, other = getattr(expected, name), getattr(actual, name)
        assert (one is None) == (other is None), name
        if one is not None:
            torch.testing.assert_close(other, one, atol=1e-6, rtol=0)


@ALL_CLASSES
@pytest.mark.parametrize(("size", "colours"), [(8, False), (None, True), (None, False)])
def test_single_mesh_survives_a_round_trip(pack, meshes, mesh_class, size, colours):
    original = random_mesh(pack, 7, 0, size, colours)
    batch = meshes.batch_from_meshes([original], mesh_class)
    assert batch.vertices.shape == (1, 7, 3)
    assert batch.faces.shape == (1, 8, 3)
    (restored,) = meshes.meshes_from_batch(batch)
    assert_same(original, restored)


@ALL_CLASSES
def test_batch_is_padded_and_restored(pack, meshes, mesh_class):
    original = [random_mesh(pack, count, count) for count in (5, 9, 4)]
    batch = meshes.batch_from_meshes(original, mesh_class)
    assert batch.vertices.shape == (3, 9, 3)
    assert batch.vertex_counts.tolist() == [5, 9, 4]
    assert batch.face_counts.tolist() == [6, 10, 5]
    assert (batch.faces[0, 6:] == 0).all()
    for one, restored in zip(original, meshes.meshes_from_batch(batch), strict=True):
        assert_same(one, restored)


def test_uniform_batch_has_no_counts(pack, meshes):
    batch = meshes.batch_from_meshes(
        [random_mesh(pack, 5, 0), random_mesh(pack, 5, 1)], mesh_namespace
    )
    assert not hasattr(batch, "vertex_counts")


def test_missing_colours_and_textures_become_white(pack, meshes):
    batch = meshes.batch_from_meshes(
        [
            random_mesh(pack, 5, 0, 8),
            random_mesh(pack, 6, 1, None, True),
            random_mesh(pack, 5, 2, 16),
        ],
        mesh_namespace,
    )
    assert batch.texture.shape == (3, 16, 16, 3)
    assert (batch.texture[1] == 1.0).all()
    assert (batch.vertex_colors[0, :5] == 1.0).all()
    assert (batch.uvs[1] == 0.0).all()


def test_vertex_colours_are_linear_in_comfyui(pack, meshes):
    """As in glTF: sRGB 0.5 is linear 0.2140, 1 stays 1, 0 stays 0."""
    original = pack("nova3d_core.mesh").Mesh(
        torch.eye(3), torch.tensor([[0, 1, 2]]), vertex_colours=torch.tensor([[0.5, 1.0, 0.0]] * 3)
    )
    batch = meshes.batch_from_meshes([original], mesh_namespace)
    expected = torch.tensor([0.21404, 1.0, 0.0])
    torch.testing.assert_close(batch.vertex_colors[0, 0], expected, atol=1e-5, rtol=0)


def test_accepts_missing_batch_axes_lists_and_alpha(pack, meshes):
    faces = torch.tensor([[0, 1, 2]], dtype=torch.int32)
    unbatched = mesh_namespace(
        torch.eye(3), faces, uvs=torch.rand(3, 2), texture=torch.rand(4, 4, 4)
    )
    (mesh,) = meshes.meshes_from_batch(unbatched)
    assert mesh.texture.shape == (4, 4, 3)
    assert mesh.faces.dtype == torch.int64
    listed = mesh_namespace([torch.eye(3)], [faces], vertex_colors=torch.rand(1, 3, 4))
    (mesh,) = meshes.meshes_from_batch(listed)
    assert mesh.vertex_colours.shape == (3, 3)
    texture_alone = mesh_namespace(torch.eye(3)[None], faces[None], texture=torch.rand(1, 4, 4, 3))
    assert meshes.meshes_from_batch(texture_alone)[0].texture is None


def test_inference_mode_meshes_become_usable_in_autograd(meshes):
    with torch.inference_mode():
        batch = mesh_namespace(torch.rand(1, 3, 3), torch.tensor([[[0, 1, 2]]]))
    (mesh,) = meshes.meshes_from_batch(batch)
    assert not mesh.vertices.is_inference()


def test_inputs_are_not_modified(pack, meshes):
    original = random_mesh(pack, 5, 0, None, True)
    before = [getattr(original, name).clone() for name in ("vertices", "normals", "vertex_colours")]
    batch = meshes.batch_from_meshes(
        [original, random_mesh(pack, 9, 1, None, True)], mesh_namespace
    )
    copies = [batch.vertices.clone(), batch.vertex_colors.clone()]
    meshes.meshes_from_batch(batch)
    assert torch.equal(batch.vertices, copies[0])
    assert torch.equal(batch.vertex_colors, copies[1])
    for name, value in zip(("vertices", "normals", "vertex_colours"), before, strict=True):
        assert torch.equal(getattr(original, name), value)


def test_rejects_empty_and_invalid_batches(pack, meshes):
    error = pack("nova3d_core.errors").InputError
    with pytest.raises(error, match="0 vertex lists and 0 face lists"):
        meshes.meshes_from_batch(mesh_namespace(torch.zeros(0, 3, 3), torch.zeros(0, 1, 3)))
    with pytest.raises(error, match="no faces"):
        meshes.meshes_from_batch(mesh_namespace(torch.zeros(1, 3, 3), torch.zeros(1, 0, 3)))
    with pytest.raises(error, match="refer to vertices 0 to 7"):
        meshes.meshes_from_batch(mesh_namespace(torch.zeros(1, 3, 3), torch.tensor([[[0, 1, 7]]])))
