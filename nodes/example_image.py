"""The example image of the templates, for ComfyUI's Load Image."""

from __future__ import annotations

import logging
from pathlib import Path

logger = logging.getLogger(__name__)

EXAMPLE_IMAGE = "nova3d_example.png"
"""Name in ComfyUI's input folder, which the templates' Load Image nodes refer to."""
_SOURCE = Path(__file__).resolve().parents[1] / "nova3d_core" / "assets" / "example.png"


def provide_example_image() -> None:
    """Copies the example image to ComfyUI's input folder if it is not there.

    Load Image reads only files of that folder. An existing file is never overwritten; a folder that
    cannot be written to is logged, and disables nothing but the example.
    """
    import folder_paths

    target = Path(folder_paths.get_input_directory()) / EXAMPLE_IMAGE
    content = _SOURCE.read_bytes()
    try:
        with open(target, "xb") as file:
            file.write(content)
        logger.info("NOVA3D: copied the templates' example image to %s", target)
    except FileExistsError:
        return
    except OSError as error:
        logger.warning("NOVA3D: the templates' example image could not be copied: %s", error)
