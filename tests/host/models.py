"""Small model files in the layouts of the public checkpoints, for ComfyUI's model folders.

Their weights are random, except for most VAE decoders: these generate a red square on white for any
latent, so that all views are consistent and can be fused.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from nova3d_core.diffusion.model import MultiviewModel
from nova3d_core.reconstruction.config import LgmConfig
from nova3d_core.reconstruction.network import Lgm
from nova3d_core.weights.discovery.built_in import is_shipped
from nova3d_core.weights.save import save_nova3d

from ..diffusion.scene_models import scene_model
from ..weights.models import copying_mini, random_model
from ..weights.test_load import as_published, reset_quant_layers, sgm_tensors
from ..weights.test_wonder3d import write_wonder3d

NOVA3D = "nova3d.safetensors"
SV3D_P = "sv3d_p.safetensors"
SV3D_U = "sv3d_u.safetensors"
"""Its decoder is random too, so its images depend on the UNet."""
V3D = "V3D.ckpt"
WONDER3D = "wonder3d-v1.0/unet/diffusion_pytorch_model.bin"
"""The UNet of a folder of .bin files; its decoder too generates a red square."""
OUROBOROS3D, OUROBOROS3D_RECONSTRUCTION = "mv_model_unet.pth", "recon_model.safetensors"
"""A pair whose decoder generates a red square; the file of the views has VAE and image encoder."""
LGM = "model_fp16_fixrot.safetensors"
"""A narrow LGM, which makes 65,536 random splats."""
SCENES = "v3d_scenes.safetensors"
"""A tiny model for scenes with random weights; generates views of 32 pixels."""
MINI = "mini.safetensors"
"""Generates the silhouette of the input image, in one step."""
BUILT_IN = ("nova3d-mini (built in)",) * is_shipped()
"""Names that are listed before all files."""
SVD = "svd_xt.safetensors"
BACKGROUND = "birefnet.safetensors"
"""Only its name is valid: it lets prompts with Remove Background be validated."""
OTHER_MODELS = {
    "sdxl.safetensors": "model.diffusion_model.input_blocks.0.0.weight",
    "lora.safetensors": "lora_unet_time_stack.lora_up.weight",
}
"""Models of other families: file name -> one of its keys."""


def write_models(models: Path) -> None:
    """Fills a models folder: one file of each family, SVD, and files of other models."""
    own_folder, checkpoints = models / "nova3d", models / "checkpoints"
    for folder in (own_folder, checkpoints):
        folder.mkdir(parents=True, exist_ok=True)
    scratch = models / "scratch"
    scratch.mkdir()
    save_nova3d(bounded_model("nova3d"), own_folder / NOVA3D, note="generates a red square")
    save_nova3d(copying_mini(), own_folder / MINI)
    save_nova3d(scene_model(), own_folder / SCENES)
    for name, family, folder in (
        (SV3D_P, "sv3d_p", checkpoints),
        (SV3D_U, "sv3d_u", checkpoints / "stability"),
        (V3D, "v3d", own_folder),
    ):
        tensors = as_published(family, sgm_tensors(bounded_model(family), scratch))
        folder.mkdir(exist_ok=True)
        if name.endswith(".ckpt"):
            torch.save({"state_dict": tensors, "global_step": 1}, folder / name)
        else:
            save_file(tensors, folder / name)
    save_file(sgm_tensors(bounded_model("v3d"), scratch), checkpoints / SVD)
    write_wonder3d(bounded_model("wonder3d"), own_folder / "wonder3d-v1.0")
    save_file(narrow_lgm().state_dict(), own_folder / LGM)
    save_nova3d(bounded_model("ouroboros3d"), scratch / "pair.safetensors")
    shutil.move(scratch / "pair.safetensors", own_folder / OUROBOROS3D)  # recognised by content
    save_file(narrow_lgm(32).state_dict(), own_folder / OUROBOROS3D_RECONSTRUCTION)
    shutil.rmtree(scratch)
    for name, key in OTHER_MODELS.items():
        save_file({key: torch.zeros(320, 4, 3, 3)}, checkpoints / name)
    (models / "background_removal").mkdir(exist_ok=True)
    save_file({"unknown": torch.zeros(1)}, models / "background_removal" / BACKGROUND)
    content = (checkpoints / SV3D_P).read_bytes()
    (checkpoints / "cut.safetensors").write_bytes(content[: len(content) // 2])


def narrow_lgm(time_channels: int = 0) -> Lgm:
    """LGM with few channels and random weights, as float16."""
    config = LgmConfig(down_widths=(32,) * 6, up_widths=(32,) * 5, time_channels=time_channels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Lgm(config, dtype=torch.float16).requires_grad_(False)


def bounded_model(family: str, seed: int = 0) -> MultiviewModel:
    """A small model whose activations stay within a few units."""
    model = random_model(family, seed)
    for part in (model.unet, model.codec, model.image_encoder):
        for name, value in part.state_dict().items():
            value.copy_(_scaled(name, value))
    if family != "sv3d_u":
        decode_red_square(model.codec.vae.decoder)
    if family.startswith("sv3d"):
        reset_quant_layers(model, "post_quant_conv")
    if family == "v3d":
        reset_quant_layers(model, "quant_conv")
    return model


def _scaled(name: str, value: Tensor) -> Tensor:
    """Random weights scaled by the fan-in, norm weights around 1."""
    if value.dim() < 2:
        return value + 1.0 if "norm" in name and name.endswith("weight") else value
    return value * 10.0 / max(value[0].numel(), 1) ** 0.5


def decode_red_square(decoder: nn.Module) -> None:
    """Makes a VAE decoder generate a red square on white for any latent.

    The layers pass a constant on; 3x3 box filters lower it at the image border, where they include
    the zero padding. The last norm amplifies the difference, and the last layer maps it to colours.
    """
    for name, parameter in decoder.named_parameters():
        if "norm" not in name:
            parameter.zero_()
    decoder.conv_in.bias.fill_(1.0)
    for block in decoder.up_blocks:
        for resnet in block.resnets:
            spatial = getattr(resnet, "spatial_res_block", resnet)
            if spatial.conv_shortcut is not None:
                spatial.conv_shortcut.weight.fill_(1.0 / spatial.conv_shortcut.in_channels)
    boxes = [up.conv for block in decoder.up_blocks for up in block.upsamplers or ()]
    for box in boxes:
        keep = torch.eye(box.in_channels).to(box.weight)
        box.weight.copy_(keep[:, :, None, None].expand_as(box.weight) / 9.0)
    decoder.conv_norm_out.weight.fill_(8.0)
    decoder.conv_norm_out.bias.zero_()
    red = decoder.conv_out.weight.new_tensor([-0.05, -0.35, -0.4])
    decoder.conv_out.weight[:, 0, 1, 1] = red
    decoder.conv_out.bias.fill_(1.0)
    if hasattr(decoder, "time_conv_out"):
        decoder.time_conv_out.weight[:, :, 1, 0, 0] = torch.eye(3).to(decoder.conv_out.weight)
