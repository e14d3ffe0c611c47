"""Records `tests/data/wonder3d.npz`: outputs of Wonder3D's own code with random weights.

    PYTHONPATH=WONDER3D python tests/data/recipes/wonder3d.py tests/data/wonder3d.npz

WONDER3D is a checkout of github.com/xxlong0/Wonder3D (d894f82). Needs Python 3.11, torch 2.13,
diffusers 0.19.3, transformers 4.38.2, huggingface_hub below 0.26 and einops. The file holds only
numbers: `tests/diffusion/wonder3d_reference.py` draws the same weights and inputs from the same
seeds.
"""

from __future__ import annotations

import importlib.util
import sys
import types
from pathlib import Path

import numpy as np
import torch
from PIL import Image

_SHARED = Path(__file__).resolve().parents[2] / "diffusion" / "wonder3d_reference.py"
_spec = importlib.util.spec_from_file_location("wonder3d_reference", _SHARED)
shared = importlib.util.module_from_spec(_spec)
sys.modules["wonder3d_reference"] = shared
_spec.loader.exec_module(shared)


def replace_torchvision() -> None:
    """Provides the only function of torchvision that the pipeline calls here."""
    functional = types.ModuleType("torchvision.transforms.functional")
    functional.to_tensor = lambda image: torch.tensor(np.array(image)).movedim(-1, 0) / 255.0
    transforms, package = (
        types.ModuleType("torchvision.transforms"),
        types.ModuleType("torchvision"),
    )
    package.transforms, transforms.functional = transforms, functional
    for module in (package, transforms, functional):
        sys.modules[module.__name__] = module


def fill(module: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Loads the shared random weights."""
    state = {
        name: value
        if name.endswith("position_ids")
        else torch.tensor(shared.weight(name, tuple(value.shape), seed))
        for name, value in module.state_dict().items()
    }
    module.load_state_dict(state)
    return module.eval()


def unet(class_dim: int = 10) -> torch.nn.Module:
    """The authors' UNet at reduced width."""
    from mvdiffusion.models import transformer_mv2d
    from mvdiffusion.models.unet_mv2d_condition import UNetMV2DConditionModel

    # the published processor does not accept two of the keywords that its own block passes
    class Processor(transformer_mv2d.MVAttnProcessor):
        def __call__(self, *args, sparse_mv_attention=False, mvcd_attention=False, **kwargs):
            return super().__call__(*args, **kwargs)

    model = UNetMV2DConditionModel(
        sample_size=shared.LATENT_PX,
        in_channels=8,
        out_channels=4,
        block_out_channels=shared.WIDTHS,
        norm_num_groups=shared.GROUPS,
        attention_head_dim=shared.HEADS,
        cross_attention_dim=shared.CONTEXT,
        class_embed_type="projection",
        projection_class_embeddings_input_dim=class_dim,
        num_views=6,
        cd_attention_mid=True,
    )
    for name, layer in model.named_modules():
        if name.endswith("attn1"):
            layer.set_processor(Processor())
    return fill(model, shared.UNET_SEED)


def pipeline(noise: list[np.ndarray]) -> object:
    """The authors' pipeline, with small VAE and CLIP and with injected noise."""
    replace_torchvision()
    from diffusers import AutoencoderKL, DDIMScheduler
    from mvdiffusion.pipelines.pipeline_mvdiffusion_image import MVDiffusionImagePipeline
    from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

    class Injected(DDIMScheduler):
        def step(self, *args, eta=0.0, generator=None, **kwargs):
            given = torch.tensor(noise.pop(0)) if eta else None
            return super().step(*args, eta=eta, variance_noise=given, **kwargs)

    vae = AutoencoderKL(
        block_out_channels=shared.VAE_WIDTHS,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=32,
    )
    clip = CLIPVisionModelWithProjection(CLIPVisionConfig(**shared.CLIP, hidden_act="quick_gelu"))
    size = shared.IMAGE_PX
    processor = CLIPImageProcessor(
        size={"shortest_edge": size}, crop_size={"height": size, "width": size}
    )
    scheduler = Injected(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    model = MVDiffusionImagePipeline(
        fill(vae, shared.VAE_SEED),
        fill(clip, shared.CLIP_SEED),
        unet(),
        scheduler,
        None,
        processor,
        requires_safety_checker=False,
    )
    model.set_progress_bar_config(disable=True)
    return model


@torch.no_grad()
def main(path: str) -> None:
    arrays = {}
    for name, class_dim in (("unet", 10), ("unet_plus", 14)):
        inputs = {key: torch.tensor(value) for key, value in shared.unet_inputs(class_dim).items()}
        for halves in (1, 2):
            # domains are outermost: [normals, colours], with guidance [nu, nc, cu, cc]
            batch = {
                key: value[:, :halves].flatten(0, 2)
                for key, value in inputs.items()
                if key != "timestep"
            }
            out = unet(class_dim)(
                batch["x"],
                torch.tensor(shared.TIMESTEP),
                encoder_hidden_states=batch["context"],
                class_labels=batch["camera_task"],
            ).sample
            arrays[f"{name}_{halves}"] = out.unflatten(0, (2, halves, 6)).numpy()
    image = Image.fromarray(shared.image())
    for eta in shared.ETAS:
        for scale in shared.SCALES:
            start, steps = shared.noise()
            model = pipeline(list(steps))
            out = model(
                [image] * 12,
                num_inference_steps=shared.STEPS,
                guidance_scale=scale,
                eta=eta,
                latents=torch.tensor(start),
                height=shared.IMAGE_PX,
                width=shared.IMAGE_PX,
                output_type="latent",
            ).images
            arrays[shared.sample_name(eta, scale)] = out.unflatten(0, (2, 6)).numpy()
    embeds, latents = model._encode_image([image], "cpu", 1, False)
    arrays["context"], arrays["image_latent"] = embeds.numpy(), latents.numpy()
    arrays["pixels"] = clip_pixels()
    arrays["poses"] = np.stack([pose(view) for view in shared.VIEWS])
    np.savez_compressed(path, **{key: value.astype(np.float32) for key, value in arrays.items()})
    for key, value in arrays.items():
        sys.stdout.write(f"{key} {value.shape} std {value.std():.3f}\n")


def pose(view: str) -> np.ndarray:
    """(3, 4) world to camera of a view: world +Z up, camera in OpenGL axes."""
    import mvdiffusion

    (root,) = mvdiffusion.__path__
    return np.loadtxt(Path(root, "data", "fixed_poses", "nine_views", f"000_{view}_RT.txt"))


def clip_pixels() -> np.ndarray:
    """CLIP's input for an image of 256 pixels, from transformers' own preprocessing."""
    from transformers import CLIPImageProcessor

    image = Image.fromarray(shared.image(256))
    return CLIPImageProcessor()(images=image, return_tensors="np").pixel_values[:, :, ::4, ::4]


if __name__ == "__main__":
    main(sys.argv[1])
