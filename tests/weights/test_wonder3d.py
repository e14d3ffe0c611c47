"""Wonder3D's folders: identified by their headers, loaded with their VAE and image encoder."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from nova3d_core.cli.models_table import models_report, models_text
from nova3d_core.diffusion.codecs.clip import OpenAiClipEncoder
from nova3d_core.diffusion.families import FAMILIES
from nova3d_core.errors import InputError
from nova3d_core.weights.discovery.companions import find_companion
from nova3d_core.weights.discovery.layouts import identify
from nova3d_core.weights.discovery.locate import inspect_file
from nova3d_core.weights.files.header import ModelHeader, TensorInfo
from nova3d_core.weights.load import load_model

from .models import assert_same, random_model, states


def write_wonder3d(model, folder: Path, suffix: str = ".bin", unet: str = "unet") -> Path:
    """Writes a model in its published folder layout; returns the UNet's file."""
    clip = "pytorch_model.bin" if suffix == ".bin" else "model.safetensors"
    for name, file, module in (
        (unet, f"diffusion_pytorch_model{suffix}", model.unet),
        ("vae", f"diffusion_pytorch_model{suffix}", model.codec.vae),
        ("image_encoder", clip, model.image_encoder.clip),
    ):
        write_part(module.state_dict(), folder / name / file)
    return folder / unet / f"diffusion_pytorch_model{suffix}"


