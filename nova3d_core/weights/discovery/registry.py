"""The public model files this package can work with, as far as their publishers describe them.

Nothing here is guessed: a figure that no publisher states is None. Shapes tell a family, never one
training of it: SVD, SVD-xt and SVD-xt 1.1 have the same header and differ by name and sum only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Layout = Literal["sgm", "diffusers", "lgm", "unknown"]
"""How tensors are named: as the original code, as diffusers, as LGM, or none of these."""

Decoder = Literal["video", "frame"]
"""A VAE decoder with layers across time, or one that decodes each image alone."""

FAMILY_DESCRIPTIONS: dict[str, str] = {
    "nova3d": "16 views of colour and normals from one image",
    "nova3d-mini": "the same at 64 pixels, of simple synthetic objects; small enough to ship",
    "svd": "Stable Video Diffusion: a video from one image; what nova3d is trained from",
    "sv3d_u": "SV3D u: 21 views on a level orbit",
    "sv3d_p": "SV3D p: 21 views on an orbit of any elevations",
    "v3d": "V3D: 18 views on a level orbit",
    "ouroboros3d": "Ouroboros3D: 8 views with a reconstruction model in the loop",
}
"""Every family that a header can be told to be, and what it makes."""

SVD_LICENCE = "Stability AI Community (published first as SVD non-commercial research)"
SVD_1_1_LICENCE = "SVD 1.1 non-commercial"
SV3D_LICENCE = "Stability AI Community by its card; SV3D non-commercial in the code repository"
V3D_LICENCE = "none stated; derived from SVD"
OUROBOROS3D_LICENCE = "Apache-2.0 by its tag; derived from SVD, whose terms still apply"

UNET, VAE, IMAGE_ENCODER = "unet", "vae", "image_encoder"
CONDITION_ENCODER, RECONSTRUCTION = "condition_encoder", "reconstruction"
PIXEL_CODEC, SMALL_ENCODER = "pixel_codec", "small_encoder"
"""What nova3d-mini has in the place of VAE and image encoder; no other model can use them."""
WHOLE = (UNET, VAE, IMAGE_ENCODER, CONDITION_ENCODER)


@dataclass(frozen=True)
class KnownFile:
    """One published file, and where a user puts it."""

    family: str
    """A key of FAMILIES."""
    file: str
    """Path inside the repository that publishes it, with forward slashes."""
    source: str
    """That repository on the model hub, as owner/name."""
    folder: str
    """Folder of ComfyUI's `models` it belongs in: checkpoints, diffusion_models or nova3d."""
    layout: Layout
    """How its tensors are named."""
    parts: tuple[str, ...]
    """What it holds: unet, vae, image_encoder, condition_encoder, reconstruction."""
    licence: str | None
    """The terms, in short; None where we do not know them."""
    gated: bool | None
    """True if the hub asks to agree to terms first; None where we do not know."""
    good_for: str
    """What to use it for, in one line."""
    decoder: Decoder | None = None
    """The kind of VAE decoder inside, if there is one."""
    dtype: str | None = None
    """Number format of the published file."""
    bytes: int | None = None
    """Exact size, where it is published."""
    gigabytes: float | None = None
    """Size to two or three digits (1 GB = 10^9 bytes), as listed or reckoned from the shapes."""
    sha256_start: str | None = None
    """The first hexadecimal digits of the SHA-256 sum, as many as are known (64 are all)."""
    aliases: tuple[str, ...] = ()
    """Other names it is commonly saved under."""

    @property
    def name(self) -> str:
        """The file's own name, without folders."""
        return self.file.rsplit("/", 1)[-1]

    @property
    def place(self) -> str:
        """Where to put it below ComfyUI's `models`, with forward slashes.

        Files in the diffusers layout share their names, so they keep their repository's folders.
        """
        if "/" not in self.file:
            return f"{self.folder}/{self.file}"
        return f"{self.folder}/{self.source.rsplit('/', 1)[-1]}/{self.file}"


def _svd_checkpoints() -> tuple[KnownFile, ...]:
    """SVD and SVD-xt as single files."""
    svd = "stabilityai/stable-video-diffusion-img2vid"
    common = {"family": "svd", "layout": "sgm", "parts": WHOLE, "folder": "checkpoints"}
    plain = {**common, "licence": SVD_LICENCE, "gated": False, "dtype": "float32"}
    return (
        KnownFile(
            **plain,
            file="svd_xt.safetensors",
            source=f"{svd}-xt",
            decoder="video",
            bytes=9_559_625_980,
            gigabytes=9.56,
            # The fact sheet gives the first eight digits; several public lists agree on the rest.
            sha256_start="b2652c23d64a1da5f14d55011b9b6dce55f2e72e395719f1cd1f8a079b00a451",
            good_for="training nova3d (25 frames); the image encoder that V3D needs",
        ),
        KnownFile(
            **plain,
            file="svd_xt_image_decoder.safetensors",
            source=f"{svd}-xt",
            decoder="frame",
            gigabytes=9.5,
            good_for="SVD-xt that decodes each frame alone",
        ),
        KnownFile(
            **common,
            licence=SVD_1_1_LICENCE,
            gated=True,
            dtype="float16",
            file="svd_xt_1_1.safetensors",
            source=f"{svd}-xt-1-1",
            decoder="video",
            gigabytes=4.78,
            good_for="SVD-xt 1.1, for training nova3d under a stricter licence",
        ),
        KnownFile(
            **plain,
            file="svd.safetensors",
            source=svd,
            decoder="video",
            gigabytes=9.56,
            good_for="training nova3d from the 14-frame model",
        ),
        KnownFile(
            **plain,
            file="svd_image_decoder.safetensors",
            source=svd,
            decoder="frame",
            gigabytes=9.5,
            good_for="SVD that decodes each frame alone",
        ),
    )


