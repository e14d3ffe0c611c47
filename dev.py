#!/usr/bin/env python3
"""Sets the project up and runs a job: demo, test, lint, docs, bench. Needs only Python 3.10+.

    python dev.py demo     the shipped image to a mesh with the built-in model; see demo_output/
    python dev.py test     lint and the fast tests; other arguments go to pytest
    python dev.py test --all         all tests, including those marked slow
    python dev.py test --long        all tests, fuzzing and kill runs of many minutes included
    python dev.py test --host PATH   only the tests that run in the ComfyUI in that folder
    python dev.py test --browser --host PATH   only the tests of its page, in headless Chromium
    python dev.py docs --host PATH   regenerate the generated parts of help pages and locales
    python dev.py lint     ruff only
    python dev.py bench fusion --help    a script of benchmarks/, with its own arguments

The first run creates `.venv` next to this file and installs the requirements; later runs reuse it.
On a machine without an NVIDIA GPU it asks for the CPU build of PyTorch, which is much smaller.
Set NOVA3D_TORCH to another requirement (for example torch==2.9.1) to choose the build yourself.
Plain `test` also runs the tests in a ComfyUI if COMFYUI_PATH is set. COMFYUI_PYTHON is its
interpreter, if that is neither in the folder's own .venv or venv nor the one of this project.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
STAMP = VENV / "installed.txt"
TORCH = "torch==2.13.0"
SOURCES = ("requirements.txt", "requirements-dev.txt", "pyproject.toml")
WORKERS = min(os.cpu_count() or 1, 8)
"""Test processes."""
JOBS = ("demo", "test", "lint", "docs", "bench", "setup")


def main(arguments: list[str]) -> int:
    if not arguments or arguments[0] not in JOBS:
        print(__doc__)
        return 0 if arguments[:1] in ([], ["-h"], ["--help"]) else 2
    if sys.version_info < (3, 10):
        print(f"Python 3.10 or newer is needed; this is {sys.version.split()[0]}.")
        return 2
    job, rest = arguments[0], arguments[1:]
    python = ready_python()
    if job == "setup":
        return 0
    if job == "demo":
        return run([python, "-m", "nova3d_core", "demo", *rest])
    if job == "bench":
        if not rest or not (ROOT / "benchmarks" / f"{rest[0]}.py").is_file():
            names = sorted(p.stem for p in (ROOT / "benchmarks").glob("*.py"))
            print(f"Available benchmarks: {', '.join(names)}.")
            return 2
        os.environ.setdefault("PYTHONPATH", str(ROOT))  # some use the host tests' server
        return run([python, ROOT / "benchmarks" / f"{rest[0]}.py", *rest[1:]])
    if job == "docs":
        os.environ["NOVA3D_WRITE_PAGES"] = "1"
        return run([python, "-m", "pytest", "tests/host/test_node_pages.py", *without_host(rest)])
    failed = lint(python)
    if job == "lint" or failed:
        return failed
    if "--browser" in rest and run([*pip(python), "-r", ROOT / "requirements-browser.txt"]):
        raise SystemExit("The browser's driver could not be installed; see the lines above.")
    return run([python, "-m", "pytest", *pytest_arguments(rest)])


def pytest_arguments(arguments: list[str]) -> list[str]:
    """Arguments for pytest; `--all`, `--host PATH` and `--browser` select tests here."""
    selected = [] if {"--all", "--long", "-m"} & set(arguments) else ["-m", "not slow"]
    if "--browser" in arguments:
        selected = ["tests/browser"]
    elif "--host" in arguments:
        selected = ["tests/host", "tests/nodes", "-m", "host"]
    elif "-n" not in arguments:
        # tests of one file run in one process, which keeps their shared fixtures
        selected += ["-n", str(WORKERS), "--dist", "loadfile"]
        os.environ.setdefault("OMP_NUM_THREADS", "1")  # one core per process
    rest = without_host([each for each in arguments if each not in ("--browser", "--all")])
    if not os.environ.get("COMFYUI_PATH"):
        print("COMFYUI_PATH is not set: tests in a real ComfyUI are skipped.", flush=True)
    return [*selected, *rest]


def without_host(arguments: list[str]) -> list[str]:
    """The arguments without `--host PATH`, which becomes COMFYUI_PATH."""
    if "--host" not in arguments:
        return arguments
    at = arguments.index("--host")
    host = Path(arguments[at + 1] if len(arguments) > at + 1 else "").resolve()
    if not (host / "main.py").is_file():
        raise SystemExit("--host needs a ComfyUI folder, which contains main.py.")
    os.environ["COMFYUI_PATH"] = str(host)
    return [*arguments[:at], *arguments[at + 2 :]]


def lint(python: Path) -> int:
    return run([python, "-m", "ruff", "check", "."]) or run(
        [python, "-m", "ruff", "format", "--check", "."]
    )


def ready_python() -> Path:
    """The interpreter of `.venv`, created with all requirements if necessary."""
    python = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    expected = fingerprint()
    if python.exists() and STAMP.exists() and STAMP.read_text() == expected:
        return python
    print("Setting up .venv (once; a few minutes)...", flush=True)
    if not python.exists():
        make_venv(python)
    install(python)
    STAMP.write_text(expected)
    return python


def fingerprint() -> str:
    """A hash of everything that the installation depends on."""
    digest = hashlib.sha256(repr((sys.version_info[:2], torch_choices())).encode())
    for name in SOURCES:
        digest.update((ROOT / name).read_bytes())
    return digest.hexdigest()


def make_venv(python: Path) -> None:
    shutil.rmtree(VENV, ignore_errors=True)
    made = subprocess.run([sys.executable, "-m", "venv", str(VENV)], check=False)
    if made.returncode or not python.exists():
        shutil.rmtree(VENV, ignore_errors=True)
        raise SystemExit(
            "Python could not create a virtual environment. On Debian and Ubuntu: "
            "sudo apt install python3-venv"
        )


def pip(python: Path) -> list:
    """Start of a pip install command."""
    return [python, "-m", "pip", "install", "--disable-pip-version-check", "--quiet"]


def install(python: Path) -> None:
    for choice in torch_choices():
        quiet = {"stderr": subprocess.DEVNULL} if choice != torch_choices()[-1] else {}
        if run([*pip(python), choice], **quiet) == 0:
            break
    else:
        raise SystemExit("PyTorch could not be installed; see the lines above.")
    everything = ["-r", ROOT / "requirements.txt", "-r", ROOT / "requirements-dev.txt"]
    if run([*pip(python), *everything]) or run([*pip(python), "--no-deps", "--editable", ROOT]):
        raise SystemExit("The packages could not be installed; see the lines above.")


def torch_choices() -> list[str]:
    """PyTorch requirements to try in order; the first that installs is used."""
    if os.environ.get("NOVA3D_TORCH"):
        return [os.environ["NOVA3D_TORCH"]]
    if shutil.which("nvidia-smi"):
        return [TORCH]
    # on Linux the plain name installs the CUDA build, the CPU build has a local version; platforms
    # without a wheel of this release get the newest one they have
    return [f"{TORCH}+cpu", TORCH, "torch>=2.1"]


def run(command: list, **options) -> int:
    """Runs a command in the project's folder and returns its exit code."""
    try:
        return subprocess.run(
            [str(c) for c in command], cwd=ROOT, check=False, **options
        ).returncode
    except KeyboardInterrupt:
        raise SystemExit(130) from None  # the child got the signal too and has reported it


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
