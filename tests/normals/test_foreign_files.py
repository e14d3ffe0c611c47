"""Files of normal estimators among the models: each message tells where the file belongs."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import save_file

from nova3d_core.cli.models_table import models_report, models_text
from nova3d_core.errors import InputError
from nova3d_core.normals.load import load_estimator
from nova3d_core.weights.discovery.estimators import find_estimator_folder
from nova3d_core.weights.discovery.locate import inspect_file
from nova3d_core.weights.discovery.registry import MOGE
from nova3d_core.weights.load import load_model

from ..host.tiny_moge import FILE, write_tiny_moge
from ..weights.models import random_model
from ..weights.test_load import key_map, write_diffusers  # noqa: F401


@pytest.fixture(scope="module")
def moge_file(tmp_path_factory):
    models = tmp_path_factory.mktemp("models")
    write_tiny_moge(models)
    return models / "geometry_estimation" / FILE


def test_moge_belongs_to_comfyuis_nodes(moge_file):
    assert FILE in MOGE.files
    found = inspect_file(moge_file)
    assert found.identity.foreign is MOGE and found.family == "unknown"
    report = models_report((moge_file.parent,))
    (row,) = report["installed"]
    assert row["description"] == "MoGe: belongs to ComfyUI's MoGe nodes"
    text = models_text(report)
    assert "belongs to ComfyUI's MoGe nodes" in text and "Load MoGe Model" in text


def test_moge_given_as_a_model_is_refused(moge_file):
    with pytest.raises(InputError) as caught:
        load_model(moge_file)
    message = str(caught.value)
    assert "belongs to ComfyUI's MoGe nodes" in message and "Load MoGe Model" in message
    assert len(message) < 500


def test_version_1_is_recognised(tmp_path):
    tensors = {
        "backbone.blocks.0.attn.qkv.weight": torch.zeros(3, 1),
        "head.upsample_blocks.0.0.0.weight": torch.zeros(1, 1, 2, 2),
    }
    save_file(tensors, tmp_path / "moge_1.safetensors")
    assert inspect_file(tmp_path / "moge_1.safetensors").identity.foreign is MOGE


def test_normalcrafter_is_refused_as_a_generator_and_loaded_as_an_estimator(tmp_path, key_map):  # noqa: F811
    """Its files are SVD's: the name of the folder tells it, and SVD's error gives a hint."""
    folder = tmp_path / "diffusers" / "NormalCrafter"
    unet = write_diffusers(random_model("v3d"), folder, key_map)
    for path in (unet, folder):
        with pytest.raises(InputError) as caught:
            load_model(path)
        assert "is NormalCrafter" in str(caught.value)
        assert "generate --normals normalcrafter" in str(caught.value)
    assert find_estimator_folder("normalcrafter", (tmp_path,)) == folder
    estimator = load_estimator("normalcrafter", folders=(tmp_path,))
    assert estimator.label == "NormalCrafter" and estimator.model.unet.config.add_embed_dim == 768
    other = tmp_path / "downloads"
    shutil.copytree(folder, other)
    with pytest.raises(InputError) as caught:
        load_model(other)
    assert "base Stable Video Diffusion" in str(caught.value)
    assert "NormalCrafter, for Estimate Normals" in str(caught.value)
    with pytest.raises(InputError, match="Yanrui95/NormalCrafter"):
        find_estimator_folder("normalcrafter", (other,))
    class_name = "DiffusersUNetSpatioTemporalConditionModelNormalCrafter"
    (other / "unet" / "config.json").write_text(json.dumps({"_class_name": class_name}))
    assert find_estimator_folder("normalcrafter", (other,)) == other
