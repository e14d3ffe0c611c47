"""A writable cache folder for warp's compiled kernels, if the default one is read-only."""

from __future__ import annotations

import logging
import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)


def use_writable_cache(wp: Any) -> None:
    """Moves warp's cache to a temporary folder if its default folder is not writable.

    Warp fails to initialise with a read-only or missing home folder. Call it before `wp.init`.

    Args:
        wp: the warp module.

    Raises:
        OSError: the temporary folder is not writable either.
    """
    problem = write_problem(default_cache_dir(wp))
    if problem:
        folder = private_cache_dir()
        wp.config.kernel_cache_dir = str(folder)
        logger.info("warp stores its kernels in %s, because %s", folder, problem)


def default_cache_dir(wp: Any) -> Path:
    """The folder that warp uses by default."""
    chosen = wp.config.kernel_cache_dir or os.environ.get("WARP_CACHE_PATH")
    if chosen:
        return Path(chosen)
    try:
        from warp._src.thirdparty import appdirs
    except ImportError:  # private module, not in all versions
        return Path("~/.cache/warp").expanduser()
    version = wp.config.version
    return Path(appdirs.user_cache_dir(appname="warp", appauthor="NVIDIA", version=version))


def write_problem(folder: Path) -> str:
    """The reason why a folder is not writable, "" if it is; creates the folder if missing."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return ""
    except (OSError, RuntimeError) as error:  # RuntimeError: the home folder is unknown
        return f"{folder} is not writable ({getattr(error, 'strerror', None) or error})"


def private_cache_dir() -> Path:
    """A temporary folder that only this user can write to, as compiled kernels are executed.

    Shared by all processes of a user, so that kernels are compiled once; a new folder if its name
    is taken by another user.

    Raises:
        OSError: it cannot be created.
    """
    if os.name == "nt":  # temporary folders are per user
        folder = Path(tempfile.gettempdir()) / "nova3d-warp"
        folder.mkdir(exist_ok=True)
        return folder
    folder = Path(tempfile.gettempdir()) / f"nova3d-warp-{os.getuid()}"
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    status = folder.lstat()
    own = stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid()
    if own and not status.st_mode & 0o022:
        return folder
    return Path(tempfile.mkdtemp(prefix="nova3d-warp-"))
