"""Evaluation of a mesh against its reference, with the strict or the SyncDreamer protocol.

strict: the reference is centred and its longest side scaled to 1; the result is not aligned,
because it was made from views of the normalised reference. Whole surface from random points,
visible surface from the 16 input poses, volume on a 128^3 grid, images from 32 other poses.

syncdreamer: as in SyncDreamer's evaluation script, on which most published tables are based.
Points: surface points at the pixel centres of 16 cameras (azimuth i * 22.5, elevation 30, distance
1.5, focal length 280 px at 256 x 256), averaged in voxels of 0.01. CD: mean of the two directions'
mean unsquared distances. IoU: over 64^3 grid points of [-1, 1]^3. There are four differences from
the script: it back-projects integer pixel indices, half a pixel off their centres, for both meshes;
it interpolates the result's depth without perspective correction; it reads the reference's depth
from 16-bit files; and it uses mesh2sdf (fix=False), where a grid point is inside if its row along x
has crossed the surface an odd number of times. For closed meshes without overlapping parts this
equals our winding number; overlaps are outside there and inside here, and open meshes get arbitrary
signs there and no IoU here.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace

import torch
from torch import Tensor

from ..cameras.cameras import Cameras, orbit_cameras
from ..cameras.rigs import RigConfig
from ..conventions import UpAxis
from ..errors import InputError
from ..mesh import ZERO_ORIGIN, Mesh
from ..perceptual.lpips import Lpips
from ..progress import SILENT, Progress
from ..rendering.config import RenderConfig
from ..rendering.views import Rendering, render_views, surface_points
from .align import align_mesh
from .comparison_grid import comparison_grid
from .config import EvaluateConfig
from .metrics.geometry import (
    SurfaceSamples,
    distance_metrics,
    nearest_neighbours,
    point_cloud_metrics,
    sample_surface,
    sampling_floor,
    voxel_downsample,
)
from .metrics.image import PSNR_CAP_DB, evaluation_cameras, image_metrics, metrics_by_elevation
from .occupancy import Grid, is_watertight, level_set_grid, occupancy, unit_cube_grid, volume_iou
from .report import Metrics, MetricValue, Report

logger = logging.getLogger(__name__)

STRICT_THRESHOLDS = (0.01, 0.02)
VISIBLE_THRESHOLDS = (0.005, 0.01)
SYNCDREAMER_RIG = RigConfig(
    count=16, elevation_deg=30.0, radius=1.5, focal_per_width=280 / 256, width_px=256, height_px=256
)
SYNCDREAMER_VOXEL = 0.01
SYNCDREAMER_GRID = 64
NORMALISED_TOLERANCE = 1e-5
_PSNR_NOTE = f"PSNR is the mean over images; identical images count as {PSNR_CAP_DB:g} dB."


def evaluate_mesh(
    mesh: Mesh,
    reference: Mesh,
    config: EvaluateConfig | None = None,
    progress: Progress = SILENT,
    lpips_nets: Sequence[Lpips] = (),
) -> Report:
    """Evaluates a mesh against its reference.

    Args:
        mesh: the result, +Y up, made from views of the normalised reference (or see `align`).
        reference: the true shape, of any size and position, with `reference_up_axis` up.
        config: protocol and settings.
        progress: receives each step.
        lpips_nets: report LPIPS of the images with these; see `perceptual.lpips.load_all_lpips`.

    Raises:
        InputError: a mesh without extent or area.
        Cancelled: cancelled through `progress`.
    """
    return _evaluate(mesh, reference, config or EvaluateConfig(), progress, lpips_nets)[0]


def evaluate_mesh_with_grid(
    mesh: Mesh,
    reference: Mesh,
    config: EvaluateConfig | None = None,
    progress: Progress = SILENT,
    lpips_nets: Sequence[Lpips] = (),
) -> tuple[Report, Tensor]:
    """`evaluate_mesh`, and a comparison grid (H, W, 3) of some of the images.

    Raises:
        InputError: also if the images are disabled.
    """
    config = config or EvaluateConfig()
    if not config.with_images:
        raise InputError(
            "a comparison grid needs images, but evaluate with_images is off.",
            "Enable the images or leave out the grid.",
        )
    report, renderings = _evaluate(mesh, reference, config, progress, lpips_nets)
    return report, comparison_grid(*renderings)


@dataclass
class _Record:
    """Collects metrics, seconds and notes."""

    metrics: Metrics = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Adds the wall time of the `with` block to a step."""
        start = time.perf_counter()
        yield
        self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - start


