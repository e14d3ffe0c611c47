"""Context of a node's core call: ComfyUI's device, memory, progress bar, cancel and errors."""

from __future__ import annotations

import functools
import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .requirements import required_packages

if TYPE_CHECKING:
    import torch
    from comfy_api.v0_0_2 import io

    from ..nova3d_core.progress import Progress, ProgressEvent

logger = logging.getLogger(__name__)

GIB = 1 << 30
MIN_FREE_GIB = 0.5
"""Lower bound of the GPU memory limit that is passed to the core."""
PREVIEW_PX = 512
REPORT = "report"
"""Name of the outputs that list the warnings of their node."""
MIN_REPORT_INTERVAL_S = 0.05
"""Throttles progress messages: the page redraws no faster."""


@dataclass(frozen=True)
class NodeContext:
    """Resources that ComfyUI provides for a node's core call."""

    progress: Progress
    """Reports steps to the page; raises when the user cancels."""
    device: torch.device
    """Device to optimise on: ComfyUI's GPU if the core supports it, else the CPU."""
    memory_gib: float = 0.0
    """GPU memory available to the core call; 0 on a CPU."""

    @property
    def has_gpu(self) -> bool:
        """Whether the device is a GPU."""
        return self.device.type != "cpu"

    def preset(self, choice: str) -> str:
        """The preset of a node's choice; "auto" is quality on a GPU and fast on a CPU."""
        if choice != "auto":
            return choice
        return "quality" if self.has_gpu else "fast"


@contextmanager
def node_context(
    memory_gib: float = 0.0,
    device: str = "auto",
    fusion_field: str | None = None,
    memory_hint: str = "",
) -> Iterator[NodeContext]:
    """Prepares ComfyUI for a core call and cleans up afterwards.

    Enables autograd, although ComfyUI runs nodes in inference mode, and translates errors; see
    `host_errors`.

    Args:
        memory_gib: GPU memory that ComfyUI frees first; ignored on a CPU.
        device: "auto" or "cpu".
        fusion_field: field kind of the fusion that the call runs. If it runs better on the CPU,
            the CPU is used and a warning on the node gives the reason.
        memory_hint: advice appended to out-of-memory messages; that of the fusion by default.
    """
    import torch
    from comfy import model_management

    on_gpu = False
    try:
        with (
            torch.inference_mode(False),
            torch.enable_grad(),
            host_errors(memory_hint),
            show_warnings_on_node() as node_text,
        ):
            progress = _node_progress(node_text)
            torch_device = _select_device(device)
            if fusion_field is not None:
                from ..nova3d_core.fusion.device import fusion_device

                torch_device = fusion_device(torch_device, fusion_field, progress)
            on_gpu = torch_device.type != "cpu" and memory_gib > 0
            available_gib = _free_gpu_memory(memory_gib, torch_device) if on_gpu else 0.0
            yield NodeContext(progress, torch_device, available_gib)
    finally:
        if on_gpu:
            model_management.soft_empty_cache()


def _free_gpu_memory(required_gib: float, device: torch.device) -> float:
    """Makes ComfyUI free GPU memory; returns the GiB available beyond ComfyUI's own reserve."""
    from comfy import model_management

    reserve = model_management.minimum_inference_memory()
    model_management.free_memory(int(required_gib * GIB + reserve), device)
    available = model_management.get_free_memory(device) - reserve
    return max(available / GIB, MIN_FREE_GIB)


@contextmanager
def sampling_context() -> Iterator[Progress]:
    """Context for sampling from a model under ComfyUI's management; yields the `Progress`.

    ComfyUI moves weights in inference mode, and such weights cannot be used outside it, so sampling
    runs in inference mode. Clone the results; see `adapters.clone_outside_inference_mode`.
    """
    import torch

    with (
        torch.inference_mode(),
        host_errors(SAMPLING_MEMORY_HINT),
        show_warnings_on_node() as node_text,
    ):
        yield _node_progress(node_text)


@contextmanager
def host_errors(memory_hint: str = "") -> Iterator[None]:
    """Translates core errors and out-of-memory errors into the exceptions that ComfyUI expects.

    Core errors become plain exceptions with a one-line message, a cancel becomes ComfyUI's
    interrupt, and an exhausted GPU becomes ComfyUI's OOM exception, on which it unloads models.

    Args:
        memory_hint: advice appended to out-of-memory messages.
    """
    from comfy import model_management

    from ..nova3d_core.compute.devices import is_out_of_host_memory, is_out_of_memory
    from ..nova3d_core.errors import Cancelled, InputError, Nova3DError

    memory_hint = memory_hint or _FUSION_MEMORY_HINT
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
            raise RuntimeError(f"memory ran out. {memory_hint}") from error
        raise model_management.OOM_EXCEPTION(f"{error} {memory_hint}") from error


_FUSION_MEMORY_HINT = (
    "Use the preset 'draft', fewer or smaller images, or the device 'cpu' where the node has one."
)
SAMPLING_MEMORY_HINT = (
    "Load the model as fp16 or bf16, choose a smaller size, or close other programs."
)


