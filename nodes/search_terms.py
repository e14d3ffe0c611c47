"""Words by which the node search finds the nodes, besides those in their names.

ComfyUI searches names and aliases, not descriptions. A new node adds an entry here, or passes
`search_aliases` to `schema`; both count.
"""

from __future__ import annotations

SEARCH_TERMS: dict[str, tuple[str, ...]] = {
    "PrepareImage": ("image to 3d", "photo to mesh", "crop", "cutout"),
    "LoadNOVA3D": ("image to 3d", "load model"),
    "SampleMultiviewNormals": ("image to 3d", "photo to mesh", "normal map", "novel views"),
    "SampleOrbit": ("image to 3d", "photo to mesh", "novel views", "camera orbit"),
    "SampleRecursive": ("image to 3d", "photo to splats", "novel views", "gaussian splatting"),
    "SampleCameraPath": ("novel views", "camera path", "fly-through", "scene", "sparse views"),
    "OrbitCameras": ("camera", "camera rig", "camera orbit"),
    "AssembleViews": ("photogrammetry", "camera", "normal map", "images to mesh"),
    "LoadViews": ("photogrammetry", "photos", "load images with cameras"),
    "SaveViews": ("export cameras", "gaussian splatting dataset"),
    "RenderViews": ("camera", "normal map", "render normals", "depth"),
    "DeconflictFusion": ("photogrammetry", "photo to mesh", "image to mesh", "3d reconstruction"),
    "RefinePoses": ("photogrammetry", "camera", "camera poses", "camera alignment"),
    "ExtractMesh": ("mesh", "remesh", "decimate", "low poly"),
    "NOVA3DLoadMesh": ("load 3d", "glb", "obj", "ply", "stl"),
    "RemoveLight": ("light", "delighting", "albedo", "relight", "intrinsic", "texture"),
    "BakeTexture": ("bake", "uv", "uv unwrap", "texture", "texture baking", "retexture"),
    "RefineTexture": ("texture", "retexture", "texture refinement", "lpips"),
    "CompleteTexture": ("texture", "inpaint texture", "fill texture", "score distillation", "sds"),
    "ExportMesh": ("save 3d", "save mesh", "export glb", "texture", "stl", "obj"),
    "FitSplats": ("gaussian splatting", "3dgs", "splat", "nerf", "photogrammetry"),
    "RenderSplatViews": ("gaussian splatting", "3dgs", "splat", "render splats", "turntable"),
    "ExportSplats": ("gaussian splatting", "3dgs", "splat", "save splat", "ply"),
    "SplatsFromViews": ("gaussian splatting", "3dgs", "splat", "images to splats", "lrm"),
    "EvaluateMesh": ("mesh quality", "mesh metrics", "benchmark"),
}
"""Node id -> further search terms."""

ESSENTIALS = "3D"
"""Section of the front end's essential nodes."""
ESSENTIAL_NODES = frozenset({"LoadViews", "DeconflictFusion", "BakeTexture", "ExportMesh"})


def search_settings(node_id: str, aliases: list[str]) -> dict[str, object]:
    """Schema fields for the search: aliases without repetitions, and the section of essentials."""
    terms = list(dict.fromkeys([*aliases, *SEARCH_TERMS.get(node_id, ())]))
    section = {"essentials_category": ESSENTIALS} if node_id in ESSENTIAL_NODES else {}
    return {"search_aliases": terms, **section}
