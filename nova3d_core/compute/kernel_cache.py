"""A folder for warp's compiled kernels that can be written, where the usual one cannot."""

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
    """Points warp to a folder below the temporary one if its own cannot be written.

    Warp fails to start on a read-only or missing home folder. To be called before `wp.init`.

    Args:
        wp: the warp module.

    Raises:
        OSError: the temporary folder cannot be written either.
    """
    usual = default_cache_dir(wp)
    problem = write_problem(usual)
    if problem:
        folder = private_cache_dir()
        wp.config.kernel_cache_dir = str(folder)
        logger.info("warp keeps its kernels in %s, as %s", folder, problem)


def default_cache_dir(wp: Any) -> Path:
    """The folder that warp would take by itself."""
    chosen = wp.config.kernel_cache_dir or os.environ.get("WARP_CACHE_PATH")
    if chosen:
        return Path(chosen)
    try:
        from warp._src.thirdparty import appdirs
    except ImportError:  # where older and newer warps have it otherwise
        return Path("~/.cache/warp").expanduser()
    version = wp.config.version
    return Path(appdirs.user_cache_dir(appname="warp", appauthor="NVIDIA", version=version))


def write_problem(folder: Path) -> str:
    """Why files cannot be made in a folder, which is made if it is missing; "" if they can."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return ""
    except (OSError, RuntimeError) as error:  # RuntimeError: the home folder is not known
        return f"{folder} cannot be written ({getattr(error, 'strerror', None) or error})"


def private_cache_dir() -> Path:
    """A folder below the temporary one that nobody else can write to: kernels in it are run.

    The same one for all processes of a user, so that kernels are compiled once; a new one where
    somebody else has taken that name.

    Raises:
        OSError: it cannot be made.
    """
    if os.name == "nt":  # the temporary folder is the user's own
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
