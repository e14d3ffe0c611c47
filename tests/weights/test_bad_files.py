"""Files that are not a model, are damaged, or would run code: one clear error line each."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from nova3d_core.compute.host_memory import available_bytes, check_memory
from nova3d_core.diffusion.network.config import UNetConfig
from nova3d_core.diffusion.network.unet import VideoUNet
from nova3d_core.errors import Cancelled, InputError
from nova3d_core.progress import Progress
from nova3d_core.weights.files.header import DTYPES
from nova3d_core.weights.files.read import open_weights
from nova3d_core.weights.load import STAGE, load_model
from nova3d_core.weights.save import save_nova3d

from .models import CLIP_SHAPE, UNET, random_model, random_unet


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """A complete small model in one file."""
    path = tmp_path_factory.mktemp("model") / "sv3d_u.safetensors"
    save_nova3d(random_model("sv3d_u"), path)
    return path


def load_error(path: Path, **settings) -> InputError:
    with pytest.raises(InputError) as caught:
        load_model(path, **settings)
    assert str(path) in str(caught.value)
    return caught.value


def test_base_svd_is_rejected_with_a_hint(tmp_path, write_model, manifest):
    path = write_model(tmp_path / "svd_xt.safetensors", manifest("svd_xt_sgm"), "F16")
    error = load_error(path)
    assert "base Stable Video Diffusion" in error.message
    assert "Train NOVA3D from it, or load SV3D or V3D" in error.hint


SDXL = {
    "model.diffusion_model.input_blocks.0.0.weight": (320, 4, 3, 3),
    "model.diffusion_model.input_blocks.1.0.in_layers.0.weight": (320,),
    "model.diffusion_model.input_blocks.4.1.transformer_blocks.0.norm1.weight": (640,),
    "model.diffusion_model.label_emb.0.0.weight": (1280, 2816),
    "first_stage_model.decoder.conv_in.weight": (512, 4, 3, 3),
    "conditioner.embedders.1.model.ln_final.weight": (1280,),
}
OTHERS = {
    "sdxl": (SDXL, "another diffusion model, without temporal layers"),
    "flux": ({"double_blocks.0.img_attn.qkv.weight": (9, 3)}, "a diffusion transformer"),
    "lora": ({"unet.down_blocks.0.lora_up.weight": (3, 3)}, "a LoRA"),
    "odd": ({"something.weight": (3,)}, "no supported model"),
}


@pytest.mark.parametrize("name", sorted(OTHERS))
def test_other_models_are_rejected_by_their_kind(tmp_path, write_model, name):
    shapes, description = OTHERS[name]
    error = load_error(write_model(tmp_path / f"{name}.safetensors", shapes))
    assert description in error.message
    assert "not a multi-view model" in error.message


def test_ouroboros3d_needs_its_reconstruction_model(tmp_path, write_model, manifest):
    path = tmp_path / "mv.safetensors"
    error = load_error(write_model(path, manifest("ouroboros3d_mv_model_unet")))
    assert "Ouroboros3D" in error.message
    assert "together with its reconstruction model" in error.message
    assert "`generate`" in error.hint


def test_rejects_a_file_with_only_a_vae(tmp_path, write_model, manifest):
    path = write_model(tmp_path / "vae.safetensors", manifest("svd_diffusers_vae"))
    assert "has no UNet" in load_error(path).message


def test_reports_a_missing_file_and_an_empty_folder(tmp_path):
    assert "cannot be read" in load_error(tmp_path / "gone.safetensors").message
    (tmp_path / "empty").mkdir()
    assert "a folder without a UNet" in load_error(tmp_path / "empty").message


@pytest.mark.parametrize("fraction", [0.0005, 0.3, 0.999])
def test_reports_a_truncated_safetensors_file(tmp_path, saved, fraction):
    path = tmp_path / "cut.safetensors"
    whole = saved.read_bytes()
    path.write_bytes(whole[: int(len(whole) * fraction)])
    assert "truncated" in load_error(path).message


def test_reports_a_truncated_checkpoint(tmp_path):
    path = tmp_path / "cut.ckpt"
    torch.save({"state_dict": random_unet("sv3d_u").state_dict()}, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert "truncated or damaged" in load_error(path).message


class Payload:
    """Creates a folder if it is unpickled."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_checkpoint_is_not_run(tmp_path, zipped):
    marker, path = tmp_path / "ran", tmp_path / "evil.ckpt"
    weights = {UNET + name: value for name, value in random_unet("sv3d_u").state_dict().items()}
    checkpoint = {"state_dict": weights, "extra": Payload(marker)}
    torch.save(checkpoint, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(InputError, match=r"would run code.*mkdir") as caught:
        load_model(path)
    assert str(path) in str(caught.value)
    assert not marker.exists()


def test_code_in_a_plain_pickle_is_not_run(tmp_path):
    marker, path = tmp_path / "ran", tmp_path / "evil.pt"
    path.write_bytes(pickle.dumps(Payload(marker)))
    load_error(path)
    assert not marker.exists()


def overwrite_last_value(path: Path, name: str, value: float) -> None:
    """Overwrites the last value of a tensor in a safetensors file."""
    with path.open("r+b") as stream:
        length = int.from_bytes(stream.read(8), "little")
        entry = json.loads(stream.read(length))[name]
        dtype = getattr(torch, DTYPES[entry["dtype"]][0])
        encoded = torch.tensor(value, dtype=dtype).reshape(1).view(torch.uint8).numpy().tobytes()
        stream.seek(8 + length + entry["data_offsets"][1] - len(encoded))
        stream.write(encoded)


@pytest.fixture(scope="module", params=[torch.float32, torch.float16, torch.bfloat16], ids=str)
def saved_as(request, saved, tmp_path_factory) -> Path:
    """The complete small model in each dtype."""
    with open_weights(saved) as file:
        tensors = {name: file[name].to(request.param) for name in file}
    path = tmp_path_factory.mktemp("dtype") / "model.safetensors"
    save_file(tensors, path)
    return path


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_names_non_finite_weights(tmp_path, saved_as, value):
    clip = "conditioner.embedders.0.open_clip.model.visual."
    for name in (
        f"{UNET}out.2.weight",
        f"{UNET}middle_block.1.time_mixer.mix_factor",
        "first_stage_model.decoder.conv_in.weight",
        f"{clip}transformer.resblocks.1.attn.in_proj_weight",
    ):
        path = Path(shutil.copyfile(saved_as, tmp_path / "broken.safetensors"))
        overwrite_last_value(path, name, value)
        assert f"NaN or infinite values in '{name}'" in load_error(path).message


def test_values_beyond_float16_are_rejected_but_load_as_bfloat16(tmp_path):
    model = random_model("sv3d_u")
    model.unet.out[2].weight.view(-1)[0] = 1e6
    path = tmp_path / "large.safetensors"
    save_nova3d(model, path)
    error = load_error(path, dtype=torch.float16)
    assert "beyond the range of torch.float16" in error.message
    assert "bfloat16" in error.hint
    assert load_model(path, dtype=torch.bfloat16).unet.out[2].weight.view(-1)[0] > 9e5


def test_rejects_a_dtype_that_layers_cannot_compute_in(saved):
    with pytest.raises(InputError, match=r"cannot be loaded as torch\.int8, expected one of"):
        load_model(saved, dtype=torch.int8)


def test_cancellation_stops_loading_at_the_next_tensor(saved):
    steps: list[int] = []
    progress = Progress(lambda event: steps.append(event.step), lambda: len(steps) >= 40)
    with pytest.raises(Cancelled) as caught:
        load_model(saved, progress=progress)
    assert caught.value.stage == STAGE
    assert steps == list(range(40))


def test_progress_reports_every_tensor(saved):
    events = []
    model = load_model(saved, progress=Progress(events.append))
    total = sum(
        len(module.state_dict())
        for module in (model.unet, model.codec.vae, model.image_encoder.clip)
    )
    assert [event.step for event in events] == list(range(total + 1))
    assert {(event.stage, event.total) for event in events} == {(STAGE, total)}


def test_rejects_a_model_larger_than_memory_before_reading_it(tmp_path, saved, write_model):
    """The file could be memory-mapped as it is, but does not fit in the requested dtype."""
    psutil = pytest.importorskip("psutil")
    weights = 0.7 * psutil.virtual_memory().total / 2  # two bytes each in the file
    channels = 64 * int((weights / 1.52e9) ** 0.5 * 320 / 64)
    context_dim = CLIP_SHAPE.projection_dim
    config = UNetConfig(model_channels=channels, context_dim=context_dim, add_embed_dim=256)
    state = VideoUNet(config, device="meta").state_dict()
    with open_weights(saved) as file:
        shapes = {name: shape for name, shape in file.shapes.items() if not name.startswith(UNET)}
    shapes |= {UNET + name: tuple(value.shape) for name, value in state.items()}
    path = write_model(tmp_path / "huge.safetensors", shapes, "F16")
    with pytest.raises(InputError, match=r"huge.safetensors needs \d+\.\d GiB of memory") as caught:
        load_model(path, dtype=torch.float32)
    assert "load it as float16" in caught.value.hint


def test_available_memory_is_at_most_the_total_memory():
    psutil = pytest.importorskip("psutil")
    assert 0 < available_bytes() <= psutil.virtual_memory().total


def test_memory_check_is_skipped_if_the_available_memory_is_unknown():
    check_memory("x", 10, None)
    check_memory("x", 10, 10)
    with pytest.raises(InputError, match=r"x needs 2\.0 GiB of memory, but only 1\.0 GiB are free"):
        check_memory("x", 2 << 30, 1 << 30)


STARVED = """
import resource, sys
from nova3d_core.weights.load import load_model
from nova3d_core.errors import InputError
import safetensors.torch
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (150 << 20),) * 2)
try:
    load_model(sys.argv[1])
except InputError as error:
    print(error)
"""


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
def test_reports_running_out_of_memory_while_reading(tmp_path, write_model, suffix):
    if sys.platform != "linux":
        pytest.skip("only Linux limits a process's memory")
    state = VideoUNet(UNetConfig(model_channels=64, add_embed_dim=256), device="meta").state_dict()
    path = tmp_path / f"big{suffix}"
    if suffix == ".ckpt":
        torch.save({UNET + name: torch.zeros(value.shape) for name, value in state.items()}, path)
    else:
        write_model(path, {UNET + name: tuple(value.shape) for name, value in state.items()})
    done = subprocess.run(
        [sys.executable, "-c", STARVED, str(path)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr
    assert f"{path} does not fit into memory. Close other programs" in done.stdout


def test_open_file_maps_its_keys_to_tensors(saved):
    with open_weights(saved) as file:
        assert len(file) == len(list(file)) == len(file.shapes)
        with pytest.raises(KeyError):
            file["no such tensor"]
        kept = file[f"{UNET}out.2.bias"]
    assert torch.isfinite(kept).all()  # tensors outlive the open file
