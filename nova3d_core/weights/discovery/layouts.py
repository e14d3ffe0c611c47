"""Identifies the model in a file from the keys and shapes of its tensors.

Wonder3D's files are identified by `layouts_2d`. All other families share SVD's UNet. They differ
in the width of the embedding that is added to its time embedding: 768 (SVD, V3D), 256 (SV3D u) or
1280 (SV3D p), and in extra modules (NOVA3D, Ouroboros3D).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ...errors import InputError
from ...io.files.containment import quote_value
from ...io.files.json_text import parse_json
from ..files.header import ModelHeader, TensorInfo
from ..files.inspect import read_header
from .layouts_2d import find_2d_model
from .registry import (
    CONDITION_ENCODER,
    CONDITIONER,
    FAMILY_DESCRIPTIONS,
    IMAGE_ENCODER,
    MOGE,
    PIXEL_CODEC,
    RECONSTRUCTION,
    SMALL_ENCODER,
    UNET,
    VAE,
    Decoder,
    ForeignModel,
    Layout,
)

__all__ = ["Identity", "ModelHeader", "identify", "read_header"]

Tensors = Mapping[str, TensorInfo]

UNET_PREFIXES = ("model.diffusion_model.", "diffusion_model.", "unet.", "model.", "module.", "")
"""Possible prefixes of the UNet's keys, the most specific first."""

FAMILY_BY_ADD_EMBED_DIM = {256: "sv3d_u", 768: "svd", 1280: "sv3d_p"}
"""Family by the width of the added embedding, `add_embed_dim`."""

UNET_TENSORS = 1428
"""Number of tensors of SVD's UNet in either layout, without a family's extra modules."""
SVD_CHANNELS = 320
LGM_TENSORS = {"lgm": 376, "ouroboros3d": 438}
"""Number of tensors of LGM's published U-Net, and of Ouroboros3D's reconstruction model."""
LGM_CHANNELS = 64
METADATA_KEY = "nova3d"
"""Metadata entry, JSON, in which this package stores what shapes do not determine."""
_MAX_NOTE_LENGTH = 600
LATENT_CHANNELS_IN = 8
"""Noisy latent (4) and conditioning image latent (4)."""

_NOVA3D_KEYS = ("attn_align.", "norm_align.", "camera_task_emb.")
_OUROBOROS3D_KEYS = ("_plucker.", "cond_encoder.")
SGM_CLIP = "conditioner.embedders.0.open_clip.model.visual."
SMALL_ENCODER_PREFIX = "image_encoder."
"""Prefix of the keys of a small image encoder in our own files."""
CONDITIONER_PREFIX = "pixelnerf."
"""Prefix of the keys of the conditioner in our own files with models for scenes."""
SCENES = "v3d_scenes"
PIXELS = "pixels"
"""Kind of the codec without tensors, in the metadata of our own files."""
_TRAINED = "Trained for "
"""Start of the sentence on a file's training."""

_ADAPTERS = (
    (("lora_up.", "lora_down.", "lora_A.", "lora_B."), "a LoRA"),
    (("motion_modules.",), "a motion module of AnimateDiff"),
)
_MODELS = (
    (("control_model.", "controlnet_"), "a ControlNet"),
    (
        ("model.diffusion_model.", "diffusion_model.", "input_blocks.", "down_blocks.", "unet."),
        "another diffusion model, without temporal layers",
    ),
    (("double_blocks.", "transformer_blocks.", "blocks."), "a diffusion transformer"),
    (("text_model.", "shared.", "encoder.block.", "model.layers."), "a text encoder"),
    (("vision_model.", "visual."), "an image encoder of another size"),
    (("decoder.", "first_stage_model."), "a VAE without temporal layers"),
)
"""Other models in ComfyUI's folders, by a substring or the start of a key; first match wins."""


@dataclass(frozen=True)
class Identity:
    """The model in a file."""

    family: str
    """A key of FAMILY_DESCRIPTIONS, or "unknown"."""
    layout: Layout
    """Naming scheme of the keys: sgm, diffusers, lgm or unknown."""
    dtype: str
    """The most common dtype of the weights, e.g. "float16"; "unknown" without tensors."""
    parts: tuple[str, ...] = ()
    """Subset of unet, vae, image_encoder, condition_encoder, reconstruction, controlnet,
    pixel_codec, small_encoder and conditioner."""
    decoder: Decoder | None = None
    """Kind of the VAE decoder, video or frame; None without one."""
    ambiguous_with: tuple[str, ...] = ()
    """Other families whose files of these parts have the same keys; only the name decides."""
    unet_prefix: str | None = None
    """Prefix of the UNet's keys; None without a UNet."""
    notes: tuple[str, ...] = ()
    """Notes for the user, one sentence each."""
    foreign: ForeignModel | None = None
    """The model of an unknown family, if other nodes run it."""


