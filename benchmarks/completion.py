"""Completion of a texture whose back no view has seen, by the built-in model.

    python dev.py bench completion --meshes DIR

The known mesh without its texture is unwrapped again; its texture is baked from 7 views between
azimuths -45 and 45 degrees, and inpainted elsewhere. Then nova3d-mini completes it. Compared are
renders of the model's orbit, in the pixels that are mostly unseen (M > 0.5). The second table has
views under a key light: baked as they are, without light, and without light and completed. Writes
completion.json and completion.md into the output folder after each run.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import torch
import tyro
from known_meshes import KnownMeshes
from measure import machine
from results import ResultPage, Table, save_page
from torch import Tensor
from tqdm import tqdm

from nova3d_core.cameras.cameras import Cameras, cameras_at, orbit_cameras
from nova3d_core.cameras.rigs import RigConfig
from nova3d_core.completion.complete import complete_texture
from nova3d_core.completion.config import CompletionConfig
from nova3d_core.completion.texture_renderer import TextureRenderer
from nova3d_core.completion.visibility import best_cosines, unseen_weight
from nova3d_core.diffusion.model import MultiviewModel
from nova3d_core.evaluation.lights import LIGHTS, albedo_error, lit_views
from nova3d_core.evaluation.metrics.image import psnr
from nova3d_core.mesh import Mesh
from nova3d_core.meshing.unwrap.unwrap import unwrap
from nova3d_core.rendering.raycast import RayCaster
from nova3d_core.rendering.views import render_views
from nova3d_core.texturing.bake import bake_texture
from nova3d_core.texturing.config import BakeConfig
from nova3d_core.texturing.fill import pad_charts
from nova3d_core.texturing.lighting.unlight import unlight
from nova3d_core.texturing.surface_pixels import as_planes
from nova3d_core.texturing.texels import Texels, rasterise_texels
from nova3d_core.views import Views
from nova3d_core.weights.discovery.built_in import BUILT_IN_NAME, resolve_model_file
from nova3d_core.weights.load import load_model

ROOT = Path(__file__).resolve().parents[1]
AZIMUTHS_DEG = tuple(15.0 * index for index in range(-3, 4))
"""Of the views that the texture is baked from, the input view first."""
VIEW_PX, COMPARED_PX, TEXTURE_PX = 256, 128, 512
MIN_UNSEEN = 0.5
MAX_PSNR_LOSS, MAX_ENERGY_RATIO = 2.0, 1.2
"""Limits of the row: PSNR below the inpainted texture, gradient energy over the truth's."""


@dataclass(frozen=True)
class CompletionBenchmark(KnownMeshes):
    """Settings of the benchmark."""

    output: Annotated[Path, tyro.conf.arg(aliases=("-o",))] = (
        ROOT / "benchmark_output" / "completion"
    )
    """Output folder."""
    start_noises: tuple[float, ...] = (1.0, 3.0)
    """Noise levels at the start."""
    steps: int = 8
    """Denoising steps."""
    seed: int = 0
    """Of the noise."""


