"""Reading hand-made and real mesh files: orientation, colours, order, and all errors."""

from __future__ import annotations

import io
import json
import struct

import numpy as np
import pytest
import torch
from PIL import Image

from nova3d_core.errors import InputError
from nova3d_core.imaging.sampling import sample_texture
from nova3d_core.io.mesh.read import MESH_READERS, read_mesh

RED, GREEN, BLUE, YELLOW, WHITE = torch.tensor(
    [[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0], [1.0, 1.0, 0], [1.0, 1.0, 1.0]]
)
SQUARE = (
    "v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nvt 0.25 0.25\nvt 0.75 0.25\nvt 0.75 0.75\nvt 0.25 0.75\n"
)
FACES = "f 1/1 2/2 3/3\nf 1/1 3/3 4/4\n"


def save_quadrants(path, **options) -> None:
    """An image with red, green above and blue, yellow below."""
    levels = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 0]]], np.uint8)
    Image.fromarray(levels.repeat(4, axis=0).repeat(4, axis=1)).save(path, **options)


def textured_obj(folder, faces: str = FACES, mtl: str = "newmtl a\nmap_Kd colours.png\n"):
    """A unit square whose corners lie in the four quadrants of an image."""
    save_quadrants(folder / "colours.png")
    (folder / "square.mtl").write_text(mtl)
    path = folder / "square.obj"
    path.write_text("mtllib square.mtl\n" + SQUARE + "usemtl a\n" + faces)
    return path


def face_colours(mesh) -> torch.Tensor:
    """(F, 3) texture colours at the centroid of each face."""
    return sample_texture(mesh.texture, mesh.uv[mesh.faces].mean(dim=1))


def test_obj_uv_are_flipped_to_top_left_origin(tmp_path):
    mesh = read_mesh(textured_obj(tmp_path))
    assert mesh.faces.tolist() == [[0, 1, 2], [0, 2, 3]]
    corners = [[0.25, 0.75], [0.75, 0.75], [0.75, 0.25], [0.25, 0.25]]
    assert mesh.uv.tolist() == corners
    assert torch.equal(mesh.texture[0, 0], RED)
    colours = sample_texture(mesh.texture, mesh.uv)
    assert torch.equal(colours, torch.stack([BLUE, YELLOW, GREEN, RED]))
    assert mesh.normals is None
    assert mesh.vertex_colours is None


def test_z_up_files_are_rotated_to_y_up(tmp_path):
    path = textured_obj(tmp_path)
    original, rotated = read_mesh(path), read_mesh(path, up_axis="+Z")
    x, y, z = original.vertices.unbind(dim=1)
    assert torch.equal(rotated.vertices, torch.stack([x, z, -y], dim=1))
    with pytest.raises(InputError, match="up_axis is 'Z'"):
        read_mesh(path, up_axis="Z")


def test_obj_materials_are_merged_in_order_of_use(tmp_path):
    mtl = "newmtl a\nmap_Kd colours.png\n\nnewmtl b\nKd 0.5 0.25 1.0\n"
    first = "usemtl b\nf 2/1 3/2 4/3\n"  # used before 'a', which comes first in the MTL
    quarter = "vt 0.1 0.1\nvt 0.4 0.1\nvt 0.4 0.4\n"  # lower left: blue
    path = textured_obj(tmp_path, mtl=mtl)
    path.write_text(
        f"mtllib square.mtl\n{SQUARE}{quarter}{first}usemtl a\nf 1/5 2/6 3/7\nusemtl b\nf 1 3 4\n"
    )
    mesh = read_mesh(path)
    tinted = torch.tensor([0.5, 0.25, 1.0])
    torch.testing.assert_close(
        face_colours(mesh), torch.stack([tinted, tinted, BLUE]), atol=1e-6, rtol=0
    )
    corners = mesh.vertices[mesh.faces][..., :2].tolist()
    assert corners[0] == [[1, 0], [1, 1], [0, 1]]
    assert corners[2] == [[0, 0], [1, 0], [1, 1]]


