"""Which model a file holds, told from the names and shapes of its tensors alone.

All families share SVD's UNet. They differ in what is added to its time embedding: 768 numbers (SVD,
V3D), 256 (SV3D u) or 1280 (SV3D p), and in modules of their own (nova3d, Ouroboros3D).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ...errors import InputError
from ...io.files.containment import quote_value
from ...io.files.json_text import parse_json
from ..files.inspect import ModelHeader, TensorInfo, read_header
from .registry import (
    CONDITION_ENCODER,
    FAMILY_DESCRIPTIONS,
    IMAGE_ENCODER,
    PIXEL_CODEC,
    RECONSTRUCTION,
    SMALL_ENCODER,
    UNET,
    VAE,
    Decoder,
    Layout,
)

__all__ = ["Identity", "ModelHeader", "identify", "read_header"]

Tensors = Mapping[str, TensorInfo]

UNET_PREFIXES = ("model.diffusion_model.", "diffusion_model.", "unet.", "model.", "module.", "")
"""What may stand before the UNet's keys, the most telling first."""

FAMILY_BY_ADD_EMBED_DIM = {256: "sv3d_u", 768: "svd", 1280: "sv3d_p"}
"""Family by how many numbers the UNet takes beside the time."""

UNET_TENSORS = 1428
"""Tensors of the UNet at SVD's size, in either layout, without a family's own modules."""
SVD_CHANNELS = 320
METADATA_KEY = "nova3d"
"""Under which files saved by this package keep, as JSON, what no shape tells."""
_NOTE_LENGTH = 600
LATENT_CHANNELS_IN = 8
"""Noisy latent (4) and the input image's latent (4)."""

_NOVA3D_KEYS = ("attn_align.", "norm_align.", "camera_task_emb.")
_OUROBOROS3D_KEYS = ("_plucker.", "cond_encoder.")
SGM_CLIP = "conditioner.embedders.0.open_clip.model.visual."
SMALL_ENCODER_PREFIX = "image_encoder."
"""What stands before the keys of a small image encoder in our own files."""
PIXELS = "pixels"
"""The kind of codec, in our own files' metadata, that has no tensors."""

_ADAPTERS = (
    (("lora_up.", "lora_down.", "lora_A.", "lora_B."), "a LoRA"),
    (("motion_modules.",), "a motion module of AnimateDiff"),
)
_MODELS = (
    (("control_model.", "controlnet_"), "a ControlNet"),
    (
        ("model.diffusion_model.", "diffusion_model.", "input_blocks.", "down_blocks.", "unet."),
        "another diffusion model, without layers across time",
    ),
    (("double_blocks.", "transformer_blocks.", "blocks."), "a diffusion transformer"),
    (("text_model.", "shared.", "encoder.block.", "model.layers."), "a text encoder"),
    (("vision_model.", "visual."), "an image encoder of another size"),
    (("decoder.", "first_stage_model."), "a VAE without layers across time"),
)
"""What else lies in ComfyUI's folders, told by a piece or by the start of a key; first fit."""


@dataclass(frozen=True)
class Identity:
    """What a model file is."""

    family: str
    """A key of FAMILIES, or "unknown"."""
    layout: Layout
    """How the tensors are named: sgm, diffusers, lgm or unknown."""
    dtype: str
    """Number format of most of the weights, "float16" for example; "unknown" without tensors."""
    parts: tuple[str, ...] = ()
    """What the file holds, of unet, vae, image_encoder, condition_encoder, reconstruction,
    pixel_codec and small_encoder."""
    decoder: Decoder | None = None
    """The VAE decoder's kind, video or frame, if the file has one."""
    ambiguous_with: tuple[str, ...] = ()
    """Further families whose files of these parts look the same; only the name can tell."""
    unet_prefix: str | None = None
    """What stands before the UNet's keys; None without a UNet."""
    notes: tuple[str, ...] = ()
    """What a user should know, one sentence each."""


@dataclass(frozen=True)
class _UNet:
    """Where the UNet's keys are, and the shapes that tell its family."""

    prefix: str
    layout: Layout
    in_channels: int
    model_channels: int
    add_embed_dim: int | None
    tensor_count: int


def identify(header: ModelHeader) -> Identity:
    """What the file with this header is; family "unknown" comes with a remark that says why."""
    identity = _told_by_tensors(header)
    said = _own_metadata(header)
    ambiguous_with = (identity.family, *identity.ambiguous_with)
    if (
        said.get("family") in ambiguous_with
    ):  # tensors come first: metadata only choose among the alike
        identity = replace(identity, family=said["family"], ambiguous_with=())
    note = said.get("note")
    if isinstance(note, str) and note.strip():
        identity = replace(identity, notes=(*identity.notes, _note_text(note.strip())))
    return identity


