"""A multi-view model under the host's model management: formats, streaming, listing, letting go.

Runs inside the host's own interpreter, on the host's own modules.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from ..host.models import BUILT_IN, MINI, NOVA3D, SV3D_P, SV3D_U, V3D, write_models

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.host

SCRIPT = """
import gc, importlib.util, json, os, sys, time, weakref
from pathlib import Path
sys.argv = ["main.py", "--cpu"]
import comfy.options
comfy.options.enable_args_parsing()
import torch
torch.set_num_threads(1)  # small layers: more threads wait for each other
import comfy.utils, comfy.model_patcher, folder_paths
from comfy import model_management as mm
from comfy.cli_args import args

root, models, answers = ROOT, MODELS, {}
folder_paths.models_dir = models
known = folder_paths.folder_names_and_paths
for key in ("checkpoints", "diffusion_models"):
    known[key] = ([os.path.join(models, key)], known[key][1])
known["nova3d"] = ([os.path.join(models, "elsewhere")], set())  # as extra_model_paths.yaml does
spec = importlib.util.spec_from_file_location(
    "pack", root + "/__init__.py", submodule_search_locations=[root]
)
sys.modules["pack"] = module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
from pack.nodes import models as listing, placement
from pack.nodes.load import LoadNOVA3D, load_managed_model
from pack.nodes.generate import SampleMultiviewNormals, SampleOrbit
from pack.nova3d_core.diffusion.pipeline import sample
from pack.nova3d_core.diffusion.families import GuidanceConfig
from pack.nova3d_core.diffusion.sampling.config import SampleConfig
from pack.nova3d_core.progress import SILENT

answers["names"] = listing.list_models()
answers["places"] = [os.path.basename(place) for place in listing.places()]
answers["folder"] = [known["nova3d"][0], sorted(known["nova3d"][1])]
path = listing.model_path("nova3d.safetensors")
image = torch.ones(64, 64, 3)
image[20:40, 16:48] = 0.3

def paint(hosted, steps=2, guidance=None):
    config = SampleConfig(steps=steps, size_px=64, guidance=guidance)
    with torch.inference_mode():
        return sample(
            hosted.model, image, None, config, None, placement.HostModelPlacement(hosted), SILENT
        ).images

def differs(a, b):
    return float((a - b).abs().max())

u_path = listing.model_path("stability/sv3d_u.safetensors")
plain = load_managed_model(u_path, "fp32", SILENT)
answers["formats"] = {}
for dtype in ("auto", "fp32", "fp16", "bf16"):
    one = load_managed_model(u_path, dtype, SILENT)
    answers["formats"][dtype] = [
        str(next(one.model.unet.parameters()).dtype), str(one.dtype),
        str(next(one.model.codec.parameters()).dtype),
    ]
    if dtype == "auto":
        whole = paint(one)
    if dtype == "fp16":
        answers["half"] = differs(whole, paint(one))
args.fp16_unet = True
answers["told"] = str(next(load_managed_model(u_path, "auto", SILENT).model.unet.parameters()).dtype)
args.fp16_unet = False
args.fp8_e4m3fn_unet = True
answers["fp8"] = str(next(load_managed_model(u_path, "auto", SILENT).model.unet.parameters()).dtype)
args.fp8_e4m3fn_unet = False

# layers left where they were: every one of them casts and fetches its weights for each call
with torch.inference_mode():
    patcher = plain.patchers["unet"]
    patcher.load(torch.device("cpu"), lowvram_model_memory=200_000)
    parts = [m for m in patcher.model.modules() if getattr(m, "comfy_cast_weights", False)]
    answers["streaming"] = [patcher.model.model_lowvram, len(parts)]
    stream = placement.HostModelPlacement(plain)
    mm_load, mm.load_models_gpu = mm.load_models_gpu, lambda *a, **k: None
    answers["streamed"] = differs(whole, paint(plain))
    mm.load_models_gpu = mm_load

# hosts that load lazily make Linear layers without weights
lazy = sys.modules.get("comfy.memory_management")
if lazy is not None and hasattr(lazy, "aimdo_enabled"):
    lazy.aimdo_enabled = True
    answers["lazy"] = differs(whole, paint(load_managed_model(u_path, "auto", SILENT)))
    lazy.aimdo_enabled = False

seen = []
from comfy.ldm.modules import attention
kernel = attention.optimized_attention
def counted(*given, **more):
    seen.append(1)
    return kernel(*given, **more)
attention.optimized_attention = counted
paint(plain)
answers["attention"] = len(seen)
calls = len(seen)
def cancelling(*given, **more):
    seen.append(1)
    mm.interrupt_current_processing(len(seen) == calls + 3)
    return kernel(*given, **more)
attention.optimized_attention = cancelling
try:
    paint(plain)
except mm.InterruptProcessingException:
    answers["cancelled"] = len(seen) - calls
attention.optimized_attention = kernel

