"""Fixtures for all tests: real objects, checkpoint manifests, and solids with known answers."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
import torch

from nova3d_core.mesh import Mesh

DATA = Path(__file__).resolve().parent / "data"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="also run the tests marked long")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skips tests marked long without --long."""
    if config.getoption("--long"):
        return
    skip = pytest.mark.skip(reason="runs for many minutes: only with --long")
    for item in items:
        if "long" in item.keywords:
            item.add_marker(skip)


def _unpacked(archive: str, folder: Path) -> Path:
    with zipfile.ZipFile(DATA / archive) as file:
        file.extractall(folder)
    return folder


@pytest.fixture(scope="session")
def object_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of real textured meshes with their manifest.json; see tests/data/README.md."""
    return _unpacked("objects.zip", tmp_path_factory.mktemp("objects"))


@pytest.fixture(scope="session")
def checkpoint_manifests(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of public checkpoints' tensor names, shapes and dtypes, as JSON."""
    return _unpacked("manifests.zip", tmp_path_factory.mktemp("manifests"))


@pytest.fixture(scope="session")
def l_solid() -> Mesh:
    """An asymmetric L with one red face, flat-shaded; no rotation or reflection maps it to itself.

    Its base is at y = -0.5: an upright bar at -X, a low foot towards +X, the foot deeper in +Z. The
    bar's +X side (above the foot) is red, everything else is grey.
    """
    boxes = [
        ((-0.4, -0.5, -0.2), (-0.1, 0.5, 0.1)),
        ((-0.1, -0.5, -0.2), (0.4, -0.2, 0.3)),
    ]
    return solid_of_boxes(boxes, red_box=0, red_side="+X")


SIDES = {
    "-X": ((0, 1, 3, 2), 0),
    "+X": ((4, 6, 7, 5), 0),
    "-Y": ((0, 4, 5, 1), 1),
    "+Y": ((2, 3, 7, 6), 1),
    "-Z": ((0, 2, 6, 4), 2),
    "+Z": ((1, 5, 7, 3), 2),
}


def solid_of_boxes(
    boxes: list[tuple[tuple[float, float, float], tuple[float, float, float]]],
    red_box: int | None = None,
    red_side: str = "+X",
) -> Mesh:
    """Axis-aligned boxes (low, high) with split edges; one side of one box can be red."""
    vertices, faces, colours = [], [], []
    for index, corners in enumerate(boxes):
        for side, (quad, _) in SIDES.items():
            start = len(vertices)
            for code in quad:
                bits = (code >> 2 & 1, code >> 1 & 1, code & 1)
                vertices.append([corners[bit][axis] for axis, bit in enumerate(bits)])
                red = index == red_box and side == red_side
                colours.append([1.0, 0.0, 0.0] if red else [0.5, 0.5, 0.5])
            faces += [[start, start + 1, start + 2], [start, start + 2, start + 3]]
    return Mesh(torch.tensor(vertices), torch.tensor(faces), vertex_colours=torch.tensor(colours))


@pytest.fixture(scope="session")
def make_sphere():
    """Factory of spheres with smooth normals: `make_sphere(radius, subdivisions)`."""

    def make(radius: float = 0.4, subdivisions: int = 4) -> Mesh:
        import trimesh

        ball = trimesh.creation.icosphere(subdivisions=subdivisions, radius=radius)
        vertices = torch.tensor(ball.vertices, dtype=torch.float32)
        faces = torch.tensor(ball.faces, dtype=torch.int64)
        return Mesh(vertices, faces, normals=vertices / vertices.norm(dim=1, keepdim=True))

    return make
