"""`render-dataset`: training shards from meshes or procedural objects."""

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
"""Larger numbers are assumed to be typing errors."""


@dataclass(frozen=True)
class RenderDataset:
    """Render objects to shards for training; running it again resumes an interrupted run."""

    output: Annotated[Path, arg(aliases=("-o",), metavar="DIR")]
    """The output folder for the shards."""
    meshes: Positional[Path | None] = None
    """A text file with one mesh file per line, relative to the text file's folder."""
    procedural: Annotated[int | None, arg(metavar="COUNT")] = None
    """Generate this many objects instead of reading meshes; --seed selects them."""
    dataset: Annotated[DatasetConfig, arg(name="")] = field(default_factory=DatasetConfig)
    """Settings of the data set."""
    workers: int = 1
    """Number of rendering processes."""
    ray: Annotated[str | None, arg(metavar="ADDRESS")] = None
    """Render on the Ray cluster at this address; "local" starts a cluster on this machine."""
    precompute_latents: Annotated[Path | None, arg(metavar="MODEL")] = None
    """Then encode the images with the VAE and the image encoder of this model, so that training
    does not have to; written to the folder `latents` in DIR."""
    precompute: PrecomputeConfig = field(default_factory=PrecomputeConfig)
    """Settings of --precompute-latents."""
    device: str = "cpu"
    """Device of --precompute-latents: cpu, cuda, cuda:1, mps."""
    overwrite: bool = False
    """Replace the shards of an earlier run with other settings."""
    json: bool = False
    """Print the result as JSON."""

    def run(self, progress: Progress) -> None:
        """Runs the command."""
        from dataclasses import asdict

        from ..compute.devices import resolve_device
        from ..training.data.dataset_lock import existing_settings
        from ..training.data.mesh_sources import ProceduralObjects, read_mesh_list
        from ..training.data.render_dataset import SKIPPED, render_dataset

        device = resolve_device(self.device)
        check_bounds(self, "option", procedural=(1, 2**31 - 1), workers=(1, MAX_WORKERS))
        if (self.meshes is None) == (self.procedural is None):
            raise InputError(
                "pass either a list of meshes or --procedural COUNT, not both.",
                "For example: render-dataset meshes.txt -o shards",
            )
        if self.meshes is not None:
            source = read_mesh_list(self.meshes, self.dataset.yaws_per_mesh)
        else:
            source = ProceduralObjects(self.procedural)
        encoders = None
        if self.precompute_latents is not None:
            from ..training.data.precompute_latents import load_encoders

            existing_settings(self.output / LATENTS)
            encoders = load_encoders(self.precompute_latents, device, progress)
        result = render_dataset(
            source, self.output, self.dataset, self.workers, self.ray, self.overwrite, progress
        )
        latents = None if encoders is None else self._latents(encoders, progress)
        if self.json:
            document = {**asdict(result), "folder": str(result.folder)}
            print_json({**document, "latents": None if latents is None else str(latents)})
            return
        earlier = f" ({result.kept} from an earlier run)" if result.kept else ""
        print_out(
            f"Objects: {result.objects}, shards: {result.shards}{earlier}, folder: {result.folder}"
        )
        if result.grey:
            print_out(f"Rendered grey, without texture or vertex colours: {result.grey}")
        if result.open:
            print_out(f"Rendered double-sided, not closed manifolds: {result.open}")
        if result.skipped:
            print_out(f"Skipped: {len(result.skipped)}, see {result.folder / SKIPPED}")
        if latents is not None:
            print_out(f"Latents: {latents}")

    def _latents(self, encoders: Encoders, progress: Progress) -> Path:
        """Encodes the rendered images; returns the folder of the latents."""
        from ..training.data.precompute_latents import precompute_latents

        folder = self.output / LATENTS
        precompute_latents(self.output, folder, encoders, self.precompute, self.overwrite, progress)
        return folder
