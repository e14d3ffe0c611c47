"""Many prompts in one ComfyUI, a third of them interrupted: memory, child processes, files left.

    python dev.py bench soak --host PATH [--python INTERPRETER] [--runs 120] [--interrupts 40]
        [-o FOLDER]

The prompts are the shipped templates that need no download, with the tests' settings for fast runs
and a new seed each time, so that no node is cached. An interrupt comes after a random number of
progress messages. After each cycle of prompts ComfyUI's caches are emptied (POST /free), and the
resident memory of the server is read. Targets: it varies by at most 5 % over the last two thirds;
no failed run, no child process, no unfinished file and no temporary folder is left.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from measure import machine
from results import ResultPage, Table, markdown_page, save_page

from tests.host.client import Client, PromptRun
from tests.host.inputs import write_inputs
from tests.host.prompts import load_prompt
from tests.host.server import Checkout, Server
from tests.host.workflow_check import Prompt

PROJECT = Path(__file__).resolve().parents[1]
TEMPLATES = (
    "views_to_mesh",
    "multiview_images_to_mesh",
    "mesh_to_turntable",
    "mesh_against_reference",
    "image_to_mesh",
)
MAX_VARIATION = 0.05
MALLOC_SETTINGS = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_TRIM_THRESHOLD_": "65536",
}
"""glibc returns freed memory, so that the resident memory is the memory in use."""
TEMPORARY = ("*.tmp*", "*.part*", ".*.new*")


@dataclass
class Soak:
    """What happened."""

    finished: int = 0
    interrupted: int = 0
    too_late: int = 0
    """Interrupts that came after the end of the run."""
    failures: list[str] = field(default_factory=list)
    leftovers: list[str] = field(default_factory=list)
    resident_mib: list[float] = field(default_factory=list)
    """After each cycle."""

    @property
    def variation(self) -> float:
        """(max - min) / median of the memory over the last two thirds of the cycles."""
        late = self.resident_mib[len(self.resident_mib) // 3 :]
        return (max(late) - min(late)) / statistics.median(late)


def prompt_with_seed(name: str, seed: int) -> Prompt:
    """A template with settings for a fast run; every node that computes is new to the cache."""
    prompt = load_prompt(name)
    for node in prompt.values():
        if "seed" in node["inputs"]:
            node["inputs"]["seed"] = seed
        if node["class_type"] == "OrbitCameras":
            node["inputs"]["elevation"] = seed * 0.01
    return prompt


def interrupt_after(client: Client, prompt: Prompt, messages: int) -> PromptRun:
    """Runs a prompt and interrupts it after a number of progress messages."""
    count = 0

    def on_event(kind: str, data: dict) -> None:
        nonlocal count
        count += kind == "progress"
        if kind == "progress" and count == messages:
            client.interrupt()

    return client.run(prompt, on_event, timeout_s=600)


def files_left(base: Path) -> Iterator[str]:
    """Unfinished files in ComfyUI's folders, and temporary folders of the pack."""
    for pattern in TEMPORARY:
        for folder in ("output", "temp", "input"):
            yield from (str(path) for path in (base / folder).rglob(pattern))
    yield from (str(path) for path in Path(tempfile.gettempdir()).glob("nova3d-*"))


def soak(server: Server, runs: int, interrupts: int) -> Soak:
    """Queues prompts one after the other."""
    client, result, chance = Client(server.url), Soak(), random.Random(0)
    interrupted = set(chance.sample(range(runs), interrupts))
    before = set(files_left(server.base))
    for index in range(runs):
        name = TEMPLATES[index % len(TEMPLATES)]
        prompt = prompt_with_seed(name, index + 1)
        if index in interrupted:
            run = interrupt_after(client, prompt, chance.randint(1, 8))
            result.interrupted += run.is_interrupted
            result.too_late += run.has_succeeded
        else:
            run = client.run(prompt, timeout_s=600)
            result.finished += run.has_succeeded
        if run.error is not None or run.node_errors:
            result.failures.append(f"{index} {name}: {run.error or run.node_errors}")
        if client.get_json("/prompt")["exec_info"]["queue_remaining"]:
            result.failures.append(f"{index} {name}: the queue is not empty")
        if (index + 1) % len(TEMPLATES) == 0:
            client.post("/free", {"unload_models": True, "free_memory": True})
            time.sleep(1.0)
            result.resident_mib.append(server.resident_bytes / 2**20)
            print_progress(index + 1, result)
    result.leftovers = sorted(set(files_left(server.base)) - before)
    result.leftovers += [" ".join(child.cmdline()) for child in server.children]
    return result


def print_progress(runs: int, result: Soak) -> None:
    sys.stderr.write(f"{runs} runs, {result.resident_mib[-1]:.0f} MiB\n")
    sys.stderr.flush()


def result_page(result: Soak, version: str, runs: int, interrupts: int) -> ResultPage:
    rows = [
        [
            "runs that succeeded or were interrupted",
            runs,
            result.finished + result.too_late + result.interrupted,
        ],
        ["of these interrupted", interrupts, result.interrupted],
        ["failures", 0, len(result.failures)],
        ["processes, unfinished files and folders left", 0, len(result.leftovers)],
    ]
    memory = [
        ["variation over the last two thirds", f"{MAX_VARIATION:.0%}", f"{result.variation:.1%}"],
        ["after the first cycle, MiB", "", f"{result.resident_mib[0]:.0f}"],
        ["after the last cycle, MiB", "", f"{result.resident_mib[-1]:.0f}"],
    ]
    columns = [("", ""), ("target", ""), ("measured", "")]
    return ResultPage(
        title="Soak",
        summary=f"ComfyUI {version}: {runs} prompts in one server, {interrupts} of them interrupted"
        f" ({result.too_late} interrupts came after the end of the run).",
        tables=[Table(columns, rows, title="Runs"), Table(columns, memory, title="Memory")],
        command="python dev.py bench soak --host PATH",
        machine=machine(),
        date=time.strftime("%Y-%m-%d"),
        details=asdict(result),
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--host", type=Path, required=True, help="a ComfyUI checkout")
    parser.add_argument("--python", type=Path, help="its interpreter; default: HOST/.venv")
    parser.add_argument("--runs", type=int, default=120)
    parser.add_argument("--interrupts", type=int, default=40)
    parser.add_argument("-o", "--output", type=Path, help="folder for soak.json and soak.md")
    options = parser.parse_args()
    python = options.python or options.host / ".venv" / "bin" / "python"
    checkout = Checkout(options.host.resolve(), python.absolute())
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        write_inputs(Path(folder) / "input")
        with Server(checkout, Path(folder), environment=MALLOC_SETTINGS) as server:
            result = soak(server, options.runs, options.interrupts)
    page = result_page(result, checkout.version, options.runs, options.interrupts)
    print(markdown_page(page, "soak.json"))
    for line in [*result.failures, *result.leftovers]:
        print(line)
    if options.output:
        save_page(options.output, "soak", page)
    failed = result.failures or result.leftovers or result.variation > MAX_VARIATION
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
