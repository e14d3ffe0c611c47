"""Views that fit a mesh and views that do not: what does the check before a bake answer?

    python dev.py bench view_fit

Wrong: a mesh that is scaled, displaced, rotated or has another up axis than its views; it must be
refused or warned about. Right: exact, noisy, grown, shrunk and slightly displaced views; they must
pass without a warning. See design note 029. Writes view_fit.json and view_fit.md.
"""

from __future__ import annotations

import itertools
import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import torch
import trimesh
import tyro
from measure import machine
from results import ResultPage, Table, markdown_page, save_page
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from nova3d_core.cameras.cameras import orbit_cameras
from nova3d_core.cameras.rigs import RigConfig
from nova3d_core.errors import InputError
from nova3d_core.evaluation.config import PerturbationConfig
from nova3d_core.evaluation.perturbations import noisy_cameras
from nova3d_core.io.mesh.read import read_mesh
from nova3d_core.mesh import Mesh
from nova3d_core.rendering.config import RenderConfig
from nova3d_core.rendering.views import render_views
from nova3d_core.texturing.view_fit import check_views_fit
from nova3d_core.training.procedural.catalog import procedural_object
from nova3d_core.views import Views

ROOT = Path(__file__).resolve().parents[1]
SIZE_PX, OBJECT_PX = 160, 101
"""Sides of the images, and of an object of size 1 at the centre of the rig."""
ANSWERS = ("refused", "warned", "silent")
WRONG_OBJECTS = ("knight", "quadruped:3", "car:5", "chair:104")
RIGS = {
    "16 views": RigConfig(16, width_px=SIZE_PX, height_px=SIZE_PX),
    "4 views at 20 degrees": RigConfig(4, 20.0, width_px=SIZE_PX, height_px=SIZE_PX),
    "6 orthographic views": RigConfig(6, kind="orthographic", width_px=SIZE_PX, height_px=SIZE_PX),
}
RIGHT_OBJECTS = (
    "sphere", "rod", "plate", "card", "knight", "quadruped:3", "car:5", "chair:104", "cabinet:2",
    "bird:102", "lamp:103",
)  # fmt: skip
RIGHT_COUNTS = (1, 2, 4, 8, 12)


@dataclass(frozen=True)
class ViewFitBenchmark:
    """Settings of the benchmark."""

    output: Annotated[Path, tyro.conf.arg(aliases=("-o",))] = ROOT / "benchmark_output" / "view_fit"
    """Output folder."""


def solid_of(solid: trimesh.Trimesh) -> Mesh:
    return Mesh(torch.tensor(solid.vertices).float(), torch.tensor(solid.faces).long())


def load_object(name: str) -> Mesh:
    """The knight, a simple solid, or a procedural object "kind:seed", of unit size."""
    solids = {
        "sphere": lambda: trimesh.creation.icosphere(4, 0.4),
        "rod": lambda: trimesh.creation.cylinder(0.02, 0.9),
        "plate": lambda: trimesh.creation.box((0.9, 0.6, 0.03)),
        "card": lambda: trimesh.creation.box((0.6, 0.9, 0.004)),
    }
    if name in solids:
        return solid_of(solids[name]())
    if name == "knight":
        return read_mesh(ROOT / "nova3d_core" / "assets" / "character_knight.glb").normalised()
    kind, seed = name.split(":")
    return procedural_object(int(seed), kind).normalised()


def similarity(
    scale: float = 1.0, shift: tuple[float, ...] = (0.0, 0.0, 0.0), z_up: bool = False
) -> Tensor:
    """A 4x4 matrix; `z_up` rotates a +Y-up mesh as if it were +Z-up."""
    matrix = torch.eye(4)
    if z_up:
        matrix[:3, :3] = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]])
    matrix[:3, :3] *= scale
    matrix[:3, 3] = torch.tensor(shift)
    return matrix


WRONG_CASES = {
    "scaled by 1.3": similarity(1.3),
    "scaled by .5": similarity(0.5),
    "scaled by 10": similarity(10.0),
    "displaced by .3": similarity(shift=(0.2, 0.2, 0.1)),
    "displaced by 5": similarity(shift=(3.0, 4.0, 0.0)),
    "+Z up": similarity(z_up=True),
    "all three": similarity(1.3, (0.2, 0.2, 0.1), True),
}


def grown(views: Views, radius_px: int) -> Views:
    """Masks grown, or shrunk by a negative radius."""
    masks, side = views.masks[:, None], 2 * abs(radius_px) + 1
    pooled = functional.max_pool2d(masks if radius_px > 0 else -masks, side, 1, abs(radius_px))
    return replace(views, masks=(pooled if radius_px > 0 else -pooled)[:, 0])