def _note_text(note: Any) -> str:
    """A file's note in few words; our training leaves a table, of which its length is said."""
    try:
        table = parse_json(note, "note") if isinstance(note, str) else note
        steps, objects, hours = (table["trained"][name] for name in ("steps", "objects", "hours"))
        told = f"Trained for {steps} steps on {objects} objects, {hours:g} hours"
        before = table.get("started_from")
        if before is None:
            return _shortened(f"{told}.")
        earlier = f" {_note_text(before['note'])}" if before["note"] else ""
        return _shortened(f"{told}, out of {before['file']}.{earlier}")
    except (InputError, ValueError, TypeError, KeyError, RecursionError):
        return f"Its note: {_shortened(note)}"


def _shortened(note: Any) -> str:
    """A note on one line of at most `_NOTE_LENGTH` characters."""
    text = " ".join(note[: 4 * _NOTE_LENGTH].split()) if isinstance(note, str) else quote_value(note)
    return text if len(text) <= _NOTE_LENGTH else f"{text[:_NOTE_LENGTH]} ..."


def _own_metadata(header: ModelHeader) -> dict[str, Any]:
    """What a file that this package saved says of itself; {} for others."""
    try:
        said = parse_json(header.metadata.get(METADATA_KEY, "{}"), "metadata")
    except InputError:
        return {}
    return said if isinstance(said, dict) else {}


def _told_by_tensors(header: ModelHeader) -> Identity:
    tensors = header.tensors
    dtype, dtype_remarks = _main_dtype(tensors)
    if not tensors:
        return Identity("unknown", "unknown", dtype, notes=header.notes)
    if _is_lgm(tensors):
        notes = (*header.notes, *dtype_remarks)
        return Identity("ouroboros3d", "lgm", dtype, (RECONSTRUCTION,), notes=notes)
    unet = _find_unet(tensors)
    vae_parts, decoder, vae_layout = _other_parts(tensors)
    parts = (UNET,) * (unet is not None) + vae_parts + _small_parts(header)
    if unet is None:
        family, layout, notes = _family_of_part(tensors, vae_parts, vae_layout)
        return Identity(
            family,
            layout,
            dtype,
            parts if family != "unknown" else (),
            decoder if family != "unknown" else None,
            notes=(*notes, *header.notes, *dtype_remarks),
        )
    family, ambiguous_with, notes = _family_of_unet(tensors, unet, parts)
    notes += _remarks_on_unet(unet, family)
    if unet.layout == "sgm" and VAE in parts and IMAGE_ENCODER not in parts:
        notes += ("Holds no image encoder: svd_xt.safetensors lends its own.",)
    return Identity(
        family,
        unet.layout,
        dtype,
        parts,
        decoder,
        ambiguous_with,
        unet.prefix,
        (*notes, *header.notes, *dtype_remarks),
    )


def _find_unet(tensors: Tensors) -> _UNet | None:
    """The video UNet among the tensors, or None; one without layers across time is none."""
    for prefix in UNET_PREFIXES:
        for layout, first, added, across_time in (
            ("sgm", "input_blocks.0.0.weight", "label_emb.0.0.weight", ".time_stack."),
            (
                "diffusers",
                "conv_in.weight",
                "add_embedding.linear_1.weight",
                ".temporal_res_block.",
            ),
        ):
            entry = tensors.get(prefix + first)
            if entry is None or len(entry.shape) != 4:
                continue
            own = [name for name in tensors if name.startswith(prefix)]
            blocks = prefix + ("input_blocks." if layout == "sgm" else "down_blocks.")
            if not any(across_time in name and name.startswith(blocks) for name in own):
                continue
            added_entry = tensors.get(prefix + added)
            outside = (*_NOVA3D_KEYS, *_OUROBOROS3D_KEYS, "first_stage_model.", "conditioner.")
            return _UNet(
                prefix,
                layout,
                in_channels=entry.shape[1],
                model_channels=entry.shape[0],
                add_embed_dim=added_entry.shape[-1] if added_entry and added_entry.shape else None,
                tensor_count=sum(not any(piece in name for piece in outside) for name in own),
            )
    return None


def _family_of_unet(
    tensors: Tensors, unet: _UNet, parts: tuple[str, ...]
) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    """Family, families that look alike, remarks."""
    if any(piece in name for name in tensors for piece in _NOVA3D_KEYS):
        notes = _remarks_on_alignment(tensors)
        if SMALL_ENCODER in parts:
            return "nova3d-mini", ("nova3d",), notes
        return "nova3d", (), notes
    if all(any(piece in name for name in tensors) for piece in _OUROBOROS3D_KEYS):
        return "ouroboros3d", (), ()
    family = FAMILY_BY_ADD_EMBED_DIM.get(unet.add_embed_dim or 0)
    if family is None or unet.in_channels != LATENT_CHANNELS_IN:
        expected = ", ".join(f"{n} ({f})" for n, f in FAMILY_BY_ADD_EMBED_DIM.items())
        return (
            "unknown",
            (),
            (
                f"A video UNet that takes {unet.in_channels} channels and "
                f"{unet.add_embed_dim or 'no'} numbers beside the time; expected "
                f"{LATENT_CHANNELS_IN} channels and {expected}.",
            ),
        )
    if family != "svd":
        return family, (), ()
    if unet.layout == "sgm" and parts == (UNET, VAE):
        return "v3d", ("svd",), ()
    return "svd", ("v3d",), ()


