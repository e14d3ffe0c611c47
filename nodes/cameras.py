"""Cameras around an object."""

from __future__ import annotations

from comfy_api.v0_0_2 import io

from ..nova3d_core.cameras.orbits import MAX_VIEWS, ORBIT_MOTIONS, ORBIT_PRESETS
from ..nova3d_core.conventions import CAMERA_KINDS, ORBIT_RADIUS
from .compat import CATEGORY, advanced, schema
from .runtime import with_warnings, node_context
from .sockets import CAMERAS, SocketBundle

CUSTOM = "custom"


class OrbitCameras(io.ComfyNode):
    """Cameras on an orbit."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="OrbitCameras",
            display_name="Orbit Cameras (NOVA3D)",
            category=f"{CATEGORY}/views",
            description=(
                "Cameras that look at an object from all around: of a known multi-view model, "
                "evenly spaced, rising and sinking like a sine, or at angles you list. Azimuth 0 "
                "looks at the front and grows counter-clockwise seen from above; objects are "
                "about 1 unit large."
            ),
            search_aliases=["camera rig", "turntable cameras", "azimuth elevation", "poses"],
            inputs=[*_path_inputs(), *_lens_inputs()],
            outputs=[
                CAMERAS.Output(
                    display_name="cameras", tooltip="One camera a view, in the views' order."
                )
            ],
        )

    @classmethod
    @with_warnings
    def execute(
        cls, preset, count, elevation, motion, amplitude, azimuths, elevations, radius, fov, kind,
        ortho_scale, width, height,
    ) -> io.NodeOutput:  # fmt: skip
        from ..nova3d_core.cameras.cameras import cameras_from_orbit
        from ..nova3d_core.cameras.orbits import parse_orbit, preset_orbit, rig_from_fov

        with node_context():
            if preset != CUSTOM:
                orbit = preset_orbit(preset, width, height)
            else:
                size = (width, height)
                rig = rig_from_fov(count, elevation, radius, fov, kind, ortho_scale, size)
                orbit = parse_orbit(rig, motion, amplitude, azimuths, elevations)
            return io.NodeOutput(SocketBundle(cameras_from_orbit(orbit)))


def _path_inputs() -> list[io.Input]:
    return [
        io.Combo.Input(
            "preset",
            options=[CUSTOM, *ORBIT_PRESETS],
            default="nova3d",
            tooltip=(
                "The cameras of a model: nova3d 16 level views; sv3d 21 whose LAST is the front; "
                "v3d 18; wonder3d 6 with parallel rays (0, 45, 90, 180, 270, 315). With 'custom' "
                "the inputs below count, otherwise only the image size does."
            ),
        ),
        io.Int.Input(
            "count", default=16, min=1, max=MAX_VIEWS, tooltip="Number of views (static, sine)."
        ),
        io.Float.Input(
            "elevation", default=0.0, min=-90.0, max=90.0, step=0.5,
            tooltip="Height above the horizon in degrees; for sine the middle height.",
        ),
        io.Combo.Input(
            "motion",
            options=list(ORBIT_MOTIONS),
            default="static",
            tooltip=(
                "static: all at one elevation; sine: up and down once a turn; custom: the lists "
                "of azimuths and elevations below."
            ),
        ),
        advanced(io.Float.Input(
            "amplitude", default=30.0, min=0.0, max=90.0, step=0.5,
            tooltip="sine: degrees that the cameras rise above and sink below the elevation.",
        )),
        io.String.Input(
            "azimuths",
            default="0, 90, 180, 270",
            tooltip="custom: one azimuth a view in degrees, separated by commas.",
        ),
        io.String.Input(
            "elevations",
            default="0",
            tooltip="custom: one elevation a view in degrees, or one for all.",
        ),
    ]  # fmt: skip


def _lens_inputs() -> list[io.Input]:
    return [
        io.Float.Input(
            "radius", default=ORBIT_RADIUS, min=0.1, max=100.0, step=0.05,
            tooltip="Distance of the cameras from the object's middle; the object is 1 unit large.",
        ),
        io.Float.Input(
            "fov", default=39.6, min=1.0, max=170.0, step=0.1,
            tooltip="Horizontal field of view in degrees, for perspective cameras.",
        ),
        advanced(io.Combo.Input(
            "kind",
            options=list(CAMERA_KINDS),
            default="perspective",
            tooltip="perspective as photographs are, or orthographic: parallel rays.",
        )),
        advanced(io.Float.Input(
            "ortho_scale", default=1.5, min=0.01, max=100.0, step=0.05,
            tooltip="orthographic: how much of the world the image's width shows, in units.",
        )),
        io.Int.Input(
            "width", default=256, min=16, max=8192, step=8, tooltip="Image width in pixels."
        ),
        io.Int.Input(
            "height", default=256, min=16, max=8192, step=8, tooltip="Image height in pixels."
        ),
    ]  # fmt: skip


NODES = [OrbitCameras]
