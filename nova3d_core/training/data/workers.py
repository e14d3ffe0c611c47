"""Ordered map over tasks: in this process, in local worker processes, or on Ray."""

from __future__ import annotations

import ctypes
import logging
import multiprocessing
import os
import signal
import socket
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import connection
from typing import Any, TypeVar

from ...errors import InputError, MissingDependencyError, StageError

logger = logging.getLogger(__name__)

T = TypeVar("T")
TaskRunner = Callable[[Callable[[Any], T], Sequence[Any]], Iterator[T]]
"""Called with a function and its tasks; yields the results in order."""
STAGE = "rendering objects"
_PR_SET_PDEATHSIG = 1
QUEUED_PER_WORKER = 3
"""Tasks submitted per worker: keeps workers busy, and few results in memory."""


@contextmanager
def task_runner(workers: int = 1, ray: str | None = None) -> Iterator[TaskRunner]:
    """Context with a runner; its processes have ended afterwards.

    Args:
        workers: number of processes; 1 runs in the calling one.
        ray: address of a Ray cluster; "local" starts one on this machine.

    Raises:
        MissingDependencyError: Ray is requested and not installed.
        InputError: there is no cluster at the address.
    """
    if ray is not None:
        with _on_ray(ray, workers) as run:
            yield run
    elif workers <= 1:
        yield lambda function, tasks: map(function, tasks)
    else:
        with _in_processes(workers) as run:
            yield run


def start_worker() -> None:
    """Initialises a worker process: one thread, ignores Ctrl-C, ends with its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _exit_with_parent()
    import torch

    torch.set_num_threads(1)


def _exit_with_parent() -> None:
    """Ends this process when its parent ends for any reason.

    On Linux the kernel does so, even while a library holds the GIL; elsewhere a thread.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    if sys.platform.startswith("linux"):
        kill = ctypes.c_ulong(signal.SIGKILL)
        ctypes.CDLL(None).prctl(ctypes.c_int(_PR_SET_PDEATHSIG), kill)

    def wait() -> None:  # if the parent has died already, its sentinel is ready immediately
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


@contextmanager
def _in_processes(workers: int) -> Iterator[TaskRunner]:
    before = set(multiprocessing.active_children())
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=start_worker)

    def run(function: Callable[[Any], T], tasks: Sequence[Any]) -> Iterator[T]:
        pending: deque[Future[T]] = deque()
        remaining = iter(tasks)
        try:
            while True:
                while (
                    len(pending) < QUEUED_PER_WORKER * workers
                    and (task := next(remaining, None)) is not None
                ):
                    pending.append(pool.submit(function, task))
                if not pending:
                    return
                yield pending.popleft().result()
        except BrokenProcessPool as error:
            raise StageError(
                STAGE,
                "a worker process died, possibly out of memory.",
                "Finished shards are kept: run the command again, with fewer --workers.",
            ) from error

    try:
        yield run
        pool.shutdown()
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        for child in set(multiprocessing.active_children()) - before:
            child.kill()
            child.join()
        raise


@contextmanager
def _on_ray(address: str, workers: int) -> Iterator[TaskRunner]:
    try:
        import ray
    except ImportError as error:
        raise MissingDependencyError("ray", "rendering on a Ray cluster") from error
    _check_reachable(address)
    started = not ray.is_initialized()
    if started:
        try:
            ray.init(
                address=address,
                num_cpus=max(workers, 1) if address == "local" else None,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise _no_cluster(address, str(error).splitlines()[0]) from error

    def run(function: Callable[[Any], T], tasks: Sequence[Any]) -> Iterator[T]:
        remote = ray.remote(num_cpus=1)(function)
        limit = QUEUED_PER_WORKER * max(int(ray.cluster_resources().get("CPU", 1)), 1)
        pending: deque[Any] = deque()
        remaining = iter(tasks)
        try:
            while True:
                while len(pending) < limit and (task := next(remaining, None)) is not None:
                    pending.append(remote.remote(task))
                if not pending:
                    return
                yield ray.get(pending[0])
                pending.popleft()
        except ray.exceptions.RayError as error:
            raise StageError(
                STAGE,
                f"Ray lost a task: {str(error).splitlines()[0]}",
                "Finished shards are kept: run the command again.",
            ) from error
        finally:  # leave no work on the cluster
            for each in pending:
                ray.cancel(each, force=True)

    try:
        yield run
    finally:
        if started:
            ray.shutdown()


def _check_reachable(address: str) -> None:
    """Raises InputError if nothing listens at host:port; Ray itself retries for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=5.0).close()
    except OSError as error:
        raise _no_cluster(address, error.strerror or str(error)) from error


def _no_cluster(address: str, reason: str) -> InputError:
    return InputError(
        f"there is no Ray cluster at '{address}': {reason.rstrip('.')}.",
        "Start one, or omit --ray to use processes of this machine.",
    )
