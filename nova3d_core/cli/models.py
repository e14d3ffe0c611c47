"""`models`: lists the installed model files, what each contains, and missing ones."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..progress import Progress
from .console import print_json, print_out


@dataclass(frozen=True)
class Models:
    """List the installed model files, identified by their headers, and missing published ones."""

    folder: tuple[Path, ...] = ()
    """Folders to search; NOVA3D_MODELS and ComfyUI's models folder if none are given."""
    json: bool = False
    """Print the list as JSON."""

    def run(self, progress: Progress) -> None:
        """Runs the command."""
        from .models_table import models_report, models_text

        report = models_report(self.folder, progress)
        if self.json:
            print_json(report)
        else:
            print_out(models_text(report))