def test_obj_materials_share_an_image(tmp_path):
    mtl = "newmtl a\nmap_Kd colours.png\nnewmtl b\nmap_Kd colours.png\n"
    path = textured_obj(tmp_path, faces="f 1/1 2/2 3/3\nusemtl b\nf 1/1 3/3 4/4\n", mtl=mtl)
    mesh = read_mesh(path)
    assert mesh.texture.shape == (8, 8, 3)
    assert torch.equal(face_colours(mesh), torch.stack([YELLOW, RED]))


def test_untextured_obj_materials_become_vertex_colours(tmp_path):
    mtl = "newmtl a\nKd 1 0 0\nnewmtl b\nKd 0.5 0.25 0\n"
    path = textured_obj(tmp_path, faces="f 1 2 3\nusemtl b\nf 1 3 4\n", mtl=mtl)
    mesh = read_mesh(path)
    expected = torch.stack([RED, torch.tensor([0.5, 0.25, 0.0])])[:, None].expand(2, 3, 3)
    found = mesh.vertex_colours[mesh.faces]
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    assert mesh.texture is None


def test_polygons_are_triangulated_in_order(tmp_path):
    pentagon = "v 2 0 0\n"
    path = tmp_path / "mixed.obj"
    path.write_text(SQUARE + pentagon + "f 1 2 3\nf 1 2 3 4\nf 1 2 5 3 4\n")
    faces = read_mesh(path).faces.tolist()
    # corners 0, 1, 4 are collinear: a fan from 0 would have a degenerate triangle
    assert faces == [[0, 1, 2], [0, 1, 2], [0, 2, 3], [3, 0, 1], [1, 4, 2], [2, 3, 1]]
    path.write_text(SQUARE + pentagon + "f 1 2 3 4\nf 2 5 3 4\n")
    assert read_mesh(path).faces.tolist() == [[0, 1, 2], [0, 2, 3], [1, 4, 2], [1, 2, 3]]


def test_negative_obj_indices_are_relative_to_their_line(tmp_path):
    path = tmp_path / "back.obj"
    path.write_text(
        "v 0 0 0\nv 1 0 0\nv 0 1 0\nf -3 -2 -1\nv 0 0 5\nv 1 0 5\nv 0 1 5\nf -3 -2 -1\n"
    )
    mesh = read_mesh(path)
    assert mesh.vertices[mesh.faces][..., 2].tolist() == [[0, 0, 0], [5, 5, 5]]
    (tmp_path / "square").mkdir()
    path = textured_obj(tmp_path / "square", faces="f -4/-4 -3/-3 -2/-2\n")
    assert read_mesh(path).uv.tolist() == [[0.25, 0.75], [0.75, 0.75], [0.75, 0.25]]


def test_obj_normals_come_from_the_file_only(tmp_path):
    path = tmp_path / "normals.obj"
    path.write_text(SQUARE + "vn 3 0 0\nvn 0 0 2\nf 1//1 2//2 3//2\n")
    assert read_mesh(path).normals.tolist() == [[1, 0, 0], [0, 0, 1], [0, 0, 1]]
    path.write_text(SQUARE + "f 1 2 3\n")
    assert read_mesh(path).normals is None


def test_obj_vertex_colours_are_srgb_in_0_1_or_0_255(tmp_path):
    path = tmp_path / "coloured.obj"
    for scale in (1.0, 255.0):
        rows = [[0, 0, 0, 0.2, 0.4, 0.6], [1, 0, 0, 0.8, 1.0, 0.0], [0, 1, 0, 0.0, 0.4, 1.0]]
        lines = [" ".join(map(str, [*row[:3], *(c * scale for c in row[3:])])) for row in rows]
        path.write_text("".join(f"v {line}\n" for line in lines) + "vt 0 0\nf 1/1 2/1 3/1\n")
        mesh = read_mesh(path)
        expected = torch.tensor([row[3:] for row in rows])
        torch.testing.assert_close(mesh.vertex_colours, expected, atol=1e-6, rtol=0)


