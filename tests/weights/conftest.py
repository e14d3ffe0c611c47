"""Model files for the tests: real headers with sparse data, so gigabytes cost nothing."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

Shapes = Mapping[str, tuple[int, ...]]
BITS = {"F64": 64, "F32": 32, "F16": 16, "BF16": 16, "F8_E4M3": 8, "I64": 64}

SGM_UNET = {
    "input_blocks.0.0.weight": (320, 8, 3, 3),
    "input_blocks.1.0.time_stack.in_layers.0.weight": (320,),
    "out.2.weight": (4, 320, 3, 3),
}
DIFFUSERS_UNET = {
    "conv_in.weight": (320, 8, 3, 3),
    "down_blocks.0.resnets.0.temporal_res_block.conv1.weight": (320, 320, 3, 1, 1),
    "conv_out.weight": (4, 320, 3, 3),
}


def header_bytes(shapes: Shapes, code: str = "F32", metadata: dict | None = None) -> bytes:
    """A safetensors header as the library writes it: length and JSON."""
    entries: dict = {"__metadata__": metadata} if metadata else {}
    position = 0
    for name, shape in sorted(shapes.items()):
        size = math.prod(shape) * BITS[code] // 8
        span = [position, position + size]
        entries[name] = {"dtype": code, "shape": list(shape), "data_offsets": span}
        position += size
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def data_bytes(shapes: Shapes, code: str = "F32") -> int:
    """Size of all tensors in bytes."""
    return sum(math.prod(shape) for shape in shapes.values()) * BITS[code] // 8


@pytest.fixture(scope="session")
def write_model() -> Callable[..., Path]:
    """Writes a .safetensors with sparse data: `write_model(path, shapes, code, metadata)`."""

    def write(path: Path, shapes: Shapes, code: str = "F32", metadata: dict | None = None) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        header = header_bytes(shapes, code, metadata)
        with path.open("wb") as stream:
            stream.write(header)
            stream.truncate(len(header) + data_bytes(shapes, code))
        return path

    return write


@pytest.fixture(scope="session")
def manifest(checkpoint_manifests: Path) -> Callable[[str], dict[str, tuple[int, ...]]]:
    """Keys and shapes of a published checkpoint: `manifest("svd_xt_sgm")`."""

    def read(name: str) -> dict[str, tuple[int, ...]]:
        entries = json.loads((checkpoint_manifests / f"{name}.json").read_text(encoding="utf-8"))
        return {key: tuple(shape) for key, (shape, _) in entries.items()}

    return read


@pytest.fixture(scope="session")
def small_unet() -> Callable[..., dict[str, tuple[int, ...]]]:
    """The identifying keys of a video UNet: `small_unet(add_embed_dim, layout, prefix)`."""

    def make(
        add_embed_dim: int, layout: str = "sgm", prefix: str = "model.diffusion_model."
    ) -> dict[str, tuple[int, ...]]:
        keys = dict(SGM_UNET if layout == "sgm" else DIFFUSERS_UNET)
        added = "label_emb.0.0.weight" if layout == "sgm" else "add_embedding.linear_1.weight"
        keys[added] = (1280, add_embed_dim)
        return {prefix + name: shape for name, shape in keys.items()}

    return make
