"""Node that creates camera orbits."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from comfy_api.v0_0_2 import io

from .. import nova3d_core
from ..nova3d_core.cameras.orbits import MAX_VIEWS, ORBIT_MOTIONS, ORBIT_PRESETS
from ..nova3d_core.conventions import CAMERA_KINDS, ORBIT_RADIUS
from .compat import CATEGORY, advanced, camera_info_output, schema
from .runtime import node_context, with_warnings
from .sockets import CAMERA_TYPES, CAMERAS, SocketBundle

if TYPE_CHECKING:
    from ..nova3d_core.cameras.cameras import Cameras

logger = logging.getLogger(nova3d_core.__name__).getChild("nodes")
"""Below the core's logger, whose warnings the node displays."""

CUSTOM = "custom"


class OrbitCameras(io.ComfyNode):
    """Creates cameras on an orbit around an object."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="OrbitCameras",
            display_name="Orbit Cameras (NOVA3D)",
            category=f"{CATEGORY}/views",
            description=(
                "Creates cameras on an orbit around an object: the cameras of a multi-view model, "
                "a static orbit, an orbit whose elevation follows a sine, or a list of angles. "
                "Azimuth 0 is the front view; azimuth increases counter-clockwise seen from above. "
                "The object is assumed to be about 1 unit in size. Also converts the cameras of "
                "other 3D nodes."
            ),
            search_aliases=[
                "camera rig", "turntable cameras", "azimuth elevation", "poses", "camera list",
                "qwen multiangle", "zero123++", "mv-adapter", "hunyuan3d multiview",
            ],
            inputs=[*_orbit_inputs(), *_projection_inputs(), _cameras_input()],
            outputs=[
                CAMERAS.Output(
                    display_name="cameras",
                    tooltip="One camera per view, in the order of the views.",
                ),
                camera_info_output(),
                io.String.Output(
                    display_name="report",
                    tooltip="Number of views, and which inputs are used and which are ignored.",
                ),
            ],
        )  # fmt: skip

    @classmethod
    @with_warnings
    def execute(cls, preset, width, height, cameras=None, **settings) -> io.NodeOutput:
        from .adapters import cameras_from_socket
        from .load3d import viewer_cameras

        with node_context():
            ignored = _ignored_inputs(preset, cameras is not None, **settings)
            if cameras is None:
                source = f"preset {preset}"
                rig = _rig(preset, width, height, **settings)
            else:
                source = "the connected cameras"
                rig = cameras_from_socket(cameras, width, height)
            _warn_of_ignored(source, ignored, {"preset": preset, **settings})
            report = _report(source, rig, ignored)
            return io.NodeOutput(SocketBundle(rig), viewer_cameras(rig), report)


def _rig(
    preset, width, height, *, count, elevation, motion, elevation_amplitude, azimuths, elevations,
    radius, fov, projection, ortho_scale,
) -> Cameras:  # fmt: skip
    """The cameras that the inputs describe."""
    from ..nova3d_core.cameras.cameras import cameras_from_orbit
    from ..nova3d_core.cameras.orbits import parse_orbit, preset_orbit, rig_from_fov

    if preset != CUSTOM:
        return cameras_from_orbit(preset_orbit(preset, width, height))
    rig = rig_from_fov(count, elevation, radius, fov, projection, ortho_scale, (width, height))
    return cameras_from_orbit(parse_orbit(rig, motion, elevation_amplitude, azimuths, elevations))


def _ignored_inputs(preset: str, has_cameras: bool, **settings: Any) -> set[str]:
    """Ids of the inputs without effect."""
    if has_cameras:
        return {"preset", *settings}
    if preset != CUSTOM:
        return set(settings)
    ignored = {"ortho_scale" if settings["projection"] == "perspective" else "fov"}
    if settings["motion"] == "custom":
        ignored |= {"count", "elevation_amplitude"}
        ignored |= {"elevation"} if settings["elevations"].strip() else set()
    else:
        ignored |= {"azimuths", "elevations"}
        ignored |= {"elevation_amplitude"} if settings["motion"] == "static" else set()
    return ignored


def _warn_of_ignored(source: str, ignored: set[str], values: dict[str, Any]) -> None:
    """Warns of inputs that were changed but have no effect."""
    inputs = [*_orbit_inputs(), *_projection_inputs()]
    changed = [each.id for each in inputs if each.id in ignored and values[each.id] != each.default]
    if changed:
        logger.warning(
            "%s: these inputs are ignored, although changed: %s", source, ", ".join(changed)
        )


def _report(source: str, rig: Cameras, ignored: set[str]) -> str:
    """Number of views, used and ignored inputs."""
    names = [each.id for each in (*_orbit_inputs(), *_projection_inputs())]
    views = f"{len(rig)} {rig.kind} view{'s' * (len(rig) != 1)}"
    lines = [f"{source}: {views}, {rig.width}x{rig.height} px"]
    for label, is_ignored in (("used inputs", False), ("ignored inputs", True)):
        lines.append(f"{label}: {', '.join(n for n in names if (n in ignored) == is_ignored)}")
    return "\n".join(lines)


def _orbit_inputs() -> list[io.Input]:
    return [
        io.Combo.Input(
            "preset",
            options=[CUSTOM, *ORBIT_PRESETS],
            default="nova3d",
            tooltip=(
                "Cameras of a multi-view model, in the order of its images; only the image size "
                "below is used. nova3d: 16 level views; sv3d, sv3d_sine: 21, the LAST one is the "
                "front; v3d: 18; wonder3d, era3d, mvadapter: 6 orthographic; zero123plus: 6 "
                "without the front; hunyuan3d_mv, pixal3d_mv: front, left, back, right; ultratex: "
                "4 sides, top, bottom; camera_angle: 8 directions; qwen_multiangle: 96. custom: "
                "uses the inputs below."
            ),
        ),
        io.Int.Input(
            "count", default=16, min=1, max=MAX_VIEWS,
            tooltip="Preset custom, motion static or sine: number of views.",
        ),
        io.Float.Input(
            "elevation", default=0.0, min=-90.0, max=90.0, step=0.5,
            tooltip=(
                "Preset custom: camera elevation above the horizon in degrees; for sine, the mean "
                "elevation."
            ),
        ),
        io.Combo.Input(
            "motion",
            options=list(ORBIT_MOTIONS),
            default="static",
            tooltip=(
                "Preset custom. static: constant elevation; sine: the elevation follows one sine "
                "period per revolution; custom: the azimuths and elevations listed below."
            ),
        ),
        advanced(io.Float.Input(
            "elevation_amplitude", default=30.0, min=0.0, max=90.0, step=0.5,
            tooltip="Preset custom, motion sine: amplitude of the elevation in degrees.",
        )),
        io.String.Input(
            "azimuths",
            default="0, 90, 180, 270",
            tooltip=(
                "Preset and motion custom: azimuth of each view in degrees, separated by commas."
            ),
        ),
        io.String.Input(
            "elevations",
            default="0",
            tooltip=(
                "Preset and motion custom: elevation of each view in degrees, or one value for all."
            ),
        ),
    ]  # fmt: skip


def _projection_inputs() -> list[io.Input]:
    return [
        io.Float.Input(
            "radius", default=ORBIT_RADIUS, min=0.1, max=100.0, step=0.05,
            tooltip=(
                "Preset custom: distance of the cameras from the object's centre in world units; "
                "the object is about 1 unit in size."
            ),
        ),
        io.Float.Input(
            "fov", default=39.6, min=1.0, max=170.0, step=0.1,
            tooltip="Preset custom, perspective: horizontal field of view in degrees.",
        ),
        advanced(io.Combo.Input(
            "projection",
            options=list(CAMERA_KINDS),
            default="perspective",
            tooltip="Preset custom: perspective or orthographic cameras.",
        )),
        advanced(io.Float.Input(
            "ortho_scale", default=1.5, min=0.01, max=100.0, step=0.05,
            tooltip="Preset custom, orthographic: width of the image in world units.",
        )),
        io.Int.Input(
            "width", default=256, min=16, max=8192, step=8, tooltip="Image width in pixels."
        ),
        io.Int.Input(
            "height", default=256, min=16, max=8192, step=8, tooltip="Image height in pixels."
        ),
    ]  # fmt: skip


def _cameras_input() -> io.Input:
    return io.MultiType.Input(
        "cameras",
        types=CAMERA_TYPES,
        optional=True,
        tooltip=(
            "Converts these cameras instead of creating an orbit: the camera or camera list of a "
            "3D node, or a geometry of Depth Anything 3. Only the image size is used then."
        ),
    )


NODES = [OrbitCameras]
