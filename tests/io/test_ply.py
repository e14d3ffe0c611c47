"""PLY variants, ASCII and binary, compared with trimesh where that is correct."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nova3d_core.errors import InputError
from nova3d_core.imaging.sampling import sample_texture
from nova3d_core.io.mesh.read import read_mesh

RED, GREEN, BLUE, WHITE = [1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0], [1.0, 1.0, 1.0]
FORMATS = ("ascii", "binary_little_endian", "binary_big_endian")
CODES = {
    **{"char": "b", "uchar": "B", "short": "h", "ushort": "H", "int": "i", "uint": "I"},
    **{"float": "f", "double": "d", "int8": "b", "uint8": "B", "float32": "f", "float64": "d"},
}
CORNERS = [(0, 0, 0), (1, 0, 0), (1, 1, 0), (0, 1, 0)]
XYZ = ("float x", "float y", "float z")
FACES = ("list uchar int vertex_indices",)


def ply(kind: str, *elements, comments: tuple[str, ...] = (), newline: str = "\n") -> bytes:
    """A PLY file of elements (name, property declarations, rows); lists are sequences in a row."""
    order = ">" if kind == "binary_big_endian" else "<"
    lines = ["ply", f"format {kind} 1.0", *comments]
    body = b""
    for name, properties, rows in elements:
        lines.append(f"element {name} {len(rows)}")
        lines += [f"property {declared}" for declared in properties]
        for row in rows:
            words = []
            for declared, value in zip(properties, row, strict=True):
                *types, _ = declared.removeprefix("list ").split()
                values = [len(value), *value] if declared.startswith("list") else [value]
                types = [types[0], *[types[-1]] * (len(values) - 1)] if len(values) > 1 else types
                for item, type_name in zip(values, types, strict=False):
                    words.append(repr(item))
                    if kind != "ascii":
                        body += struct.pack(order + CODES[type_name], item)
            if kind == "ascii":
                body += (" ".join(words) + newline).encode()
    return (newline.join([*lines, "end_header"]) + newline).encode() + body


def write(folder: Path, content: bytes) -> Path:
    path = folder / "square.ply"
    path.write_bytes(content)
    return path


def square(
    kind: str = "ascii", vertex=(), values=((),) * 4, faces=((0, 1, 2), (0, 2, 3)), **options
):
    rows = [(*corner, *more) for corner, more in zip(CORNERS, values, strict=True)]
    return ply(
        kind,
        ("vertex", (*XYZ, *vertex), rows),
        ("face", FACES, [(list(face),) for face in faces]),
        **options,
    )


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_formats_and_line_ends(tmp_path, kind, newline):
    comments = ("comment made by hand", "obj_info num_cols 512", "comment end_header is below")
    mesh = read_mesh(write(tmp_path, square(kind, comments=comments, newline=newline)))
    assert mesh.vertices.tolist() == [[*map(float, corner)] for corner in CORNERS]
    assert mesh.faces.tolist() == [[0, 1, 2], [0, 2, 3]]


@pytest.mark.parametrize("first", [10, 13])
def test_binary_data_starting_with_a_line_end(tmp_path, first):
    """Data starting with CR or LF: only the header's line end is skipped."""
    for newline in ("\n", "\r\n", "\r"):
        rows = [([first] * first,), ([0] * 3,)]
        content = ply(
            "binary_little_endian",
            ("history", ("list uchar uchar bytes",), rows),
            ("vertex", XYZ, CORNERS),
            ("face", FACES, [([0, 1, 2],)]),
            newline=newline,
        )
        assert read_mesh(write(tmp_path, content)).faces.tolist() == [[0, 1, 2]]


def test_bom_nul_padding_and_capital_magic(tmp_path):
    content = square()
    for changed in (b"\xef\xbb\xbf" + content, content + b"\0" * 64, b"PLY" + content[3:]):
        assert len(read_mesh(write(tmp_path, changed)).faces) == 2


