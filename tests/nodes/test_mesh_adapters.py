"""The host's MESH and back: attributes, padding, batches, and what the core does not know."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

NAMES = ("vertices", "faces", "uv", "texture", "normals", "vertex_colours")


class BareMesh:
    """A mesh as hosts before textured ones make it: geometry alone."""

    def __init__(self, vertices, faces):
        self.vertices = vertices
        self.faces = faces


def namespace(vertices, faces, **more):
    return SimpleNamespace(vertices=vertices, faces=faces, **more)


@pytest.fixture(scope="module")
def meshes(pack):
    return pack("nodes.mesh_adapters")


@pytest.fixture
def make_class(request):
    """The host's mesh class: two with its constructors' shapes, and the real one."""
    if request.param == "host":
        return request.getfixturevalue("host_types").MESH
    return {"new": namespace, "old": BareMesh}[request.param]


ALL_CLASSES = pytest.mark.parametrize("make_class", ["new", "old", "host"], indirect=True)


def some_mesh(pack, count: int, seed: int, size: int | None = 8, colours: bool = False):
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


def assert_same(ours, back):
    for name in NAMES:
        one, other = getattr(ours, name), getattr(back, name)
        assert (one is None) == (other is None), name
        if one is not None:
            torch.testing.assert_close(other, one, atol=1e-6, rtol=0)


@ALL_CLASSES
@pytest.mark.parametrize(("size", "colours"), [(8, False), (None, True), (None, False)])
def test_one_mesh_comes_back_as_it_was(pack, meshes, make_class, size, colours):
    ours = some_mesh(pack, 7, 0, size, colours)
    given = meshes.batch_from_meshes([ours], make_class)
    assert given.vertices.shape == (1, 7, 3)
    assert given.faces.shape == (1, 8, 3)
    (back,) = meshes.meshes_from_batch(given)
    assert_same(ours, back)


@ALL_CLASSES
def test_a_batch_is_padded_counted_and_cut_again(pack, meshes, make_class):
    ours = [some_mesh(pack, count, count) for count in (5, 9, 4)]
    given = meshes.batch_from_meshes(ours, make_class)
    assert given.vertices.shape == (3, 9, 3)
    assert given.vertex_counts.tolist() == [5, 9, 4]
    assert given.face_counts.tolist() == [6, 10, 5]
    assert (given.faces[0, 6:] == 0).all()
    for one, back in zip(ours, meshes.meshes_from_batch(given), strict=True):
        assert_same(one, back)


def test_uniform_batches_have_no_counts(pack, meshes):
    given = meshes.batch_from_meshes([some_mesh(pack, 5, 0), some_mesh(pack, 5, 1)], namespace)
    assert not hasattr(given, "vertex_counts")


def test_mixed_batches_are_white_where_there_is_nothing(pack, meshes):
    given = meshes.batch_from_meshes(
        [some_mesh(pack, 5, 0, 8), some_mesh(pack, 6, 1, None, True), some_mesh(pack, 5, 2, 16)],
        namespace,
    )
    assert given.texture.shape == (3, 16, 16, 3)
    assert (given.texture[1] == 1.0).all()
    assert (given.vertex_colors[0, :5] == 1.0).all()
    assert (given.uvs[1] == 0.0).all()


def test_vertex_colours_are_linear_in_the_host(pack, meshes):
    """As in glTF: sRGB 0.5 is linear 0.2140, 1 stays 1, 0 stays 0."""
    ours = pack("nova3d_core.mesh").Mesh(
        torch.eye(3), torch.tensor([[0, 1, 2]]), vertex_colours=torch.tensor([[0.5, 1.0, 0.0]] * 3)
    )
    given = meshes.batch_from_meshes([ours], namespace)
    expected = torch.tensor([0.21404, 1.0, 0.0])
    torch.testing.assert_close(given.vertex_colors[0, 0], expected, atol=1e-5, rtol=0)


def test_what_hosts_nodes_leave_out_or_add_is_understood(pack, meshes):
    faces = torch.tensor([[0, 1, 2]], dtype=torch.int32)
    unbatched = namespace(torch.eye(3), faces, uvs=torch.rand(3, 2), texture=torch.rand(4, 4, 4))
    (mesh,) = meshes.meshes_from_batch(unbatched)
    assert mesh.texture.shape == (4, 4, 3)
    assert mesh.faces.dtype == torch.int64
    listed = namespace([torch.eye(3)], [faces], vertex_colors=torch.rand(1, 3, 4))
    (mesh,) = meshes.meshes_from_batch(listed)
    assert mesh.vertex_colours.shape == (3, 3)
    texture_alone = namespace(torch.eye(3)[None], faces[None], texture=torch.rand(1, 4, 4, 3))
    assert meshes.meshes_from_batch(texture_alone)[0].texture is None


def test_meshes_of_inference_mode_can_be_learnt_from(meshes):
    with torch.inference_mode():
        given = namespace(torch.rand(1, 3, 3), torch.tensor([[[0, 1, 2]]]))
    (mesh,) = meshes.meshes_from_batch(given)
    assert not mesh.vertices.is_inference()


def test_nothing_given_is_changed(pack, meshes):
    ours = some_mesh(pack, 5, 0, None, True)
    before = [getattr(ours, name).clone() for name in ("vertices", "normals", "vertex_colours")]
    given = meshes.batch_from_meshes([ours, some_mesh(pack, 9, 1, None, True)], namespace)
    copies = [given.vertices.clone(), given.vertex_colors.clone()]
    meshes.meshes_from_batch(given)
    assert torch.equal(given.vertices, copies[0])
    assert torch.equal(given.vertex_colors, copies[1])
    for name, value in zip(("vertices", "normals", "vertex_colours"), before, strict=True):
        assert torch.equal(getattr(ours, name), value)


def test_an_empty_or_broken_batch_is_named(pack, meshes):
    error = pack("nova3d_core.errors").InputError
    with pytest.raises(error, match="0 vertex lists and 0 face lists"):
        meshes.meshes_from_batch(namespace(torch.zeros(0, 3, 3), torch.zeros(0, 1, 3)))
    with pytest.raises(error, match="no faces"):
        meshes.meshes_from_batch(namespace(torch.zeros(1, 3, 3), torch.zeros(1, 0, 3)))
    with pytest.raises(error, match="point at vertices 0 to 7"):
        meshes.meshes_from_batch(namespace(torch.zeros(1, 3, 3), torch.tensor([[[0, 1, 7]]])))
