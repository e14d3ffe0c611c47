"""Measuring a mesh against its reference, by our strict protocol or by the papers' one.

Strict: the reference is centred and its longest side becomes 1; the result is used as it lies,
because it was made from views of the normalised reference. Whole surface from random points,
visible surface from the 16 input poses, volume on a 128^3 grid, images from 32 other poses.

syncdreamer follows the published evaluation script of that name, which the tables of the field go
by. Points: what the pixel centres of 16 cameras see (azimuth i * 22.5, elevation 30, distance 1.5,
focal length 280 px at 256 x 256), averaged in voxels of 0.01. CD: mean of the two directions' mean
unsquared distances. IoU: 64^3 grid points of [-1, 1]^3 inside both over inside either. It differs
from the script in four ways: the script back-projects whole pixel indices, half a pixel beside
their centres, for both meshes alike; interpolates a result's depth without perspective; reads the
reference's depth from 16-bit files; and asks mesh2sdf (fix=False), which calls a grid point inside
where rows along x have crossed the surface an odd number of times. For closed meshes without
overlapping parts this is our winding number; overlaps count as outside there and as inside here,
and open meshes get arbitrary signs there and no IoU here.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace

import torch
from torch import Tensor

from ..cameras.cameras import Cameras, orbit_cameras
from ..cameras.rigs import RigConfig
from ..conventions import UpAxis
from ..errors import InputError
from ..mesh import ZERO_ORIGIN, Mesh
from ..progress import SILENT, Progress
from ..rendering.config import RenderConfig
from ..rendering.views import Rendering, render_views, surface_points
from .align import alignment
from .comparison_grid import comparison_sheet
from .config import EvaluateConfig
from .metrics.geometry import (
    SurfaceSamples,
    cloud_figures,
    distance_figures,
    nearest_neighbours,
    sample_surface,
    sampling_floor,
    voxel_means,
)
from .metrics.image import PSNR_CAP_DB, evaluation_cameras, grouped_figures, image_figures
from .occupancy import Grid, is_watertight, level_set_grid, occupancy, unit_cube_grid, volume_iou
from .report import Figure, Figures, Report

logger = logging.getLogger(__name__)

STRICT_THRESHOLDS = (0.01, 0.02)
VISIBLE_THRESHOLDS = (0.005, 0.01)
SYNCDREAMER_RIG = RigConfig(
    count=16, elevation_deg=30.0, radius=1.5, focal_per_width=280 / 256, width_px=256, height_px=256
)
SYNCDREAMER_VOXEL = 0.01
SYNCDREAMER_GRID = 64
NORMALISED_WITHIN = 1e-5


def evaluate_mesh(
    mesh: Mesh,
    reference: Mesh,
    config: EvaluateConfig | None = None,
    progress: Progress = SILENT,
) -> Report:
    """Measures a mesh against its reference.

    Args:
        mesh: the result, +Y up, made from views of the normalised reference (or see `align`).
        reference: the truth, in any size and place, up as `reference_up_axis` says.
        config: protocol and settings.
        progress: told about each part.

    Raises:
        InputError: if a mesh has no size or no area.
        Cancelled: if so asked.
    """
    return _evaluate(mesh, reference, config or EvaluateConfig(), progress)[0]


def evaluate_mesh_with_sheet(
    mesh: Mesh,
    reference: Mesh,
    config: EvaluateConfig | None = None,
    progress: Progress = SILENT,
) -> tuple[Report, Tensor]:
    """`evaluate_mesh`, and a sheet (H, W, 3) of some of the images it compared.

    Raises:
        InputError: also if the settings ask for no images.
    """
    config = config or EvaluateConfig()
    if not config.with_images:
        raise InputError(
            "a comparison sheet needs images, but evaluate with_images is off.",
            "Turn images on or leave the sheet out.",
        )
    report, renderings = _evaluate(mesh, reference, config, progress)
    return report, comparison_sheet(*renderings)


@dataclass
class _Record:
    """Figures, seconds and notes as they come in."""

    figures: Figures = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Adds the seconds spent inside to a part."""
        start = time.perf_counter()
        yield
        self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - start