@pytest.mark.parametrize("kind", FORMATS)
def test_triangles_quads_and_larger_polygons_together(tmp_path, kind):
    concave = [(0, 0, 5), (2, 0, 5), (2, 1, 5), (1, 0.25, 5), (0, 1, 5)]
    faces = [([0, 1, 2],), ([4, 5, 6, 7, 8],), ([0, 1, 2, 3],), ([0, 2, 3],)]
    content = ply(kind, ("vertex", XYZ, CORNERS + concave), ("face", FACES, faces))
    mesh = read_mesh(write(tmp_path, content))
    assert mesh.faces[[0, 4, 5, 6]].tolist() == [[0, 1, 2], [0, 1, 2], [0, 2, 3], [0, 2, 3]]
    assert mesh.face_areas[1:4].sum() == pytest.approx(1.25)
    torch.testing.assert_close(mesh.face_normals, torch.tensor([[0.0, 0, 1]]).expand(7, 3))


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("size", [3, 4])
def test_uniform_files_equal_trimesh(tmp_path, kind, size):
    from trimesh.exchange.ply import load_ply

    rng = np.random.default_rng(size)
    vertex = (*XYZ, "float nx", "float ny", "float nz", "uchar red", "uchar green", "uchar blue")
    rows = [
        (*row[:6], *(int(255 * c) for c in row[6:]))
        for row in np.float32(rng.random((40, 9))).tolist()
    ]
    faces = [(rng.choice(40, size, replace=False).tolist(),) for _ in range(30)]
    content = ply(kind, ("vertex", vertex, rows), ("face", FACES, faces))
    mesh = read_mesh(write(tmp_path, content))
    theirs = load_ply(io.BytesIO(content))
    assert np.array_equal(mesh.vertices.numpy(), theirs["vertices"].astype(np.float32))
    normals = theirs["vertex_normals"].astype(np.float64)
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    np.testing.assert_allclose(mesh.normals.numpy(), normals, atol=1e-6)
    colours = (mesh.vertex_colours * 255).round().numpy()
    assert np.array_equal(colours, theirs["vertex_colors"][:, :3])
    found = mesh.faces.numpy().reshape(len(faces), -1)  # (F, 3), or (F, 6) of quads
    if size == 3:
        assert np.array_equal(found, theirs["faces"])
    else:  # which diagonal is inside depends on the quad
        assert [set(row) for row in found.tolist()] == [
            set(row) for row in theirs["faces"].tolist()
        ]


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("names", [("red", "green", "blue"), ("r", "g", "b"), ("diffuse_red",)])
@pytest.mark.parametrize(
    ("type_name", "top"),
    [("uchar", 255), ("uint8", 255), ("ushort", 65535), ("int", 255), ("float", 1.0)],
)
def test_vertex_colour_property_names(tmp_path, kind, names, type_name, top):
    if len(names) == 1:
        names = ("diffuse_red", "diffuse_green", "diffuse_blue")
    fields = [f"{type_name} {name}" for name in (*names, "alpha")]
    zero = top * 0
    values = [(top, zero, zero, zero), (zero, top, zero, zero), (zero, zero, top, top), (top,) * 4]
    mesh = read_mesh(write(tmp_path, square(kind, fields, values)))
    assert mesh.vertex_colours.tolist() == [RED, GREEN, BLUE, WHITE]


def test_float_colours_in_0_255_and_0_1(tmp_path):
    fields = ("double red", "double green", "double blue")
    for top in (1.0, 255.0):
        values = [(0.2 * top, 0.4 * top, 0.6 * top)] * 3 + [(top, 0.0, 0.0)]
        colours = read_mesh(write(tmp_path, square("ascii", fields, values))).vertex_colours
        torch.testing.assert_close(colours[0], torch.tensor([0.2, 0.4, 0.6]))