def _evaluate(
    mesh: Mesh,
    reference: Mesh,
    config: EvaluateConfig,
    progress: Progress,
    lpips_nets: Sequence[Lpips],
) -> tuple[Report, tuple[Rendering, ...]]:
    """The report, and the renderings of reference and result if images are enabled."""
    record = _Record()
    mesh = _without_origin(mesh.to("cpu"), reference, config)
    reference = normalised_reference(reference.to("cpu"), config.reference_up_axis)
    strict = config.protocol == "strict"
    measure = _strict_metrics if strict else _syncdreamer_metrics
    record.notes += _protocol_notes(config)
    with record.timed("align"):
        alignment = align_mesh(mesh, reference, config.align, config.seed, progress)
    if alignment is not None:
        for part, metrics in measure(mesh, reference, config, _Record(), progress).items():
            record.metrics[f"before_{part}"] = metrics
        record.metrics["alignment"] = alignment.to_dict()
        mesh = mesh.transformed(alignment.matrix)
    record.metrics.update(measure(mesh, reference, config, record, progress))
    renderings: tuple[Rendering, ...] = ()
    if config.with_images:
        renderings = _renderings(mesh, reference, config, record, progress)
        _compare_images(*renderings, record, progress, lpips_nets)
    report = Report(
        config.protocol,
        record.metrics,
        {**asdict(config), **_protocol_settings(config)},
        record.seconds,
        tuple(record.notes),
    )
    return report, renderings


def evaluate_renders(
    render: Callable[[Cameras], Rendering],
    reference: Mesh,
    config: EvaluateConfig | None = None,
    progress: Progress = SILENT,
    lpips_nets: Sequence[Lpips] = (),
) -> tuple[Report, Tensor]:
    """Evaluates a result without a surface by its images from the 32 evaluation poses.

    Args:
        render: renders the result, on white; normals are optional.
        reference: as for `evaluate_mesh`.
        config: its image and reference settings are used.
        progress: receives each step.
        lpips_nets: as for `evaluate_mesh`.

    Returns:
        The report, and a comparison grid (H, W, 3) of some of the images.
    """
    config, record = config or EvaluateConfig(), _Record()
    reference = normalised_reference(reference.to("cpu"), config.reference_up_axis)
    cameras = evaluation_cameras(config.image_px)
    with record.timed("rendering"):
        truth = render_views(reference, cameras, RenderConfig(config.supersample), progress)
        result = render(cameras)
    _compare_images(truth, result, record, progress, lpips_nets)
    record.notes.append(_PSNR_NOTE)
    used = ("protocol", "align", "reference_up_axis", "image_px", "supersample")
    settings = {name: getattr(config, name) for name in used}
    report = Report(config.protocol, record.metrics, settings, record.seconds, tuple(record.notes))
    return report, comparison_grid(truth, result)


def _compare_images(
    truth: Rendering,
    result: Rendering,
    record: _Record,
    progress: Progress,
    lpips_nets: Sequence[Lpips],
) -> None:
    """Adds the metrics of the images from the evaluation poses."""
    with record.timed("images"):
        nets = _usable_lpips(lpips_nets, truth.views.cameras.width, record)
        metrics = image_metrics(result.views, truth.views, progress, nets)
    for group, means in metrics_by_elevation(metrics).items():
        record.metrics[f"images_{group}"] = dict(means)


def _without_origin(mesh: Mesh, reference: Mesh, config: EvaluateConfig) -> Mesh:
    """The mesh in coordinates that float32 can represent: relative to its own origin if it will be
    aligned, else to the reference's."""
    if config.align == "none" and mesh.origin != ZERO_ORIGIN:
        mesh = mesh.with_origin(reference.origin)
    return replace(mesh, origin=ZERO_ORIGIN)


def normalised_reference(reference: Mesh, up_axis: UpAxis) -> Mesh:
    """The reference with +Y up, centred, longest side 1.

    An already normalised reference is returned bit for bit, so that a mesh evaluated against itself
    is identical.
    """
    upright = reference if up_axis == "+Y" else reference.to_y_up(up_axis)
    matrix = upright.normalising_matrix()
    if float((matrix - torch.eye(4)).abs().max()) < NORMALISED_TOLERANCE:
        return upright
    return upright.transformed(matrix)


def _strict_metrics(
    mesh: Mesh, reference: Mesh, config: EvaluateConfig, record: _Record, progress: Progress
) -> Metrics:
    """Metrics of the whole surface and of the surface visible from the input poses."""
    progress.check("measuring")
    with record.timed("surface"):
        # different seeds: the reference against itself then shows the sampling error
        clouds = [
            sample_surface(each, config.points, config.seed + index)
            for index, each in enumerate((mesh, reference))
        ]
        surface: dict[str, MetricValue] = {**point_cloud_metrics(*clouds, STRICT_THRESHOLDS, False)}
        surface["sampling_floor"] = sampling_floor(float(reference.face_areas.sum()), config.points)
    with record.timed("volume"):
        grid = unit_cube_grid(config.iou_resolution, (mesh, reference))
        surface.update(_volume_metrics(mesh, reference, grid, record, progress))
    with record.timed("visible"):
        rig = RigConfig(width_px=config.visible_px, height_px=config.visible_px)
        clouds = _visible_surfaces(mesh, reference, orbit_cameras(rig), record, progress)
        visible: dict[str, MetricValue] = {}
        if clouds is not None:
            visible.update(point_cloud_metrics(*clouds, VISIBLE_THRESHOLDS, True))
    return {"surface": surface, "visible": visible}


