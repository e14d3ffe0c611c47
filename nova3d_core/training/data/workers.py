"""Running a function over tasks in order: here, in processes of this machine, or on Ray."""

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
"""Called with a function and its tasks: yields the answers in the order of the tasks."""
STAGE = "rendering objects"
_PR_SET_PDEATHSIG = 1
AHEAD = 3
"""Tasks handed out to each worker at a time: none waits, and little is held in memory."""


@contextmanager
def task_runner(workers: int = 1, ray: str | None = None) -> Iterator[TaskRunner]:
    """A runner for as long as the block lasts; its processes are gone afterwards.

    Args:
        workers: processes; 1 runs in this one.
        ray: address of a Ray cluster; "local" starts one here.

    Raises:
        MissingDependencyError: Ray is asked for and not installed.
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
    """Makes a fresh process a worker: one thread; Ctrl-C is its parent's business, whose death it
    follows."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _follow_parent()
    import torch

    torch.set_num_threads(1)


def _follow_parent() -> None:
    """Ends this process when its parent ends, however that comes about.

    On Linux the kernel does it, also while a library holds Python's lock; elsewhere a thread.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    if sys.platform.startswith("linux"):
        kill = ctypes.c_ulong(signal.SIGKILL)
        ctypes.CDLL(None).prctl(ctypes.c_int(_PR_SET_PDEATHSIG), kill)

    def wait() -> None:  # it may have died before; a dead one's sentinel is ready at once
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


@contextmanager
def _in_processes(workers: int) -> Iterator[TaskRunner]:
    before = set(multiprocessing.active_children())
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=start_worker)

    def run(function: Callable[[Any], T], tasks: Sequence[Any]) -> Iterator[T]:
        waiting: deque[Future[T]] = deque()
        rest = iter(tasks)
        try:
            while True:
                while len(waiting) < AHEAD * workers and (task := next(rest, None)) is not None:
                    waiting.append(pool.submit(function, task))
                if not waiting:
                    return
                yield waiting.popleft().result()
        except BrokenProcessPool as error:
            raise StageError(
                STAGE,
                "a worker process died; memory may have run out.",
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
    _refuse_silent(address)
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
        prefetch_batches = AHEAD * max(int(ray.cluster_resources().get("CPU", 1)), 1)
        waiting: deque[Any] = deque()
        rest = iter(tasks)
        try:
            while True:
                while len(waiting) < prefetch_batches and (task := next(rest, None)) is not None:
                    waiting.append(remote.remote(task))
                if not waiting:
                    return
                yield ray.get(waiting[0])
                waiting.popleft()
        except ray.exceptions.RayError as error:
            raise StageError(
                STAGE,
                f"Ray lost a task: {str(error).splitlines()[0]}",
                "Finished shards are kept: run the command again.",
            ) from error
        finally:  # a stopped run leaves no work on the cluster
            for each in waiting:
                ray.cancel(each, force=True)

    try:
        yield run
    finally:
        if started:
            ray.shutdown()


def _refuse_silent(address: str) -> None:
    """Raises InputError if nobody answers at host:port; Ray itself would ask for minutes."""
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
        "Start one, or leave --ray out to use processes of this machine.",
    )
