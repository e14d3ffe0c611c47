"""The one place that knows the host's device, memory, progress bar, cancel button and errors."""

from __future__ import annotations

import functools
import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from comfy_api.v0_0_2 import io

    from ..nova3d_core.progress import Progress, ProgressEvent

logger = logging.getLogger(__name__)

GIB = 1 << 30
LEAST_FREE_GIB = 0.5
"""A core call is not told of less GPU memory than this."""
PREVIEW_PX = 512
REPORT_EVERY_S = 0.05
"""The page draws no faster, and each report is a message to it."""


@dataclass(frozen=True)
class Work:
    """What a node's core call gets from the host."""

    progress: Progress
    """Told of each step; raises when the user pressed cancel."""
    device: torch.device
    """Where to optimise: the host's GPU where the core can use it, else the CPU."""
    memory_gib: float = 0.0
    """Memory of a GPU that the host leaves to the core call; 0 on a CPU."""

    @property
    def has_gpu(self) -> bool:
        """Whether the device is a GPU."""
        return self.device.type != "cpu"


@contextmanager
def working(
    memory_gib: float = 0.0, device: str = "auto", fuses: str | None = None
) -> Iterator[Work]:
    """Prepares the host for a core call, and clears up after it.

    Inside, gradients can be taken, although the host runs nodes in inference mode. Errors come out
    as the host wants them: a clear line on the node, the host's own exception on a cancel, and its
    own on memory that ran out, so that it can unload models.

    Args:
        memory_gib: GPU memory that the host is asked to free first; nothing on a CPU.
        device: "auto" or "cpu".
        fuses: the field of the fusion that the call does; where it runs better on the CPU, the
            device is the CPU, and the node says why.
    """
    import torch
    from comfy import model_management

    on_gpu = False
    try:
        with torch.inference_mode(False), torch.enable_grad(), explained(), told_on_node() as notes:
            progress = _progress(notes)
            chosen = _device(device)
            if fuses is not None:
                from ..nova3d_core.fusion.device import fusion_device

                chosen = fusion_device(chosen, fuses, progress)
            on_gpu = chosen.type != "cpu" and memory_gib > 0
            left_gib = _freed_gib(memory_gib, chosen) if on_gpu else 0.0
            yield Work(progress, chosen, left_gib)
    finally:
        if on_gpu:
            model_management.soft_empty_cache()


def _freed_gib(wanted_gib: float, device: torch.device) -> float:
    """Has the host free GPU memory; what a core call may take then, beside the host's reserve."""
    from comfy import model_management

    reserve = model_management.minimum_inference_memory()
    model_management.free_memory(int(wanted_gib * GIB + reserve), device)
    left = model_management.get_free_memory(device) - reserve
    return max(left / GIB, LEAST_FREE_GIB)


@contextmanager
def sampling() -> Iterator[Progress]:
    """The same for a run of a model that the host manages; gives the `Progress`.

    The host moves weights in inference mode, and weights that it moved serve nowhere else: so the
    run stays in it. What comes out has to be copied out of it; see `adapters.kept`.
    """
    import torch

    with torch.inference_mode(), explained(_SMALLER_SAMPLE), told_on_node() as notes:
        yield _progress(notes)


@contextmanager
def explained(less_memory: str = "") -> Iterator[None]:
    """Turns the core's errors, and memory that ran out, into the host's.

    Args:
        less_memory: what the user can do if memory runs out.
    """
    from comfy import model_management

    from ..nova3d_core.compute.devices import is_out_of_host_memory, is_out_of_memory
    from ..nova3d_core.errors import Cancelled, InputError, Nova3DError

    less_memory = less_memory or _LESS_MEMORY
    try:
        yield
    except Cancelled as cancelled:
        model_management.interrupt_current_processing(False)
        raise model_management.InterruptProcessingException from cancelled
    except InputError as error:
        raise ValueError(str(error)) from error
    except Nova3DError as error:
        raise RuntimeError(str(error)) from error
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        if is_out_of_host_memory(error):
            raise RuntimeError(f"memory ran out. {less_memory}") from error
        # in whatever form it came: the host unloads its models on this one
        raise model_management.OOM_EXCEPTION(f"{error} {less_memory}") from error


