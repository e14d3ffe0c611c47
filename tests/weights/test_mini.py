"""Files of nova3d-mini: identified by their headers, loaded bit for bit, self-contained."""

from __future__ import annotations

import json
import logging
from dataclasses import replace

import pytest
import torch

from nova3d_core.cli.models_table import models_report, models_text
from nova3d_core.diffusion.codecs.pixels import PixelCodec
from nova3d_core.diffusion.families import FAMILIES
from nova3d_core.errors import InputError
from nova3d_core.weights.discovery.companions import find_companion
from nova3d_core.weights.discovery.layouts import METADATA_KEY, identify, read_header
from nova3d_core.weights.discovery.locate import describe
from nova3d_core.weights.files.read import open_weights
from nova3d_core.weights.load import load_model
from nova3d_core.weights.save import save_nova3d

from .models import assert_same, mini_model, random_model, states

NAME = "mini.safetensors"


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / NAME
    save_nova3d(mini_model(), path, note="trained on nothing")
    return path


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("alignment", ["gta", "spatial", "none"])
def test_saved_mini_model_loads_bit_for_bit(tmp_path, dtype, alignment):
    model = mini_model(3, dtype, alignment=alignment)
    save_nova3d(model, tmp_path / NAME)
    loaded = load_model(tmp_path / NAME)
    assert loaded.family is FAMILIES["nova3d-mini"]
    assert loaded.unet.config == model.unet.config
    assert loaded.codec.settings() == model.codec.settings()
    assert loaded.image_encoder.config == model.image_encoder.config
    assert_same(states(loaded), states(model))
    image = torch.rand(1, 3, 64, 64)
    # the memory alignment of weights affects rounding
    ours, theirs = loaded.image_encoder.embed(image), model.image_encoder.embed(image)
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)
    assert torch.equal(loaded.codec.encode_scaled(image), model.codec.encode_scaled(image))


def test_saving_again_gives_the_same_file(tmp_path, saved):
    save_nova3d(load_model(saved), tmp_path / "again.safetensors", note="trained on nothing")
    assert (tmp_path / "again.safetensors").read_bytes() == saved.read_bytes()


def test_header_identifies_the_mini_model(saved):
    identity = identify(read_header(saved))
    assert (identity.family, identity.layout) == ("nova3d-mini", "sgm")
    assert identity.parts == ("unet", "pixel_codec", "small_encoder")
    assert (identity.decoder, identity.ambiguous_with) == (None, ())
    assert identity.notes == ("Its note: trained on nothing",)
    assert describe(identity) == "nova3d-mini, float32, unet + pixel codec + small encoder"


def test_training_note_is_summarised_in_a_sentence(tmp_path):
    trained = {"steps": 4000, "objects": 16000, "hours": 3.25}
    note = json.dumps({"trained": trained, "settings": {"precision": "bfloat16"}})
    save_nova3d(mini_model(), tmp_path / NAME, note=note)
    notes = identify(read_header(tmp_path / NAME)).notes
    assert notes == ("Trained for 4000 steps on 16000 objects, 3.25 hours.",)
    further = {"trained": trained, "started_from": {"file": "a.safetensors", "note": "by hand"}}
    save_nova3d(mini_model(), tmp_path / NAME, note=json.dumps(further), overwrite=True)
    (note,) = identify(read_header(tmp_path / NAME)).notes
    assert note.endswith("3.25 hours, starting from a.safetensors. Its note: by hand")
    further["started_from"]["note"] = {"trained": {"steps": 5, "objects": 20, "hours": 0.5}}
    save_nova3d(mini_model(), tmp_path / NAME, note=json.dumps(further), overwrite=True)
    (note,) = identify(read_header(tmp_path / NAME)).notes
    assert note.endswith("3.25 hours, after 5 steps on 20 objects, 0.5 hours.")
    for odd in ('{"trained": 3}', "[]", "7", '{"trained": {"steps": 1}}'):
        save_nova3d(mini_model(), tmp_path / NAME, note=odd, overwrite=True)
        assert identify(read_header(tmp_path / NAME)).notes == (f"Its note: {odd}",)


@pytest.mark.parametrize(
    ("alignment", "message"),
    [("spatial", "in spatial blocks only"), ("none", "no alignment attention")],
)
def test_ablations_have_a_note(tmp_path, alignment, message):
    save_nova3d(mini_model(alignment=alignment), tmp_path / NAME)
    assert message in " ".join(identify(read_header(tmp_path / NAME)).notes)


def test_metadata_choose_between_ambiguous_families(tmp_path):
    """A NOVA3D of another size can have the small parts as well."""
    model = replace(mini_model(), family=FAMILIES["nova3d"])
    save_nova3d(model, tmp_path / NAME)
    assert load_model(tmp_path / NAME).family is FAMILIES["nova3d"]


def test_models_command_lists_the_mini_model(saved):
    report = models_report([saved.parent])
    row = report["installed"][0]
    assert (row["family"], row["problem"], row["notes"]) == (
        "nova3d-mini",
        None,
        ["Its note: trained on nothing"],
    )
    assert "nova3d-mini, float32" in models_text(report)


def test_mini_model_needs_no_companion_files(tmp_path, saved, caplog):
    """It uses its own parts, even next to files with a VAE and an image encoder."""
    save_nova3d(random_model("sv3d_u"), tmp_path / "sv3d_u.safetensors")
    with caplog.at_level(logging.INFO):
        assert isinstance(load_model(saved).codec, PixelCodec)
    assert not any("is read from" in record.message for record in caplog.records)


@pytest.mark.parametrize("part", ["vae", "image_encoder"])
def test_parts_of_the_mini_model_are_not_companions(tmp_path, saved, part):
    with pytest.raises(InputError, match="has no"):
        find_companion(tmp_path / "V3D.ckpt", part, [tmp_path])


def damaged(path, change) -> None:
    """Rewrites the file with changed metadata and tensors."""
    with open_weights(path) as file:
        tensors = {name: file[name].clone() for name in file}
        metadata = json.loads(file.header.metadata[METADATA_KEY])
    from safetensors.torch import save_file

    change(metadata, tensors)
    save_file(tensors, path, {METADATA_KEY: json.dumps(metadata)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda metadata, _: metadata["codec"].update(factor=8), "has latents of 192 channels"),
        (
            lambda metadata, _: metadata["codec"].update(factor="four"),
            "contains no valid pixel codec",
        ),
        (lambda metadata, _: metadata["codec"].update(mean=None), "contains no valid pixel codec"),
        (lambda metadata, _: metadata["codec"].update(colour=1), "contains no valid pixel codec"),
        (lambda _, tensors: tensors.pop("image_encoder.head.weight"), "has no head"),
        (lambda _, tensors: tensors.pop("image_encoder.last.2.bias"), "is incomplete"),
        (lambda _, tensors: tensors.update({"image_encoder.x": torch.ones(1)}), "unexpected keys"),
        (lambda _, tensors: tensors["image_encoder.norm.bias"].fill_(torch.nan), "NaN"),
    ],
)
def test_reports_damaged_files(saved, change, message):
    damaged(saved, change)
    with pytest.raises(InputError, match=message):
        load_model(saved)


def test_reports_a_missing_codec(saved):
    damaged(saved, lambda metadata, _: metadata.pop("codec"))
    with pytest.raises(InputError, match="has no VAE"):
        load_model(saved, folders=[saved.parent])
