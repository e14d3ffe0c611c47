"""Helpers for tests of orphaned processes, which should exit when their parent dies."""

from __future__ import annotations

import time

import psutil

ORPHAN_S = 2.0
"""Time limit for their exit."""


def runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def living(processes: list[psutil.Process]) -> list[psutil.Process]:
    """The processes that still run after `ORPHAN_S`; zombies count as dead."""
    deadline = time.monotonic() + ORPHAN_S
    while True:
        alive = [each for each in processes if runs(each)]
        if not alive or time.monotonic() > deadline:
            return alive
        time.sleep(0.02)