def _svd_diffusers_files() -> tuple[KnownFile, ...]:
    """SVD and SVD-xt in the diffusers layout: three parts, each as float32 and float16."""
    svd = "stabilityai/stable-video-diffusion-img2vid"
    weights = "diffusion_pytorch_model"
    rows = (
        (UNET, f"unet/{weights}", 6.1, 3.05, None, "the UNet alone"),
        (VAE, f"vae/{weights}", 0.391, 0.196, "video", "the VAE alone"),
        (IMAGE_ENCODER, "image_encoder/model", 2.53, 1.26, None, "the image encoder alone"),
    )
    return tuple(
        KnownFile(
            family="svd",
            file=f"{stem}{suffix}.safetensors",
            source=source,
            folder="nova3d",
            layout="diffusers",
            parts=(part,),
            licence=SVD_LICENCE,
            gated=False,
            good_for=f"{what} of {model}, {dtype}",
            decoder=decoder,
            dtype=dtype,
            gigabytes=size,
        )
        for model, source in (("SVD-xt", f"{svd}-xt"), ("SVD", svd))
        for part, stem, full, half, decoder, what in rows
        for suffix, dtype, size in (("", "float32", full), (".fp16", "float16", half))
    )


def _orbit_files() -> tuple[KnownFile, ...]:
    """SV3D and V3D: colour on an orbit."""
    sv3d = {
        "source": "stabilityai/sv3d",
        "folder": "checkpoints",
        "layout": "sgm",
        "parts": WHOLE,
        "licence": SV3D_LICENCE,
        "gated": True,
        "decoder": "frame",
        "dtype": "float32",
    }
    return (
        KnownFile(
            **sv3d,
            family="sv3d_p",
            file="sv3d_p.safetensors",
            gigabytes=9.37,
            good_for="21 views along an orbit whose elevation you choose",
        ),
        KnownFile(
            **sv3d,
            family="sv3d_u",
            file="sv3d_u.safetensors",
            gigabytes=9.36,
            good_for="21 views along a level orbit",
        ),
        KnownFile(
            family="sv3d_p",
            file="unet/diffusion_pytorch_model.safetensors",
            source="chenguolin/sv3d-diffusers",
            folder="nova3d",
            layout="diffusers",
            parts=(UNET,),
            licence=SV3D_LICENCE,
            gated=None,
            good_for="the UNet of SV3D p, converted",
        ),
        KnownFile(
            family="v3d",
            file="V3D.ckpt",
            source="heheyas/V3D",
            folder="nova3d",
            layout="sgm",
            parts=(UNET, VAE),
            licence=V3D_LICENCE,
            gated=False,
            good_for="18 views along a level orbit; needs svd_xt.safetensors beside it",
            decoder="video",
            dtype="float32",
            bytes=6_490_292_209,
            gigabytes=6.49,
            sha256_start="8daf69f4",
            aliases=("V3D_512.ckpt",),
        ),
    )


def _ouroboros3d_files() -> tuple[KnownFile, ...]:
    """Ouroboros3D: the view model and the reconstruction model in its loop."""
    common = {
        "family": "ouroboros3d",
        "source": "huanngzh/Ouroboros3D-SVD-LGM",
        "folder": "nova3d",
        "licence": OUROBOROS3D_LICENCE,
        "gated": False,
    }
    return (
        KnownFile(
            **common,
            file="mv_model_unet.pth",
            layout="diffusers",
            parts=(UNET,),
            gigabytes=7.06,
            good_for="8 views; runs together with recon_model.pth",
        ),
        KnownFile(
            **common,
            file="recon_model.pth",
            layout="lgm",
            parts=(RECONSTRUCTION,),
            gigabytes=1.7,
            good_for="Gaussian splats from the views, fed back while sampling",
        ),
    )


KNOWN_FILES: tuple[KnownFile, ...] = (
    *_svd_checkpoints(),
    *_orbit_files(),
    *_ouroboros3d_files(),
    *_svd_diffusers_files(),
)
"""Every public file we know of; nova3d itself has none: its weights are trained or built in."""
