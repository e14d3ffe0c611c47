"""Backbones of LPIPS: their layers, and the search for their weights in files on disk.

The weights are torchvision's ImageNet classifiers. They are not shipped and never downloaded.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from ..errors import InputError
from ..weights.discovery.locate import COMFYUI_FOLDERS, default_folders
from ..weights.files.header import ModelHeader
from ..weights.files.inspect import MODEL_SUFFIXES, read_header
from ..weights.files.read import WeightFile, open_weights

logger = logging.getLogger(__name__)

LpipsNet = Literal["vgg", "alex"]
LPIPS_NETS: tuple[str, ...] = get_args(LpipsNet)
OWN_FOLDER = COMFYUI_FOLDERS[0]
"""Of ComfyUI's model folders, the one that is searched."""
MIN_BYTES, MAX_BYTES = 4_000_000, 700_000_000
"""AlexNet's convolutions as float16 have 4.9 MB, the whole VGG16 as float32 528 MB."""
_PREFIXES = ("features.", "")
_WEIGHT_TOLERANCE = 3e-3
"""Rounding to bfloat16 changes the compared values by less."""


@dataclass(frozen=True)
class Convolution:
    """A convolution followed by a ReLU."""

    index: int
    """Position in torchvision's `features`, which is part of the keys."""
    inputs: int
    outputs: int
    kernel_px: int = 3
    stride_px: int = 1

    @property
    def padding_px(self) -> int:
        """Zeros added at each border: AlexNet's first layer has 2, all others keep the size."""
        return min(self.kernel_px // 2, 2)


@dataclass(frozen=True)
class Backbone:
    """The convolutions of an ImageNet classifier; LPIPS compares the output of each stage."""

    file: str
    """torchvision's name of the weights."""
    stages: tuple[tuple[Convolution, ...], ...]
    """Five stages of convolutions."""
    pooled_stages: tuple[int, ...]
    """Stages that start with a max pooling of stride 2."""
    pool_px: int
    """Window of the poolings."""
    min_px: int
    """Smallest image side with an output at every stage."""
    checked_key: str
    """The tensor whose first values identify the ImageNet weights."""
    checked_values: tuple[float, ...]
    """These values, rounded."""

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of all tensors by their keys in `features`, such as "0.weight"."""
        shapes: dict[str, tuple[int, ...]] = {}
        for each in (each for stage in self.stages for each in stage):
            kernel = (each.kernel_px, each.kernel_px)
            shapes[f"{each.index}.weight"] = (each.outputs, each.inputs, *kernel)
            shapes[f"{each.index}.bias"] = (each.outputs,)
        return shapes

    def key_prefix(self, header: ModelHeader) -> str | None:
        """Prefix of the backbone's keys in a file; None if the file has other keys or shapes."""
        for prefix in _PREFIXES:
            found = (
                (header.tensors.get(f"{prefix}{key}"), shape)
                for key, shape in self.shapes().items()
            )
            if all(tensor is not None and tensor.shape == shape for tensor, shape in found):
                return prefix
        return None


BACKBONES: Mapping[str, Backbone] = {
    "vgg": Backbone(
        file="vgg16-397923af.pth",
        stages=(
            (Convolution(0, 3, 64), Convolution(2, 64, 64)),
            (Convolution(5, 64, 128), Convolution(7, 128, 128)),
            (Convolution(10, 128, 256), Convolution(12, 256, 256), Convolution(14, 256, 256)),
            (Convolution(17, 256, 512), Convolution(19, 512, 512), Convolution(21, 512, 512)),
            (Convolution(24, 512, 512), Convolution(26, 512, 512), Convolution(28, 512, 512)),
        ),
        pooled_stages=(1, 2, 3, 4),
        pool_px=2,
        min_px=16,
        checked_key="0.bias",
        checked_values=(0.4034, 0.3778, 0.4644, -0.3228, 0.3940, -0.3953, 0.3951, -0.5496),
    ),
    "alex": Backbone(
        file="alexnet-owt-7be5be79.pth",
        stages=(
            (Convolution(0, 3, 64, kernel_px=11, stride_px=4),),
            (Convolution(3, 64, 192, kernel_px=5),),
            (Convolution(6, 192, 384),),
            (Convolution(8, 384, 256),),
            (Convolution(10, 256, 256),),
        ),
        pooled_stages=(1, 2),
        pool_px=3,
        min_px=31,
        checked_key="0.weight",
        checked_values=(0.11864, 0.094069, 0.095435),
    ),
}
"""The backbones by LPIPS's names of them."""


def find_backbones(folders: Sequence[Path | str] = ()) -> dict[str, Path]:
    """The file of each backbone that is at hand; recognised by keys, shapes and first values.

    Args:
        folders: folders or files to search; by default NOVA3D_MODELS, or ComfyUI's models/nova3d.
            torch's hub cache is always searched, last.

    Raises:
        InputError: a given folder does not exist.
    """
    found: dict[str, Path] = {}
    for path in _candidates(search_folders(folders)):
        for net in set(LPIPS_NETS) - set(found):
            if _is_backbone(path, BACKBONES[net]):
                logger.info("LPIPS (%s) uses %s", net, path)
                found[net] = path
    return found


def search_folders(folders: Sequence[Path | str] = ()) -> tuple[Path, ...]:
    """The existing folders, or files, that `find_backbones` searches."""
    given = default_folders(folders)
    if not folders and all(folder.name in COMFYUI_FOLDERS for folder in given):
        given = tuple(folder for folder in given if folder.name == OWN_FOLDER)
    return (*given, *(folder for folder in (hub_cache(),) if folder.is_dir()))


def hub_cache() -> Path:
    """The folder to which torch.hub downloads weights."""
    import torch

    return Path(torch.hub.get_dir()) / "checkpoints"


def no_backbone_error(
    net: LpipsNet | Literal["auto"] = "auto", folders: Sequence[Path | str] = ()
) -> InputError:
    """The error for a backbone without a file; it names the file and where to put it."""
    nets = LPIPS_NETS if net == "auto" else (net,)
    files = " or ".join(BACKBONES[each].file for each in nets)
    searched = ", ".join(str(folder) for folder in search_folders(folders)) or "any folder"
    return InputError(
        f"LPIPS needs the ImageNet weights of {'a backbone' if net == 'auto' else net}, and there "
        f"are none in {searched}.",
        f"Put torchvision's {files} into ComfyUI's models/{OWN_FOLDER} or into {hub_cache()}.",
    )


def _candidates(folders: Sequence[Path]) -> Iterator[Path]:
    """Files of a possible name and size, in order, each once."""
    seen = set()
    for folder in folders:
        for path in sorted(folder.rglob("*")) if folder.is_dir() else [folder]:
            if path.suffix.lower() not in MODEL_SUFFIXES or not path.is_file():
                continue
            if path.resolve() not in seen and MIN_BYTES <= path.stat().st_size <= MAX_BYTES:
                seen.add(path.resolve())
                yield path


def _is_backbone(path: Path, backbone: Backbone) -> bool:
    """Whether a file holds the ImageNet weights of a backbone; warns about one that nearly does."""
    try:
        prefix = backbone.key_prefix(read_header(path))
        if prefix is None:
            return False
        with open_weights(path) as weights:
            has_values = _has_checked_values(weights, prefix, backbone)
    except InputError as error:
        if path.name.startswith(backbone.file.split("-")[0]):
            logger.warning("LPIPS cannot use a file: %s", error)
        return False
    if not has_values:
        logger.warning(
            "%s has the layers of %s but not its ImageNet weights: LPIPS is undefined with it",
            path,
            backbone.file,
        )
    return has_values


def _has_checked_values(weights: WeightFile, prefix: str, backbone: Backbone) -> bool:
    values = weights[prefix + backbone.checked_key].flatten()[: len(backbone.checked_values)]
    pairs = zip(values.tolist(), backbone.checked_values, strict=True)
    return all(abs(value - expected) <= _WEIGHT_TOLERANCE for value, expected in pairs)
