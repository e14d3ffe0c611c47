"""Runs a real ComfyUI in a subprocess, with this pack only and an empty base folder."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import psutil

PROJECT = Path(__file__).resolve().parents[2]
PACK = "nova3d"
READY_SECONDS = 180
FLAGS = ("--disable-auto-launch", "--dont-print-server", "--disable-all-custom-nodes")
OFFLINE = ("--disable-api-nodes", "--offline")
FAULTS = re.compile(
    r"IMPORT FAILED|Cannot import|Error while calling comfy_entrypoint|Traceback \(most recent"
)


@dataclass(frozen=True)
class Checkout:
    """A ComfyUI checkout and the Python interpreter with its requirements."""

    path: Path
    python: Path

    @property
    def version(self) -> str:
        """Version such as 0.3.64, or "unknown"."""
        parts = (self.path / "comfyui_version.py").read_text(encoding="utf-8").split('"')
        return parts[1] if len(parts) > 1 else "unknown"


def checkout_from_environment() -> Checkout | None:
    """The checkout at COMFYUI_PATH; None if the variable is not set.

    COMFYUI_PYTHON selects the interpreter. Default: the virtual environment of the checkout, else
    the interpreter that runs the tests.
    """
    value = os.environ.get("COMFYUI_PATH")
    if not value:
        return None
    path = Path(value).resolve()
    if not (path / "main.py").is_file():
        raise FileNotFoundError(f"COMFYUI_PATH is {value}, which contains no main.py of ComfyUI.")
    python = os.environ.get("COMFYUI_PYTHON")
    if python:
        return Checkout(path, Path(python))
    executable = "Scripts/python.exe" if os.name == "nt" else "bin/python"
    candidates = [path / name / executable for name in (".venv", "venv")]
    return Checkout(path, next((p for p in candidates if p.exists()), Path(sys.executable)))


class Server:
    """A ComfyUI server, as a context manager."""

    def __init__(
        self,
        checkout: Checkout,
        base: Path,
        with_pack: bool = True,
        environment: dict[str, str] | None = None,
        is_offline: bool = True,
    ):
        self.checkout = checkout
        self.base = base
        self.url = f"http://127.0.0.1:{_free_port()}"
        self.log_path = base / "server.log"
        self._with_pack = with_pack
        self._flags = FLAGS + (OFFLINE if is_offline else ())
        self._environment = {**os.environ, **(environment or {})}
        self._process: subprocess.Popen | None = None

    def __enter__(self) -> Server:
        for name in ("custom_nodes", "input", "output", "temp", "user", "models"):
            (self.base / name).mkdir(parents=True, exist_ok=True)
        if self._with_pack:
            copy_pack(self.base / "custom_nodes" / PACK)
        self._process = subprocess.Popen(
            self._command(),
            cwd=self.checkout.path,
            env=self._environment,
            stdout=subprocess.PIPE,  # not a file: one test limits the file size of the server
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        threading.Thread(target=self._write_log, daemon=True).start()
        try:
            self._wait_until_ready()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_) -> None:
        """Terminates the server and its child processes, such as the unwrap worker."""
        if not self.is_alive:
            return
        processes = [self.process, *self.children]
        for process in processes:
            try:
                process.terminate()
            except psutil.NoSuchProcess:
                continue
        _, alive = psutil.wait_procs(processes, timeout=10)
        for process in alive:
            process.kill()
        self._process.wait()

    @property
    def log(self) -> str:
        """Output of the server so far."""
        return self.log_path.read_text(encoding="utf-8", errors="replace")

    @property
    def is_alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def resident_bytes(self) -> int:
        """Resident memory of the server, without its child processes."""
        return self.process.memory_info().rss

    @property
    def children(self) -> list[psutil.Process]:
        """Running child processes of the server."""
        return self.process.children(recursive=True)

    @property
    def process(self) -> psutil.Process:
        return psutil.Process(self._process.pid)

    def _write_log(self) -> None:
        with open(self.log_path, "wb", buffering=0) as log:
            for line in self._process.stdout:
                log.write(line)

    def _command(self) -> list[str]:
        cli_args = (self.checkout.path / "comfy" / "cli_args.py").read_text(encoding="utf-8")
        command = [str(self.checkout.python), "main.py", "--cpu", "--listen", "127.0.0.1"]
        command += ["--port", self.url.rpartition(":")[2], "--base-directory", str(self.base)]
        command += ["--database-url", "sqlite:///:memory:"]
        command += [flag for flag in self._flags if f'"{flag}"' in cli_args]
        return [*command, "--whitelist-custom-nodes", PACK]

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            if not self.is_alive:
                raise RuntimeError(f"ComfyUI ended during start-up:\n{self.log[-4000:]}")
            try:
                with urllib.request.urlopen(self.url + "/object_info", timeout=30) as answer:
                    answer.read()
                break
            except (urllib.error.URLError, OSError):
                time.sleep(0.3)
        else:
            raise RuntimeError(
                f"ComfyUI did not answer within {READY_SECONDS} s:\n{self.log[-4000:]}"
            )
        fault = FAULTS.search(self.log)
        if fault:
            raise RuntimeError(f"ComfyUI's log contains '{fault.group()}':\n{self.log[-4000:]}")


def copy_pack(folder: Path) -> None:
    """Copies the tracked and untracked files of the working tree, without ignored ones."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=PROJECT,
        capture_output=True,
        check=True,
    )
    for name in listing.stdout.decode().split("\0"):
        source = PROJECT / name
        if name and source.is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, folder / name)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
