"""All published checkpoints match our full-size networks: no missing, no unused keys."""

from __future__ import annotations

import json
from contextlib import ExitStack

import pytest

from nova3d_core.diffusion.network import operations
from nova3d_core.diffusion.network.config import UNetConfig
from nova3d_core.diffusion.network.unet_2d_config import UNet2DConfig
from nova3d_core.errors import InputError
from nova3d_core.weights.build.components import (
    codec_component,
    image_encoder_component,
    unet_component,
)
from nova3d_core.weights.discovery.layouts import identify
from nova3d_core.weights.files.read import open_weights
from nova3d_core.weights.keymaps.unet import sgm_unet_names
from nova3d_core.weights.load import load_model

TEXT_HALF = {
    f"conditioner.embedders.0.open_clip.model.{name}"
    for name in (
        "ln_final.bias",
        "ln_final.weight",
        "logit_scale",
        "positional_embedding",
        "text_projection",
        "token_embedding.weight",
    )
}
"""Keys of open_clip's text encoder, which is not used."""


def unused_prefixes(encoder: str) -> tuple[str, ...]:
    """Prefixes of keys that are unused if the checkpoint has a condition encoder."""
    return (
        f"{encoder}decoder.",  # conditions are only encoded
        f"{encoder}post_quant_conv.",
        "first_stage_model.encoder.",  # the condition encoder is used instead
        "first_stage_model.quant_conv.",
    )


WHOLE = {
    # added embedding width, unused prefixes
    "svd_xt_sgm": (768, unused_prefixes("conditioner.embedders.3.encoder.")),
    "svd_xt_image_decoder_sgm": (768, unused_prefixes("conditioner.embedders.3.encoder.")),
    "sv3d_u_sgm": (256, unused_prefixes("conditioner.embedders.1.encoder.")),
    "sv3d_p_sgm": (1280, unused_prefixes("conditioner.embedders.1.encoder.")),
    "v3d_512_sgm": (768, ()),
}


DIFFUSERS_UNETS = {
    "svd_xt_diffusers_unet": 768,
    "sv3d_u_diffusers_unet": 256,
    "sv3d_p_diffusers_unet": 1280,
}
WONDER3D_UNETS = {
    # class embedding width, parameters
    "wonder3d_v1_diffusers_unet": (10, 910_785_284),
    "wonder3d_plus_diffusers_unet": (14, 910_790_404),
}
OTHERS = {
    "svd_diffusers_vae",
    "svd_diffusers_image_encoder",
    "map_sgm_unet_to_diffusers_unet",  # not a checkpoint but a key map
}
_OUROBOROS = r"is Ouroboros3D, which is sampled together with its reconstruction model"
EXCEPTIONS = {
    "ouroboros3d_mv_model_unet": _OUROBOROS,  # SVD's UNet with adapters, uses the model below
    "ouroboros3d_recon_model": "reconstruction model, which generates no views",
}
"""Unsupported checkpoints, and how they are rejected."""


@pytest.fixture
def opened(tmp_path, write_model, manifest):
    """Opens a file with the keys and shapes of a published checkpoint, and sparse data."""
    with ExitStack() as stack:

        def make(name: str, **changes):
            shapes = manifest(name) | changes
            shapes = {key: shape for key, shape in shapes.items() if shape is not None}
            path = write_model(tmp_path / f"{name}.safetensors", shapes, "F16")
            return stack.enter_context(open_weights(path))

        yield make


def sources(part) -> set[str]:
    return {source.name for source in part.key_map.values() if source.name is not None}


@pytest.mark.parametrize("name", sorted(WHOLE))
def test_public_checkpoint_matches_the_networks_exactly(opened, name):
    width, prefixes = WHOLE[name]
    file = opened(name)
    identity = identify(file.header)
    parts = [unet_component(file, identity, operations), codec_component(file)]
    if "image_encoder" in identity.parts:
        parts.append(image_encoder_component(file))
    assert parts[0].module.config == UNetConfig(add_embed_dim=width)
    used = set().union(*(sources(part) for part in parts))
    assert sum(len(sources(part)) for part in parts) == len(used)
    unused = set(file) - used
    text_half = TEXT_HALF if "image_encoder" in identity.parts else set()
    assert {key for key in unused if not key.startswith(prefixes or ("-",))} == text_half
    identity_keys = {
        key for part in parts for key, source in part.key_map.items() if source.name is None
    }
    # V3D has no quant_conv, SV3D no post_quant_conv
    quant = {"quant_conv.weight", "quant_conv.bias"}
    post = {f"post_{key}" for key in quant}
    assert identity_keys == {
        "v3d_512_sgm": quant,
        "sv3d_u_sgm": post,
        "sv3d_p_sgm": post,
    }.get(name, set())


