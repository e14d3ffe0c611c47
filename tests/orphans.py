"""Processes that should have died with the one that started them."""

from __future__ import annotations

import time

import psutil

ORPHAN_S = 2.0
"""How long they may take."""


def runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def living(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Which of them still run after the time that they have; dead ones may wait to be reaped."""
    deadline = time.monotonic() + ORPHAN_S
    while True:
        found = [each for each in processes if runs(each)]
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.02)