@dataclass(frozen=True, eq=False)
class HiddenBack:
    """An object whose texture was baked from the front, and what the truth looks like."""

    baked: Mesh
    views: Views
    texels: Texels
    unseen: Tensor
    """(T,) M."""
    truth: Views
    """Renders of the reference along the model's orbit."""
    hidden: Tensor
    """(V, H, W) bool: compared pixels."""

    @classmethod
    def of(cls, reference: Mesh) -> HiddenBack:
        cameras = front_cameras()
        views = replace(render_views(reference, cameras).views, normals=None)
        shape = replace(reference, texture=None, uv=None, vertex_colours=None, material=None)
        shape = unwrap(shape).mesh.with_smooth_normals()
        baked = bake_texture(shape, views, BakeConfig(texture_px=TEXTURE_PX)).mesh
        texels, caster = rasterise_texels(baked, TEXTURE_PX), RayCaster.from_mesh(baked)
        unseen = unseen_weight(best_cosines(caster, texels, cameras))
        orbit = orbit_cameras(RigConfig(width_px=COMPARED_PX, height_px=COMPARED_PX))
        renderer = TextureRenderer.of(baked, caster, orbit)
        maps = renderer.render(as_planes(pad_charts(texels, unseen[:, None])), background=0.0)
        hidden = (maps[..., 0] > MIN_UNSEEN) & (renderer.coverage > 0.999)
        return cls(baked, views, texels, unseen, render_views(reference, orbit).views, hidden)

    def images(self, mesh: Mesh) -> Tensor:
        """(V, H, W, 3) renders of a mesh along the model's orbit."""
        return render_views(mesh, self.truth.cameras).views.colour

    def hidden_psnr(self, images: Tensor) -> float:
        """PSNR of the hidden pixels, dB."""
        return psnr(images[self.hidden], self.truth.colour[self.hidden])

    def gradient_energy(self, images: Tensor) -> float:
        """Mean length of the colour gradient between hidden pixels, in sRGB values per pixel."""
        hidden = self.hidden
        inner = hidden[:, :-1, :-1] & hidden[:, 1:, :-1] & hidden[:, :-1, 1:]
        along_y = images[:, 1:, :-1] - images[:, :-1, :-1]
        along_x = images[:, :-1, 1:] - images[:, :-1, :-1]
        return float((along_x.square() + along_y.square()).sum(dim=-1).sqrt()[inner].mean())

    def seen_is_unchanged(self, mesh: Mesh) -> bool:
        """Whether all texels with M = 0 are bit for bit those of the bake."""
        seen = self.texels.index[self.unseen == 0.0]
        before, after = (each.texture.reshape(-1, 3)[seen] for each in (self.baked, mesh))
        return torch.equal(before, after)


def front_cameras() -> Cameras:
    """The cameras of the reference views, the input view first."""
    azimuths = sorted(AZIMUTHS_DEG, key=abs)
    rig = RigConfig(width_px=VIEW_PX, height_px=VIEW_PX)
    return cameras_at(azimuths, [0.0] * len(azimuths), rig)


def main(settings: CompletionBenchmark) -> None:
    model = load_model(resolve_model_file(BUILT_IN_NAME, ()))
    rows: list[list] = []
    lit_rows: list[list] = []
    runs = len(settings.objects) * (len(settings.start_noises) + 1)
    with tqdm(total=runs, file=sys.stderr) as bar:
        for name in settings.objects:
            reference = settings.reference(name)
            scene = HiddenBack.of(reference)
            for start_noise in settings.start_noises:
                bar.set_description(f"{name}, start noise {start_noise:g}")
                rows.append([name, start_noise, *measure(scene, model, start_noise, settings)])
                save_page(settings.output, "completion", result_page(rows, lit_rows, settings))
                bar.update()
            bar.set_description(f"{name}, lit")
            lit_rows.append([name, *measure_lit(scene, reference, model, settings)])
            save_page(settings.output, "completion", result_page(rows, lit_rows, settings))
            bar.update()


def measure_lit(
    scene: HiddenBack, reference: Mesh, model: MultiviewModel, settings: CompletionBenchmark
) -> list[float]:
    """Errors of the albedo where it was seen and where not, of three textures."""
    lit = lit_views(reference.with_smooth_normals(), front_cameras(), LIGHTS["key"])
    lit = replace(lit, normals=None, normal_frame=None)
    bare = replace(scene.baked, texture=None)
    unlit = unlight(lit, bare).views
    config = BakeConfig(texture_px=TEXTURE_PX)
    textured = [bake_texture(bare, views, config).mesh for views in (lit, unlit)]
    completion = CompletionConfig(
        start_noise=settings.start_noises[0], steps=settings.steps, seed=settings.seed
    )
    textured.append(complete_texture(textured[-1], unlit, model, config=completion).mesh)
    covered = scene.truth.masks > 0.999
    errors = []
    for pixels in (covered & ~scene.hidden, scene.hidden):
        errors += [
            albedo_error(scene.images(mesh)[pixels], scene.truth.colour[pixels])
            for mesh in textured
        ]
    return errors