def write_part(tensors: dict[str, torch.Tensor], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(tensors, path) if path.suffix == ".bin" else save_file(tensors, path)


def header_of(shapes: dict[str, tuple[int, ...]]) -> ModelHeader:
    return ModelHeader("safetensors", 0, {k: TensorInfo("float16", v) for k, v in shapes.items()})


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A small Wonder3D as .bin files."""
    path = tmp_path_factory.mktemp("models") / "wonder3d-v1.0"
    write_wonder3d(random_model("wonder3d"), path)
    return path


@pytest.mark.parametrize("suffix", [".bin", ".safetensors"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(
    ("family", "unet"), [("wonder3d", "unet"), ("wonder3d_plus", "mvdiffusion")]
)
def test_loads_bit_for_bit(tmp_path, family, unet, dtype, suffix):
    model = random_model(family, dtype=dtype)
    path = write_wonder3d(model, tmp_path / "model", suffix, unet)
    for given in (path, tmp_path / "model"):
        loaded = load_model(given)
        assert loaded.family is FAMILIES[family]
        assert loaded.unet.config == model.unet.config
        assert isinstance(loaded.image_encoder, OpenAiClipEncoder)
        assert loaded.image_encoder.clip.config.hidden_act == "quick_gelu"
        assert_same(states(loaded), states(model))


def test_older_names_are_understood(tmp_path, folder):
    """Joint attention named `twice`; attention of the VAE as before diffusers 0.18."""
    model = random_model("wonder3d")
    unet = {
        name.replace("joint_mid", "joint_twice"): value
        for name, value in model.unet.state_dict().items()
    }
    renamed = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    vae = {}
    for name, value in model.codec.vae.state_dict().items():
        for new, old in renamed.items():
            name = name.replace(f"attentions.0.{new}.", f"attentions.0.{old}.")
        vae[name] = value
    assert any(".query." in name for name in vae)
    path = write_wonder3d(model, tmp_path)
    write_part(unet, path)
    write_part(vae, tmp_path / "vae" / path.name)
    assert_same(states(load_model(path)), states(model))


@pytest.mark.parametrize("part", ["unet", "vae", "image_encoder"])
def test_missing_file_is_named(tmp_path, folder, part):
    copy = tmp_path / "wonder3d-v1.0"
    shutil.copytree(folder, copy)
    (removed,) = (copy / part).iterdir()
    removed.unlink()
    with pytest.raises(InputError) as caught:
        load_model(copy)
    message = str(caught.value)
    assert str(removed if part != "unet" else removed.parent) in message
    assert len(message) < 500 + 4 * len(str(copy))


def test_vae_of_another_model_is_not_used(tmp_path, folder):
    """Other VAEs of Stable Diffusion have the same keys: only those in the folder count."""
    alone = tmp_path / "alone" / "unet" / "diffusion_pytorch_model.bin"
    alone.parent.mkdir(parents=True)
    shutil.copy(folder / "unet" / alone.name, alone)
    with pytest.raises(InputError, match="needs the VAE of its model"):
        load_model(alone, folders=[folder.parent])


def test_parts_of_wonder3d_are_no_companions_of_svd(tmp_path, write_model):
    write_model(tmp_path / "vae.safetensors", VAE_KEYS, "F16")
    write_model(tmp_path / "clip.safetensors", CLIP_KEYS, "F16")
    for part in ("vae", "image_encoder"):
        with pytest.raises(InputError, match="none was found"):
            find_companion(tmp_path / "sv3d_u.safetensors", part, [tmp_path])


VAE_KEYS = {
    "encoder.conv_in.weight": (128, 3, 3, 3),
    "encoder.conv_out.weight": (8, 512, 3, 3),
    "decoder.conv_in.weight": (512, 4, 3, 3),
    "decoder.up_blocks.0.resnets.0.conv1.weight": (512, 512, 3, 3),
}
CLIP_KEYS = {
    "vision_model.embeddings.patch_embedding.weight": (1024, 3, 14, 14),
    "visual_projection.weight": (768, 1024),
}


def test_published_files_are_recognised_with_size_and_licences(tmp_path, write_model, manifest):
    root = tmp_path / "wonder3d-v1.0"
    unet = manifest("wonder3d_v1_diffusers_unet")
    files = {
        "unet/diffusion_pytorch_model.bin": unet,  # the bytes decide, not the suffix
        "vae/diffusion_pytorch_model.bin": VAE_KEYS,
        "image_encoder/pytorch_model.bin": CLIP_KEYS,
    }
    for name, shapes in files.items():
        found = inspect_file(write_model(root / name, shapes, "F16"))
        assert found.published is not None and found.published.file == name
        assert found.published.family == "wonder3d" and found.problem is None
        assert "AGPL-3.0" in found.published.licence and "MIT" in found.published.licence
    assert (root / "unet/diffusion_pytorch_model.bin").stat().st_size == pytest.approx(
        1.82e9, rel=2e-3
    )
    text = models_text(models_report([tmp_path]))
    assert "wonder3d, float16, unet" in text and "1.82 GB" in text
    assert "flamehaze1115/Wonder3D_plus -> models/nova3d/Wonder3D_plus/" in text
    assert "not a supported model" not in text


def without_joint_attention(shapes: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    return {name: shape for name, shape in shapes.items() if "_joint_mid" not in name}


@pytest.mark.parametrize("suffix", [".bin", ".safetensors"])
def test_first_training_stage_is_refused_by_what_is_missing(
    tmp_path, manifest, write_model, suffix
):
    """The file of the Space: 861 million parameters in float32, 3.45 GB."""
    shapes = without_joint_attention(manifest("wonder3d_v1_diffusers_unet"))
    path = write_model(tmp_path / "unet" / f"diffusion_pytorch_model{suffix}", shapes, "F32")
    assert path.stat().st_size == pytest.approx(3.45e9, rel=2e-3)
    with pytest.raises(InputError) as caught:
        load_model(path)
    message = str(caught.value)
    for word in ("without joint attention", "attn_joint_mid", "norm_joint_mid", "wonder3d-v1.0"):
        assert word in message
    assert inspect_file(path).family == "unknown"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda name: name.replace("_joint_mid", "_joint_last"), "only attn_joint_last"),
        (lambda name: name.replace("_joint_mid", "_joint_twice"), None),
    ],
)
def test_other_kinds_of_joint_attention(manifest, change, message):
    shapes = manifest("wonder3d_v1_diffusers_unet")
    identity = identify(header_of({change(name): shape for name, shape in shapes.items()}))
    if message is None:
        assert identity.family == "wonder3d" and not identity.notes
    else:
        assert identity.family == "unknown" and message in identity.notes[0]


def test_unet_of_another_class_embedding_is_refused(tmp_path, manifest, write_model):
    shapes = manifest("wonder3d_v1_diffusers_unet")
    shapes["class_embedding.linear_1.weight"] = (1280, 6)
    path = write_model(tmp_path / "unet.safetensors", shapes, "F16")
    with pytest.raises(InputError, match="class embedding takes 6 values; Wonder3D's takes 10"):
        load_model(path)


def test_incomplete_unet_is_noted_and_refused(tmp_path, manifest, write_model):
    shapes = manifest("wonder3d_v1_diffusers_unet")
    del shapes["mid_block.resnets.1.conv2.bias"]
    path = write_model(tmp_path / "unet" / "model.safetensors", shapes, "F16")
    assert "801 of 802 tensors" in " ".join(inspect_file(path).notes)
    with pytest.raises(InputError, match=r"missing keys 'mid_block\.resnets\.1\.conv2\.bias'"):
        load_model(path)


def test_controlnet_is_named(tmp_path, manifest, write_model):
    """Wonder3D++'s multi-view ControlNet has joint attention; other ControlNets have not."""
    kept = ("conv_in", "time_embedding", "class_embedding", "down_blocks", "mid_block")
    shapes = {
        name: shape
        for name, shape in manifest("wonder3d_plus_diffusers_unet").items()
        if name.startswith(kept)
    }
    shapes["controlnet_cond_embedding.conv_in.weight"] = (16, 3, 3, 3)
    path = write_model(tmp_path / "mv_controlnet" / "model.safetensors", shapes)
    found = inspect_file(path)
    assert (found.family, found.identity.parts) == ("wonder3d_plus", ("controlnet",))
    with pytest.raises(InputError, match=r"no UNet: .* Wonder3D\+\+'s multi-view ControlNet"):
        load_model(path)
    other = identify(header_of(without_joint_attention(shapes)))
    assert other.family == "unknown" and "a ControlNet" in other.notes[0]


def test_ordinary_stable_diffusion_is_not_wonder3d(manifest):
    shapes = without_joint_attention(manifest("wonder3d_v1_diffusers_unet"))
    plain = {name: shape for name, shape in shapes.items() if "class_embedding" not in name}
    plain["conv_in.weight"] = (320, 4, 3, 3)
    identity = identify(header_of(plain))
    assert identity.family == "unknown"
    assert "another diffusion model, without temporal layers" in identity.notes[0]
