"""Records `tests/data/ouroboros3d.npz`: outputs of Ouroboros3D's own code with random weights.

    PYTHONPATH=OUROBOROS3D python tests/data/recipes/ouroboros3d.py tests/data/ouroboros3d.npz

OUROBOROS3D is a checkout of github.com/Costwen/Ouroboros3D (8e64942). It needs torch 2.13,
diffusers 0.25.0, transformers 4.39, einops and omegaconf. The file holds only numbers:
`tests/diffusion/ouroboros3d_reference.py` draws the same weights and inputs.
"""

from __future__ import annotations

import importlib.util
import sys
import types
from pathlib import Path

import numpy as np
import torch

_SHARED = Path(__file__).resolve().parents[2] / "diffusion" / "ouroboros3d_reference.py"
_spec = importlib.util.spec_from_file_location("ouroboros3d_reference", _SHARED)
shared = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(shared)


def stand_in(name: str, **members: object) -> None:
    """A module that the models import, but whose contents they do not need here."""
    module = types.ModuleType(name)
    vars(module).update(members)
    sys.modules[name] = module


def replace_unused_packages() -> None:
    """Packages of the training, and kiui, of which nothing is called."""
    import diffusers.models.unet_spatio_temporal_condition  # noqa: F401 (looks for torchvision)
    import transformers  # noqa: F401

    folders = importlib.util.find_spec("src").submodule_search_locations
    stand_in("src.utils", __path__=[f"{folder}/utils" for folder in folders])  # without training
    stand_in("kiui")
    stand_in("kiui.op", safe_normalize=None)
    stand_in("torchvision")


def build() -> torch.nn.Module:
    """The multi-view model with few channels, and the shared random weights."""
    from src.models.unet.adaptor import Adapter_XL
    from src.models.unet.models.unet_spatio_temporal_condition import (
        UNetSpatioTemporalConditionModel,
    )
    from src.models.unet.mv_unet import MVModel, PluckerEmbedding

    widths = shared.WIDTHS
    unet = UNetSpatioTemporalConditionModel(
        block_out_channels=widths,
        addition_time_embed_dim=shared.SCALAR_DIM,
        projection_class_embeddings_input_dim=3 * shared.SCALAR_DIM,
        cross_attention_dim=shared.CONTEXT_DIM,
        num_attention_heads=shared.HEAD_COUNTS,
        num_frames=shared.VIEWS,
    )
    adapter = {"cin": 192, "channels": list(widths), "sk": True, "use_conv": False, "ksize": 1}
    model = MVModel(unet, None, add_plucker=True)
    model.cond_encoder = torch.nn.ModuleList(Adapter_XL(**adapter) for _ in range(2))

    def rays(channels: tuple[int, ...]) -> torch.nn.ModuleList:
        return torch.nn.ModuleList(PluckerEmbedding(78, width) for width in channels)

    model.down_plucker = rays((widths[0], *widths[:-1]))  # the authors list the full-size widths
    model.mid_plucker = PluckerEmbedding(78, widths[-1])
    model.up_plucker = rays((widths[3], widths[3], widths[2], widths[1]))
    state = {
        name: torch.tensor(shared.weight(name, tuple(value.shape)))
        for name, value in model.state_dict().items()
    }
    model.load_state_dict(state)
    return model.eval()


def cameras() -> tuple[torch.Tensor, torch.Tensor]:
    """Poses (1, V, 4, 4) of the released rig, and normalised intrinsics (1, V, 3, 3)."""
    folder = Path(next(iter(importlib.util.find_spec("src").submodule_search_locations))).parent
    indices = list(shared.CAMERAS)
    poses = np.load(folder / "hyper" / "c2w.npy")[indices]
    intrinsics = np.load(folder / "hyper" / "intrinsics.npy")[indices]
    return torch.tensor(poses)[None].float(), torch.tensor(intrinsics)[None].float()


def main(path: str) -> None:
    replace_unused_packages()
    from src.utils.geometry import get_position_map

    given = {name: torch.tensor(value) for name, value in shared.inputs().items()}
    poses, intrinsics = cameras()
    model = build()
    with torch.no_grad():
        output = model(
            given["x"],
            torch.tensor(shared.C_NOISE),
            encoder_hidden_states=given["context"],
            added_time_ids=torch.tensor([shared.ADDED_IDS]),
            cond=[given["colours"], given["coordinates"]],
            cameras={"intrinsics": intrinsics, "extrinsics": poses},
        )
    maps = get_position_map(given["depth"][None, :, None], poses, intrinsics, shared.MAP_PX)
    np.savez_compressed(path, output=output.numpy(), maps=maps.numpy())


if __name__ == "__main__":
    main(sys.argv[1])
