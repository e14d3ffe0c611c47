"""`render-dataset`: meshes, or procedural objects, to shards for training."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from ..checks import check_bounds
from ..errors import InputError
from ..progress import Progress
from ..training.data.config import DatasetConfig, PrecomputeConfig
from .console import print_json, print_out

if TYPE_CHECKING:
    from ..training.data.precompute_latents import Encoders

LATENTS = "latents"
MAX_WORKERS = 1024
"""More processes than this on one machine is a slip of the keyboard."""


@dataclass(frozen=True)
class RenderDataset:
    """Render objects into shards that training reads; run again, it goes on where it stopped."""

    output: Annotated[Path, arg(aliases=("-o",), metavar="DIR")]
    """The folder for the shards."""
    meshes: Positional[Path | None] = None
    """A text file that names one mesh file a line, relative to its own folder."""
    procedural: Annotated[int | None, arg(metavar="COUNT")] = None
    """Make so many objects instead of reading meshes; --seed chooses them."""
    dataset: Annotated[DatasetConfig, arg(name="")] = field(default_factory=DatasetConfig)
    """The set."""
    workers: int = 1
    """Processes that render."""
    ray: Annotated[str | None, arg(metavar="ADDRESS")] = None
    """Render on the Ray cluster at this address; "local" starts one on this machine."""
    latents_of: Annotated[Path | None, arg(metavar="MODEL")] = None
    """Then work out what this model's VAE and image encoder make of the images, for training
    that reads none; written to the folder `latents` in DIR."""
    precompute: PrecomputeConfig = field(default_factory=PrecomputeConfig)
    """With --latents-of."""
    device: str = "cpu"
    """With --latents-of: where to encode: cpu, cuda, cuda:1, mps."""
    overwrite: bool = False
    """Render anew what an earlier run with other settings left in the folder."""
    json: bool = False
    """Say the result as JSON."""

    def run(self, progress: Progress) -> None:
        """Renders what is missing."""
        from dataclasses import asdict

        from ..compute.devices import resolve_device
        from ..training.data.dataset_lock import existing_settings
        from ..training.data.mesh_sources import ProceduralObjects, read_mesh_list
        from ..training.data.render_dataset import SKIPPED, render_dataset

        device = resolve_device(self.device)
        check_bounds(self, "option", procedural=(1, 2**31 - 1), workers=(1, MAX_WORKERS))
        if (self.meshes is None) == (self.procedural is None):
            raise InputError(
                "name a list of meshes, or give --procedural COUNT; not both.",
                "For example: render-dataset meshes.txt -o shards",
            )
        if self.meshes is not None:
            source = read_mesh_list(self.meshes, self.dataset.yaws_per_mesh)
        else:
            source = ProceduralObjects(self.procedural)
        encoders = None
        if self.latents_of is not None:
            from ..training.data.precompute_latents import load_encoders

            existing_settings(self.output / LATENTS)
            encoders = load_encoders(self.latents_of, device, progress)  # before hours of rendering
        done = render_dataset(
            source, self.output, self.dataset, self.workers, self.ray, self.overwrite, progress
        )
        latents = None if encoders is None else self._latents(encoders, progress)
        if self.json:
            document = {**asdict(done), "folder": str(done.folder)}
            print_json({**document, "latents": None if latents is None else str(latents)})
            return
        kept = f", {done.kept} of them kept" if done.kept else ""
        print_out(f"{done.objects} objects in {done.shards} shards in {done.folder}{kept}")
        if done.grey:
            print_out(f"{done.grey} had neither texture nor vertex colours: they are grey")
        if done.open:
            print_out(f"{done.open} are open or not manifold: they are seen from both sides")
        if done.skipped:
            print_out(f"{len(done.skipped)} were skipped; {done.folder / SKIPPED} says why")
        if latents is not None:
            print_out(f"their latents in {latents}")

    def _latents(self, encoders: Encoders, progress: Progress) -> Path:
        """The second step; the folder that it fills."""
        from ..training.data.precompute_latents import precompute

        folder = self.output / LATENTS
        precompute(self.output, folder, encoders, self.precompute, self.overwrite, progress)
        return folder
