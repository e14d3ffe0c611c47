"""Fuses colour views with added normals of known error: how good must estimated normals be?

    python dev.py bench added_normals --meshes DIR

Each mesh is rendered from SV3D's 21 level cameras. Its normals are made wrong in the camera frame
as monocular estimators do: flattened towards the viewer, blurred, and rotated smoothly until the
mean error has the given value. They are added as 8-bit images, fused, and the mesh is evaluated.
Writes added_normals.json and added_normals.md into the output folder after each fusion.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import torch
import tyro
from known_meshes import KnownMeshes
from measure import machine
from results import ResultPage, Table, save_page
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from nova3d_core.cameras.cameras import orbit_cameras
from nova3d_core.cameras.orbits import ORBIT_PRESETS
from nova3d_core.cameras.rotations import axis_angle_to_matrix
from nova3d_core.conventions import encode_normals
from nova3d_core.evaluation.config import EvaluateConfig
from nova3d_core.evaluation.protocol import evaluate_mesh
from nova3d_core.fusion.config import SdfFusionConfig
from nova3d_core.fusion.losses import LossConfig
from nova3d_core.normals.add import add_normals
from nova3d_core.pipeline.config import FuseConfig
from nova3d_core.pipeline.stages import extract_mesh, fuse_to_surface
from nova3d_core.rendering.views import render_views
from nova3d_core.views import Views

ROOT = Path(__file__).resolve().parents[1]
NOISE_CELLS = 16
"""Smooth rotations are bicubic noise on a grid with this number of cells per side."""
MAX_RELATIVE_15, MAX_RELATIVE_25 = 0.75, 1.05
"""Targets for the visible CD-L1 relative to that without normals, at 15 and at 25 degrees."""


@dataclass(frozen=True)
class Variant:
    """One kind of normals."""

    name: str
    error_deg: float | None = 0.0
    """Mean error; None: no normals."""
    flatten: float = 1.0
    """Factor on x and y."""
    blur_px: float = 0.0
    """Standard deviation of the blur."""
    weight: float = 1.0
    """Weight of the normals in the fusion."""
    target: float | None = None
    """Maximum visible CD-L1 relative to that without normals."""


VARIANTS = {
    "none": Variant("none", None),
    "true": Variant("true"),
    "15°": Variant("15°", 15.0, 0.8, 2.0, target=MAX_RELATIVE_15),
    "25°": Variant("25°", 25.0, 0.6, 3.0, target=MAX_RELATIVE_25),
    "25° weight 0.3": Variant("25°", 25.0, 0.6, 3.0, 0.3, target=MAX_RELATIVE_25),
}


@dataclass(frozen=True)
class AddedNormalsBenchmark(KnownMeshes):
    """Settings of the benchmark."""

    output: Annotated[Path, tyro.conf.arg(aliases=("-o",))] = (
        ROOT / "benchmark_output" / "added_normals"
    )
    """Output folder."""
    size_px: int = 224
    """Width and height of the views."""
    seed: int = 0
    """Random seed of the rotations."""
    kinds: tuple[str, ...] = ("none", "true", "15°", "25°", "25° weight 0.3")
    """Normals to use; the first must be none."""
    sdf: SdfFusionConfig = field(default_factory=SdfFusionConfig)
    """Settings of the fusion."""

    @property
    def variants(self) -> list[Variant]:
        """The variants of `kinds`."""
        return [VARIANTS[kind] for kind in self.kinds]


def main(settings: AddedNormalsBenchmark) -> None:
    rig = ORBIT_PRESETS["sv3d"].rig
    rig = replace(rig, width_px=settings.size_px, height_px=settings.size_px)
    rows: list[list] = []
    with tqdm(total=len(settings.objects) * len(settings.kinds), file=sys.stderr) as bar:
        for name in settings.objects:
            reference = settings.reference(name)
            views = render_views(reference, orbit_cameras(rig)).views
            without = None
            for variant in settings.variants:
                bar.set_description(f"{name} {variant.name}")
                given, error_deg = views_of(views, variant, settings.seed)
                sdf = replace(settings.sdf, losses=LossConfig(normal=variant.weight))
                mesh = extract_mesh(fuse_to_surface(given, FuseConfig(sdf=sdf))[0])
                report = evaluate_mesh(mesh, reference, EvaluateConfig(with_images=False)).metrics
                distance = report["visible"]["cd_l1"]
                without = distance if without is None else without
                rows.append([
                    name, variant.name, error_deg,
                    None if error_deg is None else variant.weight,
                    distance, 100.0 * distance / without, variant.target and 100.0 * variant.target,
                    report["visible"]["f_at_0.005"],
                ])  # fmt: skip
                save_page(settings.output, "added_normals", result_page(rows, settings))
                bar.update()


def views_of(views: Views, variant: Variant, seed: int) -> tuple[Views, float | None]:
    """The views with a variant's normals in the camera frame, and their mean error in degrees."""
    plain = views.without_normals()
    if variant.error_deg is None:
        return plain, None
    true = views.with_normals_in("camera").normals
    images = encode_normals(wrong_normals(true, variant, seed))
    added = add_normals(plain, (images * 255.0).round() / 255.0)
    return added, mean_error_deg(added.normals, true)


