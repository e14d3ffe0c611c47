"""LPIPS v0.1, the learned perceptual distance of images, with torch alone.

Reference: R. Zhang et al., "The unreasonable effectiveness of deep features as a perceptual
metric", CVPR 2018. Equal to the package `lpips` 0.1.4 with the same backbone weights. The small
linear layers ship with this package (assets/lpips_v0.1.safetensors, BSD-2-Clause).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..weights.files.read import open_weights
from .backbones import BACKBONES, LPIPS_NETS, Backbone, LpipsNet, find_backbones, no_backbone_error

LINEAR_LAYERS = Path(__file__).resolve().parents[1] / "assets" / "lpips_v0.1.safetensors"
Features = tuple[Tensor, ...]
"""Output of each stage (B, C, h, w), float32 or float64, with unit length along C or zero."""

_SHIFT = (-0.030, -0.088, -0.188)
_SCALE = (0.458, 0.448, 0.450)
_EPS = 1e-10


class Lpips(nn.Module):
    """Perceptual distance of images, 0 for identical ones; its weights are frozen.

    Args:
        net: the backbone. AlexNet is about 20 times faster, VGG16 better as a loss.
        weights: the backbone's tensors by their keys in torchvision's `features`, e.g. "0.weight".
    """

    def __init__(self, net: LpipsNet, weights: Mapping[str, Tensor]):
        super().__init__()
        self.net = net
        self.backbone = BACKBONES[net]
        self.stages = nn.ModuleList(
            _stage(self.backbone, index, weights) for index in range(len(self.backbone.stages))
        )
        with open_weights(LINEAR_LAYERS) as linear:
            for index in range(len(self.stages)):
                self.register_buffer(f"linear_{index}", linear[f"{net}.{index}"].clone())  # (C,)
        self.register_buffer("shift", torch.tensor(_SHIFT)[:, None, None])
        self.register_buffer("scale", torch.tensor(_SCALE)[:, None, None])
        self.requires_grad_(False)

    def forward(self, images: Tensor, reference: Tensor) -> Tensor:
        """(B,) distances of images from reference images, both (B, H, W, 3) in 0..1.

        Raises:
            InputError: other shapes, or images too small for the backbone.
        """
        if images.shape != reference.shape:
            raise InputError(
                f"images of shape {tuple(images.shape)} cannot be compared with "
                f"{tuple(reference.shape)}."
            )
        return self.distance(self.features(images), self.features(reference))

    def features(self, images: Tensor) -> Features:
        """Features of images (B, H, W, 3) in 0..1; those of a fixed reference can be reused.

        The images are converted to the device and dtype of this module.

        Raises:
            InputError: another shape, or images too small for the backbone.
        """
        smallest = self.backbone.min_px
        if images.ndim != 4 or images.shape[-1] != 3 or min(images.shape[1:3]) < smallest:
            raise InputError(
                f"LPIPS ({self.net}) compares images (B, H, W, 3) of at least "
                f"{smallest}x{smallest} px, but these have shape {tuple(images.shape)}."
            )
        values = 2.0 * images.to(self.shift).movedim(-1, 1) - 1.0
        values = (values - self.shift) / self.scale
        features = []
        for stage in self.stages:
            values = stage(values)
            features.append(_normalised(values))
        return tuple(features)

    def distance(self, features: Features, reference: Features) -> Tensor:
        """(B,) distances: weighted squared differences, averaged over the pixels of each stage."""
        total = torch.zeros((), device=self.shift.device)
        for index, pair in enumerate(zip(features, reference, strict=True)):
            difference = (pair[0] - pair[1]).square().mean(dim=(2, 3))  # (B, C)
            total = total + difference @ getattr(self, f"linear_{index}").to(difference)
        return total


def load_lpips(
    net: LpipsNet | Literal["auto"] = "auto",
    folders: Sequence[Path | str] = (),
    device: torch.device | str = "cpu",
) -> Lpips:
    """LPIPS from a backbone file at hand; nothing is downloaded.

    Args:
        net: auto: AlexNet if its file is at hand, else VGG16.
        folders: as for `find_backbones`.
        device: of the network.

    Raises:
        InputError: there is no file; the message names the file and where to put it.
    """
    found = find_backbones(folders)
    candidates = ("alex", "vgg") if net == "auto" else (net,)
    for each in candidates:
        if each in found:
            return read_lpips(each, found[each]).to(device)
    raise no_backbone_error(net, folders)


def load_all_lpips(folders: Sequence[Path | str] = ()) -> tuple[Lpips, ...]:
    """LPIPS with each backbone whose file is at hand, on the CPU; see `find_backbones`."""
    found = find_backbones(folders)
    return tuple(read_lpips(net, found[net]) for net in LPIPS_NETS if net in found)


def read_lpips(net: LpipsNet, path: Path) -> Lpips:
    """LPIPS with the backbone in a file; the values of its weights are not checked.

    Raises:
        InputError: the file cannot be read, or holds another network.
    """
    backbone = BACKBONES[net]
    with open_weights(path) as weights:
        prefix = backbone.key_prefix(weights.header)
        if prefix is None:
            raise InputError(f"{path} does not contain the layers of {backbone.file}.")
        return Lpips(net, {key: weights[prefix + key] for key in backbone.shapes()})


def _stage(backbone: Backbone, index: int, weights: Mapping[str, Tensor]) -> nn.Sequential:
    """One stage of a backbone, in float32 and with copies of its weights."""
    layers: list[nn.Module] = []
    if index in backbone.pooled_stages:
        layers.append(nn.MaxPool2d(backbone.pool_px, stride=2))
    for each in backbone.stages[index]:
        sizes = (each.inputs, each.outputs, each.kernel_px, each.stride_px, each.padding_px)
        layer = nn.Conv2d(*sizes, device="meta")
        layer.weight = nn.Parameter(weights[f"{each.index}.weight"].float().clone())
        layer.bias = nn.Parameter(weights[f"{each.index}.bias"].float().clone())
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers)


def _normalised(values: Tensor) -> Tensor:
    """Values (B, C, h, w) divided by their length along C, in float32 or float64.

    Zero vectors stay zero, with a finite gradient; the root itself has none there.
    """
    values = values.to(torch.promote_types(values.dtype, torch.float32))
    squared = values.square().sum(dim=1, keepdim=True)
    return values / (torch.where(squared > 0, squared, 1.0).sqrt() + _EPS)
