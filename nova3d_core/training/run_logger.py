"""Log of a run: JSON lines, and curves and images for TensorBoard."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import MissingDependencyError
from ..io.files.atomic import translate_os_errors

LOG_FILE, TENSORBOARD_DIR = "log.jsonl", "tensorboard"


class RunLogger:
    """Writes the log of a run, in the main process only.

    Args:
        output: folder of the run.
        tensorboard: also write for TensorBoard.
        main: whether this is the main process.

    Raises:
        MissingDependencyError: TensorBoard is requested and not installed.
    """

    def __init__(self, output: Path, tensorboard: bool = True, main: bool = True):
        self._path = output / LOG_FILE
        self._main = main
        self._writer: Any = None
        if main:
            with translate_os_errors(output):
                output.mkdir(parents=True, exist_ok=True)
        if main and tensorboard:
            self._writer = _make_writer(output / TENSORBOARD_DIR)

    def event(self, kind: str, step: int, **values: Any) -> None:
        """Logs an event of a step. Numbers are also added to TensorBoard's curves."""
        if not self._main:
            return
        line = {"event": kind, "step": step, "time": round(time.time(), 1), **values}
        with translate_os_errors(self._path), self._path.open("a", encoding="utf-8") as log:
            log.write(json.dumps(line) + "\n")
        if self._writer is not None:
            for name, value in values.items():
                if isinstance(value, int | float) and not isinstance(value, bool):
                    self._writer.add_scalar(f"{kind}/{name}", value, step)

    def image(self, name: str, image: Tensor, step: int) -> None:
        """Adds an image (H, W, 3) in 0..1 to TensorBoard."""
        if self._writer is not None:
            self._writer.add_image(name, image.movedim(-1, 0), step)

    def close(self) -> None:
        """Flushes pending events."""
        if self._writer is not None:
            self._writer.close()


def _make_writer(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise MissingDependencyError(
            "tensorboard", "run.tensorboard", "pip install -r requirements-train.txt"
        ) from error
    return SummaryWriter(str(folder))


def peak_memory_gib(device: torch.device) -> float | None:
    """Peak memory of the device, or of this process on the CPU; None if unknown."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 2**30, 3)
    if sys.platform == "win32":
        return None
    import resource

    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(used / (2**30 if sys.platform == "darwin" else 2**20), 3)
