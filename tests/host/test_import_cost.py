"""The pack adds little to ComfyUI's start-up time and imports no heavy package."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from .server import PACK, Checkout, Server, copy_pack

pytestmark = pytest.mark.host

MAX_SECONDS = 0.5
HEAVY = {"diffusers", "trimesh", "skimage", "warp", "embreex", "xatlas", "fast_simplification"}
# ComfyUI's own loader, in a process that has imported ComfyUI's nodes only; `python -c` searches
# for modules in the working directory, which is the checkout
LOAD = """
import asyncio, json, sys, time
pack, report = sys.argv[1:3]
sys.argv[1:] = ["--cpu"]
import comfy.options
comfy.options.enable_args_parsing()
import nodes, torch
import comfy_config.config_parser  # ComfyUI's own cost, once for all packs
before = set(sys.modules)
start = time.thread_time()  # excludes other processes on the machine
loaded = asyncio.run(nodes.load_custom_node(pack))
seconds = time.thread_time() - start
new = sorted({name.split(".")[0] for name in set(sys.modules) - before})
with open(report, "w") as file:
    json.dump({"loaded": loaded, "seconds": seconds, "new": new,
               "cuda": torch.cuda.is_initialized()}, file)
"""


def test_log_reports_the_loaded_pack(server: Server):
    """ComfyUI logs wall time, including other processes; the next test measures our own time."""
    match = re.search(rf"([\d.]+) seconds: \S*[\\/]{PACK}\s", server.log)
    assert match, server.log[-2000:]
    assert float(match.group(1)) < 10 * MAX_SECONDS


def test_import_is_fast_and_light(checkout: Checkout, tmp_path: Path):
    copy_pack(tmp_path / PACK)
    report = tmp_path / "report.json"
    command = [checkout.python, "-c", LOAD, tmp_path / PACK, report]
    done = subprocess.run(command, cwd=checkout.path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    result = json.loads(report.read_text())
    assert result["loaded"]
    assert result["seconds"] < MAX_SECONDS
    assert not HEAVY & set(result["new"]), result["new"]
    assert not result["cuda"]
