"""Files of the pair: known by their headers; missing, swapped, cut and foreign ones are errors."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from nova3d_core.diffusion.network.feedback_unet import FeedbackUNet
from nova3d_core.errors import Cancelled, InputError
from nova3d_core.progress import Progress
from nova3d_core.reconstruction.config import LgmConfig
from nova3d_core.reconstruction.load import load_reconstruction
from nova3d_core.reconstruction.save import save_reconstruction
from nova3d_core.recursion.load import find_reconstruction, is_recursive, load_recursive
from nova3d_core.recursion.model import RecursiveModel
from nova3d_core.weights.keymaps.unet import ouroboros3d_unet_names
from nova3d_core.weights.load import load_model
from nova3d_core.weights.save import save_nova3d

from ..reconstruction.conftest import EIGHTH_WITH_TIME, random_network
from ..weights.models import assert_same, random_model, states
from ..weights.test_load import sgm_tensors

VIEWS_FILE, RECONSTRUCTION_FILE = "mv_model_unet.pth", "recon_model.pth"
NARROW = LgmConfig(down_widths=(32,) * 6, up_widths=(32,) * 5, time_channels=32)
"""16 heads and 32 norm groups, as in files without metadata."""


@pytest.fixture(scope="module")
def model():
    return random_model("ouroboros3d")


@pytest.fixture(scope="module")
def public_tensors(model, checkpoint_manifests) -> dict[str, torch.Tensor]:
    """The UNet's tensors under the keys of the published file."""
    manifest = json.loads((checkpoint_manifests / "ouroboros3d_mv_model_unet.json").read_text())
    names = {own: public for public, own in ouroboros3d_unet_names(manifest).items()}
    return {names[own]: value for own, value in model.unet.state_dict().items()}


@pytest.fixture(scope="module")
def published(model, public_tensors, tmp_path_factory) -> Path:
    """The pair as published, and SVD for VAE and image encoder."""
    folder = tmp_path_factory.mktemp("published")
    save_file(svd_tensors(model, folder), folder / "svd_xt.safetensors")
    torch.save(public_tensors, folder / VIEWS_FILE)
    torch.save(random_network(NARROW).state_dict(), folder / RECONSTRUCTION_FILE)
    return folder


@pytest.fixture
def folder(published, tmp_path) -> Path:
    """A copy of the pair that may be changed."""
    for path in published.iterdir():
        if path.is_file():
            shutil.copyfile(path, tmp_path / path.name)
    return tmp_path


def svd_tensors(model, scratch: Path) -> dict[str, torch.Tensor]:
    """SVD with the VAE and the image encoder of the model."""
    plain = replace(random_model("svd"), codec=model.codec, image_encoder=model.image_encoder)
    inner = scratch / "scratch"
    inner.mkdir(exist_ok=True)
    tensors = sgm_tensors(replace(plain, family=model.family), inner)
    (inner / "whole.safetensors").unlink()
    return tensors


def load_error(path: Path, reconstruction: Path | None = None) -> str:
    with pytest.raises(InputError) as caught:
        load_recursive(path, reconstruction, folders=[path.parent])
    text = str(caught.value)
    assert "\n" not in text and len(text) < 500 + 3 * len(str(path))
    return text


def test_the_published_pair_loads_bit_for_bit(folder, model):
    path = folder / VIEWS_FILE
    assert is_recursive(path) and not is_recursive(folder / RECONSTRUCTION_FILE)
    pair = load_recursive(path, folders=[folder])
    assert isinstance(pair, RecursiveModel) and isinstance(pair.unet, FeedbackUNet)
    assert_same(states(pair), states(model))
    assert_same(pair.reconstruction.network.state_dict(), random_network(NARROW).state_dict())
    assert pair.family.name == "ouroboros3d" and pair.coordinates == "released"
    assert pair.reconstruction.has_rotations is False
    assert pair.unet.config == model.unet.config


def test_names_and_formats_do_not_matter(folder, public_tensors, model):
    for name in (VIEWS_FILE, RECONSTRUCTION_FILE):
        (folder / name).unlink()
    tensors = {name: value.contiguous() for name, value in public_tensors.items()}
    save_file(tensors, folder / "a.safetensors")
    save_file(random_network(NARROW).half().state_dict(), folder / "b.safetensors")
    pair = load_recursive(folder / "a.safetensors", dtype=torch.float16, folders=[folder])
    assert_same(pair.unet.state_dict(), random_model("ouroboros3d").unet.half().state_dict())
    assert next(pair.reconstruction.network.parameters()).dtype == torch.float16