@pytest.mark.parametrize("kind", FORMATS)
def test_face_colours_split_vertices_only_between_colours(tmp_path, kind):
    face = (*FACES, "uchar r", "uchar g", "uchar b")
    rows = [([0, 1, 2, 3], 255, 0, 0), ([0, 2, 1], 0, 0, 255), ([0, 3, 2], 0, 0, 255)]
    content = ply(kind, ("vertex", XYZ, CORNERS), ("face", face, rows))
    mesh = read_mesh(write(tmp_path, content))
    colours = mesh.vertex_colours[mesh.faces]
    expected = torch.tensor([RED, RED, BLUE, BLUE])[:, None].expand(4, 3, 3)
    assert torch.equal(colours, expected)
    assert len(mesh.vertices) == 8


def test_face_colours_with_vertex_colours_are_reported(tmp_path, caplog):
    colour = ("uchar red", "uchar green", "uchar blue")
    rows = [(*corner, 255, 0, 0) for corner in CORNERS]
    content = ply(
        "ascii",
        ("vertex", (*XYZ, *colour), rows),
        ("face", (*FACES, *colour), [([0, 1, 2], 0, 0, 255)]),
    )
    assert read_mesh(write(tmp_path, content)).vertex_colours.tolist() == [RED] * 4
    (record,) = caplog.records
    assert "face colours are ignored" in record.getMessage()


@pytest.mark.parametrize("kind", FORMATS)
def test_triangle_strips_reverse_every_second_triangle(tmp_path, kind):
    grid = [(x, y, 0) for x in range(4) for y in (0, 1)]
    strips = [([1, 0, 3, 2, 5, 4, -1, 5, 4, 7, 6],), ([0, 1, 2, 2, 3],)]
    content = ply(
        kind,
        ("vertex", XYZ, grid),
        ("tristrips", ("list int int vertex_indices",), strips),
    )
    mesh = read_mesh(write(tmp_path, content))
    assert mesh.faces.tolist() == [
        *([1, 0, 3], [3, 0, 2], [3, 2, 5], [5, 2, 4]),
        *([5, 4, 7], [7, 4, 6]),
        [0, 1, 2],
    ]
    assert (mesh.face_normals[:6, 2] == 1).all()


@pytest.mark.parametrize("kind", FORMATS)
def test_strips_after_coloured_faces_are_white(tmp_path, kind):
    face = (*FACES, "uchar red", "uchar green", "uchar blue")
    content = ply(
        kind,
        ("vertex", XYZ, CORNERS),
        ("face", face, [([0, 1, 2], 255, 0, 0)]),
        ("tristrips", FACES, [([2, 3, 0],)]),
    )
    mesh = read_mesh(write(tmp_path, content))
    expected = torch.tensor([RED, WHITE])[:, None].expand(2, 3, 3)
    assert torch.equal(mesh.vertex_colours[mesh.faces], expected)
    assert mesh.vertices[mesh.faces].int().tolist() == [
        [list(CORNERS[i]) for i in corners] for corners in ((0, 1, 2), (2, 3, 0))
    ]


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("names", ["u v", "s t", "texture_u texture_v"])
def test_uv_per_vertex(tmp_path, kind, names):
    fields = [f"float {name}" for name in names.split()]
    values = [(0.25, 0.0), (0.5, 0.0), (0.5, 0.75), (0.25, 0.75)]
    uv = read_mesh(write(tmp_path, square(kind, fields, values))).uv
    assert uv.tolist() == [[0.25, 1.0], [0.5, 1.0], [0.5, 0.25], [0.25, 0.25]]


def save_colour(path: Path, colour: list[float]) -> None:
    Image.new("RGB", (4, 4), tuple(int(255 * level) for level in colour)).save(path)


