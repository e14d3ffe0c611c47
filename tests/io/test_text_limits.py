"""Adversarial files of one megabyte: bounded time and memory, one-line errors."""

from __future__ import annotations

import time
import tracemalloc

import pytest

from nova3d_core.errors import InputError
from nova3d_core.io.mesh.read import read_mesh

MEGABYTE = 1_000_000
OBJ = "v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n"
PLY = (
    "ply\nformat ascii 1.0\nelement vertex 3\nproperty float x\nproperty float y\n"
    "property float z\nelement face 1\nproperty list uchar int vertex_indices\nend_header\n"
    "0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n"
)
STL = (
    "solid\nfacet normal 0 0 1\nouter loop\nvertex 0 0 0\nvertex 1 0 0\nvertex 0 1 0\n"
    "endloop\nendfacet\nendsolid\n"
)
OFF = "OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n"


def repeated(text: str) -> str:
    return text * (MEGABYTE // len(text))


READ = {
    "blanks_in_mtllib.obj": "mtllib a" + " " * 200_000 + "b\n" + OBJ,
    "blanks.obj": OBJ.replace(" ", " " * 80_000),
    "names_in_mtllib.obj": "mtllib " + repeated("a ") + "\n" + OBJ,
    "quotes_in_mtllib.obj": "mtllib " + repeated("\"'") + "\n" + OBJ,
    "comments.obj": repeated("#\n") + OBJ,
    "one_comment.obj": "#" * MEGABYTE + "\n" + OBJ,
    "continued_lines.obj": repeated("\\\n") + OBJ,
    "empty_lines.obj": repeated("\r") + OBJ,
    "unknown_lines.obj": "".join(f"x{i}\n" for i in range(100_000)) + OBJ,
    "materials.obj": OBJ + "".join(f"usemtl a{i}\nf 1 2 3\n" for i in range(50_000)),
    "polygons.obj": OBJ + "f 1 2 3 1 3 2 2 1 3 3 2 1\n" * 10_000,
    "long_index.obj": OBJ + "f 1 2 -1\nf 1 2 " + "0" * MEGABYTE + "3\n",
    "comments.ply": PLY.replace("element v", repeated("comment\n") + "element v", 1),
    "elements.ply": PLY.replace(
        "element v", "element a 999999999999999\n" * 30_000 + "element v", 1
    ),
    "solids.stl": repeated("solid\nendsolid\n") + STL,
    "blanks.stl": STL.replace(" ", " " * 80_000),
    "comments.off": repeated("#\n") + OFF,
    "wrapped_faces.off": OFF.replace("3 1 0", "3 100000 0").replace(
        "3 0 1 2\n", "3\n0 1 2 3 0\n 1 2\n" * 50_000
    ),
}
REFUSED = {
    "libraries.obj": ("".join(f"mtllib a{i}\n" for i in range(80_000)) + OBJ, "100 material files"),
    "long_number.obj": ("v " + "1" * MEGABYTE + " 0 0\n" + OBJ, "NaN or infinite"),
    "large_index.obj": (OBJ + "f 1 2 " + "3" * MEGABYTE, "refers to vertex"),
    "slashes.obj": (OBJ + "f " + "/" * MEGABYTE, "not of the form"),
    "properties.ply": (
        PLY.replace("property float x\n", "property float x\n" * 50_000),
        "too few values",
    ),
    "digits.ply": (PLY.replace("vertex 3", "vertex " + "9" * MEGABYTE), "expected an integer"),
    "textures.ply": (
        PLY.replace("element v", "comment TextureFile a\n" * 40_000 + "element v", 1),
        "40000 textures",
    ),
    "one_line.ply": ("ply\n" + "a" * MEGABYTE, "header has no end"),
    "facets.stl": (repeated("solid\nfacet\n"), "truncated"),
    "binary.stl": ("\0" * 80 + "\x7f" * 4 + "\0" * 1000, "2139062143 triangles"),
    "counts.off": (OFF.replace("3 1 0", "9" * 18 + " 1 0"), "declares 999999999999999999 vertices"),
    "blanks.off": (" " * MEGABYTE + "OF\n", "does not start with OFF"),
}


def write(folder, name: str, text: str):
    path = folder / name
    path.write_bytes(text.encode())
    return path


@pytest.mark.parametrize("name", READ)
def test_one_megabyte_takes_linear_time(tmp_path, name):
    path = write(tmp_path, name, READ[name])
    start = time.process_time()
    assert len(read_mesh(path).faces) >= 1
    assert time.process_time() - start < 5.0  # at most 0.5 s on an idle core


@pytest.mark.parametrize("name", REFUSED)
def test_one_megabyte_of_nonsense_is_rejected_early(tmp_path, name):
    text, reason = REFUSED[name]
    path = write(tmp_path, name, text)
    start = time.process_time()
    with pytest.raises(InputError, match=reason) as caught:
        read_mesh(path)
    assert time.process_time() - start < 5.0  # at most 0.5 s on an idle core
    message = str(caught.value)
    assert name in message
    assert "\n" not in message
    assert len(message) < 500
    assert "Error" not in message


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("vertices.ply", PLY.replace("vertex 3", "vertex 1000000000")),
        ("faces.ply", PLY.replace("face 1", "face 1000000000")),
        ("list.ply", PLY.replace("3 0 1 2", "1000000000 0 1 2")),
        (
            "binary.ply",
            PLY.replace("ascii", "binary_little_endian").replace("vertex 3", "vertex 1000000000"),
        ),
        (
            "binary_list.ply",
            PLY.replace("ascii", "binary_big_endian")
            .replace("vertex 3", "vertex 1")
            .replace("uchar int", "uint int"),
        ),
        ("vertices.off", OFF.replace("3 1 0", "1000000000 1 0")),
        ("faces.off", OFF.replace("3 1 0", "3 1000000000 0")),
        ("corners.off", OFF.replace("3 0 1 2", "1000000000 0 1 2")),
        ("index.obj", OBJ.replace("f 1 2 3", "f 1 2 1000000000")),
        ("facets.stl", "\0" * 80 + "\x7f" * 4 + "\0" * 100),
    ],
)
def test_counts_beyond_the_file_size_allocate_nothing(tmp_path, name, text):
    path = write(tmp_path, name, text)
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=name):
            read_mesh(path)
        assert tracemalloc.get_traced_memory()[1] < 10 * MEGABYTE
    finally:
        tracemalloc.stop()