def test_texture_options_and_absolute_paths_are_parsed(tmp_path):
    line = "map_Kd -s 1 1 1 -blendu off -mm 0 1 C:\\textures\\Colours.PNG"
    mesh = read_mesh(textured_obj(tmp_path, mtl=f"newmtl a\n{line}\n"))
    assert torch.equal(face_colours(mesh), torch.stack([YELLOW, RED]))


def test_several_material_files_are_read(tmp_path):
    path = textured_obj(tmp_path, mtl="newmtl other\nKd 1 1 1\n")
    (tmp_path / "second file.mtl").write_text("newmtl a\nmap_Kd colours.png\n")
    path.write_text("mtllib second file.mtl\n" + path.read_text())
    assert torch.equal(face_colours(read_mesh(path)), torch.stack([YELLOW, RED]))


def test_alpha_is_dropped_not_blended(tmp_path):
    path = textured_obj(tmp_path)
    Image.new("RGBA", (2, 2), (255, 128, 0, 0)).save(tmp_path / "colours.png")
    assert (read_mesh(path).texture * 255).unique(dim=1).tolist() == [[[255, 128, 0]]] * 2


PLY = """ply
format ascii 1.0
{comment}element vertex 4
property float x
property float y
property float z
{vertex}element face {count}
property list uchar int vertex_indices
{face}end_header
"""


def ply(rows: list[str], faces: list[str], comment="", vertex="", face="") -> str:
    head = PLY.format(comment=comment, vertex=vertex, face=face, count=len(faces))
    corners = ["0 0 0", "1 0 0", "1 1 0", "0 1 0"]
    body = [f"{corner} {row}".strip() for corner, row in zip(corners, rows, strict=True)]
    return head + "\n".join(body + faces) + "\n"


COLOUR_FIELDS = "".join(f"property uchar {name}\n" for name in ("red", "green", "blue"))


def test_ply_vertex_colours_and_normals(tmp_path):
    fields = "".join(f"property float n{axis}\n" for axis in "xyz") + COLOUR_FIELDS
    rows = ["0 0 1 255 0 0", "0 1 0 0 255 0", "1 0 0 0 0 255", "0 0 -2 51 102 153"]
    path = tmp_path / "square.ply"
    path.write_text(ply(rows, ["3 0 1 2", "3 0 2 3"], vertex=fields))
    mesh = read_mesh(path)
    assert mesh.faces.tolist() == [[0, 1, 2], [0, 2, 3]]
    expected = torch.stack([RED, GREEN, BLUE, torch.tensor([0.2, 0.4, 0.6])])
    torch.testing.assert_close(mesh.vertex_colours, expected)
    assert mesh.normals.tolist() == [[0, 0, 1], [0, 1, 0], [1, 0, 0], [0, 0, -1]]


def test_ply_face_colours_split_the_vertices(tmp_path):
    path = tmp_path / "square.ply"
    faces = ["3 0 1 2 255 0 0", "3 0 2 3 0 0 255"]
    path.write_text(ply([""] * 4, faces, face=COLOUR_FIELDS))
    mesh = read_mesh(path)
    expected = torch.stack([RED, BLUE])[:, None].expand(2, 3, 3)
    assert torch.equal(mesh.vertex_colours[mesh.faces], expected)


@pytest.mark.parametrize("per_face", [False, True])
def test_ply_uv_and_texture_file(tmp_path, per_face):
    save_quadrants(tmp_path / "colours.png")
    uv = ["0.25 0.25", "0.75 0.25", "0.75 0.75", "0.25 0.75"]
    comment = "comment TextureFile colours.png\n"
    if per_face:
        faces = [f"3 {a} {b} {c} 6 {uv[a]} {uv[b]} {uv[c]}" for a, b, c in ((0, 1, 2), (0, 2, 3))]
        content = ply([""] * 4, faces, comment, face="property list uchar float texcoord\n")
    else:
        fields = "property float s\nproperty float t\n"
        content = ply(uv, ["3 0 1 2", "3 0 2 3"], comment, vertex=fields)
    path = tmp_path / "square.ply"
    path.write_text(content)
    mesh = read_mesh(path)
    colours = sample_texture(mesh.texture, mesh.uv)[mesh.faces]
    expected = torch.stack([torch.stack([BLUE, YELLOW, GREEN]), torch.stack([BLUE, GREEN, RED])])
    assert torch.equal(colours, expected)
    (tmp_path / "colours.png").unlink()
    with pytest.raises(
        InputError, match=r"texture colours\.png referenced by square\.ply is missing"
    ):
        read_mesh(path)


