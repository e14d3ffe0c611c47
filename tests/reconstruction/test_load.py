"""Files of reconstruction models: identified by their header, rejected with their name."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from nova3d_core.errors import Cancelled, InputError
from nova3d_core.progress import Progress
from nova3d_core.reconstruction.config import LgmConfig
from nova3d_core.reconstruction.load import load_reconstruction, reconstruction_component
from nova3d_core.weights.discovery.locate import inspect_file
from nova3d_core.weights.files.read import open_weights
from nova3d_core.weights.load import load_model

from .conftest import EIGHTH_WITH_TIME, random_network
from .test_network import is_of_time, reference_network

FIXED, OLD = "model_fp16_fixrot.safetensors", "model_fp16.safetensors"


@pytest.fixture
def header_file(tmp_path, write_model, manifest):
    """Writes the header of LGM or Ouroboros3D, with sparse data."""

    def write(name: str, has_time: bool = False, **changes) -> Path:
        shapes = {
            key: shape
            for key, shape in manifest("ouroboros3d_recon_model").items()
            if has_time or not is_of_time(key)
        } | changes
        shapes = {key: shape for key, shape in shapes.items() if shape is not None}
        return write_model(tmp_path / name, shapes, "F16")

    return write


@pytest.fixture
def saved(tmp_path) -> Path:
    """A small LGM with random weights."""
    return save(reference_network(0).state_dict(), tmp_path / FIXED)


def save(tensors: dict[str, torch.Tensor], path: Path, **metadata: str) -> Path:
    save_file({name: value.contiguous() for name, value in tensors.items()}, path, metadata)
    return path


def load_error(path: Path) -> InputError:
    with pytest.raises(InputError) as caught:
        load_reconstruction(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500 + len(str(path))
    return caught.value


@pytest.mark.parametrize(("has_time", "family"), [(False, "lgm"), (True, "ouroboros3d")])
def test_published_headers_match_the_network_exactly(header_file, has_time, family):
    path = header_file("any.safetensors", has_time)
    identity = inspect_file(path).identity
    assert (identity.family, identity.layout, identity.parts) == (
        family,
        "lgm",
        ("reconstruction",),
    )
    with open_weights(path) as file:
        component = reconstruction_component(file)
        assert {source.name for source in component.key_map.values()} == set(file)
    assert component.module.config == LgmConfig(time_channels=128 if has_time else 0)


@pytest.mark.parametrize(
    ("name", "has_time", "published", "rotations"),
    [
        (FIXED, False, FIXED, True),
        ("model_fp16_fixrot (1).safetensors", False, FIXED, True),
        ("LGM-fixrot.safetensors", False, None, True),
        (OLD, False, OLD, False),
        ("model.safetensors", False, OLD, False),
        ("lgm.safetensors", False, None, None),
        ("recon_model.safetensors", True, "recon_model.pth", False),
        (FIXED, True, "recon_model.pth", False),  # the contents decide
    ],
)
def test_the_name_tells_lgms_two_files_apart(
    header_file, monkeypatch, name, has_time, published, rotations
):
    from nova3d_core.reconstruction import load

    monkeypatch.setattr(load, "load_state", lambda component, dtype, on_tensor: None)
    found = inspect_file(header_file(name, has_time))
    assert (found.published and found.published.file) == published
    if published is None:
        assert f"ashawkey/LGM: {FIXED}, ashawkey/LGM: {OLD}" in found.notes[-1]
    assert load_reconstruction(found.path).has_rotations is rotations


def test_a_generic_name_says_nothing_about_other_models(tmp_path, write_model, manifest):
    found = inspect_file(write_model(tmp_path / OLD, manifest("svd_xt_sgm"), "F16"))
    assert found.family == "svd"
    assert not any("Has the name" in note for note in found.notes)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".ckpt"])
def test_weights_are_read_bit_for_bit(tmp_path, suffix):
    network = reference_network(128)
    path = tmp_path / f"recon_model{suffix}"
    if suffix == ".safetensors":
        save(network.state_dict(), path)
    else:
        state = network.state_dict()
        torch.save(state if suffix == ".pth" else {"state_dict": state}, path)
    model = load_reconstruction(path)
    assert model.family.name == "ouroboros3d" and model.source == str(path)
    assert model.network.config == network.config
    loaded = model.network.state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in network.state_dict().items())
    half = load_reconstruction(path, dtype=torch.float16).network
    assert {value.dtype for value in half.parameters()} == {torch.float16}


def test_metadata_tell_what_shapes_do_not(tmp_path):
    network = random_network(EIGHTH_WITH_TIME)
    sizes = {"num_heads": 2, "norm_num_groups": 4}
    metadata = json.dumps({"reconstruction": sizes})
    path = save(network.state_dict(), tmp_path / "small.safetensors", nova3d=metadata)
    assert load_reconstruction(path).network.config == EIGHTH_WITH_TIME


OTHERS = {
    "svd_xt_sgm": "svd, float16, unet + vae",
    "ouroboros3d_mv_model_unet": "Ouroboros3D's multi-view model, not the reconstruction model",
    "wonder3d_v1_diffusers_unet": "wonder3d, float16, unet",
    "svd_diffusers_vae": "svd, float16, vae",
}


@pytest.mark.parametrize("name", sorted(OTHERS))
def test_other_published_models_are_named(tmp_path, write_model, manifest, name):
    path = write_model(tmp_path / "recon_model.safetensors", manifest(name), "F16")
    assert OTHERS[name] in load_error(path).message


PIXART = {
    "transformer_blocks.0.attn1.to_q.weight": (9, 3),
    "pos_embed.proj.weight": (9, 4, 2, 2),
    "caption_projection.linear_1.weight": (9, 3),
}


def test_unknown_models_are_described_and_the_right_files_named(tmp_path, write_model):
    error = load_error(write_model(tmp_path / FIXED, PIXART))
    assert "no reconstruction model" in error.message
    assert "a diffusion transformer" in error.message
    assert FIXED in error.hint and "recon_model.pth" in error.hint


@pytest.mark.parametrize("has_time", [False, True])
def test_the_loader_of_generators_names_it(header_file, has_time):
    with pytest.raises(InputError, match="generates no views: it makes Gaussian splats") as caught:
        load_model(header_file("model.safetensors", has_time))
    assert "--model" in caught.value.hint


@pytest.mark.parametrize("fraction", [0.001, 0.5, 0.999])
def test_truncated_files_are_named(tmp_path, saved, fraction):
    whole = saved.read_bytes()
    saved.write_bytes(whole[: int(len(whole) * fraction)])
    assert "truncated" in load_error(saved).message
    pickled = tmp_path / "recon_model.pth"
    torch.save(reference_network(128).state_dict(), pickled)
    whole = pickled.read_bytes()
    pickled.write_bytes(whole[: int(len(whole) * fraction)])
    assert "truncated" in load_error(pickled).message or "cut" in load_error(pickled).message


ATTENTION = "unet.mid_block.attns.0.attn.qkv.weight"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({ATTENTION: None}, "unexpected keys: 'unet.mid_block.attns.0.attn.proj.bias'"),
        ({"unet.up_blocks.4.nets.2.conv2.weight": None}, "missing keys 'unet.up_blocks.4"),
        ({"conv.weight": None}, "incomplete: the reconstruction model has no 'conv.weight'"),
        ({"unet.extra.weight": (3,)}, "unexpected keys: 'unet.extra.weight'"),
        ({ATTENTION: (1024, 1024)}, "unexpected shapes, for example 'unet.mid_block"),
        ({"unet.down_blocks.0.nets.0.conv1.weight": (60, 64, 3, 3)}, "cannot be divided"),
    ],
)
def test_incomplete_and_changed_files_are_rejected(header_file, changes, message):
    assert message in load_error(header_file(FIXED, **changes)).message


def test_missing_tensors_are_counted(header_file):
    found = inspect_file(header_file(FIXED, **{ATTENTION: None}))
    assert any("375 of 376 tensors" in note for note in found.notes)


def test_nan_is_rejected(tmp_path):
    state = reference_network(0).state_dict()
    state["unet.conv_in.bias"] = torch.full((32,), torch.nan)
    error = load_error(save(state, tmp_path / FIXED))
    assert "NaN or infinite values in 'unet.conv_in.bias'" in error.message


def test_cancel_takes_effect_at_the_next_tensor(saved):
    events = []
    progress = Progress(events.append, lambda: len(events) >= 3)
    with pytest.raises(Cancelled):
        load_reconstruction(saved, progress=progress)
    assert len(events) == 3


def test_an_unknown_lgm_file_is_used_with_rotations_and_a_warning(tmp_path, caplog):
    from nova3d_core.reconstruction.config import ReconstructConfig
    from nova3d_core.reconstruction.reconstruct import _resolve_rotations

    model = load_reconstruction(save(reference_network(0).state_dict(), tmp_path / "a.safetensors"))
    with caplog.at_level(logging.WARNING):
        assert _resolve_rotations(model, ReconstructConfig())
    assert "does not tell" in caplog.text and "--rotations identity" in caplog.text
    assert not _resolve_rotations(model, ReconstructConfig(rotations="identity"))
