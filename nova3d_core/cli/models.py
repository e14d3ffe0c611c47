"""`models`: which model files are installed, what each really is, and which are missing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..progress import Progress
from .console import print_json, print_out


@dataclass(frozen=True)
class Models:
    """List the model files at hand, told from their headers, and the known ones missing."""

    folder: tuple[Path, ...] = ()
    """Where to look; without any, NOVA3D_MODELS and ComfyUI's models folder."""
    json: bool = False
    """Say the list as JSON."""

    def run(self, progress: Progress) -> None:
        """Looks and says."""
        from .models_table import models_report, models_text

        report = models_report(self.folder, progress)
        if self.json:
            print_json(report)
        else:
            print_out(models_text(report))