def displaced(views: Views) -> Views:
    """Each mask displaced by 4 % of the object's size, in another direction."""
    shift = round(0.04 * OBJECT_PX)
    moved = [
        mask.roll((round(shift * math.sin(index)), round(shift * math.cos(index))), (0, 1))
        for index, mask in enumerate(views.masks)
    ]
    return replace(views, masks=torch.stack(moved))


def noisy(mesh: Mesh, rig: RigConfig) -> Views:
    """Views with pose errors of 3 degrees per axis."""
    cameras = orbit_cameras(rig)
    config = PerturbationConfig("noisy", 0, rotation_sigma_deg=3.0, translation_sigma=0.01)
    views = render_views(mesh, noisy_cameras(cameras, config), RenderConfig(2)).views
    return replace(views, cameras=cameras)


RIGHT_CASES: dict[str, Callable[[Mesh, RigConfig], Views]] = {
    "exact": lambda mesh, rig: exact(mesh, rig),
    "noisy by 3 degrees": noisy,
    "grown by a pixel": lambda mesh, rig: grown(exact(mesh, rig), 1),
    "shrunk by a pixel": lambda mesh, rig: grown(exact(mesh, rig), -1),
    "displaced by 4 %": lambda mesh, rig: displaced(exact(mesh, rig)),
}


def exact(mesh: Mesh, rig: RigConfig) -> Views:
    return render_views(mesh, orbit_cameras(rig), RenderConfig(2)).views


def answer_to(mesh: Mesh, views: Views) -> tuple[str, str]:
    """The answer, one of `ANSWERS`, and its text."""
    messages: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: messages.append(record.getMessage())
    logger = logging.getLogger("nova3d_core")
    logger.addHandler(handler)
    try:
        check_views_fit(mesh, views)
    except InputError as error:
        return "refused", str(error)
    finally:
        logger.removeHandler(handler)
    return ("warned", messages[0]) if messages else ("silent", "")


def wrong_sets() -> Iterator[tuple[str, str, Mesh, Views]]:
    """Name of the case, of the object with its rig, the mesh and the views."""
    for name, (rig_name, rig) in itertools.product(WRONG_OBJECTS, RIGS.items()):
        mesh = load_object(name)
        views = exact(mesh, rig)
        for case, matrix in WRONG_CASES.items():
            yield case, f"{name}, {rig_name}", mesh.transformed(matrix), views


def right_sets() -> Iterator[tuple[str, str, Mesh, Views]]:
    """As `wrong_sets`."""
    for name, count in itertools.product(RIGHT_OBJECTS, RIGHT_COUNTS):
        mesh = load_object(name)
        rig = RigConfig(count, 10.0, width_px=SIZE_PX, height_px=SIZE_PX)
        for case, make in RIGHT_CASES.items():
            views = "1 view" if count == 1 else f"{count} views"
            yield case, f"{name}, {views}", mesh, make(mesh, rig)


def measure(title: str, sets: Iterator[tuple[str, str, Mesh, Views]]) -> Table:
    """The answers by case; below it the sets whose answer is not the right one."""
    counts: dict[str, Counter[str]] = {}
    noted = []
    for case, name, mesh, views in tqdm(sets, title):
        answer, text = answer_to(mesh, views)
        counts.setdefault(case, Counter())[answer] += 1
        if (answer == "silent") == (title == "Wrong"):
            noted.append(f"{case}, {name}: {answer}. {text}".strip())
    rows = [[case, *(count[each] for each in ANSWERS)] for case, count in counts.items()]
    rows.append(["all", *(sum(count[each] for count in counts.values()) for each in ANSWERS)])
    columns = [(f"{title.lower()} sets", ""), *((each, "d") for each in ANSWERS)]
    return Table(columns, rows, f"{title} sets", notes=noted)


def main(config: ViewFitBenchmark) -> None:
    """Measures all sets and writes the page."""
    logging.getLogger("nova3d_core").propagate = False  # collected instead of printed
    tables = [measure("Wrong", wrong_sets()), measure("Right", right_sets())]
    wrong, right = (table.rows[-1][1:] for table in tables)
    summary = (
        f"Of {sum(wrong)} meshes that do not fit their views, {wrong[0]} were refused and "
        f"{wrong[1]} warned about before a bake; of {sum(right)} that fit, {right[0]} were "
        f"refused and {right[1]} warned about. See design note 029."
    )
    command = "python dev.py bench view_fit"
    page = ResultPage(
        "Checks of the fit of views", summary, tables, command, machine(), time.strftime("%Y-%m-%d")
    )
    save_page(config.output, "view_fit", page)
    print(markdown_page(page, "view_fit.json"))


if __name__ == "__main__":
    main(tyro.cli(ViewFitBenchmark, description=__doc__))
