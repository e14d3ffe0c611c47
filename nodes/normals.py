"""Nodes that give normals to views: from images, or estimated from the colours."""

from __future__ import annotations

from pathlib import Path

from comfy_api.v0_0_2 import io

from ..nova3d_core.conventions import NORMAL_FRAMES
from ..nova3d_core.normals.config import ESTIMATOR_NAMES, NORMAL_FLIPS, WINDOW_KINDS
from .common_inputs import AUTO, device_input
from .compat import CATEGORY, advanced, schema
from .folders import validation_result
from .runtime import node_context, with_warnings
from .sockets import VIEWS, SocketBundle
from .views import FRAME_TOOLTIP

ESTIMATOR_FOLDER_TYPES = ("diffusers", "nova3d")
"""ComfyUI's folder types that are searched for estimators."""
ESTIMATOR_GPU_GIB = 8.0
"""GPU memory that ComfyUI frees: NormalCrafter's networks and activations in half precision."""


class AddNormals(io.ComfyNode):
    """Adds normal maps to views."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="AddNormals",
            display_name="Add Normals to Views (NOVA3D)",
            category=f"{CATEGORY}/views",
            description=(
                "Adds normal maps to views that have colours only, such as those of SV3D and V3D: "
                "from ComfyUI's MoGe nodes or any other normal estimator. Checks them against the "
                "silhouettes and names a wrong frame or a flipped channel. Images, masks and "
                "cameras are unchanged."
            ),
            search_aliases=["normal map", "moge", "lotus", "marigold", "normals to views"],
            inputs=[
                VIEWS.Input(
                    "views", tooltip="Views with masks; normals that they have are replaced."
                ),
                io.Image.Input(
                    "normals",
                    tooltip=(
                        "One normal map per view, 0.5 n + 0.5, estimated from the views' own "
                        "images in the same order. Resized to the views; ignored outside the masks."
                    ),
                ),
                io.Combo.Input(
                    "normal_frame",
                    options=list(NORMAL_FRAMES),
                    default="camera",
                    tooltip=f"{FRAME_TOOLTIP} Most estimators: camera.",
                ),
                io.Combo.Input(
                    "flip",
                    options=list(NORMAL_FLIPS),
                    default="none",
                    tooltip=(
                        "Channels to invert. none: MoGe (normal_opengl), Marigold; red: Lotus, "
                        "DSINE; green: DirectX normal maps."
                    ),
                ),
            ],
            outputs=[VIEWS.Output(display_name="views", tooltip="The views with normals.")],
        )

    @classmethod
    @with_warnings
    def execute(cls, views, normals, normal_frame, flip) -> io.NodeOutput:
        from ..nova3d_core.normals.add import add_normals
        from .adapters import rgb_from_image

        with node_context():
            images = rgb_from_image(normals, "normals")
            return io.NodeOutput(
                SocketBundle(add_normals(views.bundle, images, normal_frame, flip))
            )


def estimator_folders() -> dict[str, Path]:
    """Folders of normal estimators in ComfyUI's model folders: name -> path."""
    import folder_paths

    from ..nova3d_core.weights.discovery.estimators import is_estimator_folder

    found: dict[str, Path] = {}
    for kind in ESTIMATOR_FOLDER_TYPES:
        if kind not in folder_paths.folder_names_and_paths:
            continue
        for root in map(Path, folder_paths.get_folder_paths(kind)):
            for folder in sorted(unet.parent for unet in root.glob("*/unet")):
                if any(is_estimator_folder(folder, name) for name in ESTIMATOR_NAMES):
                    found.setdefault(folder.name, folder)
    return found


