"""Saves a model as one file in our own layout: SVD's keys, extended by those of NOVA3D's modules.

The UNet's keys start with `model.diffusion_model.` and add `attn_align`, `norm_align` and
`camera_task_emb` to SVD's. VAE and image encoder keep their sgm and open_clip keys; the keys of a
small image encoder start with `image_encoder.`; a pixel codec has only an entry in the metadata.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..diffusion.codecs.pixels import PixelCodec
from ..diffusion.codecs.small_encoder import SmallEncoder
from ..diffusion.model import MultiviewModel
from ..diffusion.scenes.model import SceneModel
from ..progress import SILENT, Progress
from .build.components import FIRST_STAGE, clip_key_map, vae_key_map
from .build.scene_components import scene_metadata
from .build.small_components import codec_metadata, image_encoder_metadata
from .discovery.layouts import CONDITIONER_PREFIX, METADATA_KEY, SMALL_ENCODER_PREFIX, UNET_PREFIXES
from .files.write import TensorEntry, write_model_file
from .keymaps.unet import KeyMap

STAGE = "saving the model"
FORMAT_VERSION = 1


def save_nova3d(
    model: MultiviewModel,
    path: Path | str,
    *,
    note: str = "",
    overwrite: bool = False,
    progress: Progress = SILENT,
) -> None:
    """Saves the whole model as one .safetensors file that `load_model` reads back bit for bit.

    Args:
        model: of any family.
        path: of the file, which is written atomically.
        note: provenance for the metadata: the training data and the training time.
        overwrite: replace an existing file.
        progress: reports each tensor; a cancellation takes effect at the next one.

    Raises:
        InputError: the file exists, cannot be written, the disk is full, or the name does not
            end in .safetensors.
        Cancelled: the user cancelled; no file is left behind.
    """
    metadata = {METADATA_KEY: json.dumps(_model_metadata(model, note))}
    write_model_file(
        Path(path), _entries(model), metadata, overwrite=overwrite, stage=STAGE, progress=progress
    )


def _model_metadata(model: MultiviewModel, note: str) -> dict[str, Any]:
    """Settings that shapes do not determine, and the provenance of the weights."""
    pair = {"coordinates": model.coordinates} if hasattr(model, "coordinates") else {}
    return pair | {
        "version": FORMAT_VERSION,
        "family": model.family.name,
        "size_px": model.family.size_px,
        "unet": asdict(model.unet.config),
        "codec": codec_metadata(model.codec),
        "image_encoder": image_encoder_metadata(model.image_encoder),
        "note": note,
        **scene_metadata(model),
    }


def _entries(model: MultiviewModel) -> Iterator[TensorEntry]:
    if isinstance(model, SceneModel):
        for name, value in model.conditioner.state_dict().items():
            yield _entry(CONDITIONER_PREFIX + name, [value], "none")
    for name, value in model.unet.state_dict().items():
        yield _entry(UNET_PREFIXES[0] + name, [value], "none")
    if not isinstance(model.codec, PixelCodec):
        vae = model.codec.vae
        levels = len(vae.config.block_out_channels)
        names = vae.state_dict()
        key_map = vae_key_map(names, levels, FIRST_STAGE, {"quant_conv", "post_quant_conv"})
        yield from _apply_key_map(names, key_map)
    if isinstance(model.image_encoder, SmallEncoder):
        for name, value in model.image_encoder.state_dict().items():
            yield _entry(SMALL_ENCODER_PREFIX + name, [value], "none")
    else:
        names = model.image_encoder.clip.state_dict()
        yield from _apply_key_map(names, clip_key_map(names))


def _apply_key_map(values: dict[str, Tensor], key_map: KeyMap) -> Iterator[TensorEntry]:
    """The tensors under their file keys, the inverse of reading them; query, key, value fused."""
    fused: dict[str, list[tuple[int, Tensor, str]]] = {}
    for name, value in values.items():
        source = key_map[name]
        group = fused.setdefault(str(source.name), [])
        group.append((source.qkv_index or 0, value, source.transform))
    for name, group in fused.items():
        group.sort(key=lambda item: item[0])
        yield _entry(name, [value for _, value, _ in group], group[0][2])


def _entry(name: str, values: list[Tensor], transform: str) -> TensorEntry:
    first = values[0]
    shape = (sum(len(value) for value in values), *first.shape[1:]) if first.dim() else ()
    if transform == "matrix":
        shape = (*shape, 1, 1)
    if transform == "transpose":
        shape = shape[::-1]

    def make() -> Tensor:
        tensor = torch.cat(values) if len(values) > 1 else first
        return (tensor.t() if transform == "transpose" else tensor).reshape(shape)

    return TensorEntry(name, first.dtype, tuple(shape), make)