def _syncdreamer_metrics(
    mesh: Mesh, reference: Mesh, config: EvaluateConfig, record: _Record, progress: Progress
) -> Metrics:
    """The two metrics of published tables: CD of the visible surface, volume IoU."""
    progress.check("measuring")
    surface: dict[str, MetricValue] = {"cd_l1": None}
    with record.timed("surface"):
        clouds = _visible_surfaces(
            mesh, reference, orbit_cameras(SYNCDREAMER_RIG), record, progress
        )
        if clouds is not None:
            surface.update(_voxel_chamfer(*clouds))
    with record.timed("volume"):
        grid = level_set_grid(SYNCDREAMER_GRID)
        surface.update(_volume_metrics(mesh, reference, grid, record, progress))
    return {"surface": surface}


def _voxel_chamfer(result: SurfaceSamples, reference: SurfaceSamples) -> dict[str, float]:
    """Distance metrics between two clouds after voxel downsampling."""
    a, b = (voxel_downsample(cloud.points, SYNCDREAMER_VOXEL) for cloud in (result, reference))
    return distance_metrics(
        nearest_neighbours(a, b).distance, nearest_neighbours(b, a).distance, ()
    )


def _volume_metrics(
    mesh: Mesh, reference: Mesh, grid: Grid, record: _Record, progress: Progress
) -> dict[str, MetricValue]:
    """Watertightness of both meshes, and their volume IoU."""
    watertight, reference_watertight = is_watertight(mesh), is_watertight(reference)
    metrics: dict[str, MetricValue] = {
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
        return metrics
    metrics["iou"] = volume_iou(*(occupancy(each, grid, progress) for each in (mesh, reference)))
    if metrics["iou"] is None:
        record.notes.append("No IoU: both volumes are thinner than the grid's cells.")
    return metrics


def _visible_surfaces(
    mesh: Mesh, reference: Mesh, cameras: Cameras, record: _Record, progress: Progress
) -> tuple[SurfaceSamples, SurfaceSamples] | None:
    """Surface points of both meshes at the pixel centres of all cameras; None if no camera sees one
    of the meshes."""
    clouds = []
    for name, each in (("mesh", mesh), ("reference", reference)):
        visible = surface_points(each, cameras, progress)
        if len(visible.points) == 0:
            record.notes.append(f"No visible surface: no camera sees the {name}.")
            return None
        clouds.append(SurfaceSamples(visible.points.astype(float), visible.normals.astype(float)))
    return clouds[0], clouds[1]


def _renderings(
    mesh: Mesh, reference: Mesh, config: EvaluateConfig, record: _Record, progress: Progress
) -> tuple[Rendering, Rendering]:
    """Renders reference and result from the 32 evaluation poses."""
    cameras = evaluation_cameras(config.image_px)
    render = RenderConfig(config.supersample)
    with record.timed("rendering"):
        return (
            render_views(reference, cameras, render, progress),
            render_views(mesh, cameras, render, progress),
        )


def _usable_lpips(nets: Sequence[Lpips], image_px: int, record: _Record) -> list[Lpips]:
    """The networks whose smallest image the images reach; notes the others, or that none is."""
    if not nets:
        record.notes.append("No LPIPS: no file of a backbone was at hand.")
    usable = [net for net in nets if image_px >= net.backbone.min_px]
    record.notes += [
        f"No LPIPS ({net.net}): it needs images of at least {net.backbone.min_px} px."
        for net in nets
        if net not in usable
    ]
    if usable:
        names = " and ".join(net.net for net in usable)
        record.notes.append(f"LPIPS v0.1 with {names}, over whole images on white.")
    return usable


def _protocol_settings(config: EvaluateConfig) -> dict[str, object]:
    """Constants of the protocol, for the report."""
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
    """What must be stated when metrics of a protocol are quoted."""
    notes = ["The reference is centred and its longest side is 1, the unit of all lengths."]
    notes.append(
        {
            "none": "The mesh is not aligned.",
            "bbox": "The mesh is centred and scaled by its bounding box before evaluation.",
            "icp": "The mesh is aligned by ICP (rotation, translation, scale) before evaluation.",
        }[config.align]
    )
    if config.protocol == "syncdreamer":
        notes.append(
            "Protocol syncdreamer: surface visible from 16 cameras at elevation 30, distance 1.5, "
            "focal length 280 px at 256 x 256, averaged in voxels of 0.01; CD is the mean of both "
            "directions' mean unsquared distances; IoU at 64^3 points of [-1, 1]^3 by winding "
            "number, where the original uses the crossing parity of mesh2sdf."
        )
    if config.with_images:
        notes.append(_PSNR_NOTE)
    return notes