def test_ply_with_several_textures_is_rejected(tmp_path):
    path = tmp_path / "square.ply"
    comment = "comment TextureFile a.png\ncomment TextureFile b.png\n"
    path.write_text(ply([""] * 4, ["3 0 1 2"], comment))
    with pytest.raises(InputError, match="2 textures"):
        read_mesh(path)


def stl(triangles: np.ndarray) -> bytes:
    """A binary STL of (F, 3, 3) corners."""
    rows = [struct.pack("<12fH", 0, 0, 0, *corners.reshape(-1), 0) for corners in triangles]
    return b"\0" * 80 + struct.pack("<I", len(rows)) + b"".join(rows)


def test_stl_corners_are_merged_in_order_of_appearance(tmp_path):
    a, b, c, d = [3.0, 0, 0], [1.0, 0, 0], [1.0, 1, 0], [0.0, 1, 0]
    path = tmp_path / "square.stl"
    path.write_bytes(stl(np.array([[a, b, c], [a, c, d]], dtype=np.float32)))
    mesh = read_mesh(path)
    assert mesh.vertices.tolist() == [a, b, c, d]
    assert mesh.faces.tolist() == [[0, 1, 2], [0, 2, 3]]
    assert mesh.normals is None
    text = "solid s\n" + "".join(
        "facet normal 0 0 1\nouter loop\n"
        + "".join("vertex {} {} {}\n".format(*corner) for corner in corners)
        + "endloop\nendfacet\n"
        for corners in ([a, b, c], [a, c, d])
    )
    path.write_text(text + "endsolid s\n")
    reloaded = read_mesh(path)
    assert torch.equal(reloaded.vertices, mesh.vertices)
    assert torch.equal(reloaded.faces, mesh.faces)


def test_off_keeps_its_order(tmp_path):
    path = tmp_path / "square.off"
    path.write_text("OFF\n4 2 0\n0 0 0\n1 0 0\n1 1 0\n0 1 0\n3 0 1 2\n3 0 2 3\n")
    mesh = read_mesh(path)
    assert mesh.vertices.tolist() == [[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]]
    assert mesh.faces.tolist() == [[0, 1, 2], [0, 2, 3]]


@pytest.mark.parametrize("suffix", MESH_READERS)
def test_missing_empty_and_garbage_files_are_reported(tmp_path, suffix):
    path = tmp_path / f"thing{suffix}"
    with pytest.raises(InputError, match=rf"thing\{suffix} does not exist"):
        read_mesh(path)
    path.write_bytes(b"")
    with pytest.raises(InputError, match=rf"thing\{suffix} is empty"):
        read_mesh(path)
    for seed in range(5):
        path.write_bytes(np.random.default_rng(seed).bytes(3000))
        with pytest.raises(InputError, match=rf"thing\{suffix}"):
            read_mesh(path)


def test_unknown_suffix_error_lists_the_supported_ones(tmp_path):
    path = tmp_path / "thing.fbx"
    path.write_bytes(b"Kaydara FBX Binary")
    with pytest.raises(InputError, match=r"thing\.fbx.*\.glb, \.gltf, \.obj, \.ply, \.stl, \.off"):
        read_mesh(path)


def test_suffix_is_case_insensitive(tmp_path):
    path = textured_obj(tmp_path).rename(tmp_path / "SQUARE.OBJ")
    assert len(read_mesh(path).faces) == 2