def _evaluate(
    mesh: Mesh, reference: Mesh, config: EvaluateConfig, progress: Progress
) -> tuple[Report, tuple[Rendering, ...]]:
    """The report, and the renderings of reference and result where images are asked for."""
    record = _Record()
    mesh = _without_origin(mesh.to("cpu"), reference, config)
    reference = normalised_reference(reference.to("cpu"), config.reference_up_axis)
    strict = config.protocol == "strict"
    measure = _strict_figures if strict else _syncdreamer_figures
    record.notes += _protocol_notes(config)
    with record.timed("align"):
        found = alignment(mesh, reference, config.align, config.seed, progress)
    if found is not None:
        for part, figures in measure(mesh, reference, config, _Record(), progress).items():
            record.figures[f"before_{part}"] = figures
        record.figures["alignment"] = found.figures()
        mesh = mesh.transformed(found.matrix)
    record.figures.update(measure(mesh, reference, config, record, progress))
    renderings: tuple[Rendering, ...] = ()
    if config.with_images:
        renderings = _renderings(mesh, reference, config, record, progress)
        with record.timed("images"):
            figures = image_figures(renderings[1].views, renderings[0].views, progress)
        for group, means in grouped_figures(figures).items():
            record.figures[f"images_{group}"] = dict(means)
    report = Report(
        config.protocol,
        record.figures,
        {**asdict(config), **_protocol_settings(config)},
        record.seconds,
        tuple(record.notes),
    )
    return report, renderings


def _without_origin(mesh: Mesh, reference: Mesh, config: EvaluateConfig) -> Mesh:
    """The mesh in coordinates that float32 holds: relative to its own origin if it will be aligned,
    else to the reference's."""
    if config.align == "none" and mesh.origin != ZERO_ORIGIN:
        mesh = mesh.with_origin(reference.origin)
    return replace(mesh, origin=ZERO_ORIGIN)


def normalised_reference(reference: Mesh, up_axis: UpAxis) -> Mesh:
    """The reference turned +Y up, centred, longest side 1.

    One that is so already stays bit for bit the same: a mesh measured against itself is then the
    very same mesh.
    """
    turned = reference if up_axis == "+Y" else reference.turned_up(up_axis)
    matrix = turned.normalising_matrix()
    if float((matrix - torch.eye(4)).abs().max()) < NORMALISED_WITHIN:
        return turned
    return turned.transformed(matrix)


def _strict_figures(
    mesh: Mesh, reference: Mesh, config: EvaluateConfig, record: _Record, progress: Progress
) -> Figures:
    """Figures of the whole surface and of what the input poses see."""
    progress.check("measuring")
    with record.timed("surface"):
        # a seed for each mesh: the truth against itself then shows what sampling alone costs
        clouds = [
            sample_surface(each, config.points, config.seed + index)
            for index, each in enumerate((mesh, reference))
        ]
        surface: dict[str, Figure] = {**cloud_figures(*clouds, STRICT_THRESHOLDS, False)}
        surface["sampling_floor"] = sampling_floor(float(reference.face_areas.sum()), config.points)
    with record.timed("volume"):
        grid = unit_cube_grid(config.iou_resolution, (mesh, reference))
        surface.update(_volume_figures(mesh, reference, grid, record, progress))
    with record.timed("visible"):
        rig = RigConfig(width_px=config.visible_px, height_px=config.visible_px)
        seen = _seen_surfaces(mesh, reference, orbit_cameras(rig), record, progress)
        visible: dict[str, Figure] = {}
        if seen is not None:
            visible.update(cloud_figures(*seen, VISIBLE_THRESHOLDS, True))
    return {"surface": surface, "visible": visible}


def _syncdreamer_figures(
    mesh: Mesh, reference: Mesh, config: EvaluateConfig, record: _Record, progress: Progress
) -> Figures:
    """The two figures of the papers' tables: CD of the visible surface, volume IoU."""
    progress.check("measuring")
    surface: dict[str, Figure] = {"cd_l1": None}
    with record.timed("surface"):
        seen = _seen_surfaces(mesh, reference, orbit_cameras(SYNCDREAMER_RIG), record, progress)
        if seen is not None:
            surface.update(_voxel_chamfer(*seen))
    with record.timed("volume"):
        grid = level_set_grid(SYNCDREAMER_GRID)
        surface.update(_volume_figures(mesh, reference, grid, record, progress))
    return {"surface": surface}


