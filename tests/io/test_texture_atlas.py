"""Merging primitives with different materials into one texture: every point keeps its colour."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nova3d_core.errors import InputError
from nova3d_core.imaging.sampling import sample_texture
from nova3d_core.io.mesh import texture_atlas
from nova3d_core.io.mesh.merge import merge_primitives
from nova3d_core.io.mesh.primitives import Material, Primitive
from nova3d_core.mesh import Mesh

TRIANGLE = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]])


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((height, width, 3), dtype=np.float32)


def triangles_primitive(uv: list[list[float]], material: Material) -> Primitive:
    """A primitive of separate triangles with three uv each."""
    count = len(uv) // 3
    vertices = torch.cat([TRIANGLE + 2.0 * number for number in range(count)])
    faces = torch.arange(3 * count).reshape(-1, 3)
    return Primitive(Mesh(vertices, faces, uv=torch.tensor(uv, dtype=torch.float32)), material)


def interpolate(values: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """(F P, C) values at P points in each face, from (F, 3, C) at corners and (P, 3) weights."""
    return torch.einsum("pk,fkc->fpc", weights, values).reshape(-1, values.shape[-1])


def colours_within(mesh: Mesh, weights: torch.Tensor) -> torch.Tensor:
    return sample_texture(mesh.texture, interpolate(mesh.uv[mesh.faces], weights))


def reference_colours(primitive: Primitive, weights: torch.Tensor) -> np.ndarray:
    """Reference: bilinear colours of a primitive's own texture under its wrap modes."""
    texture = primitive.material.texture
    uv = interpolate(primitive.mesh.uv[primitive.mesh.faces], weights).double().numpy()

    def wrap_index(index: int, length: int, wrap: str) -> int:
        if wrap == "clamp":
            return min(max(index, 0), length - 1)
        if wrap == "mirror":
            return length - 1 - index % length if (index // length) % 2 else index % length
        return index % length

    colours = np.zeros((len(uv), 3))
    height, width = texture.shape[:2]
    for row, (u, v) in enumerate(uv):
        x, y = u * width - 0.5, v * height - 0.5
        for i in (int(np.floor(x)), int(np.floor(x)) + 1):
            for j in (int(np.floor(y)), int(np.floor(y)) + 1):
                column = wrap_index(i, width, primitive.material.wrap[0])
                line = wrap_index(j, height, primitive.material.wrap[1])
                colours[row] += (1 - abs(x - i)) * (1 - abs(y - j)) * texture[line, column]
    return colours


@pytest.fixture
def weights() -> torch.Tensor:
    """(40, 3) barycentric coordinates, including the corners."""
    generator = torch.Generator().manual_seed(1)
    points = torch.rand(37, 3, generator=generator)
    return torch.cat([torch.eye(3), points / points.sum(dim=1, keepdim=True)])


@pytest.mark.parametrize("wrap", [("repeat", "repeat"), ("clamp", "mirror"), ("mirror", "clamp")])
def test_atlas_keeps_the_colour_of_every_point(weights, wrap):
    wide = [[-2.3, 0.4], [1.9, 0.1], [0.2, 3.7], [5.1, -4.2], [5.6, -4.9], [5.9, -4.4]]
    first = triangles_primitive(wide, Material(noise(5, 9), wrap=wrap))
    second = triangles_primitive(
        [[0, 0], [1, 0], [0, 1]], Material(noise(16, 3, seed=1), wrap=wrap)
    )
    third = triangles_primitive([[0.9, 0.9], [1.1, 0.9], [0.9, 1.1]], first.material)
    mesh = merge_primitives([first, second, third])
    expected = [reference_colours(primitive, weights) for primitive in (first, second, third)]
    found = colours_within(mesh, weights).numpy()
    np.testing.assert_allclose(found, np.concatenate(expected), atol=2e-4)
    corners = torch.cat(
        [primitive.mesh.vertices[primitive.mesh.faces] for primitive in (first, second, third)]
    )
    assert torch.equal(mesh.vertices[mesh.faces], corners)


def test_atlas_copies_texels_bit_for_bit(weights):
    """Texel centres of the source coincide with texel centres of the atlas."""
    source = noise(4, 4)
    centres = [[0.125, 0.125], [0.875, 0.375], [0.625, 0.875]]
    mesh = merge_primitives(
        [
            triangles_primitive(centres, Material(source)),
            triangles_primitive(centres, Material(noise(7, 7))),
        ]
    )
    texels = (mesh.uv[:3] * torch.tensor(mesh.texture.shape[1::-1]) - 0.5).round().long()
    expected = torch.from_numpy(source)[[0, 1, 3], [0, 3, 2]]
    assert torch.equal(mesh.texture[texels[:, 1], texels[:, 0]], expected)


def test_primitives_of_one_texture_share_one_copy():
    material = Material(noise(32, 32))
    primitive = triangles_primitive([[0, 0], [1, 0], [0, 1]], material)
    other = triangles_primitive([[0, 0], [1, 0], [0, 1]], Material(noise(4, 4)))
    single = merge_primitives([primitive, other]).texture
    assert merge_primitives([primitive, primitive, other, primitive]).texture.shape == single.shape
    assert single.shape[0] * single.shape[1] < 2 * 32 * 32


def test_faces_in_distant_tiles_share_one_tile(weights):
    scattered = [
        [u + 100.0 * k, v - 50.0 * k] for k in range(5) for u, v in ((0, 0), (1, 0), (0, 1))
    ]
    primitive = triangles_primitive(scattered, Material(noise(64, 64)))
    other = triangles_primitive([[0, 0], [1, 0], [0, 1]], Material(noise(4, 4)))
    mesh = merge_primitives([primitive, other])
    assert max(mesh.texture.shape[:2]) < 3 * 64
    expected = reference_colours(primitive, weights)
    np.testing.assert_allclose(colours_within(mesh, weights)[: len(expected)], expected, atol=2e-3)


def test_single_texture_is_kept_even_if_repeated():
    material = Material(noise(8, 8))
    first = triangles_primitive([[-2.0, 0], [1, 0], [0, 7]], material)
    mesh = merge_primitives([first, triangles_primitive([[0.0, 0], [1, 0], [0, 1]], material)])
    assert torch.equal(mesh.texture, torch.from_numpy(material.texture))
    assert torch.equal(mesh.uv[:3], first.mesh.uv)


def test_single_clamped_texture_is_kept_only_within_its_borders(weights):
    material = Material(noise(8, 8), wrap=("clamp", "clamp"))
    within = triangles_primitive([[0.0625, 0.0625], [0.9375, 0.0625], [0.0625, 0.9375]], material)
    assert torch.equal(merge_primitives([within]).texture, torch.from_numpy(material.texture))
    for wide in (2.0, 1.0):  # at the border, a repeated lookup would blend with the opposite one
        beyond = triangles_primitive([[0.0, 0], [wide, 0], [0, 1]], material)
        expected = reference_colours(beyond, weights)
        np.testing.assert_allclose(
            colours_within(merge_primitives([beyond]), weights), expected, atol=1e-4
        )


def test_tinted_primitive_keeps_its_colour_in_the_atlas(weights):
    textured = triangles_primitive([[0, 0], [1, 0], [0, 1]], Material(noise(4, 4)))
    plain = Primitive(
        Mesh(TRIANGLE, torch.tensor([[0, 1, 2]])), Material(tint_linear=(1.0, 0.2140411, 0))
    )
    mesh = merge_primitives([plain, textured])
    expected = torch.tensor([1.0, 0.5, 0.0]).expand(len(weights), 3)
    torch.testing.assert_close(
        colours_within(mesh, weights)[: len(weights)], expected, atol=1e-6, rtol=0
    )


def test_vertex_coloured_primitive_is_interpolated_in_the_atlas(weights):
    textured = triangles_primitive([[0, 0], [1, 0], [0, 1]], Material(noise(4, 4)))
    vertices = torch.cat([TRIANGLE, torch.tensor([[1.0, 1, 0]])])
    faces = torch.tensor([[0, 1, 2], [1, 3, 2]])
    shades = torch.tensor([0.1, 0.9, 0.4, 0.0])
    colours = torch.stack([shades, shades * 0.5 + 0.2, shades * 0.25], dim=1)
    vertex_coloured = Primitive(Mesh(vertices, faces, vertex_colours=colours))
    mesh = merge_primitives([textured, vertex_coloured])
    assert mesh.vertex_colours is None
    assert torch.equal(mesh.vertices[mesh.faces[1:]].sort(dim=1)[0], vertices[faces].sort(dim=1)[0])
    # corners may be rotated within a face: compare by position
    points = interpolate(mesh.vertices[mesh.faces[1:]], weights)
    x, y = points[:, 0], points[:, 1]
    shade = torch.where(
        x + y <= 1.0,
        0.1 + 0.8 * x + 0.3 * y,
        0.0 + 0.4 * (1 - x) + 0.9 * (1 - y),
    )
    expected = torch.stack([shade, shade * 0.5 + 0.2, shade * 0.25], dim=1)
    found = colours_within(mesh, weights)[len(weights) :]
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=0)
    assert torch.equal(mesh.face_normals, torch.tensor([[0.0, 0, 1]] * 3))