@dataclass(frozen=True)
class _UNet:
    """Prefix of the UNet's keys, and the sizes that identify its family."""

    prefix: str
    layout: Layout
    in_channels: int
    model_channels: int
    add_embed_dim: int | None
    tensor_count: int


def identify(header: ModelHeader) -> Identity:
    """Identifies a file by its header; the notes give the reason for a family "unknown"."""
    identity = _identify_tensors(header)
    metadata = _own_metadata(header)
    # metadata only choose between families that the tensors allow
    if metadata.get("family") in (identity.family, *identity.ambiguous_with):
        identity = replace(identity, family=metadata["family"], ambiguous_with=())
    note = metadata.get("note")
    if isinstance(note, str) and note.strip():
        identity = replace(identity, notes=(*identity.notes, _describe_note(note.strip())))
    return identity


def _describe_note(note: Any) -> str:
    """A file's note as a sentence; for the JSON that training writes, the training's extent."""
    try:
        table = parse_json(note, "note") if isinstance(note, str) else note
        steps, objects, hours = (table["trained"][name] for name in ("steps", "objects", "hours"))
        summary = f"{_TRAINED}{steps} steps on {objects} objects, {hours:g} hours"
        before = table.get("started_from")
        if before is None:
            return _truncate(f"{summary}.")
        earlier = _describe_note(before["note"]) if before["note"] else ""
        if earlier.startswith(_TRAINED):  # the file of an earlier run tells users nothing
            return _truncate(f"{summary}, after {earlier.removeprefix(_TRAINED)}")
        return _truncate(f"{summary}, starting from {before['file']}. {earlier}".rstrip())
    except (InputError, ValueError, TypeError, KeyError, RecursionError):
        return f"Its note: {_truncate(note)}"


def _truncate(note: Any) -> str:
    """Truncates a note to one line of `_MAX_NOTE_LENGTH` characters."""
    text = (
        " ".join(note[: 4 * _MAX_NOTE_LENGTH].split())
        if isinstance(note, str)
        else quote_value(note)
    )
    return text if len(text) <= _MAX_NOTE_LENGTH else f"{text[:_MAX_NOTE_LENGTH]} ..."


def _own_metadata(header: ModelHeader) -> dict[str, Any]:
    """The metadata that this package stores in its own files; {} for others."""
    try:
        entry = parse_json(header.metadata.get(METADATA_KEY, "{}"), "metadata")
    except InputError:
        return {}
    return entry if isinstance(entry, dict) else {}


def _identify_tensors(header: ModelHeader) -> Identity:
    tensors = header.tensors
    dtype, dtype_notes = _dominant_dtype(tensors)
    if not tensors:
        return Identity("unknown", "unknown", dtype, notes=header.notes)
    if _is_lgm(tensors):
        family, notes = _lgm_family(tensors)
        notes = (*notes, *header.notes, *dtype_notes)
        return Identity(family, "lgm", dtype, (RECONSTRUCTION,), notes=notes)
    unet = _find_unet(tensors) or _find_token_transformer(tensors)
    found = None if unet else find_2d_model(tensors)
    if found:
        return Identity(
            found.family,
            "unknown" if found.family == "unknown" else "diffusers",
            dtype,
            found.parts,
            found.decoder,
            found.ambiguous_with,
            found.unet_prefix,
            (*found.notes, *header.notes, *dtype_notes),
        )
    if unet is None and found is None and _is_moge(tensors):
        note = (
            f"Contains {MOGE.label}, which belongs to {MOGE.owner}, in models/{MOGE.folder}. "
            f"{MOGE.usage}"
        )
        return Identity("unknown", "unknown", dtype, notes=(note,), foreign=MOGE)
    vae_parts, decoder, vae_layout = _other_parts(tensors)
    parts = (UNET,) * (unet is not None) + vae_parts + _own_parts(header)
    if unet is None:
        family, layout, notes = _family_of_part(tensors, vae_parts, vae_layout)
        return Identity(
            family,
            layout,
            dtype,
            parts if family != "unknown" else (),
            decoder if family != "unknown" else None,
            notes=(*notes, *header.notes, *dtype_notes),
        )
    family, ambiguous_with, notes = _family_of_unet(tensors, unet, parts)
    notes += _unet_notes(unet, family)
    if unet.layout == "sgm" and VAE in parts and IMAGE_ENCODER not in parts:
        notes += ("Has no image encoder; that of svd_xt.safetensors is used.",)
    return Identity(
        family,
        unet.layout,
        dtype,
        parts,
        decoder,
        ambiguous_with,
        unet.prefix,
        (*notes, *header.notes, *dtype_notes),
    )


