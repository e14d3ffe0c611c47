"""The published model files that this package supports, as their publishers describe them.

Values that no publisher states are None. Shapes identify a family, but not one of its checkpoints:
SVD, SVD-xt and SVD-xt 1.1 have the same header and differ only in name and checksum.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Layout = Literal["sgm", "diffusers", "lgm", "unknown"]
"""Naming scheme of the keys: the original code's, diffusers', LGM's, or none of these."""

Decoder = Literal["video", "frame"]
"""A VAE decoder with temporal layers, or one that decodes each frame separately."""

FAMILY_DESCRIPTIONS: dict[str, str] = {
    "nova3d": "16 views, colours and normals, from one image",
    "nova3d-mini": "the same at 64 pixels, for simple synthetic objects; ships with the package",
    "svd": "Stable Video Diffusion: a video from one image; the base model of nova3d",
    "sv3d_u": "SV3D u: 21 views on an orbit at elevation 0",
    "sv3d_p": "SV3D p: 21 views on an orbit with any elevations",
    "v3d": "V3D: 18 views on an orbit at elevation 0",
    "v3d_scenes": "V3D for scenes: views along a camera path, from posed images",
    "wonder3d": "Wonder3D: 6 orthographic views, colours and normals",
    "wonder3d_plus": "Wonder3D++: 6 orthographic views, colours and normals",
    "stable_diffusion": "Stable Diffusion 1: VAE or CLIP image encoder, as in Wonder3D",
    "ouroboros3d": "Ouroboros3D: 8 views with a reconstruction model in the loop",
    "lgm": "LGM: Gaussian splats from 4 views",
}
"""The families that headers are identified as, and what each generates."""

SVD_LICENCE = "Stability AI Community (first published as SVD non-commercial research)"
SVD_1_1_LICENCE = "SVD 1.1 non-commercial"
SV3D_LICENCE = "Stability AI Community (model card); SV3D non-commercial (code repository)"
V3D_LICENCE = "none stated; derived from SVD"
WONDER3D_LICENCE = "AGPL-3.0 (model hub); MIT (code repository)"
WONDER3D_PLUS_LICENCE = "AGPL-3.0 (model hub and its branch of the code); MIT (main branch)"
LGM_LICENCE = "MIT (code repository)"
OUROBOROS3D_LICENCE = "Apache-2.0 (repository tag); derived from SVD, whose terms still apply"

UNET, VAE, IMAGE_ENCODER = "unet", "vae", "image_encoder"
CONDITION_ENCODER, RECONSTRUCTION = "condition_encoder", "reconstruction"
RECONSTRUCTION_MODELS = {"lgm": "LGM", "ouroboros3d": "Ouroboros3D's reconstruction model"}
"""Display names of the families' reconstruction parts."""
CONTROLNET = "controlnet"
"""Wonder3D++'s enhancement of its views, which this package does not run."""
CONDITIONER = "conditioner"
"""PixelNeRF, in models for scenes; no file with one is published."""
PIXEL_CODEC, SMALL_ENCODER = "pixel_codec", "small_encoder"
"""What nova3d-mini has instead of a VAE and an image encoder; no other model uses them."""
FULL_CHECKPOINT = (UNET, VAE, IMAGE_ENCODER, CONDITION_ENCODER)


@dataclass(frozen=True)
class ForeignModel:
    """A model that other nodes run, whose files users may look for among ours."""

    label: str
    """Display name."""
    owner: str
    """The nodes that it belongs to."""
    files: tuple[str, ...]
    """Names of its published files."""
    source: str
    """Their repository on the model hub."""
    folder: str
    """Subfolder of ComfyUI's `models`."""
    licence: str
    """Licences, as far as they are stated."""
    usage: str
    """What it is used for, in one sentence."""


MOGE = ForeignModel(
    label="MoGe",
    owner="ComfyUI's MoGe nodes",
    files=("moge_2_vitl_normal_fp16.safetensors", "moge_1_vitl_fp16.safetensors"),
    source="Comfy-Org/MoGe",
    folder="geometry_estimation",
    licence="MIT (code); the model card states that of the weights",
    usage="Select it in Load MoGe Model; Add Normals to Views takes the normals.",
)
"""Monocular geometry; version 2 estimates normals, version 1 does not."""


