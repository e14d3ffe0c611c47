"""Variants of OBJ and MTL written by real programs, with known results."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nova3d_core.io.mesh.read import read_mesh

TRIANGLE = ((0, 0, 0), (1, 0, 0), (0, 1, 0))
COLOURS = ((0.2, 0.4, 0.6), (0.8, 0.1, 0.3), (0.5, 0.7, 0.9))


def write_obj(path: Path, ends: list[str], tail: str = "f 1 2 3\n", head: str = "") -> Path:
    lines = [f"v {x} {y} {z} {end}" for (x, y, z), end in zip(TRIANGLE, ends, strict=True)]
    path.write_text(head + "\n".join(lines) + "\n" + tail)
    return path


@pytest.mark.parametrize(
    ("before", "after"), [("", ""), ("", " 1"), ("", " 0.5"), ("1 ", "")], ids=repr
)
def test_vertex_colours_with_alpha_or_weight(tmp_path, before, after):
    ends = [f"{before}{r} {g} {b}{after}" for r, g, b in COLOURS]
    mesh = read_mesh(write_obj(tmp_path / "toy.obj", ends))
    np.testing.assert_allclose(mesh.vertex_colours.numpy(), COLOURS, atol=1e-6)


def test_pure_red_with_alpha_is_red(tmp_path):
    mesh = read_mesh(write_obj(tmp_path / "toy.obj", ["1 0 0 1"] * 3))
    assert mesh.vertex_colours.tolist() == [[1.0, 0.0, 0.0]] * 3


@pytest.mark.parametrize("breaks", [0, 8, 16])
def test_zbrush_polypaint(tmp_path, breaks):
    digits = "ff336699" + "ffcc1a4d" + "ff80b3e6"
    lines = [digits[:breaks], digits[breaks:]] if breaks else [digits]
    tail = "".join(f"#MRGB {line}\n" for line in lines) + "f 1 2 3\n"
    mesh = read_mesh(write_obj(tmp_path / "toy.obj", [""] * 3, tail))
    np.testing.assert_allclose(mesh.vertex_colours.numpy(), COLOURS, atol=0.5 / 255 + 1e-6)


@pytest.mark.parametrize("digits", ["ff336699", "ff33669", "ff3366zz" * 3])
def test_mismatched_polypaint_is_reported(tmp_path, caplog, digits):
    path = write_obj(tmp_path / "toy.obj", [""] * 3, f"#MRGB {digits}\nf 1 2 3\n")
    with caplog.at_level(logging.WARNING):
        assert read_mesh(path).vertex_colours is None
    assert "#MRGB" in caplog.text


def write_textured(folder: Path, texture: str, mtl: str, use: str) -> Path:
    Image.new("RGB", (2, 2), (10, 20, 30)).save(folder / texture)
    (folder / "toy.mtl").write_text(mtl)
    path = folder / "toy.obj"
    path.write_text(
        f"mtllib toy.mtl\nv 0 0 0\nv 1 0 0\nv 0 1 0\nvt 0 0\nvt 1 0\nvt 0 1\n{use}\nf 1/1 2/2 3/3\n"
    )
    return path


@pytest.mark.parametrize(
    ("texture", "named"),
    [
        ("wood.png", "wood.png # oak"),
        ("wood.png", "C:\\art\\wood.png # oak"),
        ("wood #1.png", "wood #1.png"),
    ],
)
def test_comment_after_a_texture(tmp_path, texture, named):
    path = write_textured(tmp_path, texture, f"newmtl a\nmap_Kd {named}\n", "usemtl a")
    mesh = read_mesh(path)
    np.testing.assert_allclose(mesh.texture[0, 0].numpy() * 255, (10, 20, 30), atol=1e-4)


@pytest.mark.parametrize(
    ("new", "use"), [("a", "a # oak"), ("a # oak", "a"), ("a # oak", "a # ash")]
)
def test_comment_after_a_material(tmp_path, new, use):
    path = write_textured(tmp_path, "t.png", f"newmtl {new}\nKd 1 0 0\n", f"usemtl {use}")
    assert read_mesh(path).vertex_colours.tolist() == [[1.0, 0.0, 0.0]] * 3


def test_materials_that_differ_after_a_hash_are_distinct(tmp_path):
    mtl = "newmtl wood #1\nKd 1 0 0\nnewmtl wood #2\nKd 0 1 0\n"
    path = write_textured(tmp_path, "t.png", mtl, "usemtl wood #2")
    assert read_mesh(path).vertex_colours.tolist() == [[0.0, 1.0, 0.0]] * 3


@pytest.mark.parametrize("head", ["OFF3 1 0", "off3 1 0", "OFF 3 1 0", "OFF\n3 1 0"])
def test_off_without_separator_before_its_counts(tmp_path, head):
    path = tmp_path / "toy.off"
    path.write_text(f"{head}\n0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n")
    mesh = read_mesh(path)
    assert mesh.faces.tolist() == [[0, 1, 2]]
    assert mesh.vertices.tolist() == [list(map(float, corner)) for corner in TRIANGLE]
