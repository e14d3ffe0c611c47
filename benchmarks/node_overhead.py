"""What a node adds to the core call that it makes, in a real ComfyUI's interpreter.

    python dev.py bench node_overhead --host PATH [--python INTERPRETER] [-o overhead.json]

Overhead = time of the node's execute - time of its core call + time of its progress reports (with
their preview images) inside that call. Target: under 2 % of the core call or under 50 ms.
Views of the shipped knight, small, so that the node's share shows. The first run of each node is
left out: it imports the core.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import nova3d_core as nova3d

PROJECT = Path(__file__).resolve().parents[1]
KNIGHT = PROJECT / "nova3d_core" / "assets" / "character_knight.glb"
VIEWS = 16
PIXELS = 128
MOST_MS = 50.0
MOST_SHARE = 0.02

# Runs with ComfyUI's folder as working directory, which `python -c` looks for modules in.
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
    "LoadViews": ["io.views.transforms_json:read_views", "pipeline.stages:with_masks"],
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


def timed(function, where):
    @functools.wraps(function)
    def call(*words, **named):
        if inside[where]:  # one core call may make another
            return function(*words, **named)
        inside[where] = True
        start = time.perf_counter()
        try:
            return function(*words, **named)
        finally:
            spent[where] += time.perf_counter() - start
            inside[where] = False
    return call


for places in CORE.values():
    for place in places:
        module, name = place.split(":")
        module = importlib.import_module(f"{root}.nova3d_core.{module}")
        setattr(module, name, timed(getattr(module, name), "core"))
bar = importlib.import_module("comfy.utils").ProgressBar
bar.update_absolute = timed(bar.update_absolute, "reports")
runtime = importlib.import_module(f"{root}.nodes.runtime")
runtime._preview = timed(runtime._preview, "reports")


def run(kind, **given):
    inputs = classes[kind].GET_NODE_INFO_V1()["input"]
    values = {name: spec[1]["default"] for group in ("required", "optional")
              for name, spec in inputs.get(group, {}).items()
              if isinstance(spec[1], dict) and spec[1].get("default") is not None}
    values.update(given)
    measured = []
    for turn in range(rounds + 1):
        node = classes[kind].PREPARE_CLASS_CLONE({"hidden_inputs": {}})
        spent.update(core=0.0, reports=0.0)
        start = time.perf_counter()
        with torch.inference_mode():
            out = node.execute(**values)
        whole = time.perf_counter() - start
        measured.append((whole - spent["core"] + spent["reports"], spent["core"]))
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
    words = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    words.add_argument("--host", type=Path, default=os.environ.get("COMFYUI_PATH"))
    words.add_argument("--python", type=Path, default=os.environ.get("COMFYUI_PYTHON"))
    words.add_argument("--rounds", type=int, default=5)
    words.add_argument("-o", "--output", type=Path)
    given = words.parse_args()
    if given.host is None or not (given.host / "main.py").is_file():
        words.error("--host needs the folder of a ComfyUI, the one that holds its main.py.")
    with tempfile.TemporaryDirectory() as folder:
        seen = measure(given.host, given.python or Path(sys.executable), given.rounds, Path(folder))
    print("| node | core call, ms | node adds, ms | share | target |\n|---|---|---|---|---|")
    for kind, figures in seen.items():
        share = figures["overhead_ms"] / max(figures["core_ms"], 1e-9)
        figures["met"] = figures["overhead_ms"] < MOST_MS or share < MOST_SHARE
        print(
            f"| {kind} | {figures['core_ms']:.1f} | {figures['overhead_ms']:.2f} | {share:.1%} | "
            f"{'met' if figures['met'] else 'missed'} |"
        )
    if given.output:
        given.output.write_text(json.dumps(seen, indent=2), encoding="utf-8")
    return 0 if all(figures["met"] for figures in seen.values()) else 1


def measure(host: Path, python: Path, rounds: int, base: Path) -> dict[str, dict[str, float]]:
    """Milliseconds by node; `base` gets an input folder, the pack and what the nodes write."""
    truth = nova3d.read_mesh(KNIGHT).normalised()
    rig = nova3d.orbit_cameras(nova3d.RigConfig(VIEWS, width_px=PIXELS, height_px=PIXELS))
    nova3d.write_views(nova3d.render_views(truth, rig).views, base / "input" / "knight" / "views")
    shutil.copy2(KNIGHT, base / "input")
    pack = base / "custom_nodes" / "nova3d"
    for name in ("__init__.py", "nodes", "nova3d_core"):
        place = shutil.copytree if (PROJECT / name).is_dir() else shutil.copy2
        pack.mkdir(parents=True, exist_ok=True)
        place(PROJECT / name, pack / name)
    sizes = f"VIEWS, PIXELS = {VIEWS}, {PIXELS}\n"
    command = [python, "-c", sizes + PROBE, pack, base, base / "report.json", str(rounds)]
    done = subprocess.run(command, cwd=host, check=False, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads((base / "report.json").read_text(encoding="utf-8"))


if __name__ == "__main__":
    raise SystemExit(main())
