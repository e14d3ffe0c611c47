"""OBJ variants: known results, equality with trimesh, and errors with line numbers."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nova3d_core.errors import InputError
from nova3d_core.imaging.sampling import sample_texture
from nova3d_core.io.files import text_lines
from nova3d_core.io.mesh.read import read_mesh

FAULTS = Path(__file__).parents[1] / "data" / "faults"
CORNERS = "v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\n"
SQUARE = CORNERS + "f 1 2 3\nf 1 3 4\n"
RED, BLUE = [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]


def write(folder: Path, text: str | bytes, name: str = "square.obj") -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def write_image(path: Path, colour: tuple[int, int, int]) -> None:
    Image.new("RGB", (4, 4), colour).save(path)


def one_line_warning(caplog) -> str:
    """The text of the only warning."""
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    message = record.getMessage()
    assert "\n" not in message
    return message


@pytest.mark.parametrize("name", ["bom.obj", "ngon_concave.obj"])
def test_shared_fault_examples_are_read(name):
    mesh = read_mesh(FAULTS / name)
    if name == "bom.obj":  # the tetrahedron with three edges along the axes
        assert mesh.faces.tolist() == [[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]]
        assert mesh.face_areas.sum() == pytest.approx(1.5 + 3**0.5 / 2)
    else:
        assert mesh.face_areas.sum() == pytest.approx(1.2)
        torch.testing.assert_close(mesh.face_normals, torch.tensor([[0.0, 0, 1]]).expand(3, 3))


@pytest.mark.parametrize(
    "change",
    [
        lambda text: b"\xef\xbb\xbf" + text,
        lambda text: text.replace(b"\n", b"\r\n"),
        lambda text: text.replace(b"\n", b"\r"),
        lambda text: text + b"\0" * 100,
        lambda text: text.rstrip(b"\n"),
        lambda text: text.replace(b" ", b"\t"),
        lambda text: text.replace(b" ", b"   ").replace(b"\n", b"  \n\n"),
        lambda text: text.replace(b"v", b"  V").replace(b"f", b"F"),
        lambda text: text.replace(b"1 3 4", b"1 \\\n3 \\\n 4"),
        lambda text: text.replace(b"\n", b" # a 1 2 comment\n# f 1 2 9 \\\n"),
        lambda text: b"\xff\xfe" + text.decode().encode("utf-16-le"),
        lambda text: b"# caf\xe9 in latin-1\n" + text,
        lambda text: text.replace(b"f 1 2 3", b"f -4 -3 -2"),
        lambda text: text.replace(b"0\n", b"0 1.0\n"),  # w
    ],
)
def test_spelling_variants_give_the_same_mesh(tmp_path, caplog, change):
    mesh = read_mesh(write(tmp_path, change(SQUARE.encode())))
    assert mesh.vertices.tolist() == [[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]]
    assert mesh.faces.tolist() == [[0, 1, 2], [0, 2, 3]]
    assert mesh.vertex_colours is None
    assert not caplog.records


def test_chunk_size_does_not_matter(tmp_path, monkeypatch):
    """Negative indices, materials and line numbers continue across chunks."""
    text = "".join(
        f"v {i} 0 0\nv {i} 1 0\nv {i} 0 1\nvt 0 {i}\nusemtl m{i % 3}\nf -3/-1 -2/-1 -1/-1\n"
        for i in range(20)
    )
    path = write(tmp_path, text)
    whole = read_mesh(path)
    assert whole.vertices[whole.faces][:, :, 0].tolist() == [[i] * 3 for i in range(20)]
    monkeypatch.setattr(text_lines.iter_line_chunks, "__defaults__", (50,))
    chunked = read_mesh(path)
    for name in ("vertices", "faces", "uv"):
        assert torch.equal(getattr(chunked, name), getattr(whole, name))
    path = write(tmp_path, text + "f 1 2 99\n")
    with pytest.raises(InputError, match=r"line 121: a face refers to vertex 99"):
        read_mesh(path)


def random_obj(seed: int, with_uv: bool, with_normals: bool, quads: bool) -> str:
    """An OBJ of random faces and vertices, with separate indices at each corner."""
    rng = np.random.default_rng(seed)
    lines = [f"v {x:.6f} {y:.6f} {z:.6f}" for x, y, z in rng.normal(size=(50, 3))]
    lines += [f"vt {u:.6f} {v:.6f}" for u, v in rng.random((40, 2))] if with_uv else []
    lines += [f"vn {x:.6f} {y:.6f} {z:.6f}" for x, y, z in rng.normal(size=(30, 3))]
    for _ in range(60):
        corners = []
        for vertex in rng.choice(50, 4 if quads else 3, replace=False) + 1:
            texture = str(rng.integers(40) + 1) if with_uv else ""
            normal = f"/{rng.integers(30) + 1}" if with_normals else ""
            slash = "/" if with_uv or with_normals else ""
            corners.append(f"{vertex}{slash}{texture}{normal}")
        lines.append("f " + " ".join(corners))
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("with_uv", [False, True])
@pytest.mark.parametrize("with_normals", [False, True])
def test_corners_equal_trimesh(tmp_path, with_uv, with_normals):
    from trimesh.exchange.obj import load_obj

    text = random_obj(int(with_uv) + 2 * int(with_normals), with_uv, with_normals, quads=False)
    mesh = read_mesh(write(tmp_path, text))
    (theirs,) = load_obj(io.BytesIO(text.encode()))["geometry"].values()
    expected = theirs["vertices"][theirs["faces"]]
    assert np.array_equal(mesh.vertices[mesh.faces].numpy(), expected.astype(np.float32))
    if with_uv:
        uv = theirs["visual"].uv[theirs["faces"]] * [1, -1] + [0, 1]
        np.testing.assert_allclose(mesh.uv[mesh.faces].numpy(), uv, atol=1e-7)
    if with_normals:
        normals = theirs["vertex_normals"]
        normals = normals / np.linalg.norm(normals, axis=1, keepdims=True)
        np.testing.assert_allclose(
            mesh.normals[mesh.faces].numpy(), normals[theirs["faces"]], atol=1e-6
        )


def test_vertices_are_split_only_where_attributes_differ(tmp_path):
    text = CORNERS + "vt 0 0\nvt 1 0\nvt 1 1\nvt 0 1\n"
    shared = read_mesh(write(tmp_path, text + "f 1/1 2/2 3/3\nf 1/1 3/3 4/4\n"))
    assert len(shared.vertices) == 4
    split = read_mesh(write(tmp_path, text + "f 1/1 2/2 3/3\nf 1/2 3/3 4/4\n"))
    assert split.vertices.tolist() == [[0, 0, 0], [0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]]
    assert split.uv.tolist() == [[0, 1], [1, 1], [1, 1], [1, 0], [0, 0]]
    assert split.faces.tolist() == [[0, 2, 3], [1, 3, 4]]


@pytest.mark.parametrize("w", ["", "1.0 "])
def test_vertex_colours_with_and_without_w(tmp_path, w):
    text = f"v 0 0 0 {w}1 0 0\nv 1 0 0 {w}0 0 1\nv 0 1 0 {w}0 0.5 0\nf 1 2 3\n"
    colours = read_mesh(write(tmp_path, text)).vertex_colours
    assert colours.tolist() == [RED, BLUE, [0, 0.5, 0]]


def test_vertices_without_colour_among_coloured_ones_are_white(tmp_path):
    text = "v 0 0 0\nv 1 0 0 0 0 1\nv 0 1 0\nf 1 2 3\n"
    colours = read_mesh(write(tmp_path, text)).vertex_colours
    assert colours.tolist() == [[1, 1, 1], BLUE, [1, 1, 1]]


def test_triangulation_keeps_uv_and_normals(tmp_path):
    """A concave polygon whose uv equal x and y, before and after triangulation."""
    points = [(0, 0), (2, 0), (2, 1), (1, 0.25), (0, 1)]
    text = "".join(f"v {x} {y} 0\n" for x, y in points)
    text += "".join(f"vt {x} {y}\n" for x, y in reversed(points))
    text += "vn 0 0 2\nf " + " ".join(f"{i}/{6 - i}/1" for i in range(1, 6)) + "\n"
    mesh = read_mesh(write(tmp_path, text))
    assert mesh.face_areas.sum() == pytest.approx(1.25)
    uv = torch.stack([mesh.vertices[:, 0], 1 - mesh.vertices[:, 1]], dim=1)
    torch.testing.assert_close(mesh.uv, uv)
    assert mesh.normals.tolist() == [[0, 0, 1]] * 5


def test_only_faces_without_uv_lose_the_texture(tmp_path, caplog):
    write_image(tmp_path / "red.png", (255, 0, 0))
    write(tmp_path, "newmtl a\nKd 0 0 1\nmap_Kd red.png\n", "a.mtl")
    text = f"mtllib a.mtl\n{CORNERS}vt 0.5 0.5\nusemtl a\nf 1/1 2/1 3/1\nf 1 3 4\nf 2/1 3/1 4/1\n"
    mesh = read_mesh(write(tmp_path, text))
    middles = mesh.uv[mesh.faces].mean(dim=1)
    colours = sample_texture(mesh.texture, middles)
    torch.testing.assert_close(colours, torch.tensor([RED, RED, BLUE]), atol=1e-6, rtol=0)
    corners = mesh.vertices[mesh.faces][:, :, :2].tolist()
    assert corners[2] == [[0, 0], [1, 1], [0, 1]]
    assert "faces of a textured material without texture coordinates" in one_line_warning(caplog)


def test_faces_are_ordered_by_material(tmp_path):
    text = CORNERS + "usemtl b\nf 1 2 3\nusemtl a\nf 1 2 4\nusemtl b\nf 1 3 4\n"
    write(tmp_path, "newmtl a\nKd 1 0 0\nnewmtl b\nKd 0 0 1\n", "a.mtl")
    mesh = read_mesh(write(tmp_path, "mtllib a.mtl\n" + text))
    assert mesh.vertex_colours[mesh.faces][:, 0].tolist() == [BLUE, BLUE, RED]
    corners = mesh.vertices[mesh.faces][:, 2, :2].tolist()
    assert corners == [[1, 1], [0, 1], [0, 1]]


@pytest.mark.parametrize(
    "line",
    [
        "mtllib a.mtl",
        "MTLLIB a.mtl",
        'mtllib "a.mtl"',
        "mtllib 'a.mtl'",
        "mtllib a.mtl # the colours",
        "mtllib other.mtl a.mtl",
        'mtllib "other.mtl" "a.mtl"',
        "mtllib other.mtl\nmtllib a.mtl",
        "mtllib ./a.mtl",
        "mtllib sub\\a.mtl",
        "mtllib C:\\Users\\me\\a.mtl",
        "mtllib /home/me/a.mtl",
        "mtllib \\\\server\\share\\a.mtl",
        "mtllib ../a.mtl",
    ],
)
def test_mtllib_name_variants(tmp_path, caplog, line):
    write(tmp_path, "newmtl other\nKd 1 1 1\n", "other.mtl")
    write(tmp_path, "newmtl  the   red\n\tKd 1 0 0\n", "a.mtl")
    mesh = read_mesh(write(tmp_path, f"{line}\n{CORNERS}usemtl the red \nf 1 2 3\n"))
    assert mesh.vertex_colours.tolist() == [RED] * 3
    assert not caplog.records


def test_quoted_mtllib_with_blanks(tmp_path):
    write(tmp_path, "newmtl a\nKd 1 0 0\n", "the red one.mtl")
    for line in ('"the red one.mtl"', "the red one.mtl", "x.mtl 'the red one.mtl'"):
        mesh = read_mesh(write(tmp_path, f"mtllib {line}\n{CORNERS}usemtl a\nf 1 2 3\n"))
        assert mesh.vertex_colours.tolist() == [RED] * 3


def test_no_material_file_outside_the_folder_is_opened(tmp_path, caplog):
    folder = tmp_path / "mesh"
    folder.mkdir()
    write(tmp_path, "newmtl a\nKd 1 0 0\n", "outside.mtl")
    (folder / "link.mtl").symlink_to(tmp_path / "outside.mtl")
    outside = tmp_path / "outside.mtl"
    for name in ("../outside.mtl", str(outside), "link.mtl", "sub/../../outside.mtl"):
        caplog.clear()
        mesh = read_mesh(write(folder, f"mtllib {name}\n{CORNERS}usemtl a\nf 1 2 3\n"))
        assert mesh.vertex_colours is None
        assert "is not in the folder" in one_line_warning(caplog)


@pytest.mark.parametrize("name", ["../outside.png", "..\\outside.png", "{folder}/outside.png"])
def test_no_texture_outside_the_folder_is_opened(tmp_path, name):
    folder = tmp_path / "mesh"
    folder.mkdir()
    write_image(tmp_path / "outside.png", (255, 0, 0))
    for source in ("texture_outside.obj", "texture_outside.mtl"):
        (folder / source).write_bytes((FAULTS / source).read_bytes())
    name = name.format(folder=tmp_path)
    write(folder, f"newmtl m\nmap_Kd {name}\n", "texture_outside.mtl")
    with pytest.raises(InputError, match=r"outside\.png"):
        read_mesh(folder / "texture_outside.obj")


def test_texture_symlink_out_of_the_folder_is_rejected(tmp_path):
    folder = tmp_path / "mesh"
    folder.mkdir()
    write_image(tmp_path / "outside.png", (255, 0, 0))
    (folder / "inside.png").symlink_to(tmp_path / "outside.png")
    write(folder, "newmtl m\nmap_Kd inside.png\n", "a.mtl")
    path = write(folder, f"mtllib a.mtl\n{CORNERS}vt 0 0\nusemtl m\nf 1/1 2/1 3/1\n")
    with pytest.raises(InputError, match=r"inside\.png"):
        read_mesh(path)


@pytest.mark.parametrize(
    ("lines", "colour"),
    [
        ("Kd 1 0 0\nTr 0.5\nd 0.5\nKa 0 1 0\nillum 2\nmap_d x.png", RED),
        ("kd 1 0 0", RED),
        ("Kd 1", [1, 1, 1]),
        ("map_Kd red.png", RED),
        ("map_kd -clamp on -mm 0 1 -o 0 0 0 -s 1 1 1 -t 0 0 0 red.png", RED),
        ('map_Kd "red.png"', RED),
        ("map_Kd -bm 0.5 C:\\textures\\red.png", RED),
        ("Kd 0 0 1\nmap_Kd red.png", RED),
    ],
)
def test_material_statements(tmp_path, lines, colour):
    write_image(tmp_path / "red.png", (255, 0, 0))
    write(tmp_path, f"# made by hand\r\nnewmtl m\r\n{lines}\n", "a.mtl")
    path = write(tmp_path, f"mtllib a.mtl\n{CORNERS}vt 0.5 0.5\nusemtl m\nf 1/1 2/1 3/1\n")
    mesh = read_mesh(path)
    if mesh.texture is not None:
        found = mesh.texture[0, 0].tolist()
    else:
        found = [1, 1, 1] if mesh.vertex_colours is None else mesh.vertex_colours[0].tolist()
    assert found == pytest.approx(colour)


@pytest.mark.parametrize(
    ("before", "material", "warning"),
    [
        ("mtllib gone.mtl\n", "", "material file 'gone.mtl' is not in the folder"),
        ("mtllib a.mtl\nusemtl other\n", "", "the material 'other' is not defined in any MTL"),
        ("mtllib a.mtl\nusemtl m\n", "Kd spectral x.rfl", "an unsupported Kd"),
        ("mtllib a.mtl\nusemtl m\n", "Kd nan 0 0", "an unsupported Kd"),
        ("mtllib a.mtl\nusemtl m\n", "Kd 0,8 0,8 0,8", "an unsupported Kd"),
        ("mtllib a.mtl\nusemtl m\n", "map_Bump x.png", "bump maps are ignored"),
        ("l 1 2\np 1\n", "", "lines are ignored; points are ignored"),
        ("cstype bezier\ndeg 3\nsurf 0 1 0 1 1 2 3 4\nend\n", "", "free-form curves and surfaces"),
        ("call other.obj\n", "", "included files (call)"),
        ("colour 1 2\n", "", "lines that start with 'colour'"),
        ("f 1 2\n", "", "faces with fewer than three corners"),
        ("vn 0 0 1\nf 1//1 2//1 3//1\n", "", "normals that only some faces have"),
        ("f 1/7 2/8 3/9\n", "", "missing texture coordinates"),
    ],
)
def test_one_warning_lists_what_is_ignored(tmp_path, caplog, before, material, warning):
    write(tmp_path, f"newmtl m\n{material}\n", "a.mtl")
    mesh = read_mesh(write(tmp_path, CORNERS + before + "f 1 2 3\n"))
    assert len(mesh.faces) in (1, 2)
    message = one_line_warning(caplog)
    assert warning in message
    assert "square.obj" in message


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("f 0 1 2", r"line 5 \('f 0 1 2'\) has the index 0"),
        ("f 1/0 2/0 3/0", r"line 5 .* has the index 0"),
        ("f 1 2 9", r"line 5: a face refers to vertex 9, but there are 4"),
        ("f -1 -2 -5", r"line 5 .* an index before the first element"),
        ("f 1 2 99999999999999999999", r"line 5: a face refers to vertex"),
        ("f 1 2 x", r"line 5 \('f 1 2 x'\) has corners that are not of the form"),
        ("f 1 2 3.5", r"line 5 .* corners that are not of the form"),
        ("f 1-2 3 4", r"line 5 .* corners that are not of the form"),
        ("f 1/1/1/1 2 3", r"line 5 .* corners that are not of the form"),
        ("f /1 /2 /3", r"line 5 .* corners that are not of the form"),
        ("f 1 / 2 3", r"line 5 .* corners that are not of the form"),
        ("v 1 2", r"line 5 \('v 1 2'\) has fewer than 3 numbers"),
        ("v 1 2 3x", r"line 5 \('v 1 2 3x'\) has values that are not numbers"),
        ("v 1,0 2,0 3,0", r"line 5 .* has values that are not numbers"),
        ("v", r"line 5 \('v'\) has fewer than 3 numbers"),
        ("vt", r"line 5 \('vt'\) has fewer than 1 numbers"),
        ("v 1 \\\n2 \\\n3\nf 1 2 x", r"line 8 \('f 1 2 x'\)"),
    ],
)
def test_damaged_lines_are_reported(tmp_path, line, reason):
    with pytest.raises(InputError, match=reason) as caught:
        read_mesh(write(tmp_path, f"{CORNERS}{line}\nf 1 2 3\n"))
    assert "square.obj" in caught.value.message
    assert len(str(caught.value)) < 500
    assert "Error" not in caught.value.message


@pytest.mark.parametrize("cut", [0.2, 0.5, 0.7])
def test_truncated_obj_with_trailing_vertices_is_rejected(tmp_path, cut):
    text = "f 1 2 3\nf 1 3 4\n" + CORNERS
    assert len(read_mesh(write(tmp_path, text)).faces) == 2
    with pytest.raises(InputError):
        read_mesh(write(tmp_path, text[: int(len(text) * cut)]))


def test_obj_ending_within_a_face_is_rejected(tmp_path):
    assert len(read_mesh(write(tmp_path, SQUARE[:-1])).faces) == 2
    with pytest.raises(InputError, match="line 6: a face ends after 2 corners"):
        read_mesh(write(tmp_path, SQUARE[:-2]))