@dataclass(frozen=True)
class PublishedFile:
    """A published file, and where to install it."""

    family: str
    """A key of FAMILY_DESCRIPTIONS."""
    file: str
    """Path inside its repository, with forward slashes."""
    source: str
    """Its repository on the model hub, as owner/name."""
    folder: str
    """Subfolder of ComfyUI's `models`: checkpoints, diffusion_models or nova3d."""
    layout: Layout
    """Naming scheme of its keys."""
    parts: tuple[str, ...]
    """Subset of unet, vae, image_encoder, condition_encoder, reconstruction, controlnet."""
    licence: str | None
    """Short name of the licence; None if unknown."""
    gated: bool | None
    """Whether the hub requires accepting terms before the download; None if unknown."""
    usage: str
    """What it is used for, in one line."""
    decoder: Decoder | None = None
    """Kind of its VAE decoder; None without one."""
    dtype: str | None = None
    """Dtype of the published file."""
    bytes: int | None = None
    """Exact size; None if it is not published."""
    gigabytes: float | None = None
    """Size to two or three digits (1 GB = 10^9 bytes), as listed or computed from the shapes."""
    sha256_start: str | None = None
    """The known leading hexadecimal digits of the SHA-256 checksum, up to all 64."""
    aliases: tuple[str, ...] = ()
    """Other common names of the file."""
    has_generic_name: bool = False
    """Whether models of any kind have this name: then it counts only where the contents match."""

    @property
    def name(self) -> str:
        """The file name without folders."""
        return self.file.rsplit("/", 1)[-1]

    @property
    def install_path(self) -> str:
        """Where to put it below ComfyUI's `models`, with forward slashes.

        Files in the diffusers layout share their names, so the path includes the repository.
        """
        if "/" not in self.file:
            return f"{self.folder}/{self.file}"
        return f"{self.folder}/{self.source.rsplit('/', 1)[-1]}/{self.file}"


def _svd_checkpoints() -> tuple[PublishedFile, ...]:
    """SVD and SVD-xt as single files."""
    svd = "stabilityai/stable-video-diffusion-img2vid"
    common = {"family": "svd", "layout": "sgm", "parts": FULL_CHECKPOINT, "folder": "checkpoints"}
    plain = {**common, "licence": SVD_LICENCE, "gated": False, "dtype": "float32"}
    return (
        PublishedFile(
            **plain,
            file="svd_xt.safetensors",
            source=f"{svd}-xt",
            decoder="video",
            bytes=9_559_625_980,
            gigabytes=9.56,
            # several public lists agree on this checksum
            sha256_start="b2652c23d64a1da5f14d55011b9b6dce55f2e72e395719f1cd1f8a079b00a451",
            usage="training nova3d (25 frames); provides the image encoder for V3D",
        ),
        PublishedFile(
            **plain,
            file="svd_xt_image_decoder.safetensors",
            source=f"{svd}-xt",
            decoder="frame",
            gigabytes=9.5,
            usage="SVD-xt with a VAE that decodes each frame separately",
        ),
        PublishedFile(
            **common,
            licence=SVD_1_1_LICENCE,
            gated=True,
            dtype="float16",
            file="svd_xt_1_1.safetensors",
            source=f"{svd}-xt-1-1",
            decoder="video",
            gigabytes=4.78,
            usage="SVD-xt 1.1, for training nova3d under a stricter licence",
        ),
        PublishedFile(
            **plain,
            file="svd.safetensors",
            source=svd,
            decoder="video",
            gigabytes=9.56,
            usage="training nova3d from the 14-frame model",
        ),
        PublishedFile(
            **plain,
            file="svd_image_decoder.safetensors",
            source=svd,
            decoder="frame",
            gigabytes=9.5,
            usage="SVD with a VAE that decodes each frame separately",
        ),
    )


def _svd_diffusers_files() -> tuple[PublishedFile, ...]:
    """SVD and SVD-xt in the diffusers layout: three parts, each as float32 and float16."""
    svd = "stabilityai/stable-video-diffusion-img2vid"
    weights = "diffusion_pytorch_model"
    rows = (
        (UNET, f"unet/{weights}", 6.1, 3.05, None, "only the UNet"),
        (VAE, f"vae/{weights}", 0.391, 0.196, "video", "only the VAE"),
        (IMAGE_ENCODER, "image_encoder/model", 2.53, 1.26, None, "only the image encoder"),
    )
    return tuple(
        PublishedFile(
            family="svd",
            file=f"{stem}{suffix}.safetensors",
            source=source,
            folder="nova3d",
            layout="diffusers",
            parts=(part,),
            licence=SVD_LICENCE,
            gated=False,
            usage=f"{description} of {model}, {dtype}",
            decoder=decoder,
            dtype=dtype,
            gigabytes=size,
        )
        for model, source in (("SVD-xt", f"{svd}-xt"), ("SVD", svd))
        for part, stem, full, half, decoder, description in rows
        for suffix, dtype, size in (("", "float32", full), (".fp16", "float16", half))
    )