_LESS_MEMORY = (
    "Use the preset 'draft', fewer or smaller images, or the device 'cpu' where the node has one."
)
_SMALLER_SAMPLE = "Load the model as fp16 or bf16, choose a smaller size, or close other programs."


@contextmanager
def told_on_node() -> Iterator[_Notes]:
    """Shows the core's warnings on the running node, as well as in the log."""
    from .. import nova3d_core

    notes = _Notes()
    core = logging.getLogger(nova3d_core.__name__)
    core.addHandler(notes)
    try:
        yield notes
    finally:
        core.removeHandler(notes)


def with_warnings(execute: Callable[..., io.NodeOutput]) -> Callable[..., io.NodeOutput]:
    """Decorates a node's `execute`: its UI output gets the core's warnings as `text`.

    The text on a running node goes to an open page alone; the UI output is what the host's
    /history keeps for clients of its API.
    """

    @functools.wraps(execute)
    def executed(cls: type, *given: Any, **inputs: Any) -> io.NodeOutput:
        from .. import nova3d_core

        core, warnings = logging.getLogger(nova3d_core.__name__), _Messages()
        core.addHandler(warnings)
        try:
            output = execute(cls, *given, **inputs)
        finally:
            core.removeHandler(warnings)
        ui = output.ui or {}
        if ui or warnings.lines:  # for a list of inputs the host wants the same keys of all calls
            output.ui = {**ui, "text": [*ui.get("text", []), *warnings.lines]}
        return output

    return executed


class _Messages(logging.Handler):
    """Collects the messages of warnings, each once."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if message not in self.lines:
            self.lines.append(message)


class _Notes(logging.Handler):
    """Collects warnings as the text of the running node; below them, what takes long just now."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self._lines: list[str] = []
        self._stage = ""

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(record.getMessage())
        self._show()

    def show_stage(self, text: str) -> None:
        """Shows a line until the next one, or until the empty one."""
        if text != self._stage:
            self._stage = text
            self._show()

    def _show(self) -> None:
        _show_text("\n".join([*self._lines, *filter(None, [self._stage])]))


def _show_text(text: str) -> None:
    """Writes on the running node, where there is a page and the host can do so."""
    server = getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)
    if not hasattr(server, "send_progress_text"):
        return
    from comfy_execution.utils import get_executing_context

    context = get_executing_context()
    if context is not None:
        server.send_progress_text(text, context.node_id)


def _device(wanted: str) -> torch.device:
    import torch
    from comfy import model_management

    device = model_management.get_torch_device()
    # the core computes on CUDA devices and on CPUs
    usable = isinstance(device, torch.device) and device.type == "cuda" and wanted != "cpu"
    return device if usable else torch.device("cpu")


def _progress(notes: _Notes) -> Progress:
    """A `Progress` that shows steps and images on the running node and hears its cancel."""
    from comfy import model_management
    from comfy.utils import ProgressBar

    from ..nova3d_core.compute.warp_backend import COMPILING
    from ..nova3d_core.progress import Progress

    bar = ProgressBar(1)
    last_s = 0.0

    def report(event: ProgressEvent) -> None:
        nonlocal last_s
        compiles = event.stage == COMPILING and event.step < event.total
        notes.show_stage(f"{COMPILING}: once for each device" if compiles else "")
        now_s = time.perf_counter()
        over = event.step in (0, event.total)
        if event.preview is None and not over and now_s - last_s < REPORT_EVERY_S:
            return
        last_s = now_s
        image = None if event.preview is None else _preview(event.preview())
        bar.update_absolute(event.step, event.total, image)

    return Progress(report, model_management.processing_interrupted)


def _preview(image: torch.Tensor) -> tuple[str, Any, int]:
    """An image (H, W, 3) in 0..1 as the host's progress bar wants it."""
    from PIL import Image

    levels = (image.detach().clamp(0.0, 1.0) * 255.0).round().byte().cpu().numpy()
    return "JPEG", Image.fromarray(levels), PREVIEW_PX