@pytest.mark.parametrize("kind", FORMATS)
def test_uv_and_texture_numbers_per_face(tmp_path, kind, caplog):
    """Faces of mixed sizes with different textures, and one without texture."""
    save_colour(tmp_path / "red.png", RED)
    save_colour(tmp_path / "the blue.png", BLUE)
    face = (*FACES, "list uchar float texcoord", "int texnumber")
    uv = [0.25, 0.25, 0.75, 0.25, 0.75, 0.75]
    rows = [
        ([0, 1, 2], uv, 0),
        ([0, 1, 2, 3], [*uv, 0.25, 0.75], 1),
        ([0, 2, 3], [], -1),
        ([1, 2, 3], uv, 0),
    ]
    content = ply(
        kind,
        ("vertex", XYZ, CORNERS),
        ("face", face, rows),
        comments=("comment TextureFile red.png", "comment texturefile  the blue.png"),
    )
    mesh = read_mesh(write(tmp_path, content))
    colours = sample_texture(mesh.texture, mesh.uv[mesh.faces].mean(dim=1)).round().tolist()
    corners = mesh.vertices[mesh.faces].int().tolist()
    a, b, c, d = map(list, CORNERS)
    expected = [
        *(([a, b, c], RED), ([b, c, d], RED)),
        *(([a, b, c], BLUE), ([a, c, d], BLUE)),
        ([a, c, d], WHITE),
    ]
    assert sorted(zip(corners, colours, strict=True)) == sorted(expected)
    (record,) = caplog.records
    assert "faces without texture coordinates" in record.getMessage()


def test_no_texture_outside_the_folder_is_opened(tmp_path):
    folder = tmp_path / "mesh"
    folder.mkdir()
    save_colour(tmp_path / "outside.png", RED)
    (folder / "link.png").symlink_to(tmp_path / "outside.png")
    values = [(0.5, 0.5)] * 4
    for name in ("../outside.png", str(tmp_path / "outside.png"), "..\\outside.png", "link.png"):
        comments = (f"comment TextureFile {name}",)
        content = square("ascii", ("float u", "float v"), values, comments=comments)
        with pytest.raises(InputError, match=r"(outside|link)\.png"):
            read_mesh(write(folder, content))


def test_absolute_texture_path_is_found_by_base_name(tmp_path):
    save_colour(tmp_path / "red.png", RED)
    comments = ("comment TextureFile C:\\Users\\me\\Red.PNG",)
    content = square("ascii", ("float u", "float v"), [(0.5, 0.5)] * 4, comments=comments)
    assert read_mesh(write(tmp_path, content)).texture[0, 0].tolist() == RED


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("name", ["vertex_index", "vertex_indices", "indices"])
@pytest.mark.parametrize("types", ["uchar int", "int uint", "ushort ushort", "char short"])
def test_index_lists_of_any_type(tmp_path, kind, name, types):
    faces = [([0, 1, 2],), ([0, 2, 3],)]
    content = ply(kind, ("vertex", XYZ, CORNERS), ("face", (f"list {types} {name}",), faces))
    assert read_mesh(write(tmp_path, content)).faces.tolist() == [[0, 1, 2], [0, 2, 3]]