@pytest.mark.parametrize(("name", "width"), sorted(DIFFUSERS_UNETS.items()))
def test_public_diffusers_unet_matches_exactly(opened, name, width):
    file = opened(name)
    part = unet_component(file, identify(file.header), operations)
    assert part.module.config == UNetConfig(add_embed_dim=width)
    assert sources(part) == set(file)


def test_ouroboros3d_unet_matches_exactly(opened):
    file = opened("ouroboros3d_mv_model_unet")
    part = unet_component(file, identify(file.header), operations)
    assert part.module.config == UNetConfig(feedback_factor=8)
    assert sources(part) == set(file) and len(file) == 1572


@pytest.mark.parametrize(("name", "expected"), sorted(WONDER3D_UNETS.items()))
def test_wonder3d_unet_matches_exactly(opened, name, expected):
    width, parameters = expected
    file = opened(name)
    part = unet_component(file, identify(file.header), operations)
    assert part.module.config == UNet2DConfig(camera_task_dim=width)
    assert sources(part) == set(file) and len(file) == 802
    assert all(name == source.name for name, source in part.key_map.items())
    assert sum(weight.numel() for weight in part.module.parameters()) == parameters


def test_public_diffusers_vae_and_image_encoder_match_exactly(opened):
    vae, encoder = opened("svd_diffusers_vae"), opened("svd_diffusers_image_encoder")
    assert sources(codec_component(vae)) == set(vae)
    part = image_encoder_component(encoder)
    assert sources(part) == set(encoder)
    assert part.module.clip.config.num_attention_heads == 16
    assert part.module.image_size == 224


def test_old_image_encoder_may_contain_position_ids(opened):
    name = "vision_model.embeddings.position_ids"
    file = opened("svd_diffusers_image_encoder", **{name: (1, 257)})
    assert sources(image_encoder_component(file)) == set(file) - {name}


def test_every_manifest_is_supported_or_an_exception(checkpoint_manifests):
    names = {path.stem for path in checkpoint_manifests.glob("*.json")}
    supported = set(WHOLE) | set(DIFFUSERS_UNETS) | set(WONDER3D_UNETS)
    assert names == supported | OTHERS | set(EXCEPTIONS)


@pytest.mark.parametrize("name", sorted(EXCEPTIONS))
def test_exceptions_are_rejected_with_a_reason(tmp_path, write_model, manifest, name):
    path = write_model(tmp_path / f"{name}.safetensors", manifest(name), "F16")
    with pytest.raises(InputError, match=EXCEPTIONS[name]):
        load_model(path)


def test_unet_key_map_is_a_bijection(checkpoint_manifests):
    path = checkpoint_manifests / "map_sgm_unet_to_diffusers_unet.json"
    published = json.loads(path.read_text(encoding="utf-8"))
    ours = sgm_unet_names(published.values())
    assert {f"model.diffusion_model.{sgm}": name for name, sgm in ours.items()} == published
    assert len(set(ours.values())) == len(published) == 1428


NORM = "input_blocks.4.1.norm.weight"
MISSING = f"model.diffusion_model.{NORM}"
UNEXPECTED = "model.diffusion_model.input_blocks.4.1.adapter.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({MISSING: None}, f"incomplete: missing keys '{NORM}'"),
        ({UNEXPECTED: (3,)}, f"unexpected keys: '{UNEXPECTED}'"),
        ({MISSING: (7,)}, f"1 tensors of unexpected shapes, for example '{MISSING}' with 7"),
    ],
)
def test_reports_a_unet_that_does_not_match(opened, change, message):
    file = opened("sv3d_u_sgm", **change)
    with pytest.raises(InputError, match=message):
        unet_component(file, identify(file.header), operations)


def test_reports_an_unexpected_decoder_and_an_incomplete_encoder(opened):
    name = "first_stage_model.decoder.mid.block_3.norm1.weight"
    with pytest.raises(InputError, match=f"VAE .* unexpected keys: '{name}'"):
        codec_component(opened("v3d_512_sgm", **{name: (512,)}))
    name = "conditioner.embedders.0.open_clip.model.visual.ln_pre.bias"
    with pytest.raises(InputError, match=f"image encoder .* missing keys '{name}'"):
        image_encoder_component(opened("sv3d_u_sgm", **{name: None}))