asked = []
def noted(patchers, memory_required=0, force_full_load=False, **more):
    kind = type(patchers[0].model).__name__
    asked.append([kind, memory_required > 0, force_full_load])
    return mm_load(patchers, memory_required=memory_required, force_full_load=force_full_load)
mm.load_models_gpu = noted
paint(plain)
mm.load_models_gpu = mm_load
answers["asked"] = asked
answers["memory_gib"] = plain.working_memory_gib()

class Rebound(comfy.model_patcher.ModelPatcher):
    pass
comfy.model_patcher.CoreModelPatcher = Rebound  # as the host does when it starts
answers["rebound"] = type(load_managed_model(u_path, "fp16", SILENT).patchers["unet"]).__name__

# memory that runs out for one half of the guidance alone
from pack.nova3d_core.diffusion.unet import VideoUNet
forward = VideoUNet.forward
def never(self, *given):
    raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
VideoUNet.forward = never
given = dict(elevation=0.0, seed=0, steps=1, guidance="auto", min_guidance_scale=1.0, max_guidance_scale=2.5, size=64)
from pack.nodes.sockets import SocketBundle
try:
    with torch.inference_mode():
        SampleOrbit.execute(SocketBundle(plain, *plain.patchers.values()), image[None], **given)
except Exception as error:
    answers["oom"] = [isinstance(error, mm.OOM_EXCEPTION), str(error)]
VideoUNet.forward = forward

# what comes out serves where gradients are taken
with torch.inference_mode():
    made = SampleOrbit.execute(SocketBundle(plain), image[None], **given)
views = made.args[0].bundle if hasattr(made, "args") else made.result[0].bundle
colour = views.colour.requires_grad_() if views.colour.is_leaf else views.colour
(colour * 2.0).sum().backward()
answers["gradient"] = float(colour.grad.mean())
answers["cache"] = len(SocketBundle(plain, *plain.patchers.values())._comfy_cache_tensors())

# nobody but the socket keeps a model
kept = [weakref.ref(each.model.part(part)) for each in (plain, one) for part in plain.patchers]
del plain, one, patcher, parts, stream, made, views, colour
gc.collect()
mm.cleanup_models_gc()
gc.collect()
answers["kept"] = sum(ref() is not None for ref in kept)