def estimator_path(estimator: str, folder: str) -> Path:
    """Path of the chosen folder, or of the first one of the estimator.

    Raises:
        InputError: there is none, or it holds another estimator; says what to do.
    """
    from ..nova3d_core.errors import InputError
    from ..nova3d_core.weights.discovery.estimators import DOWNLOADS, is_estimator_folder

    folders = estimator_folders()
    if folder == AUTO:
        for path in folders.values():
            if is_estimator_folder(path, estimator):
                return path
        repository = DOWNLOADS[estimator]
        raise InputError(
            f"the normal estimator {estimator} is not in ComfyUI's model folders.",
            f"Download the whole repository {repository} (Hugging Face) into "
            f"models/diffusers/{repository.rpartition('/')[2]}, and press R on the page.",
        )
    if folder not in folders:
        raise InputError(
            f"the folder '{folder}' with a normal estimator is not in ComfyUI's model folders.",
            "Set folder to 'auto', or press R on the page and choose another one.",
        )
    if not is_estimator_folder(folders[folder], estimator):
        raise InputError(
            f"the folder '{folder}' does not hold the estimator {estimator}.",
            "Set folder to 'auto', or choose the other estimator.",
        )
    return folders[folder]


def _estimate_inputs() -> list[io.Input]:
    return [
        VIEWS.Input("views", tooltip="Views with masks; normals that they have are replaced."),
        io.Combo.Input(
            "estimator",
            options=list(ESTIMATOR_NAMES),
            default="marigold",
            tooltip=(
                "marigold: each view on its own, by the package diffusers; normalcrafter: all "
                "views together, by SVD's network."
            ),
        ),
        io.Combo.Input(
            "folder",
            options=[AUTO, *estimator_folders()],  # no default: help pages list no folders
            tooltip=(
                "Folder of the estimator in models/diffusers or models/nova3d, in the diffusers "
                "layout. auto: the first one of the selected estimator."
            ),
        ),
        io.Int.Input(
            "seed",
            default=0,
            min=0,
            max=2**64 - 1,
            tooltip="marigold: random seed of the start noise, which all views share.",
        ),
        advanced(io.Int.Input(
            "steps", default=4, min=1, max=50,
            tooltip="marigold: denoising steps; 1 to 4 for version 1.1.",
        )),
        advanced(io.Combo.Input(
            "window",
            options=list(WINDOW_KINDS),
            default="overlapping",
            tooltip=(
                "normalcrafter. overlapping: windows of 14 views, as its authors use; all views: "
                "one window, which needs more memory."
            ),
        )),
        advanced(io.Combo.Input(
            "precision",
            options=["fp16", "fp32"],
            default="fp16",
            tooltip="Precision of the weights on a GPU; fp32 on a CPU.",
        )),
        device_input(),
    ]  # fmt: skip


class EstimateNormals(io.ComfyNode):
    """Estimates the normals of views."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="EstimateNormals",
            display_name="Estimate Normals of Views (NOVA3D)",
            category=f"{CATEGORY}/views",
            description=(
                "Estimates the normals of views that have colours only, with Marigold or "
                "NormalCrafter, for versions of ComfyUI without MoGe nodes. Nothing is downloaded. "
                "Checks the normals against the silhouettes. Images, masks and cameras are "
                "unchanged."
            ),
            search_aliases=["normal map", "marigold", "normalcrafter", "monocular normals"],
            inputs=_estimate_inputs(),
            outputs=[
                VIEWS.Output(display_name="views", tooltip="The views with normals."),
                io.Image.Output(
                    display_name="normals",
                    tooltip="Normal maps in the camera frame, 0.5 n + 0.5; grey outside the masks.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, estimator: str | None, folder: str | None) -> bool | str:
        return validation_result(estimator_path, estimator, folder)

    @classmethod
    @with_warnings
    def execute(
        cls, views, estimator, folder, seed, steps, window, precision, device
    ) -> io.NodeOutput:
        import torch

        from ..nova3d_core.normals.config import EstimateConfig
        from ..nova3d_core.normals.estimate import estimate_normals
        from ..nova3d_core.normals.load import load_estimator
        from .adapters import image_from_normals
        from .model_files import model_search_folders

        with node_context(ESTIMATOR_GPU_GIB, device) as context:
            loaded = load_estimator(
                estimator,
                estimator_path(estimator, folder),
                folders=model_search_folders(),
                device=context.device,
                dtype=torch.float16 if precision == "fp16" else torch.float32,
                config=EstimateConfig(seed=seed, steps=steps, window=window),
                progress=context.progress,
            )
            result = estimate_normals(views.bundle, loaded, context.progress)
            return io.NodeOutput(SocketBundle(result), image_from_normals(result))


NODES = [AddNormals, EstimateNormals]
