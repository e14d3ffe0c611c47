"""`presets`: prints the settings of a fusion preset, as a template for a settings file."""

from __future__ import annotations

from dataclasses import dataclass

from tyro.conf import Positional

from ..fusion.config import Preset
from ..progress import Progress
from .console import print_json


@dataclass(frozen=True)
class Presets:
    """Print the settings of a fusion preset as JSON, for `fuse --settings FILE`."""

    name: Positional[Preset] = "fast"
    """The preset of the fusion: draft, fast (for CPUs) or quality (for GPUs)."""
    json: bool = False
    """Print the settings as JSON, which this command does in any case."""

    def run(self, progress: Progress) -> None:
        """Runs the command."""
        from ..fusion.config import preset_config
        from ..io.settings import settings_dict
        from ..pipeline.config import FuseConfig

        print_json(settings_dict(FuseConfig(sdf=preset_config(self.name))))
