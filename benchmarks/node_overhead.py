"""Overhead of the nodes over the core functions that they call, in the interpreter of a ComfyUI.

    python dev.py bench node_overhead --host PATH [--python INTERPRETER] [-o FOLDER]

Overhead = time of the node's execute - time of its core call + time of its progress reports (with
their preview images) inside that call. Target: under 2 % of the core call or under 50 ms. Input are
small views of the shipped knight, for which the relative overhead is large. The first run of each
node is excluded because it imports the core.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from measure import machine
from results import ResultPage, Table, markdown_page, save_page

import nova3d_core as nova3d

PROJECT = Path(__file__).resolve().parents[1]
KNIGHT = PROJECT / "nova3d_core" / "assets" / "character_knight.glb"
VIEWS = 16
PIXELS = 128
MAX_OVERHEAD_MS = 50.0
MAX_OVERHEAD_RATIO = 0.02

# Runs with the ComfyUI folder as working directory, where `python -c` looks for modules.
PROBE = """
import asyncio, functools, importlib, json, statistics, sys, time
pack, base, report, rounds = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
sys.argv[1:] = ["--cpu", "--base-directory", base]
import comfy.options
comfy.options.enable_args_parsing()
import nodes, torch

assert asyncio.run(nodes.load_custom_node(pack))
classes = nodes.NODE_CLASS_MAPPINGS
root = classes["LoadViews"].__module__.rpartition(".nodes")[0]
CORE = {
    "LoadViews": ["io.views.transforms_json:read_views", "pipeline.stages:ensure_masks"],
    "NOVA3DLoadMesh": ["io.mesh.read:read_mesh"],
    "OrbitCameras": ["cameras.cameras:cameras_from_orbit"],
    "RenderViews": ["rendering.views:render_views"],
    "AssembleViews": ["imaging.assemble:assemble_views"],
    "PrepareImage": ["imaging.crop:prepare_images"],
    "SaveViews": ["io.views.transforms_json:write_views"],
    "RefinePoses": ["pipeline.stages:refine_views"],
    "DeconflictFusion": ["pipeline.stages:fuse_to_surface"],
    "ExtractMesh": ["pipeline.stages:extract_mesh"],
    "BakeTexture": ["pipeline.stages:bake_views"],
    "ExportMesh": ["io.mesh.write:mesh_to_glb_bytes"],
    "EvaluateMesh": ["evaluation.protocol:evaluate_mesh_with_grid"],
}
spent = {"core": 0.0, "reports": 0.0}
inside = {"core": False, "reports": False}


def timed(function, kind):
    @functools.wraps(function)
    def call(*args, **kwargs):
        if inside[kind]:  # core functions call each other
            return function(*args, **kwargs)
        inside[kind] = True
        start = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            spent[kind] += time.perf_counter() - start
            inside[kind] = False
    return call


for functions in CORE.values():
    for function in functions:
        module, name = function.split(":")
        module = importlib.import_module(f"{root}.nova3d_core.{module}")
        setattr(module, name, timed(getattr(module, name), "core"))
bar = importlib.import_module("comfy.utils").ProgressBar
bar.update_absolute = timed(bar.update_absolute, "reports")
runtime = importlib.import_module(f"{root}.nodes.runtime")
runtime._preview = timed(runtime._preview, "reports")


def run(kind, **inputs_given):
    inputs = classes[kind].GET_NODE_INFO_V1()["input"]
    values = {name: spec[1]["default"] for group in ("required", "optional")
              for name, spec in inputs.get(group, {}).items()
              if isinstance(spec[1], dict) and spec[1].get("default") is not None}
    values.update(inputs_given)
    measured = []
    for _ in range(rounds + 1):
        node = classes[kind].PREPARE_CLASS_CLONE({"hidden_inputs": {}})
        spent.update(core=0.0, reports=0.0)
        start = time.perf_counter()
        with torch.inference_mode():
            out = node.execute(**values)
        total = time.perf_counter() - start
        measured.append((total - spent["core"] + spent["reports"], spent["core"]))
    overhead, core = zip(*measured[1:])
    seen[kind] = {"overhead_ms": 1000 * statistics.median(overhead),
                  "core_ms": 1000 * statistics.median(core)}
    return out.args