@pytest.mark.parametrize("kind", FORMATS)
def test_doubles_are_read_and_other_elements_skipped(tmp_path, kind, caplog):
    corners = [(1e6 + 0.125 * x, 2e6 + 0.125 * y, z) for x, y, z in CORNERS]
    content = ply(
        kind,
        (
            "camera",
            ("float view_px", "list uchar double extra"),
            [(1.0, [1.0] * k) for k in (2, 0)],
        ),
        (
            "vertex",
            ("double x", "double y", "double z", "float quality"),
            [(*c, 1.0) for c in corners],
        ),
        ("edge", ("int vertex1", "int vertex2"), [(0, 1)]),
        ("face", ("uchar flags", *FACES, "int group"), [(1, [0, 1, 2], 7), (1, [0, 1, 2, 3], 8)]),
        ("nothing", (), []),
    )
    mesh = read_mesh(write(tmp_path, content))
    assert mesh.faces.tolist() == [[0, 1, 2], [0, 1, 2], [0, 2, 3]]
    edges = mesh.vertices[1] - mesh.vertices[0]
    assert edges.tolist() == [0.125, 0, 0]
    (record,) = caplog.records
    assert "elements camera, edge are ignored" in record.getMessage()


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("mixed", [False, True])
def test_truncated_files_are_rejected(tmp_path, kind, mixed):
    faces = ((0, 1, 2, 3), (0, 1, 2), (0, 2, 3)) if mixed else ((0, 1, 2), (0, 2, 3))
    content = square(kind, faces=faces)
    assert len(read_mesh(write(tmp_path, content)).faces) == len(faces) + mixed
    end = len(content.rstrip(b"\n")) if kind == "ascii" else len(content)
    for cut in range(1, end):
        with pytest.raises(InputError, match=r"square\.ply") as caught:
            read_mesh(write(tmp_path, content[:cut]))
        assert "Error" not in caught.value.message
        assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (b"vertex 4", b"vertex 999999999999", "declares 999999999999 rows of 'vertex'"),
        (b"face 2", b"face 999999999999", "declares 999999999999 rows of 'face'"),
        (b"vertex 4", b"vertex -4", "expected an integer"),
        (b"vertex 4", b"vertex " + b"9" * 5000, "expected an integer"),
        (b"vertex 4", b"vertex", "is damaged"),
        (b"format ascii 1.0\n", b"", "no format line"),
        (b"ascii", b"binary", "an unknown format"),
        (b"float x", b"complex x", "an unknown type"),
        (b"float x", b"float w", "no vertices with x, y and z"),
        (b"uchar int", b"float int", "a list with a fractional length type"),
        (b"element vertex 4\n", b"", "not preceded by an element"),
        (b"list uchar int vertex_indices", b"int a", "no list vertex_indices"),
        (b"3 0 2 3", b"3 0 2 4", "refers to vertex 4, but there are 4"),
        (b"3 0 2 3", b"3 0 2 -1", "refers to vertex -1"),
        (b"3 0 2 3", b"3 0 2 1.5", "has the fractional value 1.5"),
        (b"3 0 2 3", b"3 0 2 nan", "has the value nan"),
        (b"3 0 2 3", b"nan 0 2 3", "has the length nan"),
        (b"3 0 2 3", b"-1 0 2 3", "has the length -1"),
        (b"3 0 2 3", b"1e18 0 2 3", "has the length 1e"),
        (b"3 0 2 3", b"4000000000 0 2 3", "too few values"),
        (b"3 0 2 3", b"3 0 two 3", "too few values"),
        (b"ply", b"plx", "not a PLY file"),
    ],
)
def test_damaged_headers_and_values_are_reported(tmp_path, old, new, reason):
    content = square()
    assert old in content
    with pytest.raises(InputError, match=reason) as caught:
        read_mesh(write(tmp_path, content.replace(old, new, 1)))
    assert len(str(caught.value)) < 500
    assert "Error" not in caught.value.message


def test_sphere_of_quads_and_triangles_has_the_volume_of_trimesh(tmp_path):
    import trimesh

    sphere = trimesh.creation.uv_sphere(count=[12, 12])
    used, polygons = set(), []
    for a, b in sphere.face_adjacency.tolist():
        if a in used or b in used:
            continue
        first, second = sphere.faces[a].tolist(), sphere.faces[b].tolist()
        lone = next(k for k in range(3) if first[k] not in second)
        tip = next(vertex for vertex in second if vertex not in first)
        # starts at the common edge, so that the fan splits along it
        polygons.append([first[(lone + 1) % 3], tip, first[(lone + 2) % 3], first[lone]])
        used |= {a, b}
        if len(polygons) == 40:
            break
    polygons += [face.tolist() for k, face in enumerate(sphere.faces) if k not in used]
    content = ply(
        "binary_big_endian",
        ("vertex", ("double x", "double y", "double z"), sphere.vertices.tolist()),
        ("face", FACES, [(polygon,) for polygon in polygons]),
    )
    mesh = read_mesh(write(tmp_path, content)).as_trimesh()
    assert len(mesh.faces) == len(sphere.faces)
    assert mesh.is_watertight
    assert mesh.volume == pytest.approx(sphere.volume, rel=1e-6)
