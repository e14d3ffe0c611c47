"""Kills real commands at file events and random times, and checks their output.

`python tests/kills/campaign.py FOLDER --kills 200 --seed 0` prints a JSON document. One process
imports everything and forks a child for each command, so that a kill takes about a second.

After each kill, every output must be the earlier or the new one, complete; the next run must leave
no other files; and no process of the killed run may be alive after two seconds.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from nova3d_core.cli.main import main as run_command
from nova3d_core.io.files import renames
from nova3d_core.io.files.staging import remove_leftovers
from nova3d_core.io.mesh.write import write_mesh
from nova3d_core.mesh import Mesh

PRELOADED_MODULES = (
    "nova3d_core.pipeline.fuse", "nova3d_core.rendering.turntable", "tyro", "tqdm",
    "nova3d_core.training.data.mesh_sources", "nova3d_core.training.data.render_dataset",
    "nova3d_core.io.views.transforms_json",
    "trimesh.exchange.obj", "trimesh.exchange.gltf", "trimesh.visual.material", "scipy.sparse",
    "scipy.spatial", "skimage.measure", "PIL.PngImagePlugin", "xatlas", "warp", "embreex",
    "fast_simplification", "nova3d_core.cli.fuse", "nova3d_core.cli.render", "nova3d_core.cli.run",
    "nova3d_core.cli.demo", "nova3d_core.cli.ablate", "nova3d_core.cli.train",
    "nova3d_core.cli.models", "nova3d_core.cli.render_dataset", "nova3d_core.cli.export",
)  # fmt: skip
"""Modules that children need, if installed: the parent imports them once."""
ORPHAN_S = 2.0
STUCK_S = 120.0
Tree = dict[str, bytes]
WATCHED = {
    "open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.listdir",
    "shutil.rmtree", "subprocess.Popen",
}  # fmt: skip
"""Audit events at which a child may be killed, if they concern the work folder."""


@dataclass(frozen=True)
class Scenario:
    """A command with two settings, "a" and "b", of different output."""

    name: str
    run: Callable[[Path, Path, str, bool], int]
    """Takes inputs, output folder, settings and overwrite; returns an exit code."""
    groups: tuple[tuple[str, ...], ...]
    """Outputs; those of a group appear together."""
    unstable: tuple[str, ...] = ()
    """Files with timings: only their presence is compared."""
    resumes: bool = False
    """Finished files of a killed run are kept, and the same command resumes."""


def command_line(*arguments: object) -> list[str]:
    return [str(word) for word in arguments]


def render(inputs: Path, out: Path, kind: str, overwrite: bool) -> int:
    size = {"a": 12, "b": 16}[kind]
    return run_command(
        command_line(
            "render", inputs / "toy.glb", "-o", out / "views", "--rig.count", 3,
            "--rig.width-px", size, "--rig.height-px", size,
            *(["--overwrite"] if overwrite else []),
        )
    )  # fmt: skip


def fuse(inputs: Path, out: Path, kind: str, overwrite: bool) -> int:
    size = {"a": 64, "b": 96}[kind]
    return run_command(
        command_line(
            "fuse", inputs / "views", "-o", out / "toy.obj", "--details", out / "details",
            "--method", "hull", "--hull.resolution", 24, "--meshing.target-faces", 300,
            "--bake.texture-px", size, *(["--overwrite"] if overwrite else []),
        )
    )  # fmt: skip


def write_obj(inputs: Path, out: Path, kind: str, overwrite: bool) -> int:
    write_mesh(toy(16 if kind == "a" else 24), out / "toy.obj", overwrite)
    return 0


def dataset(inputs: Path, out: Path, kind: str, overwrite: bool) -> int:
    return run_command(
        command_line(
            "render-dataset", "--procedural", 4, "-o", out / "set", "--workers", 2,
            "--objects-per-shard", 2, "--image.views", 2, "--image.size-px", 32,
        )
    )  # fmt: skip


OBJ_FILES = ("toy.obj", "toy.mtl", "toy.png")
SCENARIOS = {
    each.name: each
    for each in (
        Scenario("render", render, (("views",),)),
        Scenario("fuse", fuse, (OBJ_FILES, ("details",)), ("details/report.json",)),
        Scenario("obj", write_obj, (OBJ_FILES,)),
        Scenario("dataset", dataset, (("set",),), resumes=True),
    )
}


def toy(texture_px: int) -> Mesh:
    """A textured tetrahedron."""
    vertices = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    faces = torch.tensor([[0, 2, 1], [0, 1, 3], [1, 2, 3], [0, 3, 2]])
    texture = torch.linspace(0, 1, texture_px**2 * 3).reshape(texture_px, texture_px, 3)
    return Mesh(vertices, faces, uv=vertices[:, :2], texture=texture)


def tree(folder: Path, scenario: Scenario) -> Tree:
    """All files below a folder with their content."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file():
            found[name] = b"" if name in scenario.unstable else path.read_bytes()
    return found


