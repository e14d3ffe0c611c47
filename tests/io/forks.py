"""Runs functions in forked children, which share the imports of the test process."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

TIMEOUT_S = 60.0
_CLONE_NEWNS, _CLONE_NEWUSER = 0x00020000, 0x10000000


class ForkedChild:
    """A child process that runs `function(send)`; `send` passes JSON values to the parent.

    The exit code is 0, 130 after a KeyboardInterrupt, or 1 after another exception.
    """

    def __init__(self, function: Callable[[Callable[[Any], None]], None]):
        reader, writer = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(reader)
            _run_and_exit(function, writer)
        os.close(writer)
        self._reader = os.fdopen(reader, "r")

    def receive(self) -> Any:
        """The next value that the child sends."""
        line = self._reader.readline()
        assert line, "the child sent nothing"
        return json.loads(line)

    def wait(self) -> int:
        """The exit code; a child that hangs is killed."""
        deadline = time.monotonic() + TIMEOUT_S
        while True:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._reader.close()
                return os.waitstatus_to_exitcode(status)
            if time.monotonic() > deadline:
                os.kill(self.pid, signal.SIGKILL)
            time.sleep(0.005)


def _run_and_exit(function: Callable[[Callable[[Any], None]], None], writer: int) -> None:
    code = 1
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        torch.set_num_threads(1)
        function(lambda value: os.write(writer, json.dumps(value).encode() + b"\n"))
        code = 0
    except KeyboardInterrupt:
        code = 130
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(Exception):
            os.close(writer)
        os._exit(code)


def call_in_fork(function: Callable[[], Any]) -> Any:
    """The JSON result of a function that runs in a forked child."""
    child = ForkedChild(lambda send: send(function()))
    result = child.receive()
    assert child.wait() == 0
    return result


def enter_mount_namespace() -> None:
    """Moves this single-threaded process to a new user and mount namespace, as its root.

    Raises:
        OSError: the system does not allow it.
    """
    user, group = os.getuid(), os.getgid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNS) != 0:
        raise OSError(ctypes.get_errno(), "unshare failed")
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {user} 1")
    Path("/proc/self/gid_map").write_text(f"0 {group} 1")
