"""Detection of inverted masks, without false alarms for cropped, large, tiny or hollow objects."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from nova3d_core.cameras.cameras import orbit_cameras
from nova3d_core.cameras.rigs import RigConfig
from nova3d_core.diffusion.sampling.preprocess import preprocess_image
from nova3d_core.errors import InputError
from nova3d_core.fusion.checks.inputs import check_views
from nova3d_core.imaging.assemble import assemble_views
from nova3d_core.imaging.crop import prepare_images
from nova3d_core.imaging.mask_checks import check_not_inverted, looks_inverted
from nova3d_core.rendering.views import render_views

SIZE = 60


def box(top: float, bottom: float, left: float, right: float) -> torch.Tensor:
    """(SIZE, SIZE) mask, 1 inside a box given as fractions of the side."""
    mask = torch.zeros(SIZE, SIZE)
    rows, columns = (
        slice(max(round(low * SIZE), 0), max(round(high * SIZE), 0))
        for low, high in ((top, bottom), (left, right))
    )
    mask[rows, columns] = 1.0
    return mask


def ring() -> torch.Tensor:
    """A ring that touches all four sides of the image."""
    y, x = torch.meshgrid(torch.arange(SIZE) + 0.5, torch.arange(SIZE) + 0.5, indexing="ij")
    radius = ((x - SIZE / 2) ** 2 + (y - SIZE / 2) ** 2).sqrt()
    return ((radius < SIZE / 2) & (radius > SIZE / 4)).float()


OBJECTS = {
    "centred": box(0.3, 0.7, 0.3, 0.7),
    "tiny": box(0.45, 0.55, 0.45, 0.55),
    "cropped below, like a bust": box(0.3, 1.0, 0.3, 0.7),
    "nearly as large as the image": box(0.08, 0.92, 0.08, 0.92),
}
CLOSE_UPS = {
    "cropped at two sides": box(0.4, 1.0, 0.4, 1.0),
    "cropped at three sides": box(0.2, 1.0, 0.0, 1.0),
    "cropped left and right": box(0.3, 0.7, 0.0, 1.0),
    "background in one corner": 1.0 - box(0.0, 0.2, 0.0, 0.2),
    "a ring": ring(),
    "an arch": torch.maximum(1.0 - box(0.0, 0.85, 0.15, 0.85), box(0.0, 0.15, 0.0, 1.0)) * (
        1.0 - box(0.85, 1.0, 0.15, 0.85)
    ),
    "noise in a full mask": 1.0 - box(0.5, 0.52, 0.5, 0.52),
    "full": torch.ones(SIZE, SIZE),
    "empty": torch.zeros(SIZE, SIZE),
}  # fmt: skip


@pytest.mark.parametrize("name", OBJECTS)
def test_only_the_inverted_mask_of_an_object_looks_inverted(name):
    mask = OBJECTS[name]
    assert not looks_inverted(mask)
    assert looks_inverted(1.0 - mask)
    soft = torch.nn.functional.avg_pool2d(mask[None, None], 5, 1, 2, count_include_pad=False)[0, 0]
    assert not looks_inverted(soft)
    assert looks_inverted(1.0 - soft)


@pytest.mark.parametrize("name", CLOSE_UPS)
def test_close_ups_do_not_look_inverted(name):
    assert not looks_inverted(CLOSE_UPS[name])


def test_only_a_majority_of_inverted_masks_is_an_error():
    masks = torch.stack(list(OBJECTS.values())[:4])
    check_not_inverted(masks)
    masks[0] = 1.0 - masks[0]
    check_not_inverted(masks)
    masks[1] = 1.0 - masks[1]
    check_not_inverted(masks)  # half of them: ambiguous
    masks[2] = 1.0 - masks[2]
    with pytest.raises(InputError) as caught:
        check_not_inverted(masks)
    message = str(caught.value)
    assert "the masks look inverted in 3 of 4 views" in message
    assert "Invert it: a mask is 1 (white) on the object" in message
    assert len(message) < 500


# Inputs with masks


@pytest.fixture(scope="module")
def rendered(l_solid):
    return render_views(l_solid, orbit_cameras(RigConfig(count=5, width_px=48, height_px=40))).views


def with_alpha(views, alpha):
    return torch.cat([views.colour, alpha[..., None]], dim=-1)


def test_fusion_rejects_inverted_masks(rendered):
    check_views(rendered)
    with pytest.raises(InputError, match="masks look inverted in 5 of 5 views"):
        check_views(replace(rendered, masks=1.0 - rendered.masks))


def test_assembling_and_cropping_reject_inverted_masks(rendered):
    inverted = 1.0 - rendered.masks
    for work in (
        lambda: assemble_views(rendered.colour, rendered.cameras, masks=inverted),
        lambda: prepare_images(rendered.colour, inverted),
    ):
        with pytest.raises(InputError, match="the masks look inverted in 5 of 5 views"):
            work()
    for work in (
        lambda: assemble_views(with_alpha(rendered, inverted), rendered.cameras),
        lambda: prepare_images(with_alpha(rendered, inverted)),
    ):
        with pytest.raises(InputError, match="the alpha channels look inverted in 5 of 5 views"):
            work()


@pytest.mark.parametrize("size", [48, 480])  # as is, and downscaled first
def test_preprocessing_rejects_an_inverted_mask(rendered, size):
    view = torch.nn.functional.interpolate(
        with_alpha(rendered, rendered.masks)[:1].movedim(-1, 1), size=(size, size)
    )[0].movedim(0, -1)
    colour, mask = view[..., :3], view[..., 3]
    assert float(preprocess_image(colour, mask, 64).mask.max()) > 0.9
    with pytest.raises(InputError, match="the mask looks inverted: it is full along"):
        preprocess_image(colour, 1.0 - mask, 64)
    with pytest.raises(InputError, match="looks inverted: it is full along"):
        preprocess_image(torch.cat([colour, 1.0 - mask[..., None]], dim=-1), None, 64)


def test_preprocessing_accepts_a_cropped_object(rendered):
    bust = OBJECTS["cropped below, like a bust"]
    colour = torch.where(bust[..., None] > 0, torch.tensor([0.8, 0.2, 0.1]), 1.0)
    prepared = preprocess_image(colour, bust, 64)
    rows, columns = (prepared.mask > 0.5).nonzero().unbind(dim=1)
    aspect = (int(rows.max()) - int(rows.min()) + 1) / (int(columns.max()) - int(columns.min()) + 1)
    assert aspect == pytest.approx(42 / 24, abs=0.1)


def test_single_inverted_view_is_left_to_the_silhouette_checks(rendered):
    masks = rendered.masks.clone()
    masks[2] = 1.0 - masks[2]
    with pytest.raises(InputError, match="silhouette of view 2"):
        check_views(replace(rendered, masks=masks))