def test_oversized_atlas_is_downsampled(monkeypatch, caplog):
    monkeypatch.setattr(texture_atlas, "MAX_SIDE_PX", 64)
    flat = np.broadcast_to(np.float32([0.25, 0.5, 0.75]), (128, 128, 3))
    corners = [[0.0, 0], [1, 0], [0, 1]]
    mesh = merge_primitives(
        [
            triangles_primitive(corners, Material(flat)),
            triangles_primitive(corners, Material(noise(8, 8))),
        ]
    )
    assert max(mesh.texture.shape[:2]) <= 64
    assert "halved" in caplog.text
    found = sample_texture(mesh.texture, mesh.uv[:3])
    torch.testing.assert_close(found, torch.tensor([[0.25, 0.5, 0.75]] * 3), atol=1e-5, rtol=0)
    unbounded = [[0.0, 0], [1e6, 0], [0, 1]]
    tiles = noise(8, 8)
    mesh = merge_primitives(
        [
            triangles_primitive(corners, Material(flat)),
            triangles_primitive(unbounded, Material(tiles)),
        ]
    )
    assert max(mesh.texture.shape[:2]) <= 64
    assert "detail of a 8 x 8 px texture (repeated too often: mean colour)" in caplog.text
    found = sample_texture(mesh.texture, mesh.uv[3:])
    mean = torch.from_numpy(tiles.mean(axis=(0, 1))).expand(3, 3)
    torch.testing.assert_close(found, mean, atol=0.05, rtol=0)