def _remarks_on_alignment(tensors: Tensors) -> tuple[str, ...]:
    """Says if colour and normals do not meet in every block."""
    aligned = [name for name in tensors if "attn_align." in name]
    if not aligned:
        return ("Has no alignment attention (an ablation?).",)
    if not any(".time_stack." in name for name in aligned):
        return ("Has alignment attention within images only (an ablation?).",)
    return ()


def _remarks_on_unet(unet: _UNet, family: str) -> tuple[str, ...]:
    """Says if the UNet is smaller than SVD's, or lacks tensors."""
    if family in ("unknown", "nova3d-mini"):
        return ()
    if unet.model_channels != SVD_CHANNELS:
        return (f"A UNet of {unet.model_channels} base channels; the published ones have 320.",)
    if unet.tensor_count < UNET_TENSORS:
        return (
            f"The UNet has {unet.tensor_count} of {UNET_TENSORS} tensors: one shard of several, "
            "or an incomplete file.",
        )
    return ()


def _other_parts(tensors: Tensors) -> tuple[tuple[str, ...], Decoder | None, Layout]:
    """The parts beside the UNet, the VAE decoder's kind, and the layout of the parts."""
    sgm_vae = "first_stage_model.decoder.conv_in.weight" in tensors
    bare_vae = "decoder.conv_in.weight" in tensors
    sgm_clip = SGM_CLIP + "proj" in tensors
    bare_clip = _shape(tensors, "visual_projection.weight") == (1024, 1280)
    condition = any(
        name.startswith("conditioner.embedders.")
        and name.endswith(".encoder.encoder.conv_in.weight")
        for name in tensors
    )
    decoder: Decoder | None = None
    if sgm_vae:
        video = "first_stage_model.decoder.conv_out.time_mix_conv.weight" in tensors
        decoder = "video" if video else "frame"
    elif bare_vae:
        decoder = "video" if "decoder.time_conv_out.weight" in tensors else "frame"
    parts = (
        (VAE,) * (sgm_vae or bare_vae)
        + (IMAGE_ENCODER,) * (sgm_clip or bare_clip)
        + (CONDITION_ENCODER,) * condition
    )
    layout: Layout = "sgm" if sgm_vae or sgm_clip else "diffusers" if parts else "unknown"
    return parts, decoder, layout


def _small_parts(header: ModelHeader) -> tuple[str, ...]:
    """What stands in the place of VAE and image encoder in a small file of ours."""
    codec = _own_metadata(header).get("codec")
    pixels = isinstance(codec, dict) and codec.get("kind") == PIXELS
    small = SMALL_ENCODER_PREFIX + "stem.weight" in header.tensors
    return (PIXEL_CODEC,) * pixels + (SMALL_ENCODER,) * small


def _family_of_part(
    tensors: Tensors, parts: tuple[str, ...], layout: Layout
) -> tuple[str, Layout, tuple[str, ...]]:
    """Family, layout and remarks of a file without a video UNet."""
    across_time = any(
        name.endswith(("decoder.time_conv_out.weight", "decoder.conv_out.time_mix_conv.weight"))
        for name in tensors
    )
    if (VAE in parts and across_time) or IMAGE_ENCODER in parts:
        return "svd", layout, ("The same for every family that grew out of SVD.",)
    looks = _looks_like(tensors)
    return (
        "unknown",
        "unknown",
        (
            f"Holds {looks}; expected a video UNet (keys with time_stack or "
            f"temporal_res_block) of one of: {', '.join(FAMILY_DESCRIPTIONS)}.",
        ),
    )


def _looks_like(tensors: Tensors) -> str:
    """A guess at what a file of no family of ours is, in a few words."""
    for pieces, what in _ADAPTERS:
        if any(piece in name for name in tensors for piece in pieces):
            return what
    for starts, what in _MODELS:
        if any(name.startswith(starts) for name in tensors):
            return what
    return "nothing known here"


def _is_lgm(tensors: Tensors) -> bool:
    """True for LGM's splat UNet as Ouroboros3D extends it: 9 channels in, and a time embedding."""
    shape = _shape(tensors, "unet.conv_in.weight")
    return len(shape) == 4 and shape[1] == 9 and "unet.time_embed.0.weight" in tensors


def _shape(tensors: Tensors, name: str) -> tuple[int, ...]:
    return tensors[name].shape if name in tensors else ()


def _main_dtype(tensors: Tensors) -> tuple[str, tuple[str, ...]]:
    """The number format of most tensors, and a remark if the weights come in several."""
    counts = Counter(tensor.dtype for tensor in tensors.values() if "float" in tensor.dtype)
    if not counts:
        return "unknown", ()
    ranked = counts.most_common()
    if len(ranked) == 1:
        return ranked[0][0], ()
    mixed = ", ".join(f"{count} in {dtype}" for dtype, count in ranked)
    return ranked[0][0], (f"Tensors in several number formats: {mixed}.",)