def measure(
    scene: HiddenBack, model: MultiviewModel, start_noise: float, settings: CompletionBenchmark
) -> list:
    """One row of the table."""
    config = CompletionConfig(start_noise=start_noise, steps=settings.steps, seed=settings.seed)
    start = time.process_time()
    result = complete_texture(scene.baked, scene.views, model, config=config)
    seconds = time.process_time() - start
    images = [scene.images(mesh) for mesh in (scene.baked, result.mesh)]
    psnrs = [scene.hidden_psnr(each) for each in images]
    energies = [scene.gradient_energy(each) for each in (*images, scene.truth.colour)]
    covered = (scene.truth.masks > 0.999).sum()
    meets = (
        psnrs[1] >= psnrs[0] - MAX_PSNR_LOSS
        and energies[0] <= energies[1] <= MAX_ENERGY_RATIO * energies[2]
    )
    return [
        float(scene.hidden.sum() / covered), *psnrs, *energies,
        scene.seen_is_unchanged(result.mesh), meets, seconds,
    ]  # fmt: skip


def result_page(
    rows: list[list], lit_rows: list[list], settings: CompletionBenchmark
) -> ResultPage:
    """The tables of all runs so far."""
    lit_columns = (
        ("object", ""),
        ("seen: lit", ".4f"), ("seen: unlit", ".4f"), ("seen: unlit, completed", ".4f"),
        ("unseen: lit", ".4f"), ("unseen: unlit", ".4f"), ("unseen: unlit, completed", ".4f"),
    )  # fmt: skip
    columns = (
        ("object", ""), ("start noise", "g"), ("hidden pixels", ".0%"),
        ("PSNR inpainted", ".2f"), ("PSNR completed", ".2f"),
        ("gradient inpainted", ".4f"), ("gradient completed", ".4f"), ("gradient truth", ".4f"),
        ("seen texels equal", ""), ("within limits", ""), ("CPU s", ".1f"),
    )  # fmt: skip
    return ResultPage(
        title="Completion of unseen texture",
        summary=(
            f"The true geometry with new UVs; a texture of {TEXTURE_PX} px baked from "
            f"{len(AZIMUTHS_DEG)} views of {VIEW_PX} px at azimuths from {AZIMUTHS_DEG[0]:g} to "
            f"{AZIMUTHS_DEG[-1]:g} degrees, inpainted over the surface elsewhere, and completed by "
            f"nova3d-mini with the method resample and {settings.steps} steps. PSNR and mean "
            f"gradient over the pixels of the model's orbit with M > {MIN_UNSEEN:g}, in renders of "
            f"{COMPARED_PX} px. Seen texels equal: all texels with M = 0 are unchanged, bit for "
            f"bit. Limits: PSNR at most {MAX_PSNR_LOSS:g} dB below the inpainted texture, gradient "
            f"between that of the inpainted texture and {MAX_ENERGY_RATIO:g} times the truth's. "
            "The table shows that the completion works, not that it gains: nova3d-mini is too "
            "small to know what an object looks like from behind. A gain with SV3D has not been "
            "measured on public weights."
        ),
        tables=[
            Table(columns, rows),
            Table(
                lit_columns,
                lit_rows,
                title="Light and unseen parts",
                text=(
                    "The same with views under a key light (evaluation/lights.py): baked as they "
                    "are, after removing the light, and completed after that. Mean absolute sRGB "
                    "error of the albedo after the best common scale, in the pixels of the orbit "
                    "that the views have seen and in those that they have not."
                ),
            ),
        ],
        command="python dev.py bench completion --meshes DIR",
        machine=machine(),
        date=time.strftime("%Y-%m-%d"),
    )


if __name__ == "__main__":
    main(tyro.cli(CompletionBenchmark, description=__doc__))