def test_too_many_vertex_coloured_faces_are_an_error(monkeypatch):
    monkeypatch.setattr(texture_atlas, "MAX_SIDE_PX", 16)
    vertex_coloured = Mesh(
        TRIANGLE.repeat(64, 1), torch.arange(192).reshape(-1, 3), vertex_colours=torch.rand(192, 3)
    )
    textured = triangles_primitive([[0, 0], [1, 0], [0, 1]], Material(noise(1, 1)))
    with pytest.raises(InputError, match="do not fit"):
        merge_primitives([Primitive(vertex_coloured), textured])


def test_primitives_without_normals_get_smooth_ones():
    tilted = torch.nn.functional.normalize(torch.tensor([[1.0, 0, 1]]).expand(3, 3), dim=1)
    faces = torch.tensor([[0, 1, 2]])
    mesh = merge_primitives(
        [Primitive(Mesh(TRIANGLE, faces, normals=tilted)), Primitive(Mesh(TRIANGLE, faces))]
    )
    expected = torch.cat([tilted, torch.tensor([[0.0, 0, 1]] * 3)])
    torch.testing.assert_close(mesh.normals, expected)
    assert merge_primitives([Primitive(Mesh(TRIANGLE, faces))] * 2).normals is None


@pytest.mark.parametrize("wrap", ["repeat", "mirror", "clamp"])
@pytest.mark.parametrize("reach", [1e3, 1e6, 1e19, 1e30])
def test_huge_texture_coordinates_give_a_bounded_atlas(monkeypatch, caplog, wrap, reach):
    monkeypatch.setattr(texture_atlas, "MAX_REPEATED_TEXELS", 1 << 12)
    corners = [[0.0, 0], [1, 0], [0, 1]]
    wide = triangles_primitive(
        [[0.0, 0], [reach, 0], [0, reach]], Material(noise(16, 16), wrap=(wrap, wrap))
    )
    translated = triangles_primitive(
        [[reach, reach], [reach, reach], [reach, reach]], wide.material
    )
    for primitive in (wide, translated):
        mesh = merge_primitives([primitive, triangles_primitive(corners, Material(noise(4, 4)))])
        assert mesh.texture[..., 0].numel() < (1 << 13)
        found = sample_texture(mesh.texture, mesh.uv)
        assert bool(torch.isfinite(found).all()) and float(found.max()) <= 1.0
    assert "merging the textures into one drops" in caplog.text


def test_downsampling_averages_2_x_2_texels():
    image = noise(8, 2)
    halved = texture_atlas._downsample_by_2(image)
    expected = image.reshape(4, 2, 1, 2, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(halved, expected, atol=1e-6)
    assert texture_atlas._downsample_by_2(noise(5, 1)).shape == (2, 1, 3)