def _find_unet(tensors: Tensors) -> _UNet | None:
    """The video UNet among the tensors; None without one, or without temporal layers."""
    for prefix in UNET_PREFIXES:
        for layout, first, added, temporal in (
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
            if not any(temporal in name and name.startswith(blocks) for name in own):
                continue
            added_entry = tensors.get(prefix + added)
            excluded = (*_NOVA3D_KEYS, *_OUROBOROS3D_KEYS, "first_stage_model.", "conditioner.")
            return _UNet(
                prefix,
                layout,
                in_channels=entry.shape[1],
                model_channels=entry.shape[0],
                add_embed_dim=added_entry.shape[-1] if added_entry and added_entry.shape else None,
                tensor_count=sum(not any(piece in name for piece in excluded) for name in own),
            )
    return None


def _find_token_transformer(tensors: Tensors) -> _UNet | None:
    """The token transformer among the tensors of one of our files, which replaces the UNet."""
    prefix = UNET_PREFIXES[0]
    first, added = tensors.get(prefix + "patch_embed.weight"), prefix + "label_emb.0.0.weight"
    if first is None or added not in tensors or len(first.shape) != 2:
        return None
    return _UNet(
        prefix,
        "sgm",
        in_channels=first.shape[1],
        model_channels=first.shape[0],
        add_embed_dim=tensors[added].shape[-1] if tensors[added].shape else None,
        tensor_count=sum(name.startswith(prefix) for name in tensors),
    )


def _family_of_unet(
    tensors: Tensors, unet: _UNet, parts: tuple[str, ...]
) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    """Family, other families with the same keys, notes."""
    if CONDITIONER in parts:
        return SCENES, (), ()
    if any(piece in name for name in tensors for piece in _NOVA3D_KEYS):
        notes = _alignment_notes(tensors)
        if SMALL_ENCODER in parts:
            return "nova3d-mini", ("nova3d",), notes
        return "nova3d", (), notes
    if all(any(piece in name for name in tensors) for piece in _OUROBOROS3D_KEYS):
        return "ouroboros3d", (), ()
    family = FAMILY_BY_ADD_EMBED_DIM.get(unet.add_embed_dim or 0)
    other_latents = unet.in_channels != LATENT_CHANNELS_IN and PIXEL_CODEC not in parts
    if family is None or other_latents:
        expected = ", ".join(f"{n} ({f})" for n, f in FAMILY_BY_ADD_EMBED_DIM.items())
        return (
            "unknown",
            (),
            (
                f"A video UNet of {unet.in_channels} input channels and an added embedding of "
                f"width {unet.add_embed_dim or 0}; expected {LATENT_CHANNELS_IN} channels and "
                f"width {expected}.",
            ),
        )
    if family != "svd":
        return family, (), ()
    if unet.layout == "sgm" and parts == (UNET, VAE):
        return "v3d", ("svd",), ()
    return "svd", ("v3d",), ()


def _alignment_notes(tensors: Tensors) -> tuple[str, ...]:
    """Notes on a UNet whose alignment attention is not in every block."""
    if _find_token_transformer(tensors):  # all its attention is between both domains
        return ()
    aligned = [name for name in tensors if "attn_align." in name]
    if not aligned:
        return ("Has no alignment attention (an ablation?).",)
    if not any(".time_stack." in name for name in aligned):
        return ("Has alignment attention in spatial blocks only (an ablation?).",)
    return ()


def _unet_notes(unet: _UNet, family: str) -> tuple[str, ...]:
    """Notes on a UNet that is smaller than SVD's or incomplete."""
    if family in ("unknown", "nova3d-mini", SCENES):
        return ()
    if unet.model_channels != SVD_CHANNELS:
        return (
            f"A UNet of {unet.model_channels} base channels; the published ones have "
            f"{SVD_CHANNELS}.",
        )
    if unet.tensor_count < UNET_TENSORS:
        return (
            f"The UNet has {unet.tensor_count} of {UNET_TENSORS} tensors: one shard of several, "
            "or an incomplete file.",
        )
    return ()


def _other_parts(tensors: Tensors) -> tuple[tuple[str, ...], Decoder | None, Layout]:
    """The parts other than the UNet, the kind of the VAE decoder, and the parts' layout."""
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


def _own_parts(header: ModelHeader) -> tuple[str, ...]:
    """The parts that only our own files have."""
    codec = _own_metadata(header).get("codec")
    pixels = isinstance(codec, dict) and codec.get("kind") == PIXELS
    small = SMALL_ENCODER_PREFIX + "stem.weight" in header.tensors
    conditioner = any(name.startswith(CONDITIONER_PREFIX) for name in header.tensors)
    parts = (PIXEL_CODEC,) * pixels + (SMALL_ENCODER,) * small
    return parts + (CONDITIONER,) * conditioner


def _family_of_part(
    tensors: Tensors, parts: tuple[str, ...], layout: Layout
) -> tuple[str, Layout, tuple[str, ...]]:
    """Family, layout and notes of a file without a video UNet."""
    temporal = any(
        name.endswith(("decoder.time_conv_out.weight", "decoder.conv_out.time_mix_conv.weight"))
        for name in tensors
    )
    if (VAE in parts and temporal) or IMAGE_ENCODER in parts:
        return "svd", layout, ("The same for all families that are derived from SVD.",)
    contents = _guess_contents(tensors)
    families = [family for family in FAMILY_DESCRIPTIONS if family != "lgm"]  # it has none
    return (
        "unknown",
        "unknown",
        (
            f"Contains {contents}; expected a video UNet (keys with time_stack or "
            f"temporal_res_block) of one of: {', '.join(families)}.",
        ),
    )


def _guess_contents(tensors: Tensors) -> str:
    """Describes the contents of an unsupported file, as far as its keys reveal them."""
    for pieces, description in _ADAPTERS:
        if any(piece in name for name in tensors for piece in pieces):
            return description
    for starts, description in _MODELS:
        if any(name.startswith(starts) for name in tensors):
            return description
    return "no supported model"


def _is_moge(tensors: Tensors) -> bool:
    """True for MoGe: a DINOv2 backbone with heads for points (version 2) or upsampling (1)."""
    return any(
        all(any(piece in name for name in tensors) for piece in pieces)
        for pieces in (
            ("encoder.backbone.", "points_head.", "neck."),
            ("backbone.", "head.upsample_blocks."),
        )
    )


def _is_lgm(tensors: Tensors) -> bool:
    """True for LGM's U-Net with or without time embedding: 9 input channels, 14 output channels."""
    first, last = _shape(tensors, "unet.conv_in.weight"), _shape(tensors, "unet.conv_out.weight")
    sizes = (*first[1:2], *last[:1])
    has_blocks = any(name.startswith("unet.down_blocks.0.nets.") for name in tensors)
    return len(first) == 4 and has_blocks and sizes in ((9, 14), (9,))


def _lgm_family(tensors: Tensors) -> tuple[str, tuple[str, ...]]:
    """The family of LGM's U-Net, and a note if it is incomplete.

    Ouroboros3D's is conditioned on the noise level. What LGM's two published files differ in, the
    training of the rotations, shows in no key and no shape.
    """
    has_time = any(".time_embed." in name or ".emb_layers." in name for name in tensors)
    family = "ouroboros3d" if has_time else "lgm"
    count = sum(name.startswith(("unet.", "conv.")) for name in tensors)
    is_published_size = _shape(tensors, "unet.conv_in.weight")[0] == LGM_CHANNELS
    expected = LGM_TENSORS[family]
    if is_published_size and count < expected:
        note = (
            f"The U-Net has {count} of {expected} tensors: one shard of several, or an incomplete "
            "file."
        )
        return family, (note,)
    return family, ()


def _shape(tensors: Tensors, name: str) -> tuple[int, ...]:
    return tensors[name].shape if name in tensors else ()


def _dominant_dtype(tensors: Tensors) -> tuple[str, tuple[str, ...]]:
    """The most common dtype of the tensors, and a note if there are several."""
    counts = Counter(tensor.dtype for tensor in tensors.values() if "float" in tensor.dtype)
    if not counts:
        return "unknown", ()
    ranked = counts.most_common()
    if len(ranked) == 1:
        return ranked[0][0], ()
    mixed = ", ".join(f"{count} in {dtype}" for dtype, count in ranked)
    return ranked[0][0], (f"Tensors of several dtypes: {mixed}.",)
