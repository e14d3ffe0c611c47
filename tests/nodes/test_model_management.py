"""Multi-view models in ComfyUI: detection, dtypes, weight streaming, cancel, memory.

The script runs in ComfyUI's interpreter with ComfyUI's modules.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from ..host.models import (
    BUILT_IN,
    LGM,
    MINI,
    NOVA3D,
    OUROBOROS3D,
    OUROBOROS3D_RECONSTRUCTION,
    SCENES,
    SV3D_P,
    SV3D_U,
    V3D,
    WONDER3D,
    write_models,
)

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.host

SCRIPT = """
import gc, importlib.util, json, os, sys, time, weakref
from pathlib import Path
sys.argv = ["main.py", "--cpu"]
import comfy.options
comfy.options.enable_args_parsing()
import torch
torch.set_num_threads(1)  # faster for small layers
import comfy.utils, comfy.model_patcher, folder_paths
from comfy import model_management as mm
from comfy.cli_args import args

root, models, answers = ROOT, MODELS, {}
folder_paths.models_dir = models
registry = folder_paths.folder_names_and_paths
for key in ("checkpoints", "diffusion_models"):
    registry[key] = ([os.path.join(models, key)], registry[key][1])
registry["nova3d"] = ([os.path.join(models, "elsewhere")], set())  # as from extra_model_paths.yaml
spec = importlib.util.spec_from_file_location(
    "pack", root + "/__init__.py", submodule_search_locations=[root]
)
sys.modules["pack"] = module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
from pack.nodes import model_files, model_management
from pack.nodes.load_model import LoadNOVA3D, load_managed_model
from pack.nodes.sample import SampleMultiviewNormals, SampleOrbit
from pack.nova3d_core.diffusion.sampling.pipeline import sample
from pack.nova3d_core.diffusion.families import GuidanceConfig
from pack.nova3d_core.diffusion.sampling.config import SampleConfig
from pack.nova3d_core.progress import SILENT

answers["names"] = model_files.list_models()
answers["search_folders"] = [
    os.path.basename(folder) for folder in model_files.model_search_folders()
]
answers["folder"] = [registry["nova3d"][0], sorted(registry["nova3d"][1])]
path = model_files.model_path("nova3d.safetensors")
image = torch.ones(64, 64, 3)
image[20:40, 16:48] = 0.3

def generate(managed, steps=2, guidance=None):
    config = SampleConfig(steps=steps, size_px=64, guidance=guidance)
    with torch.inference_mode():
        return sample(
            managed.model, image, None, config, None,
            model_management.HostModelPlacement(managed), SILENT,
        ).images

def max_difference(a, b):
    return float((a - b).abs().max())

u_path = model_files.model_path("stability/sv3d_u.safetensors")
plain = load_managed_model(u_path, "fp32", SILENT)
answers["dtypes"] = {}
for dtype in ("auto", "fp32", "fp16", "bf16"):
    managed = load_managed_model(u_path, dtype, SILENT)
    answers["dtypes"][dtype] = [
        str(next(managed.model.unet.parameters()).dtype), str(managed.dtype),
        str(next(managed.model.codec.parameters()).dtype),
    ]
    if dtype == "auto":
        expected = generate(managed)
    if dtype == "fp16":
        answers["half"] = max_difference(expected, generate(managed))
def unet_dtype():
    managed = load_managed_model(u_path, "auto", SILENT)
    return str(next(managed.model.unet.parameters()).dtype)

args.fp16_unet = True
answers["fp16_unet"] = unet_dtype()
args.fp16_unet = False
args.fp8_e4m3fn_unet = True
answers["fp8_unet"] = unet_dtype()
args.fp8_e4m3fn_unet = False

# all layers stay on the offload device and fetch their weights for each call
with torch.inference_mode():
    patcher = plain.patchers["unet"]
    patcher.load(torch.device("cpu"), lowvram_model_memory=200_000)
    layers = [m for m in patcher.model.modules() if getattr(m, "comfy_cast_weights", False)]
    answers["streaming"] = [patcher.model.model_lowvram, len(layers)]
    mm_load, mm.load_models_gpu = mm.load_models_gpu, lambda *a, **k: None
    answers["streamed"] = max_difference(expected, generate(plain))
    mm.load_models_gpu = mm_load

# ComfyUI versions that load lazily create Linear layers without weights
lazy = sys.modules.get("comfy.memory_management")
if lazy is not None and hasattr(lazy, "aimdo_enabled"):
    lazy.aimdo_enabled = True
    answers["lazy"] = max_difference(expected, generate(load_managed_model(u_path, "auto", SILENT)))
    lazy.aimdo_enabled = False