def _orbit_files() -> tuple[PublishedFile, ...]:
    """SV3D and V3D: colour on an orbit."""
    sv3d = {
        "source": "stabilityai/sv3d",
        "folder": "checkpoints",
        "layout": "sgm",
        "parts": FULL_CHECKPOINT,
        "licence": SV3D_LICENCE,
        "gated": True,
        "decoder": "frame",
        "dtype": "float32",
    }
    return (
        PublishedFile(
            **sv3d,
            family="sv3d_p",
            file="sv3d_p.safetensors",
            gigabytes=9.37,
            usage="21 views along an orbit with any elevations",
        ),
        PublishedFile(
            **sv3d,
            family="sv3d_u",
            file="sv3d_u.safetensors",
            gigabytes=9.36,
            usage="21 views along an orbit at elevation 0",
        ),
        PublishedFile(
            family="sv3d_p",
            file="unet/diffusion_pytorch_model.safetensors",
            source="chenguolin/sv3d-diffusers",
            folder="nova3d",
            layout="diffusers",
            parts=(UNET,),
            licence=SV3D_LICENCE,
            gated=None,
            usage="the UNet of SV3D p, converted",
        ),
        PublishedFile(
            family="v3d",
            file="V3D.ckpt",
            source="heheyas/V3D",
            folder="nova3d",
            layout="sgm",
            parts=(UNET, VAE),
            licence=V3D_LICENCE,
            gated=False,
            usage="18 views at elevation 0; needs the image encoder of svd_xt.safetensors",
            decoder="video",
            dtype="float32",
            bytes=6_490_292_209,
            gigabytes=6.49,
            sha256_start="8daf69f4",
            aliases=("V3D_512.ckpt",),
        ),
    )


def _wonder3d_files() -> tuple[PublishedFile, ...]:
    """Wonder3D and Wonder3D++: colours and normals, in the diffusers layout.

    The file names of Wonder3D++ are those that diffusers writes; its page was not readable.
    """
    first = ("wonder3d", "flamehaze1115/wonder3d-v1.0", WONDER3D_LICENCE)
    second = ("wonder3d_plus", "flamehaze1115/Wonder3D_plus", WONDER3D_PLUS_LICENCE)
    weights = "diffusion_pytorch_model"
    vae, clip = "its VAE, Stable Diffusion 1's", "its image encoder, CLIP ViT-L/14"
    rows = (
        (*first, f"unet/{weights}.bin", UNET, 1.82, "6 views in colour and normals"),
        (*first, f"vae/{weights}.bin", VAE, 0.167, vae),
        (*first, "image_encoder/pytorch_model.bin", IMAGE_ENCODER, 0.608, clip),
        (*second, f"mvdiffusion/{weights}.safetensors", UNET, 1.82, "newer weights of Wonder3D"),
        (*second, f"vae/{weights}.safetensors", VAE, 0.167, vae),
        (*second, "image_encoder/model.safetensors", IMAGE_ENCODER, 0.608, clip),
        (*second, f"mv_controlnet/{weights}.safetensors", CONTROLNET, 1.54,
         "enhances its views; not used here"),
    )  # fmt: skip
    return tuple(
        PublishedFile(
            family=family,
            file=file,
            source=source,
            folder="nova3d",
            layout="diffusers",
            parts=(part,),
            licence=licence,
            gated=None,
            usage=usage,
            decoder="frame" if part == VAE else None,
            dtype="float32" if part == CONTROLNET else "float16",
            gigabytes=gigabytes,
        )
        for family, source, licence, file, part, gigabytes, usage in rows
    )


def _ouroboros3d_files() -> tuple[PublishedFile, ...]:
    """Ouroboros3D: the multi-view model and the reconstruction model in its loop."""
    common = {
        "family": "ouroboros3d",
        "source": "huanngzh/Ouroboros3D-SVD-LGM",
        "folder": "nova3d",
        "licence": OUROBOROS3D_LICENCE,
        "gated": False,
    }
    return (
        PublishedFile(
            **common,
            file="mv_model_unet.pth",
            layout="diffusers",
            parts=(UNET,),
            gigabytes=7.06,
            usage="8 views with their splats; requires recon_model.pth and svd_xt.safetensors",
        ),
        PublishedFile(
            **common,
            file="recon_model.pth",
            layout="lgm",
            parts=(RECONSTRUCTION,),
            gigabytes=1.7,
            usage="Gaussian splats from 4 views; in Ouroboros3D fed back while sampling",
        ),
    )


def _lgm_files() -> tuple[PublishedFile, ...]:
    """LGM: after and before the fix of its normalisation of rotations; same keys and shapes."""
    common = {
        "family": "lgm",
        "source": "ashawkey/LGM",
        "folder": "nova3d",
        "layout": "lgm",
        "parts": (RECONSTRUCTION,),
        "licence": LGM_LICENCE,
        "gated": False,
        "dtype": "float16",
        "gigabytes": 0.83,
    }
    return (
        PublishedFile(
            **common,
            file="model_fp16_fixrot.safetensors",
            usage="Gaussian splats from 4 views",
        ),
        PublishedFile(
            **common,
            file="model_fp16.safetensors",
            usage="the same before its fix: splats without rotations",
            has_generic_name=True,
        ),
    )


PUBLISHED_FILES: tuple[PublishedFile, ...] = (
    *_svd_checkpoints(),
    *_orbit_files(),
    *_wonder3d_files(),
    *_ouroboros3d_files(),
    *_lgm_files(),
    *_svd_diffusers_files(),
)
"""All supported published files; nova3d has none: its weights are trained or built in."""
