"""The perceptual loss of the nodes: LPIPS from a backbone file in ComfyUI's model folders."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from .. import nova3d_core

if TYPE_CHECKING:
    from ..nova3d_core.perceptual.lpips import Lpips
    from .runtime import NodeContext

logger = logging.getLogger(nova3d_core.__name__).getChild("nodes")
"""Below the core's logger, whose warnings the node displays."""


def lpips_or_warning(context: NodeContext, instead: str) -> Lpips | None:
    """LPIPS on the context's device: VGG16 on a GPU if its file is at hand, else AlexNet.

    Args:
        context: of the node.
        instead: the loss that the node uses without a file, for the warning.

    Returns:
        None if there is no file; the warning names the file and where to put it.
    """
    from ..nova3d_core.errors import InputError
    from ..nova3d_core.perceptual.lpips import find_backbones, load_lpips
    from .model_files import own_model_folders

    folders = own_model_folders()
    try:
        net = "vgg" if context.has_gpu and "vgg" in find_backbones(folders) else "auto"
        return load_lpips(net, folders, context.device)
    except InputError as error:
        logger.warning("%s The loss is %s instead.", error, instead)
        return None
