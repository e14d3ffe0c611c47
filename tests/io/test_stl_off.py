"""STL and OFF variants, compared with trimesh where that is correct."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from nova3d_core.errors import InputError
from nova3d_core.io.mesh.read import read_mesh

FAULTS = Path(__file__).parents[1] / "data" / "faults"
RED, GREEN, BLUE, WHITE = [1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0], [1.0, 1.0, 1.0]
A, B, C, D = [0.0, 0, 0], [1.0, 0, 0], [1.0, 1, 0], [0.0, 1, 0]
TRIANGLES = ((A, B, C), (A, C, D))


def write(folder: Path, content: str | bytes, name: str) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def binary_stl(header: bytes = b"", attribute: int = 0, normal: float = 0.0) -> bytes:
    facets = [
        struct.pack("<12fH", *[normal] * 3, *np.ravel(corners), attribute) for corners in TRIANGLES
    ]
    return header.ljust(80, b"\0") + struct.pack("<I", len(facets)) + b"".join(facets)


def ascii_stl(triangles=TRIANGLES, name: str = " a part") -> str:
    facets = "".join(
        "  facet normal 0 0 nan\n    outer loop\n"
        + "".join("      vertex {:e} {} {}\n".format(*corner) for corner in corners)
        + "    endloop\n  endfacet\n"
        for corners in triangles
    )
    return f"solid{name}\n{facets}endsolid{name}\n"


def check_square(mesh) -> None:
    assert mesh.vertices.tolist() == [A, B, C, D]
    assert mesh.faces.tolist() == [[0, 1, 2], [0, 2, 3]]
    assert mesh.normals is None


@pytest.mark.parametrize(
    "content",
    [
        ascii_stl(),
        ascii_stl(name=""),
        ascii_stl(name=" vertex 1 2 3"),
        ascii_stl().upper().replace("NAN", "0"),
        ascii_stl().replace("\n", "\r\n"),
        ascii_stl().replace("\n", "\r"),
        ascii_stl().replace("  ", "\t"),
        "\ufeff" + ascii_stl(),
        ascii_stl() + "\0" * 100,
        ascii_stl(TRIANGLES[:1]) + "\n" + ascii_stl(TRIANGLES[1:], name=" other"),
        ascii_stl().replace("endsolid", "end solid"),
        binary_stl(),
        binary_stl(b"solid facet vertex endsolid"),
        binary_stl(normal=float("nan")),
        binary_stl() + b"trailing",
        binary_stl(b"solid made by something") + b"\0" * 49,
    ],
)
def test_stl_variants(tmp_path, caplog, content):
    check_square(read_mesh(write(tmp_path, content, "a.stl")))
    assert not caplog.records


def test_stl_equals_trimesh(tmp_path, make_sphere):
    from trimesh.exchange.stl import export_stl, export_stl_ascii, load_stl

    sphere = make_sphere(subdivisions=2).as_trimesh()
    for content in (export_stl(sphere), export_stl_ascii(sphere).encode()):
        mesh = read_mesh(write(tmp_path, content, "a.stl"))
        theirs = load_stl(io.BytesIO(content))
        if "geometry" in theirs:
            (theirs,) = theirs["geometry"].values()
        corners = theirs["vertices"][theirs["faces"]].astype(np.float32)
        assert np.array_equal(mesh.vertices[mesh.faces].numpy(), corners)
        assert len(mesh.vertices) == len(sphere.vertices)
        assert mesh.as_trimesh().is_watertight


@pytest.mark.parametrize("options", [{"attribute": 0x8000 | 31}, {"header": b"COLOR=\1\2\3\4"}])
def test_facet_colours_give_a_warning(tmp_path, caplog, options):
    check_square(read_mesh(write(tmp_path, binary_stl(**options), "a.stl")))
    (record,) = caplog.records
    assert "facet colours are ignored" in record.getMessage()


@pytest.mark.parametrize("cut", range(1, 184, 13))
def test_truncated_binary_stl_is_rejected(tmp_path, cut):
    with pytest.raises(InputError, match=r"a\.stl is not an STL file, or truncated"):
        read_mesh(write(tmp_path, binary_stl()[:-cut], "a.stl"))


def test_truncated_ascii_stl_is_rejected(tmp_path):
    content = ascii_stl().rstrip("\n")
    for cut in range(1, content.rindex("endsolid") + 8, 3):
        with pytest.raises(InputError, match=r"a\.stl") as caught:
            read_mesh(write(tmp_path, content[:cut], "a.stl"))
        assert "Error" not in caught.value.message


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("vertex 0", "vortex 0", "a facet does not have three vertices"),
        ("vertex 0.000000e+00 0.0 0", "vertex 0 0", r"line 4 .* does not have three values"),
        ("vertex 0.000000e+00", "vertex zero", r"line 4 .* has values that are not numbers"),
        ("endfacet", "", "truncated"),
    ],
)
def test_damaged_ascii_stl_is_rejected(tmp_path, old, new, reason):
    text = ascii_stl().replace("0.000000e+00 0 0", "0.000000e+00 0.0 0")
    assert old in text
    with pytest.raises(InputError, match=reason):
        read_mesh(write(tmp_path, text.replace(old, new, 1), "a.stl"))


def test_facet_count_is_checked_before_allocation(tmp_path):
    content = b"\0" * 80 + struct.pack("<I", 0xFFFFFFFF) + b"\0" * 100
    with pytest.raises(InputError, match="a header for 4294967295 triangles and 184 bytes"):
        read_mesh(write(tmp_path, content, "a.stl"))


# ---- OFF ----

OFF = "OFF\n4 2 5\n0 0 0\n1 0 0\n1 1 0\n0 1 0\n3 0 1 2\n3 0 2 3\n"


def test_shared_fault_off_coloured():
    mesh = read_mesh(FAULTS / "off_coloured.off")
    assert mesh.vertex_colours.tolist() == [RED] * 4
    assert mesh.faces.tolist() == [[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]]


@pytest.mark.parametrize(
    "text",
    [
        OFF,
        OFF.replace("OFF\n", "OFF "),
        OFF.replace("OFF", "off"),
        OFF.replace(" 5\n", "\n"),
        OFF.replace("4 2 5", "4\n2\n5"),
        OFF.replace("\n", "\r\n"),
        OFF.replace("\n", "\r"),
        "\ufeff" + OFF,
        OFF + "\0" * 50,
        OFF.rstrip("\n"),
        OFF.replace("\n", " # 3 4 5 comment\n\n"),
        "# made by hand\n\n" + OFF,
        OFF.replace(" ", "\t  "),
        OFF.replace("3 0 1 2\n3 0 2 3\n", "3 0 1 2 3 0 2 3\n"),
        OFF.replace("3 0 1 2\n3 0 2 3\n", "3\n0 1\n2 3 0\n2\n3\n"),
        OFF.replace("1 0 0\n1 1 0\n", "1 0 0 1\n1 0\n"),
        OFF.replace("\n3 0 1", " 3 0 1"),
    ],
)
def test_off_variants(tmp_path, caplog, text):
    check_square(read_mesh(write(tmp_path, text, "a.off")))
    assert not caplog.records


def test_off_polygons_on_one_or_several_lines(tmp_path):
    points = "0 0 0\n2 0 0\n2 1 0\n1 0.25 0\n0 1 0\n"
    for faces in ("5 0 1 2 3 4\n3 0 1 2\n", "5 0 1 2\n3 4\n3 0 1\n2\n", "5\n0 1 2 3 4 3 0 1 2"):
        mesh = read_mesh(write(tmp_path, f"OFF\n5 2 0\n{points}{faces}", "a.off"))
        assert mesh.face_areas[:3].sum() == pytest.approx(1.25)
        assert (mesh.face_normals[:, 2] == 1).all()
        assert mesh.faces[3].tolist() == [0, 1, 2]


@pytest.mark.parametrize("magic", ["COFF", "OFF", "coff"])
@pytest.mark.parametrize(
    "colours",
    [
        ["255 0 0 255", "0 255 0 0", "0 0 255 128", "255 255 255 255"],
        ["255 0 0", "0 255 0", "0 0 255", "255 255 255"],
        ["1.0 0.0 0.0 1.0", "0.0 1.0 0.0 1.0", "0.0 0.0 1.0 1.0", "1.0 1.0 1.0 1.0"],
        ["1 0 0", "0 1 0", "0 0 1", "1 1 1"],
    ],
)
def test_off_vertex_colours(tmp_path, magic, colours):
    corners = ["0 0 0", "1 0 0", "1 1 0", "0 1 0"]
    rows = "".join(f"{corner} {colour}\n" for corner, colour in zip(corners, colours, strict=True))
    text = f"{magic}\n4 2 0\n{rows}3 0 1 2\n3 0 2 3\n"
    mesh = read_mesh(write(tmp_path, text, "a.off"))
    assert mesh.vertices.tolist() == [A, B, C, D]
    assert mesh.vertex_colours.tolist() == [RED, GREEN, BLUE, WHITE]


def test_off_normals_colours_and_uv_in_one_header(tmp_path):
    rows = "".join(
        f"{x} {y} 0 0 0 2 255 0 0 255 {x / 2} {y / 4}\n"
        for x, y in ((0, 0), (1, 0), (1, 1), (0, 1))
    )
    mesh = read_mesh(write(tmp_path, f"STCNOFF\n4 1 0\n{rows}4 0 1 2 3\n", "a.off"))
    assert mesh.normals.tolist() == [[0, 0, 1]] * 4
    assert mesh.vertex_colours.tolist() == [RED] * 4
    assert mesh.uv.tolist() == [[0, 1], [0.5, 1], [0.5, 0.75], [0, 0.75]]
    mesh = read_mesh(
        write(tmp_path, OFF.replace("OFF", "NOFF").replace(" 0\n", " 0 1 0 0\n"), "a.off")
    )
    assert mesh.normals.tolist() == [[1, 0, 0]] * 4
    assert mesh.vertices.tolist() == [A, B, C, D]


@pytest.mark.parametrize(
    ("first", "second"), [("255 0 0", "0 0 255"), ("1.0 0.0 0.0 0.5", "0.0 0.0 1.0 0.5")]
)
def test_off_face_colours_split_the_vertices(tmp_path, first, second):
    text = OFF.replace("3 0 1 2", f"3 0 1 2 {first}").replace("3 0 2 3", f"3 0 2 3 {second}")
    mesh = read_mesh(write(tmp_path, text, "a.off"))
    expected = torch.tensor([RED, BLUE])[:, None].expand(2, 3, 3)
    assert torch.equal(mesh.vertex_colours[mesh.faces], expected)
    assert mesh.vertices[mesh.faces].tolist() == [list(corners) for corners in TRIANGLES]


def test_off_faces_without_colour_are_white(tmp_path):
    mesh = read_mesh(write(tmp_path, OFF.replace("3 0 1 2", "3 0 1 2 0 0 255"), "a.off"))
    expected = torch.tensor([BLUE, WHITE])[:, None].expand(2, 3, 3)
    assert torch.equal(mesh.vertex_colours[mesh.faces], expected)


@pytest.mark.parametrize(
    ("old", "new", "warning"),
    [
        ("3 0 1 2", "3 0 1 2 7", "face colours other than RGB or RGBA"),
        ("3 0 1 2\n", "2 0 1\n", "faces with fewer than three corners"),
        (" 0\n", " 0 9 9\n", "2 extra values per vertex"),
    ],
)
def test_off_warning_lists_what_is_ignored(tmp_path, caplog, old, new, warning):
    mesh = read_mesh(write(tmp_path, OFF.replace(old, new), "a.off"))
    assert mesh.vertex_colours is None
    (record,) = caplog.records
    assert warning in record.getMessage()


def test_off_equals_trimesh(tmp_path, make_sphere):
    from trimesh.exchange.off import export_off, load_off

    sphere = make_sphere(subdivisions=2).as_trimesh()
    content = export_off(sphere).encode()
    mesh = read_mesh(write(tmp_path, content, "a.off"))
    theirs = load_off(io.BytesIO(content))
    assert np.array_equal(mesh.vertices.numpy(), theirs["vertices"].astype(np.float32))
    assert np.array_equal(mesh.faces.numpy(), theirs["faces"])


def test_truncated_off_is_rejected(tmp_path):
    content = OFF.rstrip("\n")
    for cut in range(1, len(content)):
        with pytest.raises(InputError, match=r"a\.off") as caught:
            read_mesh(write(tmp_path, content[:cut], "a.off"))
        assert "Error" not in caught.value.message


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("4 2 5", "999999999999999999 2 5", "declares 999999999999999999 vertices"),
        ("4 2 5", "4 999999999999999999 5", "declares 999999999999999999 faces"),
        ("4 2 5", "-4 2 5", "the number of vertices is '-4'"),
        ("4 2 5", "4 two 5", "the number of faces is 'two'"),
        ("4 2 5", "4 3 5", "declares 3 faces but has fewer"),
        ("3 0 2 3", "999999999 0 2 3", "declares 2 faces but has fewer"),
        ("3 0 2 3", "3 0 2 9", "refers to vertex 9, but there are 4"),
        ("3 0 2 3", "3 0 2 -1", "refers to vertex -1"),
        ("3 0 2 3", "3 0 2 2.5", "a fractional vertex index"),
        ("3 0 2 3", "3 0 2 nan", "a fractional vertex index"),
        ("3 0 2 3", "nan 0 2 3", "declares 2 faces but has fewer"),
        ("1 1 0", "1 one 0", "declares 4 vertices but has fewer"),
        ("OFF", "OFF BINARY", "'OFF BINARY', which is not supported"),
        ("OFF", "4OFF", "'4OFF', which is not supported"),
        ("OFF", "nOFF", "'nOFF', which is not supported"),
        ("OFF", "OFFLINE", "does not start with OFF"),
    ],
)
def test_damaged_off_files_are_reported(tmp_path, old, new, reason):
    with pytest.raises(InputError, match=reason) as caught:
        read_mesh(write(tmp_path, OFF.replace(old, new, 1), "a.off"))
    assert len(str(caught.value)) < 500
    assert "Error" not in caught.value.message
