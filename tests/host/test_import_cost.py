"""What the pack costs ComfyUI's start: little time, and no heavy package."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from .server import PACK, Checkout, Server, copy_pack

pytestmark = pytest.mark.host

MOST_SECONDS = 0.5
HEAVY = {"diffusers", "trimesh", "skimage", "warp", "embreex", "xatlas", "fast_simplification"}
# the host's own loader, in a process in which nothing but the host's nodes is imported yet;
# `python -c` looks for modules in the working directory, which is the host's
LOAD = """
import asyncio, json, sys, time
pack, report = sys.argv[1:3]
sys.argv[1:] = ["--cpu"]
import comfy.options
comfy.options.enable_args_parsing()
import nodes, torch
import comfy_config.config_parser  # the host's own, once for all packs: pydantic and its settings
before = set(sys.modules)
start = time.thread_time()  # what others do on the machine does not count
loaded = asyncio.run(nodes.load_custom_node(pack))
seconds = time.thread_time() - start
new = sorted({name.split(".")[0] for name in set(sys.modules) - before})
with open(report, "w") as file:
    json.dump({"loaded": loaded, "seconds": seconds, "new": new,
               "cuda": torch.cuda.is_initialized()}, file)
"""


def test_server_says_that_the_pack_loaded(server: Server):
    """The host's clock also counts what else the machine does; the next test tells our share."""
    found = re.search(rf"([\d.]+) seconds: \S*[\\/]{PACK}\s", server.log)
    assert found, server.log[-2000:]
    assert float(found.group(1)) < 10 * MOST_SECONDS


def test_loading_imports_nothing_heavy_and_no_cuda_context(checkout: Checkout, tmp_path: Path):
    copy_pack(tmp_path / PACK)
    report = tmp_path / "report.json"
    words = [checkout.python, "-c", LOAD, tmp_path / PACK, report]
    done = subprocess.run(words, cwd=checkout.path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    seen = json.loads(report.read_text())
    assert seen["loaded"]
    assert seen["seconds"] < MOST_SECONDS
    assert not HEAVY & set(seen["new"]), seen["new"]
    assert not seen["cuda"]