def test_own_files_keep_heads_and_coordinates(tmp_path, model):
    network = random_network(EIGHTH_WITH_TIME)
    save_reconstruction(network, tmp_path / "recon_model.safetensors", note="tiny")
    own = load_reconstruction(tmp_path / "recon_model.safetensors")
    saved = RecursiveModel(
        model.family, model.unet, model.codec, model.image_encoder,
        reconstruction=own, coordinates="true",
    )  # fmt: skip
    save_nova3d(saved, tmp_path / "mv.safetensors")
    pair = load_recursive(tmp_path / "mv.safetensors", folders=[tmp_path])
    assert pair.coordinates == "true" and pair.reconstruction.network.config == EIGHTH_WITH_TIME
    assert_same(states(pair), states(model))
    assert_same(pair.reconstruction.network.state_dict(), network.state_dict())


def test_the_reconstruction_is_also_found_in_the_model_folders(folder):
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    (folder / RECONSTRUCTION_FILE).rename(elsewhere / RECONSTRUCTION_FILE)
    assert load_recursive(folder / VIEWS_FILE, folders=[folder, elsewhere]).source.endswith(".pth")


def test_the_reconstruction_of_the_same_name_comes_first(folder):
    (folder / VIEWS_FILE).rename(folder / "tiny.pth")
    for name in ("aaa.safetensors", "tiny.reconstruction.safetensors"):
        assert find_reconstruction(folder / "tiny.pth").name == RECONSTRUCTION_FILE
        save_file(random_network(NARROW).state_dict(), folder / name)
    assert find_reconstruction(folder / "tiny.pth").name == "tiny.reconstruction.safetensors"


def test_a_missing_reconstruction_is_named(folder):
    (folder / RECONSTRUCTION_FILE).unlink()
    save_file(random_network(replace(NARROW, time_channels=0)).state_dict(), folder / "lgm.st")
    text = load_error(folder / VIEWS_FILE)
    assert "needs its reconstruction model" in text and "Put recon_model.pth" in text
    (folder / "lgm.st").rename(folder / "model_fp16_fixrot.safetensors")
    assert "LGM's own files do not fit" in load_error(folder / VIEWS_FILE)


def test_a_missing_multi_view_model_and_swapped_files(folder):
    text = load_error(folder / RECONSTRUCTION_FILE)
    assert "reconstruction model, which generates no views" in text
    assert "the other file of the pair, mv_model_unet.pth" in text
    text = load_error(folder / VIEWS_FILE, folder / VIEWS_FILE)
    assert "Ouroboros3D's multi-view model, not the reconstruction model of the pair" in text
    text = load_error(folder / RECONSTRUCTION_FILE, folder / VIEWS_FILE)
    assert "which generates no views" in text
    text = load_error(folder / "gone.pth")
    assert "gone.pth" in text


@pytest.mark.parametrize("name", [VIEWS_FILE, RECONSTRUCTION_FILE])
@pytest.mark.parametrize("kept", [0.0, 0.3, 0.99])
def test_cut_files_are_errors(folder, name, kept):
    path = folder / name
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    text = load_error(folder / VIEWS_FILE)
    assert name in text


def test_plain_models_are_refused_by_name(folder):
    text = load_error(folder / "svd_xt.safetensors")
    assert "is svd" in text and "not Ouroboros3D's multi-view model" in text
    lgm = folder / "model_fp16_fixrot.safetensors"
    save_file(random_network(replace(NARROW, time_channels=0)).state_dict(), lgm)
    assert "is LGM, which generates no views" in load_error(lgm)
    text = load_error(folder / VIEWS_FILE, lgm)
    assert "is LGM, whose network is not conditioned on the noise level" in text
    with pytest.raises(InputError, match="sampled together with its reconstruction model"):
        load_model(folder / VIEWS_FILE, folders=[folder])


def test_a_pickle_with_code_is_not_run(folder):
    class Malicious:
        def __reduce__(self):
            return (Path.touch, (folder / "ran",))

    torch.save({"x": Malicious()}, folder / RECONSTRUCTION_FILE)
    load_error(folder / VIEWS_FILE)
    assert not (folder / "ran").exists()


def test_memory_is_checked_for_both_before_reading(folder, monkeypatch):
    sizes = []
    for name in ("weights", "reconstruction"):
        module = f"nova3d_core.{name}.load"
        monkeypatch.setattr(f"{module}.available_bytes", lambda: 2**20)

    def no_reading(*_: object) -> None:
        sizes.append(1)

    monkeypatch.setattr("nova3d_core.weights.load.load_state", no_reading)
    assert "GiB of memory" in load_error(folder / VIEWS_FILE)
    assert not sizes


def test_a_cancel_stops_the_loading(folder):
    seen = []

    def is_cancelled() -> bool:
        seen.append(1)
        return len(seen) > 20

    with pytest.raises(Cancelled):
        load_recursive(folder / VIEWS_FILE, folders=[folder], progress=Progress(None, is_cancelled))