@contextmanager
def show_warnings_on_node() -> Iterator[_NodeText]:
    """Displays the core's warnings on the running node, in addition to the log."""
    from .. import nova3d_core

    node_text = _NodeText()
    core_logger = logging.getLogger(nova3d_core.__name__)
    core_logger.addHandler(node_text)
    try:
        yield node_text
    finally:
        core_logger.removeHandler(node_text)


def with_warnings(execute: Callable[..., io.NodeOutput]) -> Callable[..., io.NodeOutput]:
    """Decorator for a node's `execute`: adds the core's warnings to its UI output, as `text`.

    Before, it checks that the pack's packages are installed; see `requirements`.

    Text on a running node reaches open pages only; the UI output is also kept in /history, for API
    clients. A node with a report also lists them there. Messages name settings as the node's
    inputs; see `nova3d_core.wording`.
    """

    @functools.wraps(execute)
    def wrapper(cls: type, *args: Any, **inputs: Any) -> io.NodeOutput:
        from .. import nova3d_core
        from ..nova3d_core.wording import interface

        core_logger, collector = logging.getLogger(nova3d_core.__name__), _WarningCollector()
        core_logger.addHandler(collector)
        try:
            with required_packages(), interface("nodes"):
                output = execute(cls, *args, **inputs)
        finally:
            core_logger.removeHandler(collector)
        ui = output.ui or {}
        if ui or collector.messages:  # for list inputs, all calls must return the same keys
            output.ui = {**ui, "text": [*ui.get("text", []), *collector.messages]}
        if collector.messages:
            _add_to_report(cls, output, collector.messages)
        return output

    return wrapper


def _add_to_report(cls: type, output: io.NodeOutput, warnings: list[str]) -> None:
    """Appends warnings to the output named "report", if the node has one."""
    if not hasattr(cls, "define_schema"):
        return
    names = [each.display_name for each in cls.define_schema().outputs]
    if REPORT not in names or not output.args:
        return
    index, values = names.index(REPORT), list(output.args)
    lines = [f"Warning: {message}" for message in warnings]
    values[index] = "\n".join([values[index].rstrip("\n"), "", *lines, ""])
    output.args = tuple(values)


class _WarningCollector(logging.Handler):
    """Collects warning messages, without duplicates."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if message not in self.messages:
            self.messages.append(message)


class _NodeText(logging.Handler):
    """Text on the running node: warnings, followed by a status line for a slow operation."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self._warnings: list[str] = []
        self._status = ""

    def emit(self, record: logging.LogRecord) -> None:
        self._warnings.append(record.getMessage())
        self._show()

    def show_status(self, text: str) -> None:
        """Replaces the status line; an empty text removes it."""
        if text != self._status:
            self._status = text
            self._show()

    def _show(self) -> None:
        text = "\n".join([*self._warnings, *filter(None, [self._status])])
        _show_text(text or " ")  # ComfyUI's page ignores an empty text


def _show_text(text: str) -> None:
    """Displays a text on the running node, if there is a server and it supports that."""
    server = getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)
    if not hasattr(server, "send_progress_text"):
        return
    from comfy_execution.utils import get_executing_context

    context = get_executing_context()
    if context is not None:
        server.send_progress_text(text, context.node_id)


def _select_device(choice: str) -> torch.device:
    """The torch device for "auto" or "cpu"; the core supports CUDA devices and CPUs."""
    import torch
    from comfy import model_management

    device = model_management.get_torch_device()
    is_usable = isinstance(device, torch.device) and device.type == "cuda" and choice != "cpu"
    return device if is_usable else torch.device("cpu")


def _node_progress(node_text: _NodeText) -> Progress:
    """A `Progress` that shows steps and previews on the running node and checks for a cancel."""
    from comfy import model_management
    from comfy.utils import ProgressBar

    from ..nova3d_core.compute.warp_backend import COMPILING
    from ..nova3d_core.progress import Progress

    bar = ProgressBar(1)
    last_report_s = 0.0

    def report(event: ProgressEvent) -> None:
        nonlocal last_report_s
        is_compiling = event.stage == COMPILING and event.step < event.total
        node_text.show_status(f"{COMPILING}: once for each device" if is_compiling else "")
        now_s = time.perf_counter()
        is_first_or_last = event.step in (0, event.total)
        is_due = now_s - last_report_s >= MIN_REPORT_INTERVAL_S
        if event.preview is None and not is_first_or_last and not is_due:
            return
        last_report_s = now_s
        image = None if event.preview is None else _preview(event.preview())
        bar.update_absolute(event.step, event.total, image)

    return Progress(report, model_management.processing_interrupted)


def _preview(image: torch.Tensor) -> tuple[str, Any, int]:
    """An image (H, W, 3) in 0..1 in the preview format of ComfyUI's progress bar."""
    from PIL import Image

    levels = (image.detach().clamp(0.0, 1.0) * 255.0).round().byte().cpu().numpy()
    return "JPEG", Image.fromarray(levels), PREVIEW_PX
