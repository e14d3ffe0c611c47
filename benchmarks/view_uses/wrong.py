"""Mistakes that a user can make; each must be refused or warned about."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from nova3d_core.cameras.cameras import cameras_from_orbit
from nova3d_core.cameras.orbits import OrbitConfig
from nova3d_core.fusion.checks.inputs import check_views
from nova3d_core.imaging.crop import prepare_images
from nova3d_core.io.views.transforms_json import read_views, write_views
from nova3d_core.pipeline.stages import ensure_masks

from .inputs import SIZE_PX, Inputs, Use, model_rig, rendered, rig, sine_rig, two_rings


@dataclass(frozen=True)
class WrongUse:
    """A mistake, and the words that name it in the answer."""

    description: str
    run: Use
    names: str = ""
    """Regular expression that an answer which names the mistake matches."""


def _inverted(name: str) -> None:
    inputs = Inputs.of(rendered(name, rig()))
    replace(inputs, masks=1.0 - inputs.masks).check()


def _inverted_in_most_views(name: str) -> None:
    inputs = Inputs.of(rendered(name, rig(elevation_deg=20.0)))
    most = (torch.arange(16) % 4 != 0)[:, None, None]
    replace(inputs, masks=torch.where(most, 1.0 - inputs.masks, inputs.masks)).check()


def _inverted_in_folder(name: str) -> None:
    views = rendered(name, rig())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "views"
        write_views(replace(views, masks=1.0 - views.masks), path)
        check_views(ensure_masks(read_views(path)))


def _inverted_in_prepare(name: str) -> None:
    views = rendered(name, rig())
    prepare_images(views.colour[:1], 1.0 - views.masks[:1])


def _inverted_in_sampler(name: str) -> None:
    from nova3d_core.diffusion.sampling.preprocess import preprocess_image

    views = rendered(name, rig())
    preprocess_image(views.colour[0], 1.0 - views.masks[0], 64)


def _shifted(name: str) -> None:
    """Each image cropped elsewhere: the object is up to a quarter of the image off its position."""
    inputs = Inputs.of(rendered(name, rig(elevation_deg=10.0)))
    random = torch.Generator().manual_seed(2)
    reach = SIZE_PX // 4
    shifts = torch.randint(-reach, reach + 1, (len(inputs.images), 2), generator=random).tolist()

    def shift(batch: Tensor) -> Tensor:
        pairs = zip(batch, shifts, strict=True)
        return torch.stack([image.roll(offset, dims=(0, 1)) for image, offset in pairs])

    replace(inputs, images=shift(inputs.images), masks=shift(inputs.masks)).check()


def _empty_mask(name: str) -> None:
    inputs = Inputs.of(rendered(name, rig()))
    masks = inputs.masks.clone()
    masks[5] = 0.0
    replace(inputs, masks=masks).check()


def _masks_in_other_order(name: str) -> None:
    inputs = Inputs.of(rendered(name, rig(elevation_deg=20.0)))
    replace(inputs, masks=inputs.masks.roll(4, dims=0)).check()


def _grey_background(name: str) -> None:
    inputs = Inputs.of(rendered(name, rig()))
    images = torch.lerp(
        torch.full_like(inputs.images, 0.45), inputs.images, inputs.masks[..., None]
    )
    replace(inputs, images=images, masks=torch.ones_like(inputs.masks)).check()


def _reordered(orbit: OrbitConfig, order: Callable[[int], list[int]], frame: str | None = None):
    def run(name: str) -> None:
        views = rendered(name, orbit)
        Inputs.of(views, frame).reordered(order(len(views))).check()

    return run


def reversed_order(count: int) -> list[int]:
    """Clockwise instead of counter-clockwise, from the same first view."""
    return [-index % count for index in range(count)]


def reversed_list(count: int) -> list[int]:
    return list(range(count))[::-1]


def alphabetical_order(count: int) -> list[int]:
    """Files without leading zeros: 0, 1, 10, 11, ..., 2."""
    return sorted(range(count), key=str)


def transposed_order(count: int) -> list[int]:
    """Both rings of an azimuth after one another, instead of ring by ring."""
    return torch.arange(count).reshape(2, -1).T.flatten().tolist()


def shuffled_order(count: int) -> list[int]:
    return torch.randperm(count, generator=torch.Generator().manual_seed(1)).tolist()


def swapped_order(count: int) -> list[int]:
    order = list(range(count))
    order[2], order[6] = order[6], order[2]
    return order


def clockwise_wonder3d(count: int) -> list[int]:
    return [0, 5, 4, 3, 2, 1]


def shifted_order(count: int) -> list[int]:
    return [*range(1, count), 0]


def _declared(true: OrbitConfig, declared: OrbitConfig) -> Use:
    def run(name: str) -> None:
        inputs = Inputs.of(rendered(name, true))
        replace(inputs, cameras=cameras_from_orbit(declared)).check()

    return run


def _repeated_everywhere(name: str) -> None:
    Inputs.of(rendered(name, rig())).reordered([0] * 16).check()


def _repeated_once(name: str) -> None:
    order = list(range(16))
    order[9] = 8
    Inputs.of(rendered(name, rig())).reordered(order).check()


def _colours_as_normals(name: str) -> None:
    inputs = Inputs.of(rendered(name, rig()))
    replace(inputs, normals=inputs.images, normal_frame="camera").check()


def _normals_in_other_order(name: str) -> None:
    inputs = Inputs.of(rendered(name, rig()), "world")
    replace(inputs, normals=inputs.normals[reversed_order(16)]).check()


def _wrong_normal_frame(name: str) -> None:
    replace(Inputs.of(rendered(name, rig()), "camera"), normal_frame="world").check()


def _half_turntable(name: str) -> None:
    """Images of half a revolution, on cameras of a whole one."""
    azimuths = tuple(180.0 * index / 16 for index in range(16))
    half = replace(rig(elevation_deg=15.0), motion="custom", azimuths_deg=azimuths)
    _declared(half, rig(elevation_deg=15.0))(name)


CLOCKWISE = r"clockwise|reversed"
WRONG_USES: dict[str, WrongUse] = {
    "inverted masks": WrongUse("AssembleViews, all views", _inverted, "inverted"),
    "inverted masks, most": WrongUse(
        "AssembleViews, 12 of 16 views", _inverted_in_most_views, "inverted"
    ),
    "inverted masks, folder": WrongUse("LoadViews", _inverted_in_folder, "inverted"),
    "inverted mask, prepare": WrongUse("PrepareImage", _inverted_in_prepare, "inverted"),
    "inverted mask, sampler": WrongUse("both samplers", _inverted_in_sampler, "inverted"),
    "images shifted": WrongUse("each image cropped elsewhere", _shifted, "contradict|nothing is"),
    "empty mask": WrongUse("one view", _empty_mask, "empty"),
    "masks in other order": WrongUse(
        "masks a quarter of the orbit ahead of the images", _masks_in_other_order, "mask"
    ),
    "grey background": WrongUse("no masks, background not white", _grey_background, "mask"),
    "clockwise, level": WrongUse(
        "16 views, perspective", _reordered(rig(), reversed_order), CLOCKWISE
    ),
    "clockwise, elevation 20": WrongUse(
        "16 views, perspective", _reordered(rig(elevation_deg=20.0), reversed_order), CLOCKWISE
    ),
    "clockwise, orthographic": WrongUse(
        "16 level views: only the colours tell",
        _reordered(rig(kind="orthographic"), reversed_order), CLOCKWISE,
    ),
    "clockwise, Wonder3D": WrongUse(
        "6 views with normals in camera frames",
        _reordered(model_rig("wonder3d"), clockwise_wonder3d, "camera"), CLOCKWISE,
    ),
    "reversed list": WrongUse(
        "12 views, elevation 30", _reordered(rig(12, 30.0), reversed_list), CLOCKWISE
    ),
    "alphabetical order": WrongUse(
        "files 0, 1, 10, 11, ..., 2", _reordered(rig(), alphabetical_order), "alphabetical"
    ),
    "rings interleaved": WrongUse(
        "two rings of 8, azimuth by azimuth", _reordered(two_rings(), transposed_order), "ring"
    ),
    "shuffled": WrongUse("16 views", _reordered(rig(elevation_deg=10.0), shuffled_order)),
    "shifted by one": WrongUse(
        "Wonder3D's 6 irregular azimuths", _reordered(model_rig("wonder3d"), shifted_order)
    ),
    "two views swapped": WrongUse(
        "views 2 and 6 of 16", _reordered(rig(elevation_deg=10.0), swapped_order), "view"
    ),
    "elevation 30 as 0": WrongUse("16 views", _declared(rig(elevation_deg=30.0), rig()), "elevat"),
    "elevation 0 as 30": WrongUse("16 views", _declared(rig(), rig(elevation_deg=30.0)), "elevat"),
    "elevation 20 as -20": WrongUse(
        "12 views", _declared(rig(12, 20.0), rig(12, -20.0)), "elevat"
    ),
    "elevation 45 as 15": WrongUse("12 views", _declared(rig(12, 45.0), rig(12, 15.0)), "elevat"),
    "sine as level": WrongUse(
        "21 views with elevations of -30 to 30", _declared(sine_rig(), rig(21)), "elevat"
    ),
    "one image everywhere": WrongUse("16 views", _repeated_everywhere, "same image|identical"),
    "one image twice": WrongUse("view 9 repeats view 8", _repeated_once, "same image|identical"),
    "colours as normals": WrongUse("the same images", _colours_as_normals, "colour|normal"),
    "normals in other order": WrongUse("clockwise, world frame", _normals_in_other_order, "normal"),
    "normals in other frame": WrongUse("camera as world", _wrong_normal_frame, "camera"),
    "half a turntable": WrongUse("16 views of 180 degrees as 360", _half_turntable),
}  # fmt: skip
