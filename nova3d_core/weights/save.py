"""Writes a model as one file in our own layout: SVD's names, and ours for what SVD has not.

The UNet's keys stand below `model.diffusion_model.`, with `attn_align`, `norm_align` and
`camera_task_emb` beside SVD's; VAE and image encoder have their sgm and open_clip names, a small
image encoder stands below `image_encoder.`, and a codec of pixels is described in the metadata.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..diffusion.codecs.pixels import PixelCodec
from ..diffusion.codecs.small_encoder import SmallEncoder
from ..diffusion.model import MultiviewModel
from ..errors import InputError
from ..io.files.atomic import atomic_file
from ..io.files.ownership import reject_foreign_file
from ..progress import SILENT, Progress
from .build.components import FIRST_STAGE, clip_key_map, vae_key_map
from .build.small_components import codec_metadata, image_encoder_metadata
from .discovery.layouts import METADATA_KEY, SMALL_ENCODER_PREFIX, UNET_PREFIXES
from .files.write import safetensors_header
from .keymaps.unet import KeyMap, Shape

STAGE = "saving the model"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class _Entry:
    """A tensor to write, made when its turn comes."""

    name: str
    dtype: torch.dtype
    shape: Shape
    make: Callable[[], Tensor]


def save_nova3d(
    model: MultiviewModel,
    path: Path | str,
    *,
    note: str = "",
    overwrite: bool = False,
    progress: Progress = SILENT,
) -> None:
    """Writes the whole model as one .safetensors, which `load_model` reads back bit for bit.

    Args:
        model: of any family.
        path: where the file shall appear; whole or not at all.
        note: provenance, kept in the metadata: what it was trained on, for how long.
        overwrite: replace a file that is there already.
        progress: reports each tensor; a cancel takes effect at the next one.

    Raises:
        InputError: the file exists, the place cannot be written or is full, or its name does not
            end in .safetensors.
        Cancelled: the user asked to stop; nothing is left.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise InputError(f"{path} must end in .safetensors to be saved as a model.")
    entries = sorted(_entries(model), key=lambda entry: (-entry.dtype.itemsize, entry.name))
    listed = [(entry.name, entry.dtype, entry.shape) for entry in entries]
    head = safetensors_header(
        listed, {METADATA_KEY: json.dumps(_said(model, note)), "format": "pt"}
    )
    with atomic_file(path, overwrite) as part:
        with part.open("wb") as stream:
            stream.write(head)
            for entry in progress.track(entries, STAGE, len(entries)):
                flat = entry.make().detach().cpu().contiguous().flatten()
                stream.write(memoryview(flat.view(torch.uint8).numpy()))
        reject_foreign_file(path.resolve())


def _said(model: MultiviewModel, note: str) -> dict[str, Any]:
    """What the shapes do not tell, and where the weights come from."""
    return {
        "version": FORMAT_VERSION,
        "family": model.family.name,
        "unet": asdict(model.unet.config),
        "codec": codec_metadata(model.codec),
        "image_encoder": image_encoder_metadata(model.image_encoder),
        "note": note,
    }


def _entries(model: MultiviewModel) -> Iterator[_Entry]:
    for name, value in model.unet.state_dict().items():
        yield _entry(UNET_PREFIXES[0] + name, [value], "none")
    if not isinstance(model.codec, PixelCodec):
        vae = model.codec.vae
        levels = len(vae.config.block_out_channels)
        names = vae.state_dict()
        key_map = vae_key_map(names, levels, FIRST_STAGE, {"quant_conv", "post_quant_conv"})
        yield from _renamed(names, key_map)
    if isinstance(model.image_encoder, SmallEncoder):
        for name, value in model.image_encoder.state_dict().items():
            yield _entry(SMALL_ENCODER_PREFIX + name, [value], "none")
    else:
        names = model.image_encoder.clip.state_dict()
        yield from _renamed(names, clip_key_map(names))


def _renamed(values: dict[str, Tensor], key_map: KeyMap) -> Iterator[_Entry]:
    """The tensors as the plan would read them, joined where several come from one."""
    joined: dict[str, list[tuple[int, Tensor, str]]] = {}
    for name, value in values.items():
        source = key_map[name]
        group = joined.setdefault(str(source.name), [])
        group.append((source.third or 0, value, source.change))
    for name, group in joined.items():
        group.sort(key=lambda item: item[0])
        yield _entry(name, [value for _, value, _ in group], group[0][2])


def _entry(name: str, values: list[Tensor], change: str) -> _Entry:
    first = values[0]
    shape = (sum(len(value) for value in values), *first.shape[1:]) if first.dim() else ()
    if change == "matrix":
        shape = (*shape, 1, 1)
    if change == "transpose":
        shape = shape[::-1]

    def make() -> Tensor:
        whole = torch.cat(values) if len(values) > 1 else first
        return (whole.t() if change == "transpose" else whole).reshape(shape)

    return _Entry(name, first.dtype, tuple(shape), make)