def files_of_group(files: Tree, group: tuple[str, ...]) -> Tree:
    return {name: content for name, content in files.items() if name.split("/")[0] in group}


class Child:
    """A forked process that runs a scenario in its own session.

    Args:
        work: contains `out` and `tmp`.
        at_event: the file event at which the child signals itself; 0 for none.
    """

    def __init__(
        self, scenario: Scenario, inputs: Path, work: Path, kind: str, overwrite: bool,
        at_event: int = 0, number: int = 0,
    ):  # fmt: skip
        self.start = time.monotonic()
        self.pid = os.fork()
        if self.pid == 0:
            code = 99
            try:
                os.setsid()
                code = _run_in_child(scenario, inputs, work, kind, overwrite, at_event, number)
            except KeyboardInterrupt:
                code = 130
            finally:
                sys.stderr.flush()
                os._exit(code)

    def wait(self, seconds: float) -> int | None:
        """The exit code, negative signal number if killed; None if still running."""
        deadline = time.monotonic() + seconds
        while True:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            if time.monotonic() >= deadline:
                return None
            time.sleep(0.002)

    def orphans(self) -> list[int]:
        """Live processes of the child's session."""
        found = []
        for entry in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):
                fields = entry.read_text().rpartition(")")[2].split()
                if int(fields[3]) == self.pid and fields[0] not in "ZX":
                    found.append(int(entry.parent.name))
        return found


