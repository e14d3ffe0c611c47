"""Identifies Wonder3D's files from the keys and shapes of their tensors.

Wonder3D is Stable Diffusion 1.5's UNet with a class embedding for camera and task (10 values, 14
in Wonder3D++) and with joint attention between colours and normals. Its first training stage has
the class embedding only, and its ControlNet only the joint attention.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..files.header import TensorInfo
from .registry import CONTROLNET, IMAGE_ENCODER, UNET, VAE, Decoder

Tensors = Mapping[str, TensorInfo]

FAMILY_BY_CLASS_DIM = {10: "wonder3d", 14: "wonder3d_plus"}
"""Family by the input width of the class embedding."""
STABLE_DIFFUSION = "stable_diffusion"
"""Family of a VAE or image encoder of Stable Diffusion 1; only the folder shows whose it is."""
JOINT_ATTENTION = "attn_joint_mid"
OLD_NAMES = {
    "attn_joint_twice.": "attn_joint_mid.",
    "norm_joint_twice.": "norm_joint_mid.",
}
"""Names of the joint attention in older files -> those of the published ones."""
KEY_MARKERS = (JOINT_ATTENTION, "attn_joint_twice")
"""Parts of names that all supported files contain."""
UNET_2D_TENSORS = 802
LATENT_CHANNELS = 4
CLIP_L = (768, 1024)
"""Shape of the projection of CLIP ViT-L/14."""

_PREFIXES = ("unet.", "module.", "")
_CLASS_EMBEDDING = "class_embedding.linear_1.weight"
_DOWNLOAD = "Use the file of flamehaze1115/wonder3d-v1.0."


@dataclass(frozen=True)
class Found2D:
    """The part of Wonder3D, or of Stable Diffusion 1, that a file holds."""

    family: str
    """A key of FAMILY_DESCRIPTIONS, or "unknown"."""
    parts: tuple[str, ...]
    """The part; () for an unknown family."""
    unet_prefix: str | None = None
    """Prefix of the UNet's keys."""
    decoder: Decoder | None = None
    """Kind of the VAE decoder."""
    ambiguous_with: tuple[str, ...] = ()
    """Families whose files of this part have the same keys."""
    notes: tuple[str, ...] = ()
    """Notes for the user, one sentence each."""


def find_2d_model(tensors: Tensors) -> Found2D | None:
    """Wonder3D's UNet, ControlNet, VAE or image encoder; None for other files."""
    for prefix in _PREFIXES:
        first = _shape(tensors, f"{prefix}conv_in.weight")
        blocks = f"{prefix}down_blocks."
        if len(first) == 4 and any(name.startswith(blocks) for name in tensors):
            return _unet_or_controlnet(tensors, prefix, first)
    return _vae(tensors) or _image_encoder(tensors)


def current_name(name: str) -> str:
    """The name of a parameter in the published files."""
    for old, new in OLD_NAMES.items():
        name = name.replace(old, new)
    return name


def _unet_or_controlnet(tensors: Tensors, prefix: str, first: tuple[int, ...]) -> Found2D | None:
    joint = any(marker in name for name in tensors for marker in KEY_MARKERS)
    if f"{prefix}controlnet_cond_embedding.conv_in.weight" in tensors:
        if not joint:
            return None
        note = "Wonder3D++'s multi-view ControlNet, which enhances views and generates none."
        return Found2D("wonder3d_plus", (CONTROLNET,), notes=(note,))
    class_shape = _shape(tensors, prefix + _CLASS_EMBEDDING)
    if len(class_shape) != 2 or first[1] != 2 * LATENT_CHANNELS:
        return None
    family = FAMILY_BY_CLASS_DIM.get(class_shape[1])
    if joint and family is None:
        return _unknown(
            f"A UNet with joint attention whose class embedding takes {class_shape[1]} values; "
            "Wonder3D's takes 10, Wonder3D++'s 14."
        )
    if not joint:
        other = "only attn_joint_last" if _has_last_attention(tensors) else "none"
        return _unknown(
            "A training stage of Wonder3D without joint attention between colours and normals: "
            f"the keys {JOINT_ATTENTION} and norm_joint_mid are missing, there is {other}. Its "
            f"colours and normals would not match each other. {_DOWNLOAD}"
        )
    own = [name for name in tensors if name.startswith(prefix)]
    notes = ()
    if len(own) < UNET_2D_TENSORS:
        notes = (
            f"The UNet has {len(own)} of {UNET_2D_TENSORS} tensors: one shard of several, or an "
            "incomplete file.",
        )
    return Found2D(family, (UNET,), prefix, notes=notes)


def _unknown(note: str) -> Found2D:
    return Found2D("unknown", (), notes=(note,))


def _has_last_attention(tensors: Tensors) -> bool:
    return any(".attn_joint_last." in name or ".attn_joint." in name for name in tensors)


def _vae(tensors: Tensors) -> Found2D | None:
    """A VAE of Stable Diffusion in the diffusers layout: latents of 4 channels, frame decoder."""
    moments = _shape(tensors, "encoder.conv_out.weight")
    diffusers = "decoder.up_blocks.0.resnets.0.conv1.weight" in tensors
    temporal = "decoder.time_conv_out.weight" in tensors
    if not diffusers or temporal or moments[:1] != (2 * LATENT_CHANNELS,):
        return None
    return Found2D(
        STABLE_DIFFUSION,
        (VAE,),
        decoder="frame",
        ambiguous_with=tuple(FAMILY_BY_CLASS_DIM.values()),
    )


def _image_encoder(tensors: Tensors) -> Found2D | None:
    """CLIP ViT-L/14's image encoder in the layout of transformers."""
    vision = "vision_model.embeddings.patch_embedding.weight" in tensors
    if not vision or _shape(tensors, "visual_projection.weight") != CLIP_L:
        return None
    families = tuple(FAMILY_BY_CLASS_DIM.values())
    return Found2D(STABLE_DIFFUSION, (IMAGE_ENCODER,), ambiguous_with=families)


def _shape(tensors: Tensors, name: str) -> tuple[int, ...]:
    return tensors[name].shape if name in tensors else ()
