"""Core calls inside ComfyUI: cancel, errors, memory, inference mode, progress.

The script runs in ComfyUI's interpreter with ComfyUI's modules.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

SCRIPT = """
import importlib.util, json, sys
sys.argv = ["main.py", "--cpu"]
import comfy.options
comfy.options.enable_args_parsing()
import torch
import comfy.utils
from comfy import model_management as mm

root, answers = ROOT, {}
spec = importlib.util.spec_from_file_location(
    "pack", root + "/__init__.py", submodule_search_locations=[root]
)
sys.modules["pack"] = module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
from pack.nodes.runtime import node_context
from pack.nova3d_core.errors import Cancelled, InputError, MissingDependencyError, StageError

reports = []
comfy.utils.set_progress_bar_global_hook(
    lambda value, total, preview, node_id=None: reports.append((value, total, preview))
)

def outcome(error=None, action=None):
    try:
        with torch.inference_mode(), node_context(1.0) as context:
            if action:
                action(context)
            if error:
                raise error
    except BaseException as caught:
        return [type(caught).__name__, str(caught)]
    return "ok"

answers["input"] = outcome(InputError("the mask is empty.", "Use another."))
answers["stage"] = outcome(StageError("baking", "no view sees it.", "Check."))
answers["missing"] = outcome(MissingDependencyError("xatlas", "unwrapping"))
answers["memory"] = outcome(MemoryError())
answers["oom"] = outcome(mm.OOM_EXCEPTION("CUDA out of memory."))
answers["oom_is_hosts"] = answers["oom"][0] == mm.OOM_EXCEPTION.__name__
answers["other"] = outcome(KeyError("a bug"))

def cancel(context):
    context.progress.update("fusing", 1, 10)
    mm.interrupt_current_processing(True)
    context.progress.update("fusing", 2, 10)
    raise AssertionError("continued after a cancel")

answers["cancel"] = outcome(action=cancel)
answers["cancel_is_cleared"] = not mm.processing_interrupted()

def backward(context):
    weight = torch.ones(3, requires_grad=True)
    (weight * 2.0).sum().backward()
    answers["gradient"] = weight.grad.tolist()
    answers["device"] = str(context.device)

answers["backward"] = outcome(action=backward)

def steps(context):
    reports.clear()
    for step in range(1001):
        context.progress.update("fusing", step, 1000)
    answers["reports"] = [len(reports), reports[0][:2], reports[-1][:2]]
    context.progress.update("fusing", 5, 9, lambda: torch.tensor([[[1.0, 0.5, 0.0]]]))
    kind, image, max_size = reports[-1][2]
    answers["preview"] = [kind, list(image.getpixel((0, 0))), max_size]

answers["steps"] = outcome(action=steps)

# a GPU that warp cannot use
mm.get_torch_device = lambda: torch.device("cuda:0")
with node_context(5.0, "auto", fusion_field="grid") as context:
    answers["fallback"] = [str(context.device), context.has_gpu, context.memory_gib]
print("ANSWERS " + json.dumps(answers))
"""


@pytest.fixture(scope="module")
def answers(checkout) -> dict:
    """Results of the script."""
    command = [str(checkout.python), "-c", SCRIPT.replace("ROOT", repr(str(ROOT)))]
    done = subprocess.run(command, cwd=checkout.path, capture_output=True, text=True)
    line = next((x for x in done.stdout.splitlines() if x.startswith("ANSWERS ")), None)
    assert line is not None, done.stderr[-2000:]
    return json.loads(line[len("ANSWERS ") :])


pytestmark = pytest.mark.host


def test_core_errors_become_plain_exceptions_with_their_hint(answers):
    assert answers["input"] == ["ValueError", "the mask is empty. Use another."]
    assert answers["stage"] == ["RuntimeError", "baking: no view sees it. Check."]
    assert answers["missing"][0] == "RuntimeError"
    assert "pip install xatlas" in answers["missing"][1]


def test_out_of_memory_stays_comfyuis_exception_and_gives_advice(answers):
    assert answers["oom_is_hosts"]
    for name in ("oom", "memory"):
        assert "preset 'draft'" in answers[name][1]


def test_fusion_falls_back_to_the_cpu_if_warp_cannot_use_the_gpu(answers):
    assert answers["fallback"] == ["cpu", False, 0.0]


def test_bugs_are_not_translated(answers):
    assert answers["other"] == ["KeyError", "'a bug'"]


def test_cancel_becomes_comfyuis_exception_and_is_cleared(answers):
    assert answers["cancel"][0] == "InterruptProcessingException"
    assert answers["cancel_is_cleared"]


def test_autograd_works_although_comfyui_runs_in_inference_mode(answers):
    assert answers["backward"] == "ok"
    assert answers["gradient"] == [2.0, 2.0, 2.0]
    assert answers["device"] == "cpu"


def test_progress_is_throttled_except_first_last_and_previews(answers):
    assert answers["steps"] == "ok"
    count, first, last = answers["reports"]
    assert (first, last) == ([0, 1000], [1000, 1000])
    assert 2 <= count < 200
    assert answers["preview"] == ["JPEG", [255, 128, 0], 512]