def _voxel_chamfer(result: SurfaceSamples, reference: SurfaceSamples) -> dict[str, float]:
    """Distances between two clouds that are thinned to one mean point a voxel."""
    a, b = (voxel_means(cloud.points, SYNCDREAMER_VOXEL) for cloud in (result, reference))
    there, back = nearest_neighbours(a, b), nearest_neighbours(b, a)
    return distance_figures(there.distance, back.distance, ())


def _volume_figures(
    mesh: Mesh, reference: Mesh, grid: Grid, record: _Record, progress: Progress
) -> dict[str, Figure]:
    """Whether both are closed, and how far their volumes overlap."""
    watertight, reference_watertight = is_watertight(mesh), is_watertight(reference)
    figures: dict[str, Figure] = {
        "iou": None,
        "watertight": watertight,
        "reference_watertight": reference_watertight,
    }
    open_ones = [
        name
        for name, closed in (("mesh", watertight), ("reference", reference_watertight))
        if not closed
    ]
    if open_ones:
        record.notes.append(
            f"No IoU: the {' and the '.join(open_ones)} "
            f"{'are' if len(open_ones) > 1 else 'is'} not watertight and encloses no volume."
        )
        return figures
    figures["iou"] = volume_iou(*(occupancy(each, grid, progress) for each in (mesh, reference)))
    if figures["iou"] is None:
        record.notes.append("No IoU: both volumes are thinner than the grid's cells.")
    return figures


def _seen_surfaces(
    mesh: Mesh, reference: Mesh, cameras: Cameras, record: _Record, progress: Progress
) -> tuple[SurfaceSamples, SurfaceSamples] | None:
    """What the pixel centres of all cameras see of both meshes; None if one is out of sight."""
    clouds = []
    for name, each in (("mesh", mesh), ("reference", reference)):
        seen = surface_points(each, cameras, progress)
        if len(seen.points) == 0:
            record.notes.append(f"No visible surface: no camera sees the {name}.")
            return None
        clouds.append(SurfaceSamples(seen.points.astype(float), seen.normals.astype(float)))
    return clouds[0], clouds[1]


def _renderings(
    mesh: Mesh, reference: Mesh, config: EvaluateConfig, record: _Record, progress: Progress
) -> tuple[Rendering, Rendering]:
    """Reference and result from the 32 evaluation poses."""
    cameras = evaluation_cameras(config.image_px)
    render = RenderConfig(config.supersample)
    with record.timed("rendering"):
        return (
            render_views(reference, cameras, render, progress),
            render_views(mesh, cameras, render, progress),
        )


def _protocol_settings(config: EvaluateConfig) -> dict[str, object]:
    """The constants that the protocol fixes, so that the report says all."""
    if config.protocol == "strict":
        return {
            "thresholds": list(STRICT_THRESHOLDS),
            "visible_thresholds": list(VISIBLE_THRESHOLDS),
        }
    return {
        "syncdreamer_rig": asdict(SYNCDREAMER_RIG),
        "syncdreamer_voxel": SYNCDREAMER_VOXEL,
        "syncdreamer_grid": SYNCDREAMER_GRID,
    }


def _protocol_notes(config: EvaluateConfig) -> list[str]:
    """What a reader must know to quote the figures of a protocol."""
    notes = ["The reference is centred and its longest side is 1; lengths are in that unit."]
    notes.append(
        {
            "none": "The mesh is measured as it lies.",
            "bbox": "The mesh is centred and scaled by its bounding box first.",
            "icp": "The mesh is turned, moved and scaled onto the reference first.",
        }[config.align]
    )
    if config.protocol == "syncdreamer":
        notes.append(
            "Protocol syncdreamer: surface seen by 16 cameras at elevation 30, distance 1.5, focal "
            "280 px at 256 x 256, averaged in voxels of 0.01; CD is the mean of both directions' "
            "mean unsquared distances; IoU at 64^3 points of [-1, 1]^3 by winding number, where "
            "the original counts crossings along rows of mesh2sdf's grid."
        )
    if config.with_images:
        notes.append(f"PSNR is the mean over images; identical ones count {PSNR_CAP_DB:g} dB.")
    return notes
