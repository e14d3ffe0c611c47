"""Small model files in the layouts of the real ones, for the host's model folders.

Their weights are random, apart from most VAEs' decoders: they paint a red square on white whatever
the UNet made, so that views of every side belong to one solid that can be fused.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from nova3d_core.diffusion.model import MultiviewModel
from nova3d_core.weights.discovery.built_in import is_shipped
from nova3d_core.weights.save import save_nova3d

from ..weights.models import copying_mini, random_model
from ..weights.test_load import as_published, sgm_tensors, without_quantising

NOVA3D = "nova3d.safetensors"
SV3D_P = "sv3d_p.safetensors"
SV3D_U = "sv3d_u.safetensors"
"""This one's decoder is random too, so its images show what the UNet made."""
V3D = "V3D.ckpt"
MINI = "mini.safetensors"
"""Paints the silhouette of what it sees, in one step."""
BUILT_IN = ("nova3d-mini (built in)",) * is_shipped()
"""What the pack offers before all files."""
SVD = "svd_xt.safetensors"
OTHERS = {
    "sdxl.safetensors": "model.diffusion_model.input_blocks.0.0.weight",
    "lora.safetensors": "lora_unet_time_stack.lora_up.weight",
}
"""Files of no family of ours: a name, and a key inside."""


def write_models(models: Path) -> None:
    """Fills a host's models folder: one file of each family, SVD, and files of other models."""
    own, checkpoints = models / "nova3d", models / "checkpoints"
    for folder in (own, checkpoints):
        folder.mkdir(parents=True, exist_ok=True)
    scratch = models / "scratch"
    scratch.mkdir()
    save_nova3d(calm_model("nova3d"), own / NOVA3D, note="paints a red square")
    save_nova3d(copying_mini(), own / MINI)
    for name, family, folder in (
        (SV3D_P, "sv3d_p", checkpoints),
        (SV3D_U, "sv3d_u", checkpoints / "stability"),
        (V3D, "v3d", own),
    ):
        tensors = as_published(family, sgm_tensors(calm_model(family), scratch))
        folder.mkdir(exist_ok=True)
        if name.endswith(".ckpt"):
            torch.save({"state_dict": tensors, "global_step": 1}, folder / name)
        else:
            save_file(tensors, folder / name)
    save_file(sgm_tensors(calm_model("v3d"), scratch), checkpoints / SVD)
    shutil.rmtree(scratch)
    for name, key in OTHERS.items():
        save_file({key: torch.zeros(320, 4, 3, 3)}, checkpoints / name)
    whole = (checkpoints / SV3D_P).read_bytes()
    (checkpoints / "cut.safetensors").write_bytes(whole[: len(whole) // 2])


def calm_model(family: str, seed: int = 0) -> MultiviewModel:
    """A small model whose numbers stay within a few units."""
    model = random_model(family, seed)
    for part in (model.unet, model.codec, model.image_encoder):
        for name, value in part.state_dict().items():
            value.copy_(_calm(name, value))
    if family != "sv3d_u":
        paint_square(model.codec.vae.decoder)
    if family.startswith("sv3d"):
        without_quantising(model, "post_quant_conv")
    if family == "v3d":
        without_quantising(model, "quant_conv")
    return model


def _calm(name: str, value: Tensor) -> Tensor:
    """Small steps away from doing little: random weights scaled by what flows in."""
    if value.dim() < 2:
        return value + 1.0 if "norm" in name and name.endswith("weight") else value
    return value * 10.0 / max(value[0].numel(), 1) ** 0.5


def paint_square(decoder: nn.Module) -> None:
    """Makes a VAE's decoder paint a red square on white, whatever it is given.

    A constant goes through; the 3x3 boxes over it come out lower at the rim, where they take in the
    zeros around the image. The last norm spreads the two, and the last layer colours them.
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
