"""Loading the same model from all layouts; saving and loading our own layout."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from nova3d_core.diffusion.families import FAMILIES
from nova3d_core.diffusion.network.config import UNetConfig
from nova3d_core.diffusion.network.unet import VideoUNet
from nova3d_core.errors import Cancelled, InputError
from nova3d_core.progress import Progress, ProgressEvent
from nova3d_core.weights.discovery.layouts import identify
from nova3d_core.weights.discovery.locate import inspect_file
from nova3d_core.weights.files.read import open_weights
from nova3d_core.weights.load import load_model, load_svd
from nova3d_core.weights.save import save_nova3d

from .models import CLIP, UNET, assert_same, random_model, randomised, states

ENCODER = "conditioner.embedders.{}.encoder."


def sgm_tensors(model, scratch: Path) -> dict[str, torch.Tensor]:
    """A model's tensors in the sgm layout."""
    path = scratch / "whole.safetensors"
    save_nova3d(model, path, overwrite=True)
    with open_weights(path) as file:
        return {name: file[name].clone() for name in file}


def as_published(family: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors under the keys of the family's published checkpoints.

    SV3D: the encoder only in the conditioner, no post_quant_conv. V3D: no quant_conv and no
    image encoder.
    """
    if family == "v3d":
        dropped = (CLIP, "first_stage_model.quant_conv.")
        return {name: value for name, value in tensors.items() if not name.startswith(dropped)}
    encoder = ENCODER.format(1)
    moved = ("encoder.", "quant_conv.")
    published = {}
    for name, value in tensors.items():
        rest = name.removeprefix("first_stage_model.")
        if rest.startswith("post_quant_conv."):
            continue
        published[encoder + rest if rest != name and rest.startswith(moved) else name] = value
    return published


def reset_quant_layers(model, *layers: str) -> None:
    """Makes quant_conv or post_quant_conv the identity, as if a checkpoint omitted it."""
    for layer in layers:
        module = getattr(model.codec.vae, layer)
        module.weight.copy_(torch.eye(len(module.weight))[:, :, None, None])
        module.bias.zero_()


def write_diffusers(model, folder: Path, key_map: dict[str, str], suffix: str = "") -> Path:
    """Writes the folders unet, vae and image_encoder; returns the UNet's file."""
    unet = {key_map[UNET + name]: value for name, value in model.unet.state_dict().items()}
    weights = f"diffusion_pytorch_model{suffix}.safetensors"
    for name, file, tensors in (
        ("unet", weights, unet),
        ("vae", weights, model.codec.vae.state_dict()),
        ("image_encoder", f"model{suffix}.safetensors", model.image_encoder.clip.state_dict()),
    ):
        (folder / name).mkdir(parents=True, exist_ok=True)
        save_file(tensors, folder / name / file)
    return folder / "unet" / weights


@pytest.fixture(scope="session")
def key_map(checkpoint_manifests) -> dict[str, str]:
    path = checkpoint_manifests / "map_sgm_unet_to_diffusers_unet.json"
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("family", ["nova3d", "sv3d_p", "v3d"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_saved_model_loads_bit_for_bit(tmp_path, family, dtype):
    model = random_model(family, dtype=dtype)
    path = tmp_path / "any name.safetensors"
    save_nova3d(model, path, note="trained on nothing")
    loaded = load_model(path)  # a complete V3D has the keys of SVD: the metadata decide
    assert loaded.family is FAMILIES[family]
    assert loaded.unet.config == model.unet.config
    assert loaded.source == str(path)
    assert_same(states(loaded), states(model))
    assert not any(value.requires_grad for value in loaded.unet.parameters())


def test_metadata_store_what_shapes_do_not_determine(tmp_path):
    model = random_model("nova3d")
    config = UNetConfig(
        model_channels=32,
        num_head_channels=8,
        norm_num_groups=16,
        context_dim=48,
        add_embed_dim=256,
        domains=2,
        camera_task_dim=10,
        channel_mult=(1, 2),
        attention_levels=(False, True),
        num_res_blocks=1,
    )
    model.unet = randomised(VideoUNet(config, device="meta"), 5)
    path = tmp_path / "ablation.safetensors"
    save_nova3d(model, path, note="20 steps on spheres")
    loaded = load_model(path)
    assert loaded.unet.config == config
    assert loaded.image_encoder.clip.config.num_attention_heads == 2
    assert_same(states(loaded), states(model))
    notes = inspect_file(path).identity.notes
    assert any("20 steps on spheres" in note for note in notes)


@pytest.mark.parametrize("family", ["sv3d_u", "sv3d_p"])
def test_all_layouts_load_the_same_tensors(tmp_path, key_map, family):
    model = random_model(family)
    reset_quant_layers(model, "post_quant_conv")
    published = as_published(family, sgm_tensors(model, tmp_path))
    save_file(published, tmp_path / "a.safetensors")
    torch.save({"state_dict": published, "global_step": 3}, tmp_path / "b.ckpt")
    torch.save(published, tmp_path / "c.pth", _use_new_zipfile_serialization=False)
    diffusers = write_diffusers(model, tmp_path / "diffusers", key_map)
    expected = states(model)
    for path in ("a.safetensors", "b.ckpt", "c.pth", diffusers, diffusers.parents[1]):
        loaded = load_model(tmp_path / path)
        assert loaded.family.name == family
        assert_same(states(loaded), expected)


@pytest.mark.parametrize("fp16", [True, False])
def test_companion_of_the_same_dtype_is_preferred(tmp_path, key_map, fp16):
    full, half = random_model("sv3d_u"), random_model("sv3d_u", seed=9)
    paths = {
        False: write_diffusers(full, tmp_path, key_map),
        True: write_diffusers(half, tmp_path, key_map, ".fp16"),
    }
    assert_same(states(load_model(paths[fp16])), states(half if fp16 else full))


def test_v3d_uses_the_image_encoder_of_svd(tmp_path):
    model, svd = random_model("v3d"), random_model("v3d", seed=7)
    reset_quant_layers(model, "quant_conv")
    own, models = tmp_path / "downloads" / "some.ckpt", tmp_path / "models"
    own.parent.mkdir()
    models.mkdir()
    torch.save({"state_dict": as_published("v3d", sgm_tensors(model, tmp_path))}, own)
    with pytest.raises(InputError) as caught:
        load_model(own, folders=[models])
    assert "has no image encoder" in str(caught.value)
    assert str(models) in str(caught.value)
    assert "svd_xt.safetensors" in caught.value.hint
    save_file(sgm_tensors(svd, tmp_path), models / "svd_xt.safetensors")
    loaded = load_model(own, folders=[models])
    assert loaded.family.name == "v3d"
    model.image_encoder = svd.image_encoder
    assert_same(states(loaded), states(model))


@pytest.mark.parametrize("requested", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kept", [torch.float32, torch.float16, torch.bfloat16])
def test_weights_are_cast_while_loading(tmp_path, kept, requested):
    model = random_model("sv3d_u", dtype=kept)
    path = tmp_path / "sv3d_u.safetensors"
    save_nova3d(model, path)
    loaded = load_model(path, dtype=requested)
    # the encoder keeps the file's dtype: its one image is encoded in float32
    exact = ("codec.vae.encoder.", "codec.vae.quant_conv.")
    expected = {
        name: value if name.startswith(exact) else value.to(requested)
        for name, value in states(model).items()
    }
    assert_same(states(loaded), expected)


def test_component_of_mixed_dtypes_is_cast_to_its_most_common_one(tmp_path):
    model = random_model("sv3d_u", dtype=torch.float16)
    model.codec.vae.decoder.conv_in.float()
    model.unet.out.float()
    path = tmp_path / "sv3d_u.safetensors"
    save_nova3d(model, path)
    loaded = load_model(path)
    assert {value.dtype for value in loaded.codec.parameters()} == {torch.float16}
    # the UNet's layers cast on their own, so its weights are not copied
    assert loaded.unet.out[0].weight.dtype == torch.float32
    latents = torch.randn(2, 4, 4, 4)
    assert torch.isfinite(loaded.codec.decode(latents, 2)).all()


def test_float8_weights_load_as_bfloat16(tmp_path):
    if not hasattr(torch, "float8_e4m3fn"):
        pytest.skip("this torch has no float8")
    model = random_model("sv3d_u")
    tensors = sgm_tensors(model, tmp_path)
    small = {name: value.to(torch.float8_e4m3fn) for name, value in tensors.items()}
    save_file(small, tmp_path / "sv3d_u.safetensors")
    loaded = load_model(tmp_path / "sv3d_u.safetensors")
    expected = {
        name: value.to(torch.float8_e4m3fn).to(torch.bfloat16)
        for name, value in states(model).items()
    }
    assert_same(states(loaded), expected)


def test_weights_of_the_file_dtype_are_memory_mapped(tmp_path):
    path = tmp_path / "sv3d_u.safetensors"
    save_nova3d(random_model("sv3d_u"), path)
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("only Linux lists memory-mapped files")
    loaded = load_model(path)
    spans = [
        tuple(int(end, 16) for end in line.split()[0].split("-"))
        for line in maps.read_text().splitlines()
        if line.endswith(path.name)
    ]
    for name, value in states(loaded).items():
        transposed = name.endswith("visual_projection.weight")
        inside = any(low <= value.data_ptr() < high for low, high in spans)
        assert inside != transposed, name


def test_loads_base_svd_for_training(tmp_path):
    model = random_model("v3d")  # the shapes of SVD
    path = tmp_path / "svd.safetensors"
    save_file(sgm_tensors(model, tmp_path), path)
    assert inspect_file(path).family == "svd"
    unet, codec, encoder = load_svd(path, dtype=torch.bfloat16)
    assert_same(unet.state_dict(), model.unet.to(torch.bfloat16).state_dict())
    assert_same(codec.state_dict(), model.codec.to(torch.bfloat16).state_dict())
    assert_same(encoder.state_dict(), model.image_encoder.to(torch.bfloat16).state_dict())


def test_saving_is_atomic(tmp_path):
    model = random_model("nova3d")
    path = tmp_path / "folder" / "mine.safetensors"
    steps: list[ProgressEvent] = []
    cancel = Progress(steps.append, lambda: len(steps) > 20)
    with pytest.raises(Cancelled):
        save_nova3d(model, path, progress=cancel)
    assert not list(tmp_path.iterdir())
    save_nova3d(model, path)
    before = path.read_bytes()
    with pytest.raises(InputError, match="already exists"):
        save_nova3d(random_model("nova3d", seed=3), path)
    assert path.read_bytes() == before
    with pytest.raises(InputError, match=r"must end in \.safetensors"):
        save_nova3d(model, tmp_path / "mine.ckpt")
    # a model can be saved over the file that its weights are memory-mapped from
    loaded = load_model(path)
    save_nova3d(loaded, path, overwrite=True)
    assert path.read_bytes() == before
    assert_same(states(load_model(path)), states(model))


def test_saved_files_are_plain_safetensors(tmp_path):
    from safetensors.torch import load_file

    model = random_model("nova3d")
    path = tmp_path / "mine.safetensors"
    save_nova3d(model, path, note="n")
    tensors = load_file(path)
    with open_weights(path) as file:
        assert set(tensors) == set(file)
        identity = identify(file.header)
    assert identity.family == "nova3d"
    assert identity.parts == ("unet", "vae", "image_encoder")
    blocks = [name for name in tensors if "attn_align." in name]
    assert all(name.startswith(UNET) for name in blocks)
    assert len(blocks) == 2 * 16 * 5
    assert tensors[f"{UNET}label_emb.0.0.weight"].shape[1] == 256
    assert torch.equal(
        tensors[f"{CLIP}proj"].t(), model.image_encoder.clip.visual_projection.weight
    )