seen = {}
(views, images, masks) = run("LoadViews", folder="knight/views")
(mesh,) = run("NOVA3DLoadMesh", file="character_knight.glb")
(cameras,) = run("OrbitCameras", preset="custom", count=VIEWS, width=PIXELS, height=PIXELS)
_, colour, normals, masks = run("RenderViews", mesh=mesh, cameras=cameras, width=PIXELS,
                                height=PIXELS)
(views,) = run("AssembleViews", images=colour, cameras=cameras, normals=normals, masks=masks)
run("PrepareImage", image=colour, mask=masks)
run("SaveViews", views=views)
run("RefinePoses", views=views, preset="draft")
surface, refined, _, _ = run("DeconflictFusion", views=views, preset="draft")
(raw,) = run("ExtractMesh", surface=surface, target_faces=5000)
textured, _, _ = run("BakeTexture", mesh=raw, views=refined, surface=surface, texture_size=512)
run("ExportMesh", mesh=textured)
run("EvaluateMesh", mesh=textured, reference=textured, points=20000, image_size=128)
with open(report, "w") as file:
    json.dump(seen, file)
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--host", type=Path, default=os.environ.get("COMFYUI_PATH"))
    parser.add_argument("--python", type=Path, default=os.environ.get("COMFYUI_PYTHON"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("-o", "--output", type=Path, help="folder for node_overhead.json and .md")
    options = parser.parse_args()
    if options.host is None or not (Path(options.host) / "main.py").is_file():
        parser.error("--host needs the folder of a ComfyUI, the one with its main.py.")
    python = options.python or Path(sys.executable)
    with tempfile.TemporaryDirectory() as folder:
        times = measure(Path(options.host), python, options.rounds, Path(folder))
    rows = []
    for kind, node in times.items():
        ratio = node["overhead_ms"] / max(node["core_ms"], 1e-9)
        met = node["overhead_ms"] < MAX_OVERHEAD_MS or ratio < MAX_OVERHEAD_RATIO
        verdict = "met" if met else "missed"
        rows.append([kind, node["core_ms"], node["overhead_ms"], ratio, verdict])
    columns = [("node", ""), ("core call, ms", ".1f"), ("overhead, ms", ".2f"), ("ratio", ".1%")]
    page = ResultPage(
        title="Overhead of the nodes",
        summary=f"Medians of {options.rounds} runs; target: under {MAX_OVERHEAD_RATIO:.0%} or "
        f"under {MAX_OVERHEAD_MS:g} ms.",
        tables=[Table([*columns, ("target", "")], rows)],
        command="python dev.py bench node_overhead --host PATH",
        machine=machine(),
        date=time.strftime("%Y-%m-%d"),
    )
    print(markdown_page(page, "node_overhead.json"))
    if options.output:
        save_page(options.output, "node_overhead", page)
    return 0 if all(row[-1] == "met" for row in rows) else 1


def measure(host: Path, python: Path, rounds: int, base: Path) -> dict[str, dict[str, float]]:
    """Milliseconds by node; `base` receives the input folder, the pack and the nodes' output."""
    mesh = nova3d.read_mesh(KNIGHT).normalised()
    rig = nova3d.orbit_cameras(nova3d.RigConfig(VIEWS, width_px=PIXELS, height_px=PIXELS))
    nova3d.write_views(nova3d.render_views(mesh, rig).views, base / "input" / "knight" / "views")
    shutil.copy2(KNIGHT, base / "input")
    pack = base / "custom_nodes" / "nova3d"
    pack.mkdir(parents=True, exist_ok=True)
    for name in ("__init__.py", "nodes", "nova3d_core"):
        copy = shutil.copytree if (PROJECT / name).is_dir() else shutil.copy2
        copy(PROJECT / name, pack / name)
    sizes = f"VIEWS, PIXELS = {VIEWS}, {PIXELS}\n"
    command = [python, "-c", sizes + PROBE, pack, base, base / "report.json", str(rounds)]
    result = subprocess.run(command, cwd=host, check=False, capture_output=True, text=True)
    if result.returncode:
        raise SystemExit(result.stderr)
    return json.loads((base / "report.json").read_text(encoding="utf-8"))


if __name__ == "__main__":
    raise SystemExit(main())