# hundreds of other models: told once
entries = {
    f"model.diffusion_model.input_blocks.{i}.weight": {
        "dtype": "F16", "shape": [2], "data_offsets": [4 * i, 4 * i + 4]
    } for i in range(2600)
}
header = json.dumps(entries).encode()
crowd = os.path.join(models, "diffusion_models")
os.makedirs(crowd)
for i in range(300):
    with open(os.path.join(crowd, f"{i}.safetensors"), "wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + 4 * 2600)
start = time.perf_counter()
crowded = listing.list_models()
answers["first_s"] = time.perf_counter() - start
start = time.perf_counter()
LoadNOVA3D.define_schema()
answers["again_s"] = time.perf_counter() - start
answers["crowded"] = crowded == answers["names"]
from pack.nova3d_core.errors import InputError
def said(name):
    try:
        listing.model_path(name)
    except InputError as error:
        return str(error)
answers["gone"] = [said("v3d.ckpt"), said("mine.safetensors"), said("../nova3d/V3D.ckpt")]
from pack.nova3d_core.weights import built_in
for key in ("nova3d", "checkpoints", "diffusion_models"):
    known[key] = ([os.path.join(models, "empty")], known[key][1])
folder_paths.filename_list_cache.clear()
shipped, built_in.FILE = built_in.FILE, Path(models) / "none.safetensors"
answers["none"] = [listing.list_models(), said(listing.NONE_FOUND)]
answers["not_shipped"] = said(listing.BUILT_IN)
built_in.FILE = Path(models) / "nova3d" / "mini.safetensors"
answers["built_in"] = [listing.list_models(), str(listing.model_path(listing.BUILT_IN))]
# a codec without weights stays out of the host's hands: newer hosts map memory for each part
class Mapping(comfy.model_patcher.ModelPatcher):
    def load(self, *given, **more):
        if self.model_size() == 0:
            raise MemoryError
        return super().load(*given, **more)
comfy.model_patcher.CoreModelPatcher = Mapping
plain = GuidanceConfig("constant", 1.0, 1.0)
minis = [load_managed_model(built_in.FILE, "auto", SILENT) for _ in range(2)]
answers["mini_parts"] = sorted(minis[0].patchers)
first, again = (paint(each, 1, plain) for each in minis)
whiteness = first.amin(dim=-1)[:, 1:]  # the first view is the image itself
answers["mini"] = [list(first.shape), differs(first, again), float(whiteness[:, :, 2, 2].min()),
                   float(whiteness[:, :, 32, 32].max())]
print("ANSWERS " + json.dumps(answers))
"""


@pytest.fixture(scope="module")
def answers(checkout, tmp_path_factory) -> dict:
    """What the script found inside the host."""
    models = tmp_path_factory.mktemp("host") / "models"
    write_models(models)
    script = SCRIPT.replace("ROOT", repr(str(ROOT))).replace("MODELS", repr(str(models)))
    words = [str(checkout.python), "-c", script]
    done = subprocess.run(words, cwd=checkout.path, capture_output=True, text=True)
    line = next((x for x in done.stdout.splitlines() if x.startswith("ANSWERS ")), None)
    assert line is not None, done.stderr[-3000:]
    return json.loads(line[len("ANSWERS ") :])


def test_models_that_paint_views_are_offered_and_nothing_else(answers):
    assert answers["names"] == [*BUILT_IN, V3D, MINI, NOVA3D, f"stability/{SV3D_U}", SV3D_P]
    assert answers["crowded"]


def test_our_folder_joins_what_extra_model_paths_says(answers):
    places, endings = answers["folder"]
    assert [Path(place).name for place in places] == ["elsewhere", "nova3d"]
    assert ".ckpt" in endings and ".safetensors" in endings
    assert answers["places"][:2] == ["nova3d", "checkpoints"]  # those that exist
    assert not {"elsewhere", "diffusion_models"} & set(answers["places"])


def test_hundreds_of_other_models_are_told_once(answers):
    assert answers["first_s"] < 2.0
    assert answers["again_s"] < 0.2


def test_a_name_that_is_gone_is_named_with_where_to_get_it(answers):
    known, unknown, outside = answers["gone"]
    assert "'v3d.ckpt' is not in" in known and "heheyas/V3D" in known and "sv3d" not in known
    assert "svd_xt.safetensors" in known  # V3D has no image encoder of its own
    assert "'mine.safetensors' is not in" in unknown and "sv3d_p.safetensors (9.37 GB" in unknown
    assert "'../nova3d/V3D.ckpt' is not in" in outside


def test_without_a_model_the_node_says_what_to_download(answers):
    (names, said) = answers["none"]
    assert names == ["none found: see the node's help"]
    assert "stabilityai/sv3d" in said and "heheyas/V3D" in said and "models/nova3d" in said


def test_the_built_in_model_is_offered_first_where_it_ships(answers):
    names, path = answers["built_in"]
    assert names == ["nova3d-mini (built in)"]
    assert Path(path).name == MINI
    assert "is not in this copy of the package" in answers["not_shipped"]


def test_the_small_model_paints_under_the_hosts_management(answers):
    shape, apart, corner, middle = answers["mini"]
    assert shape == [2, 16, 64, 64, 3] and apart < 1e-4  # rounding: maps of a file lie anywhere
    assert corner > 0.95 and 0.45 < middle < 0.55  # light blue where the image is dark


def test_a_part_without_weights_stays_out_of_the_hosts_hands(answers):
    assert answers["mini_parts"] == ["image_encoder", "unet"]


def test_weights_and_computing_follow_choice_and_host(answers):
    full, half, brain = "torch.float32", "torch.float16", "torch.bfloat16"
    formats = answers["formats"]  # of weights, of computing, of the codec; a CPU computes in fp32
    assert formats["auto"] == formats["fp32"] == [full, full, full]
    assert formats["fp16"] == [half, full, full]
    assert formats["bf16"] == [brain, full, full]
    assert answers["told"] == half  # --fp16-unet
    assert answers["fp8"] == half  # --fp8_e4m3fn-unet, which our layers cannot compute in
    assert 0.0 < answers["half"] < 0.05


def test_streamed_layers_paint_the_same_image(answers):
    is_streaming, count = answers["streaming"]
    assert is_streaming and count > 100
    assert answers["streamed"] == 0.0


def test_hosts_that_load_lazily_paint_the_same_image(answers):
    if "lazy" not in answers:
        pytest.skip("this ComfyUI always makes layers with weights")
    assert answers["lazy"] == 0.0


def test_attention_and_patcher_are_the_hosts_own_at_the_time(answers):
    assert answers["attention"] > 10
    assert answers["rebound"] == "Rebound"


def test_cancel_takes_effect_within_a_step(answers):
    assert answers["cancelled"] == 3  # at the next attention


def test_the_host_is_asked_before_each_part_runs(answers):
    asked = answers["asked"]
    assert [kind for kind, _, _ in asked][:2] == ["NOVA3D_image_encoder", "NOVA3D_codec"]
    assert {kind for kind, _, _ in asked[2:-1]} == {"NOVA3D_unet"}
    assert asked[-1][0] == "NOVA3D_codec"
    for kind, reckons_memory, whole in asked:
        assert reckons_memory and whole == (kind != "NOVA3D_unet")
    assert 0.5 <= answers["memory_gib"] <= 8.0


def test_memory_that_runs_out_is_the_hosts_error_and_says_what_to_do(answers):
    is_hosts, said = answers["oom"]
    assert is_hosts and "fp16" in said


def test_views_leave_inference_mode(answers):
    assert answers["gradient"] == 2.0


def test_only_the_socket_holds_a_model(answers):
    assert answers["kept"] == 0
    assert answers["cache"] == 0