DAMAGED = {
    "cut.stl": stl(np.ones((4, 3, 3)))[:-7],
    "cut.off": b"OFF\n4 2 0\n0 0 0\n1 0 0\n1 1",
    "cut.ply": ply([""] * 4, ["3 0 1 2"]).encode()[:-30],
    "open.stl": b"solid s\nouter loop\nvertex 0 0 0\nvertex 1 0 0\nvertex 0 1 0\n",
    "points.ply": ply([""] * 4, []).encode(),
    "points.obj": SQUARE.encode(),
    "wrong.obj": (SQUARE + "f 1 2 9\n").encode(),
    "nan.obj": b"v 0 0 0\nv 1 nan 0\nv 0 1 0\nf 1 2 3\n",
    "huge.obj": b"v 0 0 0\nv 1e39 0 0\nv 0 1 0\nf 1 2 3\n",
    "dot.obj": b"v 2 2 2\nv 2 2 2\nv 2 2 2\nf 1 2 3\n",
}
REASONS = {
    "points.ply": "no faces",
    "points.obj": "no faces",
    "nan.obj": "NaN or infinite",
    "huge.obj": "NaN or infinite",
    "dot.obj": "no extent",
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_files_are_rejected_with_a_reason(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(DAMAGED[name])
    with pytest.raises(InputError) as caught:
        read_mesh(path)
    assert name in caught.value.message
    assert REASONS.get(name, "") in caught.value.message
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("cut", [0.02, 0.3, 0.6, 0.9, 0.99])
def test_truncated_binary_ply_is_rejected(tmp_path, make_sphere, cut):
    from nova3d_core.io.mesh.write import write_mesh

    path = write_mesh(make_sphere(subdivisions=1), tmp_path / "ball.ply")
    content = path.read_bytes()
    path.write_bytes(content[: int(cut * len(content))])
    with pytest.raises(InputError, match=r"ball\.ply"):
        read_mesh(path)


def test_missing_mtl_texture_is_an_error(tmp_path):
    path = textured_obj(tmp_path)
    (tmp_path / "colours.png").unlink()
    with pytest.raises(
        InputError, match=r"texture colours\.png referenced by square\.mtl is missing"
    ):
        read_mesh(path)


def test_missing_texture_of_an_unused_material_is_ignored(tmp_path):
    mtl = "newmtl a\nmap_Kd colours.png\nnewmtl unused\nmap_Kd gone.png\n"
    assert read_mesh(textured_obj(tmp_path, mtl=mtl)).texture is not None


def test_damaged_texture_is_an_error(tmp_path):
    path = textured_obj(tmp_path)
    content = io.BytesIO()
    save_quadrants(content, format="PNG")
    (tmp_path / "colours.png").write_bytes(content.getvalue()[:60])
    with pytest.raises(
        InputError, match=r"texture colours\.png referenced by square\.mtl cannot be"
    ):
        read_mesh(path)


def test_missing_mtl_is_a_warning(tmp_path, caplog):
    path = textured_obj(tmp_path)
    (tmp_path / "square.mtl").unlink()
    mesh = read_mesh(path)
    assert mesh.uv.tolist() == [[0.25, 0.75], [0.75, 0.75], [0.75, 0.25], [0.25, 0.25]]
    assert mesh.texture is None
    assert "material file 'square.mtl' is not in the folder" in caplog.text
    path.write_text("mtllib square.mtl\nv 0 0 0\nv 1 0 0\nv 0 1 0\nusemtl a\nf 1 2 3\n")
    assert len(read_mesh(path).faces) == 1
    assert "colours are lost" in caplog.text


def test_real_objects_match_their_manifest(object_files):
    objects = json.loads((object_files / "manifest.json").read_text())["objects"]
    assert len(objects) == 5
    for entry in objects:
        mesh = read_mesh(object_files / entry["file"], entry["up_axis"])
        assert len(mesh.faces) == entry["faces"], entry["name"]
        width, height = entry["texture_px"]
        assert mesh.texture.shape == (height, width, 3), entry["name"]
        size = (mesh.bounds[1] - mesh.bounds[0]).tolist()
        x, y, z = entry["extents"]  # in the file's axes
        expected = [x, z, y] if entry["up_axis"] == "+Z" else [x, y, z]
        assert size == pytest.approx(expected, rel=1e-3, abs=1e-5), entry["name"]
