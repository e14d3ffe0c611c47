"""`presets`: the fusion's presets with every setting, to read or to start a settings file from."""

from __future__ import annotations

from dataclasses import dataclass

from tyro.conf import Positional

from ..fusion.config import Preset
from ..progress import Progress
from .console import print_json


@dataclass(frozen=True)
class Presets:
    """Print the settings that `fuse --settings FILE` reads."""

    name: Positional[Preset] = "fast"
    """draft, fast (for CPUs) or quality (for GPUs)."""

    def run(self, progress: Progress) -> None:
        """Prints all settings of the fusion with this preset."""
        from ..fusion.config import preset_config
        from ..io.settings import settings_dict
        from ..pipeline.config import FuseConfig

        print_json(settings_dict(FuseConfig(sdf=preset_config(self.name))))
