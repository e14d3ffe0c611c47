"""A tiny random MoGe-2 model in ComfyUI's naming, for its own MoGe nodes.

Its normals vary over the image and face the camera: in OpenCV axes, a facing wall is (0, 0, -1).
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

FILE = "moge_2_vitl_normal_fp16.safetensors"
"""The name that the templates use, in models/geometry_estimation."""
HIDDEN, WIDTH, LEVELS = 64, 8, 5
"""Width of the DINOv2 backbone (one head), of the convolutions, and levels of their pyramid."""


def write_tiny_moge(models: Path) -> None:
    """Writes the model into ComfyUI's models folder."""
    folder = models / "geometry_estimation"
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(0)
    tensors = {name: _random(name, shape, generator) for name, shape in _shapes().items()}
    tensors["encoder.image_mean"] = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
    tensors["encoder.image_std"] = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
    last = f"normal_head.output_blocks.{LEVELS - 1}"
    tensors[f"{last}.weight"] *= 0.2
    tensors[f"{last}.bias"] = torch.tensor([0.0, 0.0, -1.0])
    save_file(tensors, folder / FILE)


def _random(name: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Weights scaled by the fan-in; weights of norms are around 1."""
    fan_in = torch.Size(shape[1:]).numel() if len(shape) > 1 else 100
    weights = torch.randn(shape, generator=generator) / fan_in**0.5
    return weights + 1.0 if len(shape) == 1 and name.endswith("weight") else weights


def _shapes() -> dict[str, tuple[int, ...]]:
    backbone = "encoder.backbone"
    shapes: dict[str, tuple[int, ...]] = {
        f"{backbone}.embeddings.cls_token": (1, 1, HIDDEN),
        f"{backbone}.embeddings.mask_token": (1, HIDDEN),
        f"{backbone}.embeddings.position_embeddings": (1, 37 * 37 + 1, HIDDEN),
        **_layer(f"{backbone}.embeddings.patch_embeddings.projection", HIDDEN, 3, 14, 14),
        **_layer(f"{backbone}.layernorm", HIDDEN),
        **_layer("scale_head.0", 16, HIDDEN),
        **_layer("scale_head.2", 1, 16),
    }
    for index in range(4):
        block = f"{backbone}.encoder.layer.{index}"
        for part in ("attention.attention.query", "attention.attention.key"):
            shapes |= _layer(f"{block}.{part}", HIDDEN, HIDDEN)
        for part in ("attention.attention.value", "attention.output.dense"):
            shapes |= _layer(f"{block}.{part}", HIDDEN, HIDDEN)
        for part in ("layer_scale1", "layer_scale2"):
            shapes[f"{block}.{part}.lambda1"] = (HIDDEN,)
        shapes |= _layer(f"{block}.mlp.fc1", 4 * HIDDEN, HIDDEN)
        shapes |= _layer(f"{block}.mlp.fc2", HIDDEN, 4 * HIDDEN)
        shapes |= {**_layer(f"{block}.norm1", HIDDEN), **_layer(f"{block}.norm2", HIDDEN)}
        shapes |= _layer(f"encoder.output_projections.{index}", WIDTH, HIDDEN, 1, 1)
    # the levels have two channels of image coordinates, the coarsest also the features
    shapes |= _pyramid("neck", [WIDTH + 2] + [2] * (LEVELS - 1), [WIDTH] * LEVELS)
    for head, channels in (("points_head", 3), ("mask_head", 1), ("normal_head", 3)):
        shapes |= _pyramid(head, [WIDTH] * LEVELS, [0] * (LEVELS - 1) + [channels])
    return shapes


def _layer(name: str, *shape: int) -> dict[str, tuple[int, ...]]:
    """Weight of this shape, and bias of its first size."""
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def _pyramid(name: str, inputs: list[int], outputs: list[int]) -> dict[str, tuple[int, ...]]:
    """Convolutions of all levels with their input and output channels; 0: no output."""
    shapes: dict[str, tuple[int, ...]] = {}
    for level in range(LEVELS):
        shapes |= _layer(f"{name}.input_blocks.{level}", WIDTH, inputs[level], 1, 1)
        if outputs[level]:
            shapes |= _layer(f"{name}.output_blocks.{level}", outputs[level], WIDTH, 1, 1)
        block = f"{name}.res_blocks.{level}.0.layers"
        for norm, convolution in ((0, 2), (3, 5)):
            shapes |= _layer(f"{block}.{norm}", WIDTH)
            shapes |= _layer(f"{block}.{convolution}", WIDTH, WIDTH, 3, 3)
        if level < LEVELS - 1:
            shapes |= _layer(f"{name}.resamplers.{level}.0", WIDTH, WIDTH, 2, 2)
            shapes |= _layer(f"{name}.resamplers.{level}.1", WIDTH, WIDTH, 3, 3)
    return shapes
