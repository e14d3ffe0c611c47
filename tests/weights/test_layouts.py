"""Identification of headers: all published checkpoints, and files of other kinds."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from nova3d_core.weights.discovery.layouts import Identity, identify, read_header
from nova3d_core.weights.discovery.registry import PUBLISHED_FILES
from nova3d_core.weights.files.header import ModelHeader, TensorInfo

WHOLE = ("unet", "vae", "image_encoder", "condition_encoder")
SGM = "model.diffusion_model."
REAL = {
    "svd_xt_sgm": ("svd", "sgm", WHOLE, "video", SGM),
    "svd_xt_image_decoder_sgm": ("svd", "sgm", WHOLE, "frame", SGM),
    "sv3d_u_sgm": ("sv3d_u", "sgm", WHOLE, "frame", SGM),
    "sv3d_p_sgm": ("sv3d_p", "sgm", WHOLE, "frame", SGM),
    "v3d_512_sgm": ("v3d", "sgm", ("unet", "vae"), "video", SGM),
    "svd_xt_diffusers_unet": ("svd", "diffusers", ("unet",), None, ""),
    "sv3d_u_diffusers_unet": ("sv3d_u", "diffusers", ("unet",), None, ""),
    "sv3d_p_diffusers_unet": ("sv3d_p", "diffusers", ("unet",), None, ""),
    "svd_diffusers_vae": ("svd", "diffusers", ("vae",), "video", None),
    "svd_diffusers_image_encoder": ("svd", "diffusers", ("image_encoder",), None, None),
    "ouroboros3d_mv_model_unet": ("ouroboros3d", "diffusers", ("unet",), None, "unet."),
    "wonder3d_v1_diffusers_unet": ("wonder3d", "diffusers", ("unet",), None, ""),
    "wonder3d_plus_diffusers_unet": ("wonder3d_plus", "diffusers", ("unet",), None, ""),
    "ouroboros3d_recon_model": ("ouroboros3d", "lgm", ("reconstruction",), None, None),
}


def header_of(shapes: dict[str, tuple[int, ...]], dtype: str = "float32") -> ModelHeader:
    tensors = {name: TensorInfo(dtype, shape) for name, shape in shapes.items()}
    return ModelHeader("safetensors", 0, tensors)


def summary(identity: Identity) -> tuple:
    return (
        identity.family,
        identity.layout,
        identity.parts,
        identity.decoder,
        identity.unet_prefix,
    )


@pytest.mark.parametrize(
    ("code", "dtype"), [("F32", "float32"), ("F16", "float16"), ("BF16", "bfloat16")]
)
@pytest.mark.parametrize("name", sorted(REAL))
def test_identifies_full_size_checkpoints(tmp_path, write_model, manifest, name, code, dtype):
    header = read_header(write_model(tmp_path / "any.safetensors", manifest(name), code))
    identity = identify(header)
    assert summary(identity) == REAL[name]
    assert identity.dtype == dtype
    assert not any("of 1428 tensors" in note for note in identity.notes)


def test_covers_the_manifest_of_every_checkpoint(checkpoint_manifests):
    names = {path.stem for path in checkpoint_manifests.glob("*.json")}
    assert {name for name in names if not name.startswith("map_")} == set(REAL)


def test_file_from_the_svd_xt_manifest_has_the_published_size(tmp_path, write_model, manifest):
    path = write_model(tmp_path / "svd_xt.safetensors", manifest("svd_xt_sgm"))
    file = next(
        published for published in PUBLISHED_FILES if published.name == "svd_xt.safetensors"
    )
    assert path.stat().st_size == file.bytes


def test_full_size_nova3d_is_distinguished_from_svd(manifest):
    shapes = dict(manifest("svd_xt_sgm"))
    shapes[SGM + "label_emb.0.0.weight"] = (1280, 256)  # as SV3D u: fps and motion folded away
    attention = [name for name in shapes if name.endswith(".attn1.to_q.weight")]
    for name in attention:
        shapes[name.replace("attn1", "attn_align")] = shapes[name]
    identity = identify(header_of(shapes))
    assert len(attention) == 32  # spatial and temporal
    assert summary(identity) == ("nova3d", "sgm", WHOLE, "video", SGM)
    assert identity.ambiguous_with == ()
    assert identity.notes == ()


@pytest.mark.parametrize("prefix", [SGM, "diffusion_model.", "unet.", ""])
@pytest.mark.parametrize("layout", ["sgm", "diffusers"])
@pytest.mark.parametrize(("width", "family"), [(256, "sv3d_u"), (768, "svd"), (1280, "sv3d_p")])
def test_added_embedding_width_identifies_the_family_under_any_prefix(
    small_unet, prefix, layout, width, family
):
    identity = identify(header_of(small_unet(width, layout, prefix)))
    assert summary(identity) == (family, layout, ("unet",), None, prefix)


def test_small_nova3d_has_a_note_on_its_size(small_unet):
    shapes = {
        **small_unet(256),
        SGM + "input_blocks.0.0.weight": (32, 8, 3, 3),
        SGM + "input_blocks.1.1.transformer_blocks.0.attn_align.to_q.weight": (32, 32),
        SGM + "input_blocks.1.1.time_stack.0.attn_align.to_q.weight": (32, 32),
    }
    identity = identify(header_of(shapes))
    assert identity.family == "nova3d"
    assert identity.notes == ("A UNet of 32 base channels; the published ones have 320.",)


def test_svd_and_v3d_are_ambiguous(small_unet):
    vae = {"first_stage_model.decoder.conv_in.weight": (512, 4, 3, 3)}
    bare = identify(header_of(small_unet(768)))
    with_vae = identify(header_of({**small_unet(768), **vae}))
    assert (bare.family, bare.ambiguous_with) == ("svd", ("v3d",))
    assert (with_vae.family, with_vae.ambiguous_with) == ("v3d", ("svd",))


def test_counts_missing_unet_tensors(manifest):
    shapes = dict(manifest("sv3d_p_sgm"))
    del shapes[SGM + "out.2.bias"]
    identity = identify(header_of(shapes))
    assert identity.family == "sv3d_p"
    assert any("1427 of 1428 tensors" in note for note in identity.notes)


def test_tensor_order_does_not_matter(manifest):
    for name in ("svd_xt_sgm", "ouroboros3d_mv_model_unet", "svd_diffusers_vae"):
        shapes = list(manifest(name).items())
        expected = identify(header_of(dict(shapes)))
        random.Random(5).shuffle(shapes)
        assert identify(header_of(dict(shapes))) == expected


def test_notes_mixed_dtypes(small_unet):
    header = header_of(small_unet(1280), "float16")
    first = next(iter(header.tensors))
    tensors = {**header.tensors, first: replace(header.tensors[first], dtype="float32")}
    tensors["step"] = TensorInfo("int64", ())
    identity = identify(ModelHeader("safetensors", 0, tensors))
    assert identity.dtype == "float16"
    assert "Tensors of several dtypes: 3 in float16, 1 in float32." in identity.notes


@pytest.mark.parametrize(
    ("shapes", "contents"),
    [
        (
            {
                SGM + "input_blocks.0.0.weight": (320, 4, 3, 3),
                "first_stage_model.decoder.conv_in.weight": (512, 4, 3, 3),
                "cond_stage_model.transformer.text_model.embeddings.position_ids": (1, 77),
            },
            "another diffusion model, without temporal layers",
        ),
        ({"lora_unet_down_blocks_0.lora_up.weight": (320, 4)}, "a LoRA"),
        ({"control_model.input_blocks.0.0.weight": (320, 4, 3, 3)}, "a ControlNet"),
        ({"down_blocks.0.motion_modules.0.norm.weight": (320,)}, "a motion module"),
        ({"double_blocks.0.img_attn.qkv.weight": (9, 3)}, "a diffusion transformer"),
        ({"text_model.embeddings.token_embedding.weight": (9, 3)}, "a text encoder"),
        (
            {"vision_model.post_layernorm.weight": (768,), "visual_projection.weight": (512, 768)},
            "an image encoder of another size",
        ),
        ({"decoder.conv_in.weight": (512, 4, 3, 3)}, "a VAE without temporal layers"),
        ({"weight": (3,)}, "no supported model"),
    ],
)
def test_unsupported_models_are_unknown_with_a_note(shapes, contents):
    identity = identify(header_of(shapes))
    assert (identity.family, identity.parts) == ("unknown", ())
    assert identity.notes[0].startswith(f"Contains {contents}")
    for expected in ("time_stack", "nova3d", "sv3d_p"):
        assert expected in identity.notes[0]


@pytest.mark.parametrize(("width", "channels"), [(512, 8), (768, 4)])
def test_video_unet_of_other_widths_is_unknown_with_a_note(small_unet, width, channels):
    shapes = {**small_unet(width), SGM + "input_blocks.0.0.weight": (320, channels, 3, 3)}
    identity = identify(header_of(shapes))
    assert identity.family == "unknown"
    assert f"{channels} input channels and an added embedding of width {width}" in identity.notes[0]
    assert "width 256 (sv3d_u), 768 (svd), 1280 (sv3d_p)" in identity.notes[0]