def wrong_normals(true: Tensor, variant: Variant, seed: int) -> Tensor:
    """Normals (V, H, W, 3) of the variant's error: flattened, blurred, then rotated smoothly."""
    if not variant.error_deg:
        return true
    normals = functional.normalize(true * true.new_tensor([variant.flatten] * 2 + [1.0]), dim=-1)
    normals = blurred(normals, variant.blur_px)
    normals = normals * (true.norm(dim=-1, keepdim=True) > 0.5)
    count, height, width = true.shape[:3]
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, 3, NOISE_CELLS, NOISE_CELLS, generator=generator)
    axis_angle = functional.interpolate(noise, size=(height, width), mode="bicubic")
    axis_angle = axis_angle.movedim(1, -1)  # (V, H, W, 3)
    low, high = 0.0, 1.0  # radians
    for _ in range(12):
        middle = (low + high) / 2
        rotated = (axis_angle_to_matrix(axis_angle * middle) @ normals[..., None])[..., 0]
        if mean_error_deg(rotated, true) < variant.error_deg:
            low = middle
        else:
            high = middle
    return rotated


def blurred(normals: Tensor, sigma_px: float) -> Tensor:
    """Normals (V, H, W, 3) after a Gaussian blur, renormalised."""
    reach = round(3 * sigma_px)
    offset = torch.arange(-reach, reach + 1, dtype=normals.dtype)
    kernel = torch.exp(-(offset**2) / (2 * max(sigma_px, 1e-3) ** 2))
    kernel = (kernel / kernel.sum()).expand(3, 1, -1)
    planes = normals.movedim(-1, 1)
    planes = functional.conv2d(planes, kernel[..., None], padding=(reach, 0), groups=3)
    planes = functional.conv2d(planes, kernel[:, :, None], padding=(0, reach), groups=3)
    return functional.normalize(planes.movedim(1, -1), dim=-1)


def mean_error_deg(normals: Tensor, true: Tensor) -> float:
    """Mean angle in degrees between normals, where both are defined."""
    defined = (normals.norm(dim=-1) > 0.5) & (true.norm(dim=-1) > 0.5)
    cosine = (normals[defined] * true[defined]).sum(dim=-1).clamp(-1.0, 1.0)
    return float(torch.rad2deg(torch.acos(cosine)).mean())


def result_page(rows: list[list], settings: AddedNormalsBenchmark) -> ResultPage:
    """The table of all runs so far."""
    columns = (
        ("object", ""), ("normals", ""), ("mean error °", ".1f"), ("weight", ".1f"),
        ("visible CD-L1", ".5f"), ("of none, %", ".0f"), ("target, %", ".0f"),
        ("visible F@.005", ".3f"),
    )  # fmt: skip
    target = [row for row in rows if row[6] is not None]
    met = sum(row[5] <= row[6] for row in target)
    return ResultPage(
        title="Added normals of known error",
        summary=(
            f"21 views of SV3D's level orbit at {settings.size_px} px with exact poses, fused with "
            f"the preset `{settings.sdf.preset}`: without normals, with true ones, and with wrong "
            "ones as monocular estimators make them. Those of 15 degrees are flattened by 0.8, "
            "blurred by 2 px and rotated smoothly; those of 25 degrees are flattened by 0.6 and "
            "blurred by 3 px. All are 8-bit images in the camera frame, added with the node's "
            "function."
        ),
        tables=[
            Table(columns, rows, notes=[
                f"{met} of {len(target)} rows with a target meet it: at most 75 % of the distance "
                "without normals at 15 degrees, at most 105 % at 25 degrees.",
            ])
        ],
        command="python dev.py bench added_normals --meshes DIR",
        machine=machine(),
        date=time.strftime("%Y-%m-%d"),
    )  # fmt: skip


if __name__ == "__main__":
    main(tyro.cli(AddedNormalsBenchmark, description=__doc__))