calls = []
from comfy.ldm.modules import attention
kernel = attention.optimized_attention
def counting(*args, **options):
    calls.append(1)
    return kernel(*args, **options)
attention.optimized_attention = counting
generate(plain)
answers["attention"] = len(calls)
before = len(calls)
def cancelling(*args, **options):
    calls.append(1)
    mm.interrupt_current_processing(len(calls) == before + 3)
    return kernel(*args, **options)
attention.optimized_attention = cancelling
try:
    generate(plain)
except mm.InterruptProcessingException:
    answers["cancelled"] = len(calls) - before
attention.optimized_attention = kernel

loads = []
def recording(patchers, memory_required=0, force_full_load=False, **options):
    class_name = type(patchers[0].model).__name__
    loads.append([class_name, memory_required > 0, force_full_load])
    return mm_load(patchers, memory_required=memory_required, force_full_load=force_full_load)
mm.load_models_gpu = recording
generate(plain)
mm.load_models_gpu = mm_load
answers["loads"] = loads
answers["budget_gib"] = [
    model_management.HostModelPlacement(plain).activation_budget(part) / 2**30
    for part in model_management.PARTS
]

class Rebound(comfy.model_patcher.ModelPatcher):
    pass
comfy.model_patcher.CoreModelPatcher = Rebound  # as ComfyUI does at start-up
answers["rebound"] = type(load_managed_model(u_path, "fp16", SILENT).patchers["unet"]).__name__

# out of memory, even for one half of the guidance batch
from pack.nova3d_core.diffusion.network.unet import VideoUNet
forward = VideoUNet.forward
def out_of_memory(self, *args):
    raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
VideoUNet.forward = out_of_memory
inputs = dict(
    elevation=0.0, seed=0, steps=1, guidance="auto",
    min_guidance_scale=1.0, max_guidance_scale=2.5, size=64,
)
from pack.nodes.sockets import SocketBundle
try:
    with torch.inference_mode():
        SampleOrbit.execute(SocketBundle(plain, *plain.patchers.values()), image[None], **inputs)
except Exception as error:
    answers["oom"] = [isinstance(error, mm.OOM_EXCEPTION), str(error)]
VideoUNet.forward = forward

# the outputs are usable in autograd
with torch.inference_mode():
    output = SampleOrbit.execute(SocketBundle(plain), image[None], **inputs)
views = output.args[0].bundle if hasattr(output, "args") else output.result[0].bundle
colour = views.colour.requires_grad_() if views.colour.is_leaf else views.colour
(colour * 2.0).sum().backward()
answers["gradient"] = float(colour.grad.mean())
answers["cache"] = len(SocketBundle(plain, *plain.patchers.values())._comfy_cache_tensors())

# only the socket value refers to a model
refs = [
    weakref.ref(each.model.part(part)) for each in (plain, managed) for part in plain.patchers
]
del plain, managed, patcher, layers, output, views, colour
gc.collect()
mm.cleanup_models_gc()
gc.collect()
answers["leaked"] = sum(ref() is not None for ref in refs)

