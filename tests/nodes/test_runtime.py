"""What the host makes of a node's core call: its cancel, its errors, its memory, its modes.

Runs inside the host's own interpreter, on the host's own modules.
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

def outcome(raises=None, during=None):
    try:
        with torch.inference_mode(), node_context(1.0) as work:
            if during:
                during(work)
            if raises:
                raise raises
    except BaseException as error:
        return [type(error).__name__, str(error)]
    return "fine"

answers["input"] = outcome(InputError("the mask is empty.", "Give another."))
answers["stage"] = outcome(StageError("baking", "no view sees it.", "Check."))
answers["missing"] = outcome(MissingDependencyError("xatlas", "unwrapping"))
answers["memory"] = outcome(MemoryError())
answers["oom"] = outcome(mm.OOM_EXCEPTION("CUDA out of memory."))
answers["oom_is_hosts"] = answers["oom"][0] == mm.OOM_EXCEPTION.__name__
answers["other"] = outcome(KeyError("a slip of ours"))

def cancelled(work):
    work.progress.update("fusing", 1, 10)
    mm.interrupt_current_processing(True)
    work.progress.update("fusing", 2, 10)
    raise AssertionError("went on after a cancel")

answers["cancel"] = outcome(during=cancelled)
answers["cancel_is_over"] = not mm.processing_interrupted()

def learns(work):
    weight = torch.ones(3, requires_grad=True)
    (weight * 2.0).sum().backward()
    answers["gradient"] = weight.grad.tolist()
    answers["device"] = str(work.device)

answers["learning"] = outcome(during=learns)

def steps(work):
    reports.clear()
    for step in range(1001):
        work.progress.update("fusing", step, 1000)
    answers["reports"] = [len(reports), reports[0][:2], reports[-1][:2]]
    work.progress.update("fusing", 5, 9, lambda: torch.tensor([[[1.0, 0.5, 0.0]]]))
    kind, image, largest = reports[-1][2]
    answers["preview"] = [kind, list(image.getpixel((0, 0))), largest]

answers["steps"] = outcome(during=steps)

# a host whose card warp cannot use
mm.get_torch_device = lambda: torch.device("cuda:0")
with node_context(5.0, "auto", fusion_field="grid") as work:
    answers["moved"] = [str(work.device), work.has_gpu, work.memory_gib]
print("ANSWERS " + json.dumps(answers))
"""


@pytest.fixture(scope="module")
def answers(checkout) -> dict:
    """What the script found inside the host."""
    words = [str(checkout.python), "-c", SCRIPT.replace("ROOT", repr(str(ROOT)))]
    done = subprocess.run(words, cwd=checkout.path, capture_output=True, text=True)
    line = next((x for x in done.stdout.splitlines() if x.startswith("ANSWERS ")), None)
    assert line is not None, done.stderr[-2000:]
    return json.loads(line[len("ANSWERS ") :])


pytestmark = pytest.mark.host


def test_our_errors_become_plain_ones_with_what_to_do(answers):
    assert answers["input"] == ["ValueError", "the mask is empty. Give another."]
    assert answers["stage"] == ["RuntimeError", "baking: no view sees it. Check."]
    assert answers["missing"][0] == "RuntimeError"
    assert "pip install xatlas" in answers["missing"][1]


def test_memory_that_ran_out_stays_the_hosts_error_and_says_what_to_lower(answers):
    assert answers["oom_is_hosts"]
    for name in ("oom", "memory"):
        assert "preset 'draft'" in answers[name][1]


def test_a_fusion_that_warp_cannot_do_on_the_card_goes_to_the_cpu(answers):
    assert answers["moved"] == ["cpu", False, 0.0]


def test_our_own_slips_stay_what_they_are(answers):
    assert answers["other"] == ["KeyError", "'a slip of ours'"]


def test_a_cancel_is_the_hosts_and_over_after_it(answers):
    assert answers["cancel"][0] == "InterruptProcessingException"
    assert answers["cancel_is_over"]


def test_gradients_can_be_taken_inside_inference_mode(answers):
    assert answers["learning"] == "fine"
    assert answers["gradient"] == [2.0, 2.0, 2.0]
    assert answers["device"] == "cpu"


def test_progress_is_throttled_but_begins_ends_and_shows_images(answers):
    assert answers["steps"] == "fine"
    count, first, last = answers["reports"]
    assert (first, last) == ([0, 1000], [1000, 1000])
    assert 2 <= count < 200
    assert answers["preview"] == ["JPEG", [255, 128, 0], 512]
