"""Records `tests/data/lgm.npz`: outputs of LGM's and Ouroboros3D's own code with random weights.

    PYTHONPATH=LGM:OUROBOROS3D:PACKAGES python tests/data/recipes/lgm.py tests/data/lgm.npz

LGM and OUROBOROS3D are checkouts of github.com/3DTopia/LGM (fe8d12c) and Costwen/Ouroboros3D
(8e64942). PACKAGES has kiui 0.3.5 and einops 0.8.2; torch 2.13, tyro and diffusers 0.42 are needed
as well. Without xformers, LGM computes its attention with a softmax of its own. The file holds only
numbers: `tests/reconstruction/lgm_reference.py` draws the same weights and inputs.
"""

from __future__ import annotations

import importlib.util
import sys
import types
import typing
from pathlib import Path

import numpy as np
import torch

_SHARED = Path(__file__).resolve().parents[2] / "reconstruction" / "lgm_reference.py"
_spec = importlib.util.spec_from_file_location("lgm_reference", _SHARED)
shared = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(shared)


def stand_in(name: str, **members: object) -> None:
    """A module that the models import, but whose contents they do not need here."""
    module = types.ModuleType(name)
    vars(module).update(members)
    sys.modules[name] = module


def replace_unused_packages() -> None:
    """Rasteriser, LPIPS, OpenCV, and the only function of torchvision that is called."""
    from diffusers.models.embeddings import Timesteps  # noqa: F401 (looks for torchvision)

    def normalize(images: torch.Tensor, mean: tuple, std: tuple) -> torch.Tensor:
        mean, std = (torch.tensor(each)[:, None, None] for each in (mean, std))
        return (images - mean) / std

    class Nothing:
        def __init__(self, *arguments: object, **settings: object):
            pass

    for name in ("cv2", "roma"):
        stand_in(name)
    names = {name: getattr(typing, name) for name in typing.__all__}
    stand_in("kiui.typing", **names, Tensor=torch.Tensor, ndarray=np.ndarray)
    stand_in("kiui.lpips", LPIPS=Nothing)
    stand_in("torchvision.transforms.functional", normalize=normalize)
    stand_in("torchvision.transforms", functional=sys.modules["torchvision.transforms.functional"])
    stand_in("torchvision", transforms=sys.modules["torchvision.transforms"])
    for name in ("core.gs", "src.models.network.lgm.gs"):
        stand_in(name, GaussianRenderer=Nothing)  # they need CUDA
    folders = importlib.util.find_spec("src").submodule_search_locations
    stand_in("src.utils", __path__=[f"{folder}/utils" for folder in folders])  # without training


def fill(module: torch.nn.Module) -> torch.nn.Module:
    """Loads the shared random weights."""
    state = {
        name: torch.tensor(shared.weight(name, tuple(value.shape)))
        for name, value in module.state_dict().items()
    }
    module.load_state_dict(state)
    return module.eval()


def options(kind: type) -> object:
    """The reduced architecture as the authors' settings."""
    values = {
        "input_size": shared.SIZE_PX,
        "splat_size": shared.SPLAT_PX,
        "down_channels": shared.DOWN_WIDTHS,
        "down_attention": shared.DOWN_ATTENTION,
        "up_channels": shared.UP_WIDTHS,
        "up_attention": shared.UP_ATTENTION,
    }
    settings = kind(**values)
    settings.lambda_lpips = 0.0
    return settings


def record_lgm() -> dict[str, torch.Tensor]:
    """LGM's default rays and its splats."""
    from core.models import LGM
    from core.options import Options

    model = fill(LGM(options(Options)))
    rays = model.prepare_default_rays("cpu")
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    normalize = sys.modules["torchvision.transforms.functional"].normalize
    x = torch.cat([normalize(torch.tensor(shared.images()), mean, std), rays.float()], dim=1)[None]
    with torch.no_grad():
        features = model.conv(model.unet(x[0]))
        splats = model.forward_gaussians(x)[0]
    return {"rays": rays, "features": features, "splats": splats}


def record_ouroboros3d() -> dict[str, torch.Tensor]:
    """The splats of Ouroboros3D's reconstruction model, with its cameras, at a noise level."""
    from kiui.cam import orbit_camera
    from src.models.network.lgm.models import LGM
    from src.models.network.lgm.options import Options

    model = fill(LGM(options(Options), num_frames=4))
    poses = np.stack([orbit_camera(0, azimuth, radius=1.7417) for azimuth in shared.AZIMUTHS_DEG])
    poses[:, :3, 1:3] *= -1  # its cameras have OpenCV axes
    batch = {
        "c2w": torch.tensor(poses)[None].float(),
        "intrinsics": torch.zeros(1, 4, 3, 3),
        "fov": torch.full((1, 4), 39.59775),
    }
    images = 2.0 * torch.tensor(shared.images())[None] - 1.0
    with torch.no_grad():
        splats = model.forward_gaussians(images, torch.tensor(shared.C_NOISE), batch)[0]
    return {"ouroboros3d_splats": splats}


def main(path: str) -> None:
    replace_unused_packages()
    recorded = {**record_lgm(), **record_ouroboros3d()}
    np.savez_compressed(path, **{name: value.numpy() for name, value in recorded.items()})


if __name__ == "__main__":
    main(sys.argv[1])