def _run_in_child(
    scenario: Scenario, inputs: Path, work: Path, kind: str, overwrite: bool,
    at_event: int, number: int,
) -> int:  # fmt: skip
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    tempfile.tempdir = str(work / "tmp")
    log = os.open(work / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    torch.set_num_threads(1)
    # its child processes import like those of `python -m nova3d_core`, not this file
    sys.modules["__main__"].__spec__ = importlib.util.find_spec("nova3d_core.__main__")
    seen, watched, busy = 0, str(work), False

    def event() -> None:
        nonlocal seen, busy
        if busy:
            return
        seen += 1
        if seen == at_event:
            busy = True  # events in signal handlers do not count
            os.kill(os.getpid(), number)

    def audit(name: str, arguments: tuple) -> None:
        if name in WATCHED and watched in str(arguments) and "log.txt" not in str(arguments):
            event()

    plain = renames._rename_with

    def rename(flag: str, source: Path, target: Path) -> bool:
        event()
        done = plain(flag, source, target)
        event()
        return done

    renames._rename_with = rename
    sys.addaudithook(audit)
    code = scenario.run(inputs, work / "out", kind, overwrite)
    busy = True
    (work / "events.txt").write_text(str(seen))
    return code


@dataclass
class Reference:
    """The output of a scenario that is not killed."""

    outputs: dict[str, Tree]
    events: int
    seconds: float


def reset_work_folder(work: Path) -> None:
    """Empties the work folder."""
    import shutil

    shutil.rmtree(work, ignore_errors=True)
    for name in ("out", "tmp"):
        (work / name).mkdir(parents=True)


def run_to_completion(
    scenario: Scenario, inputs: Path, work: Path, kind: str, overwrite: bool
) -> None:
    """Runs a scenario until it exits."""
    code = Child(scenario, inputs, work, kind, overwrite).wait(STUCK_S)
    if code != 0:
        raise RuntimeError(f"{scenario.name}: code {code}: {(work / 'log.txt').read_text()}")


def run_reference(scenario: Scenario, inputs: Path, work: Path) -> Reference:
    """Runs a scenario with both settings."""
    outputs = {}
    for kind in ("b", "a"):
        reset_work_folder(work)
        start = time.monotonic()
        run_to_completion(scenario, inputs, work, kind, False)
        seconds = time.monotonic() - start
        outputs[kind] = tree(work / "out", scenario)
    return Reference(outputs, int((work / "events.txt").read_text()), seconds)


def kill_once(
    scenario: Scenario, reference: Reference, inputs: Path, work: Path, rng: random.Random
) -> dict[str, object]:
    """Kills a scenario once; returns the problem found, if any."""
    earlier = scenario.resumes is False and rng.random() < 0.6
    number = rng.choice([signal.SIGKILL] * 3 + [signal.SIGTERM, signal.SIGINT])
    at_file_event = rng.random() < 0.6
    # the last events publish the output: half of the kills happen there
    last = min(reference.events, 30)
    first = reference.events - last + 1 if rng.random() < 0.5 else 1
    at_event = rng.randint(first, reference.events + (6 if earlier else 0)) if at_file_event else 0
    reset_work_folder(work)
    if earlier:
        run_to_completion(scenario, inputs, work, "a", False)
    child = Child(scenario, inputs, work, "b", earlier, at_event, number)
    if not at_file_event:
        time.sleep(rng.random() * reference.seconds)
        with suppress(ProcessLookupError):
            os.kill(child.pid, number)
    code = child.wait(STUCK_S)
    result: dict[str, object] = {
        "scenario": scenario.name, "signal": signal.Signals(number).name, "event": at_event,
        "overwrites": earlier, "code": code, "problems": [],
    }  # fmt: skip
    result["problems"] = list(
        _find_problems(scenario, reference, inputs, work, child, code, earlier, number)
    )
    return result


def _find_problems(
    scenario: Scenario, reference: Reference, inputs: Path, work: Path, child: Child,
    code: int | None, earlier: bool, number: int,
):  # fmt: skip
    if code is None:
        os.killpg(child.pid, signal.SIGKILL)
        yield "did not exit"
        return
    if code not in {0, -number, 128 + number}:
        yield f"code {code}: {(work / 'log.txt').read_text()[-300:]}"
    deadline = time.monotonic() + ORPHAN_S
    while (alive := child.orphans()) and time.monotonic() < deadline:
        time.sleep(0.02)
    if alive:
        yield f"orphans {alive}"
        os.killpg(child.pid, signal.SIGKILL)
    allowed = [reference.outputs["b"], reference.outputs["a"] if earlier else {}]
    if number != signal.SIGKILL and code == 128 + number and not scenario.resumes:
        remaining = tree(work / "out", scenario), tree(work / "tmp", scenario)
        if remaining[0] not in allowed and not _groups_match(scenario, remaining[0], allowed):
            yield f"the interrupted run left {sorted(remaining[0])}"
        if remaining[1]:
            yield f"the interrupted run left {sorted(remaining[1])} in the temporary folder"
    remove_leftovers(work / "out")  # the initial state of the next run
    files = tree(work / "out", scenario)
    if scenario.resumes:
        failed = [
            name
            for name, content in files.items()
            if ".nova3d-" not in name and reference.outputs["b"].get(name) != content
        ]
        if failed:
            yield f"partial files: {failed}"
    elif not _groups_match(scenario, files, allowed):
        yield f"partial or lost files: {sorted(files)}"
    run_to_completion(scenario, inputs, work, "b", not scenario.resumes)
    if tree(work / "out", scenario) != reference.outputs["b"]:
        yield f"the next run left {sorted(tree(work / 'out', scenario))}"
    if any((work / "tmp").iterdir()):
        yield f"leftovers {sorted(os.listdir(work / 'tmp'))} in the temporary folder"


def _groups_match(scenario: Scenario, files: Tree, allowed: list[Tree]) -> bool:
    """Whether each output group equals one of the allowed trees, and there is nothing else."""
    named = {name for group in scenario.groups for name in group}
    return all(name.split("/")[0] in named for name in files) and all(
        any(files_of_group(files, group) == files_of_group(each, group) for each in allowed)
        for group in scenario.groups
    )


def make_inputs(folder: Path) -> None:
    """A small coloured mesh and three views of it."""
    import trimesh

    folder.mkdir(parents=True)
    ball = trimesh.creation.icosphere(subdivisions=2, radius=0.5)
    colours = np.clip(ball.vertices + 0.5, 0, 1)
    mesh = Mesh(
        torch.tensor(ball.vertices, dtype=torch.float32),
        torch.tensor(ball.faces),
        vertex_colours=torch.tensor(colours, dtype=torch.float32),
    )
    write_mesh(mesh, folder / "toy.glb")


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scenarios", nargs="+", default=list(SCENARIOS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in PRELOADED_MODULES:
        with suppress(ImportError):
            importlib.import_module(name)
    inputs, work = options.folder / "inputs", options.folder / "work"
    make_inputs(inputs)
    views = Scenario("views", lambda inputs, out, kind, _: run_command(command_line(
        "render", inputs / "toy.glb", "-o", inputs / "views", "--rig.count", 6,
        "--rig.width-px", 32, "--rig.height-px", 32)), ())  # fmt: skip
    reset_work_folder(work)
    run_to_completion(views, inputs, work, "a", False)
    chosen = [SCENARIOS[name] for name in options.scenarios]
    references = {each.name: run_reference(each, inputs, work) for each in chosen}
    # worker processes are slow to start: they get a twentieth of the kills
    weights = [1 if each.resumes else 6 for each in chosen]
    rng = random.Random(options.seed)
    start = time.monotonic()
    results = []
    for index in range(options.kills):
        each = chosen[index] if index < len(chosen) else rng.choices(chosen, weights)[0]
        results.append(kill_once(each, references[each.name], inputs, work, rng))
        if results[-1]["problems"]:
            sys.stderr.write(f"{index}: {json.dumps(results[-1])}\n")
    document = {
        "kills": len(results),
        "seconds": round(time.monotonic() - start, 1),
        "ended_by_the_signal": sum(each["code"] != 0 for each in results),
        "by_scenario": {e.name: sum(r["scenario"] == e.name for r in results) for e in chosen},
        "by_signal": {
            name: sum(r["signal"] == name for r in results)
            for name in ("SIGKILL", "SIGTERM", "SIGINT")
        },
        "seconds_each": {name: round(each.seconds, 2) for name, each in references.items()},
        "events": {name: each.events for name, each in references.items()},
        "problems": [each for each in results if each["problems"]],
    }
    sys.stdout.write(json.dumps(document, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