# hundreds of other models: their headers are read once
entries = {
    f"model.diffusion_model.input_blocks.{i}.weight": {
        "dtype": "F16", "shape": [2], "data_offsets": [4 * i, 4 * i + 4]
    } for i in range(2600)
}
header = json.dumps(entries).encode()
other_models = os.path.join(models, "diffusion_models")
os.makedirs(other_models)
for i in range(300):
    with open(os.path.join(other_models, f"{i}.safetensors"), "wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + 4 * 2600)
start = time.perf_counter()
names = model_files.list_models()
answers["first_s"] = time.perf_counter() - start
start = time.perf_counter()
LoadNOVA3D.define_schema()
answers["again_s"] = time.perf_counter() - start
answers["same_names"] = names == answers["names"]
from pack.nova3d_core.errors import InputError
def error_message(name):
    try:
        model_files.model_path(name)
    except InputError as error:
        return str(error)
answers["missing"] = [
    error_message(name) for name in ("v3d.ckpt", "mine.safetensors", "../nova3d/V3D.ckpt")
]
from pack.nova3d_core.weights.discovery import built_in
for key in ("nova3d", "checkpoints", "diffusion_models"):
    registry[key] = ([os.path.join(models, "empty")], registry[key][1])
folder_paths.filename_list_cache.clear()
shipped, built_in.FILE = built_in.FILE, Path(models) / "none.safetensors"
answers["none"] = [model_files.list_models(), error_message(model_files.NONE_FOUND)]
answers["not_shipped"] = error_message(model_files.BUILT_IN)
built_in.FILE = Path(models) / "nova3d" / "mini.safetensors"
answers["built_in"] = [model_files.list_models(), str(model_files.model_path(model_files.BUILT_IN))]
# a codec without weights is not registered: recent ComfyUI maps memory for each part
class Mapping(comfy.model_patcher.ModelPatcher):
    def load(self, *args, **options):
        if self.model_size() == 0:
            raise MemoryError
        return super().load(*args, **options)
comfy.model_patcher.CoreModelPatcher = Mapping
# LGM, whose only part streams its weights
from pack.nova3d_core.cameras.cameras import orbit_cameras
from pack.nova3d_core.cameras.rigs import RigConfig
from pack.nova3d_core.reconstruction.reconstruct import reconstruct_splats
from pack.nova3d_core.views import Views
lgm_path = Path(models) / "nova3d" / "model_fp16_fixrot.safetensors"
ring = orbit_cameras(RigConfig(count=4, width_px=64, height_px=64))
four = Views(ring, image.expand(4, 64, 64, 3).contiguous())

def splats_of(managed):
    with torch.inference_mode():
        placement = model_management.HostModelPlacement(managed)
        return reconstruct_splats(managed.model, four, placement=placement).splats

answers["lgm_dtypes"], reference = {}, None
for dtype in ("auto", "fp32", "fp16", "bf16"):
    managed = load_managed_model(lgm_path, dtype, SILENT)
    weights = {str(value.dtype) for value in managed.model.network.parameters()}
    answers["lgm_dtypes"][dtype] = [sorted(weights), str(managed.dtype), sorted(managed.patchers)]
    if dtype == "fp32":
        reference = splats_of(managed)
with torch.inference_mode():
    patcher = managed.patchers["reconstruction"]
    patcher.load(torch.device("cpu"), lowvram_model_memory=10_000)
    mm_load, mm.load_models_gpu = mm.load_models_gpu, lambda *a, **k: None
    streamed = splats_of(managed)
    mm.load_models_gpu = mm_load
answers["lgm_streaming"] = patcher.model.model_lowvram
answers["lgm_count"] = [len(reference), len(streamed)]
answers["lgm_bf16"] = float((streamed.positions - reference.positions).abs().mean())
no_guidance = GuidanceConfig("constant", 1.0, 1.0)
minis = [load_managed_model(built_in.FILE, "auto", SILENT) for _ in range(2)]
answers["mini_parts"] = sorted(minis[0].patchers)
first, second = (generate(each, 1, no_guidance) for each in minis)
whiteness = first.amin(dim=-1)[:, 1:]  # the first view is the input image
answers["mini"] = [
    list(first.shape), max_difference(first, second),
    float(whiteness[:, :, 2, 2].min()), float(whiteness[:, :, 32, 32].max()),
]
print("ANSWERS " + json.dumps(answers))
"""


@pytest.fixture(scope="module")
def answers(checkout, tmp_path_factory) -> dict:
    """Results of the script."""
    models = tmp_path_factory.mktemp("host") / "models"
    write_models(models)
    script = SCRIPT.replace("ROOT", repr(str(ROOT))).replace("MODELS", repr(str(models)))
    command = [str(checkout.python), "-c", script]
    done = subprocess.run(command, cwd=checkout.path, capture_output=True, text=True)
    line = next((x for x in done.stdout.splitlines() if x.startswith("ANSWERS ")), None)
    assert line is not None, done.stderr[-3000:]
    return json.loads(line[len("ANSWERS ") :])


def test_lists_supported_models_only(answers):
    pair = (OUROBOROS3D, OUROBOROS3D_RECONSTRUCTION)
    own = [V3D, MINI, LGM, pair[0], NOVA3D, pair[1], SCENES, WONDER3D]
    assert answers["names"] == [*BUILT_IN, *own, f"stability/{SV3D_U}", SV3D_P]
    assert answers["same_names"]


def test_own_folder_is_added_to_extra_model_paths(answers):
    folders, suffixes = answers["folder"]
    assert [Path(folder).name for folder in folders] == ["elsewhere", "nova3d"]
    assert ".ckpt" in suffixes and ".safetensors" in suffixes
    assert answers["search_folders"][:2] == ["nova3d", "checkpoints"]  # existing folders only
    assert not {"elsewhere", "diffusion_models"} & set(answers["search_folders"])


def test_headers_of_other_models_are_read_once(answers):
    assert answers["first_s"] < 2.0
    assert answers["again_s"] < 0.2


def test_missing_file_is_reported_with_its_download(answers):
    known, unknown, outside = answers["missing"]
    assert "'v3d.ckpt' is not in" in known and "heheyas/V3D" in known and "sv3d" not in known
    assert "svd_xt.safetensors" in known  # V3D has no image encoder
    assert "'mine.safetensors' is not in" in unknown and "sv3d_p.safetensors (9.37 GB" in unknown
    assert "'../nova3d/V3D.ckpt' is not in" in outside


def test_without_models_the_message_lists_downloads(answers):
    names, message = answers["none"]
    assert names == ["none found: see the node's help"]
    assert "stabilityai/sv3d" in message and "heheyas/V3D" in message
    assert "models/nova3d" in message


def test_built_in_model_is_listed_if_it_ships(answers):
    names, path = answers["built_in"]
    assert names == ["nova3d-mini (built in)"]
    assert Path(path).name == MINI
    assert "is not in this copy of the package" in answers["not_shipped"]


def test_built_in_style_model_samples_under_comfyuis_management(answers):
    shape, difference, corner, centre = answers["mini"]
    # rounding depends on the alignment of the memory-mapped file
    assert shape == [2, 16, 64, 64, 3] and difference < 1e-4
    assert corner > 0.95 and 0.45 < centre < 0.55  # light blue where the image is dark


def test_part_without_weights_is_not_registered(answers):
    assert answers["mini_parts"] == ["image_encoder", "unet"]


def test_dtypes_follow_the_input_and_comfyuis_options(answers):
    fp32, fp16, bf16 = "torch.float32", "torch.float16", "torch.bfloat16"
    dtypes = answers["dtypes"]  # of UNet weights, UNet computation, codec; a CPU computes in fp32
    assert dtypes["auto"] == dtypes["fp32"] == [fp32, fp32, fp32]
    assert dtypes["fp16"] == [fp16, fp32, fp32]
    assert dtypes["bf16"] == [bf16, fp32, fp32]
    assert answers["fp16_unet"] == fp16  # --fp16-unet
    assert answers["fp8_unet"] == fp16  # --fp8_e4m3fn-unet: our layers cannot compute in fp8
    assert 0.0 < answers["half"] < 0.05


def test_lgm_is_one_part_in_the_selected_dtype(answers):
    fp32, fp16, bf16 = "torch.float32", "torch.float16", "torch.bfloat16"
    part = ["reconstruction"]
    dtypes = answers["lgm_dtypes"]  # of the weights and of the computation on a CPU
    assert dtypes["auto"][1:] == [fp32, part]
    assert dtypes["fp32"] == [[fp32], fp32, part]
    assert dtypes["fp16"] == [[fp16], fp32, part]
    assert dtypes["bf16"] == [[bf16], fp32, part]


def test_lgm_streams_its_weights(answers):
    assert answers["lgm_streaming"] and answers["lgm_count"] == [65_536, 65_536]
    assert answers["lgm_bf16"] < 0.02  # bf16 weights


def test_streamed_weights_give_the_same_images(answers):
    is_streaming, count = answers["streaming"]
    assert is_streaming and count > 100
    assert answers["streamed"] == 0.0


def test_lazy_loading_gives_the_same_images(answers):
    if "lazy" not in answers:
        pytest.skip("this ComfyUI does not load lazily")
    assert answers["lazy"] == 0.0


def test_attention_and_patcher_are_looked_up_at_call_time(answers):
    assert answers["attention"] > 10
    assert answers["rebound"] == "Rebound"


def test_cancel_takes_effect_within_a_step(answers):
    assert answers["cancelled"] == 3  # at the next attention call


def test_each_part_is_loaded_before_it_runs(answers):
    loads = answers["loads"]
    assert [class_name for class_name, _, _ in loads][:2] == [
        "NOVA3D_image_encoder",
        "NOVA3D_codec",
    ]
    assert {class_name for class_name, _, _ in loads[2:-1]} == {"NOVA3D_unet"}
    assert loads[-1][0] == "NOVA3D_codec"
    for class_name, has_memory_estimate, is_full_load in loads:
        assert has_memory_estimate and is_full_load == (class_name != "NOVA3D_unet")
    assert all(budget >= 0.5 for budget in answers["budget_gib"])  # half the free memory on a CPU


def test_out_of_memory_becomes_comfyuis_exception_and_gives_advice(answers):
    is_comfyuis, message = answers["oom"]
    assert is_comfyuis and "fp16" in message


def test_sampled_views_are_usable_in_autograd(answers):
    assert answers["gradient"] == 2.0


def test_only_the_socket_value_refers_to_a_model(answers):
    assert answers["leaked"] == 0
    assert answers["cache"] == 0
