"""Stand-ins for nodes of newer ComfyUI versions, copied into the pack under test.

`BatchCameras` tells the pack that the host's 3D nodes pass lists of cameras; the other nodes make
and show what those and Depth Anything 3 pass.
"""

import json
import math

import torch

import nodes


class BatchCameras:
    """Joins cameras and camera lists into one list."""

    RETURN_TYPES, FUNCTION, CATEGORY = ("LOAD3D_CAMERA",), "join", "stand-in"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"a": ("LOAD3D_CAMERA",), "b": ("LOAD3D_CAMERA",)}}

    def join(self, a, b):
        lists = [each if isinstance(each, list) else [each] for each in (a, b)]
        return ([camera for cameras in lists for camera in cameras],)


class StandInOrbit:
    """A camera list around the origin, without rotations, as CameraAngle describes its camera."""

    RETURN_TYPES, FUNCTION, CATEGORY = ("LOAD3D_CAMERA",), "make", "stand-in"

    @classmethod
    def INPUT_TYPES(cls):
        numbers = {"count": ("INT", {}), "pitch": ("FLOAT", {}), "fov": ("FLOAT", {})}
        return {"required": {**numbers, "distance": ("FLOAT", {})}}

    def make(self, count, pitch, fov, distance):
        return ([_camera(360.0 * view / count, pitch, fov, distance) for view in range(count)],)


class ShowCameras:
    """The type and the number of cameras of each value that arrives."""

    RETURN_TYPES, FUNCTION, CATEGORY, OUTPUT_NODE = (), "show", "stand-in", True

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"camera_info": ("LOAD3D_CAMERA",)}}

    def show(self, camera_info):
        return {"ui": {"cameras": [json.dumps(camera_info)]}}


class StandInGeometry:
    """What Run Depth Anything 3 passes: an orbit in the world of its first camera."""

    RETURN_TYPES, FUNCTION, CATEGORY = ("DA3_GEOMETRY",), "make", "stand-in"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"image": ("IMAGE",), "fov": ("FLOAT", {}), "distance": ("FLOAT", {})}}

    def make(self, image, fov, distance):
        count, height, width = image.shape[:3]
        extrinsics = torch.eye(4).repeat(count, 1, 1)
        for view in range(count):
            # x right, y down, z forward: the object is at (0, 0, distance) of the first camera
            angle = 2.0 * math.pi * view / count
            cos, sin = math.cos(angle), math.sin(angle)
            rotation = torch.tensor([[cos, 0.0, sin], [0.0, 1.0, 0.0], [-sin, 0.0, cos]])
            centre = torch.tensor([0.0, 0.0, distance])
            extrinsics[view, :3, :3] = rotation
            extrinsics[view, :3, 3] = centre - rotation @ centre
        processed = (504, round(504 * height / width / 14) * 14)
        focal = processed[0] / 2.0 / math.tan(math.radians(fov) / 2.0)
        lens = torch.tensor(
            [[focal, 0.0, processed[0] / 2], [0.0, focal, processed[1] / 2], [0.0, 0.0, 1.0]]
        )
        geometry = {
            "depth": torch.ones(count, height, width),
            "image": image,
            "mode": "multiview",
            "extrinsics": extrinsics[None, :, :3],
            "intrinsics": lens.repeat(1, count, 1, 1),
        }
        return (geometry,)


def _camera(yaw, pitch, fov, distance):
    yaw, pitch = math.radians(yaw), math.radians(pitch)
    position = {
        "x": distance * math.cos(pitch) * math.sin(yaw),
        "y": distance * math.sin(pitch),
        "z": distance * math.cos(pitch) * math.cos(yaw),
    }
    target = {"x": 0.0, "y": 0.0, "z": 0.0}
    return {
        "position": position, "target": target, "zoom": 1.0, "cameraType": "perspective", "fov": fov
    }  # fmt: skip


for _each in (BatchCameras, StandInOrbit, ShowCameras, StandInGeometry):
    nodes.NODE_CLASS_MAPPINGS[_each.__name__] = _each
