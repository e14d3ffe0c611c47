"""A real ComfyUI in a process of its own, with only this pack and a fresh base folder."""

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
    """A ComfyUI on disk and the interpreter that has its requirements."""

    path: Path
    python: Path

    @property
    def version(self) -> str:
        """Such as 0.3.64; "unknown" for checkouts that do not say."""
        words = (self.path / "comfyui_version.py").read_text(encoding="utf-8").split('"')
        return words[1] if len(words) > 1 else "unknown"


def checkout_from_environment() -> Checkout | None:
    """What COMFYUI_PATH names; None where it is not set.

    COMFYUI_PYTHON names the interpreter. Without it: the checkout's own virtual environment, else
    the interpreter that runs the tests.
    """
    given = os.environ.get("COMFYUI_PATH")
    if not given:
        return None
    path = Path(given).resolve()
    if not (path / "main.py").is_file():
        raise FileNotFoundError(f"COMFYUI_PATH is {given}, which holds no main.py of ComfyUI.")
    named = os.environ.get("COMFYUI_PYTHON")
    if named:
        return Checkout(path, Path(named))
    inside = "Scripts/python.exe" if os.name == "nt" else "bin/python"
    own = [path / name / inside for name in (".venv", "venv")]
    return Checkout(path, next((p for p in own if p.exists()), Path(sys.executable)))


class Server:
    """A running ComfyUI; use it as a context manager."""

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
            stdout=subprocess.PIPE,  # not a file: a test limits the size of the server's files
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        threading.Thread(target=self._keep_log, daemon=True).start()
        try:
            self._wait_until_ready()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_) -> None:
        """Ends the server and whatever it has started (the unwrap worker for one)."""
        if not self.is_alive:
            return
        family = [self.process, *self.children]
        for process in family:
            try:
                process.terminate()
            except psutil.NoSuchProcess:
                continue
        _, alive = psutil.wait_procs(family, timeout=10)
        for process in alive:
            process.kill()
        self._process.wait()

    @property
    def log(self) -> str:
        """What the server has printed so far."""
        return self.log_path.read_text(encoding="utf-8", errors="replace")

    @property
    def is_alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def resident_bytes(self) -> int:
        """Memory the server itself holds, without its children."""
        return self.process.memory_info().rss

    @property
    def children(self) -> list[psutil.Process]:
        """Processes that the server has started and that still run."""
        return self.process.children(recursive=True)

    @property
    def process(self) -> psutil.Process:
        return psutil.Process(self._process.pid)

    def _keep_log(self) -> None:
        with open(self.log_path, "wb", buffering=0) as log:
            for line in self._process.stdout:
                log.write(line)

    def _command(self) -> list[str]:
        known = (self.checkout.path / "comfy" / "cli_args.py").read_text(encoding="utf-8")
        words = [str(self.checkout.python), "main.py", "--cpu", "--listen", "127.0.0.1"]
        words += ["--port", self.url.rpartition(":")[2], "--base-directory", str(self.base)]
        words += ["--database-url", "sqlite:///:memory:"]
        words += [flag for flag in self._flags if f'"{flag}"' in known]
        return [*words, "--whitelist-custom-nodes", PACK]

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            if not self.is_alive:
                raise RuntimeError(f"ComfyUI ended at its start:\n{self.log[-4000:]}")
            try:
                with urllib.request.urlopen(self.url + "/object_info", timeout=30) as answer:
                    answer.read()
                break
            except (urllib.error.URLError, OSError):
                time.sleep(0.3)
        else:
            raise RuntimeError(f"ComfyUI did not answer in {READY_SECONDS} s:\n{self.log[-4000:]}")
        found = FAULTS.search(self.log)
        if found:
            raise RuntimeError(f"ComfyUI's log says '{found.group()}':\n{self.log[-4000:]}")


def copy_pack(folder: Path) -> None:
    """Copies what a clone would hold, with the changes that are not yet committed."""
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
