"""Node that creates camera orbits."""

from __future__ import annotations

from comfy_api.v0_0_2 import io

from ..nova3d_core.cameras.orbits import MAX_VIEWS, ORBIT_MOTIONS, ORBIT_PRESETS
from ..nova3d_core.conventions import CAMERA_KINDS, ORBIT_RADIUS
from .compat import CATEGORY, advanced, schema
from .runtime import node_context, with_warnings
from .sockets import CAMERAS, SocketBundle

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
                "The object is assumed to be about 1 unit in size."
            ),
            search_aliases=["camera rig", "turntable cameras", "azimuth elevation", "poses"],
            inputs=[*_orbit_inputs(), *_projection_inputs()],
            outputs=[
                CAMERAS.Output(
                    display_name="cameras",
                    tooltip="One camera per view, in the order of the views.",
                )
            ],
        )

    @classmethod
    @with_warnings
    def execute(
        cls, preset, count, elevation, motion, elevation_amplitude, azimuths, elevations, radius,
        fov, projection, ortho_scale, width, height,
    ) -> io.NodeOutput:  # fmt: skip
        from ..nova3d_core.cameras.cameras import cameras_from_orbit
        from ..nova3d_core.cameras.orbits import parse_orbit, preset_orbit, rig_from_fov

        with node_context():
            if preset != CUSTOM:
                orbit = preset_orbit(preset, width, height)
            else:
                size = (width, height)
                rig = rig_from_fov(count, elevation, radius, fov, projection, ortho_scale, size)
                orbit = parse_orbit(rig, motion, elevation_amplitude, azimuths, elevations)
            return io.NodeOutput(SocketBundle(cameras_from_orbit(orbit)))


def _orbit_inputs() -> list[io.Input]:
    return [
        io.Combo.Input(
            "preset",
            options=[CUSTOM, *ORBIT_PRESETS],
            default="nova3d",
            tooltip=(
                "Cameras of a multi-view model. nova3d: 16 views at elevation 0; sv3d: 21 views, "
                "the LAST one is the front; v3d: 18 views; wonder3d: 6 orthographic views "
                "(azimuths 0, 45, 90, 180, 270, 315). custom: uses the inputs below; the presets "
                "use only the image size."
            ),
        ),
        io.Int.Input(
            "count", default=16, min=1, max=MAX_VIEWS,
            tooltip="Number of views, for static and sine.",
        ),
        io.Float.Input(
            "elevation", default=0.0, min=-90.0, max=90.0, step=0.5,
            tooltip="Camera elevation above the horizon in degrees; for sine, the mean elevation.",
        ),
        io.Combo.Input(
            "motion",
            options=list(ORBIT_MOTIONS),
            default="static",
            tooltip=(
                "static: constant elevation; sine: the elevation follows one sine period per "
                "revolution; custom: the azimuths and elevations listed below."
            ),
        ),
        advanced(io.Float.Input(
            "elevation_amplitude", default=30.0, min=0.0, max=90.0, step=0.5,
            tooltip="sine: amplitude of the elevation in degrees.",
        )),
        io.String.Input(
            "azimuths",
            default="0, 90, 180, 270",
            tooltip="custom: azimuth of each view in degrees, separated by commas.",
        ),
        io.String.Input(
            "elevations",
            default="0",
            tooltip="custom: elevation of each view in degrees, or one value for all views.",
        ),
    ]  # fmt: skip


def _projection_inputs() -> list[io.Input]:
    return [
        io.Float.Input(
            "radius", default=ORBIT_RADIUS, min=0.1, max=100.0, step=0.05,
            tooltip=(
                "Distance of the cameras from the object's centre in world units; the object is "
                "about 1 unit in size."
            ),
        ),
        io.Float.Input(
            "fov", default=39.6, min=1.0, max=170.0, step=0.1,
            tooltip="Horizontal field of view in degrees, for perspective cameras.",
        ),
        advanced(io.Combo.Input(
            "projection",
            options=list(CAMERA_KINDS),
            default="perspective",
            tooltip="Projection of the cameras: perspective or orthographic.",
        )),
        advanced(io.Float.Input(
            "ortho_scale", default=1.5, min=0.01, max=100.0, step=0.05,
            tooltip="orthographic: width of the image in world units.",
        )),
        io.Int.Input(
            "width", default=256, min=16, max=8192, step=8, tooltip="Image width in pixels."
        ),
        io.Int.Input(
            "height", default=256, min=16, max=8192, step=8, tooltip="Image height in pixels."
        ),
    ]  # fmt: skip


NODES = [OrbitCameras]
