"""Undistortion, compared with explicit projection formulas and with OpenCV."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from nova3d_core.imaging import undistort
from nova3d_core.imaging.undistort import Distortion, undistort_image

WIDTH, HEIGHT = 120, 90
FX, FY, CX, CY = 110.0, 100.0, 57.0, 47.0
K = torch.tensor([[FX, 0.0, CX], [0.0, FY, CY], [0.0, 0.0, 1.0]], dtype=torch.float64)

LENSES = {
    "barrel": Distortion("brown", (-0.25, 0.06, 0.0)),
    "pincushion": Distortion("brown", (0.15, 0.02, 0.004)),
    "decentred": Distortion("brown", (-0.1, 0.02, -0.005), (0.01, -0.006)),
    "fisheye": Distortion("fisheye", (0.03, -0.01, 0.004, -0.001)),
    "equidistant": Distortion("fisheye", (0.0, 0.0, 0.0, 0.0)),
}


def distort(lens: Distortion, x: float, y: float) -> tuple[float, float]:
    """OpenCV's formulas (cv::projectPoints, cv::fisheye::projectPoints), for one point."""
    r2 = x * x + y * y
    if lens.kind == "fisheye":
        k1, k2, k3, k4 = lens.radial
        r = math.sqrt(r2)
        theta = math.atan(r)
        bent = theta * (1 + k1 * theta**2 + k2 * theta**4 + k3 * theta**6 + k4 * theta**8)
        return (x * bent / r, y * bent / r) if r > 0 else (x, y)
    (k1, k2, k3), (p1, p2) = lens.radial, lens.tangential
    radial = 1 + k1 * r2 + k2 * r2**2 + k3 * r2**3
    return (
        x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x),
        y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y,
    )


def undistort_point(lens: Distortion, x: float, y: float) -> tuple[float, float]:
    """The inverse of `distort`, by Newton's method with finite differences."""
    u, v, h = x, y, 1e-6
    for _ in range(50):
        bx, by = distort(lens, u, v)
        dx, dy = x - bx, y - by
        if abs(dx) + abs(dy) < 1e-13:
            break
        (a, c), (b, d) = (
            [(distort(lens, *moved)[i] - (bx, by)[i]) / h for i in (0, 1)]
            for moved in ((u + h, v), (u, v + h))
        )
        det = a * d - b * c
        u, v = u + (d * dx - b * dy) / det, v + (a * dy - c * dx) / det
    return u, v


def scene(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(..., 3) smooth colours of the plane z = 1."""
    return np.stack(
        [0.5 + 0.4 * np.sin(6 * x + 1), 0.5 + 0.4 * np.cos(5 * y), 0.5 + 0.3 * np.sin(4 * (x + y))],
        axis=-1,
    )


def photograph(lens: Distortion) -> torch.Tensor:
    """(H, W, 3) the scene through the lens: each pixel is traced back to its ray."""
    plane = [
        [undistort_point(lens, (i + 0.5 - CX) / FX, (j + 0.5 - CY) / FY) for i in range(WIDTH)]
        for j in range(HEIGHT)
    ]
    return torch.from_numpy(scene(*np.moveaxis(np.array(plane), -1, 0))).float()


def pinhole_plane() -> tuple[np.ndarray, np.ndarray]:
    x, y = np.meshgrid((np.arange(WIDTH) + 0.5 - CX) / FX, (np.arange(HEIGHT) + 0.5 - CY) / FY)
    return x, y


def visible_pixels(lens: Distortion) -> np.ndarray:
    """(H, W) bool: pixels of the pinhole image whose rays hit the distorted image."""
    x, y = pinhole_plane()
    bent = np.array(
        [[distort(lens, a, b) for a, b in zip(*row, strict=True)] for row in zip(x, y, strict=True)]
    )
    u, v = bent[..., 0] * FX + CX, bent[..., 1] * FY + CY
    return (u >= 0) & (u <= WIDTH) & (v >= 0) & (v <= HEIGHT)


@pytest.mark.parametrize("name", LENSES)
def test_distortion_follows_opencvs_formulas(name):
    lens = LENSES[name]
    points = torch.randn(100, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    points = points * 0.4
    points[0] = 0.0
    expected = torch.tensor([distort(lens, x, y) for x, y in points.tolist()], dtype=torch.float64)
    assert float((lens.distort(points) - expected).abs().max()) < 1e-14


@pytest.mark.parametrize("name", LENSES)
def test_undistorted_photograph_equals_a_pinhole_image(name, monkeypatch):
    monkeypatch.setattr(undistort, "PIXELS_PER_CHUNK", 7 * WIDTH)  # several chunks
    lens = LENSES[name]
    colour, _, _ = undistort_image(photograph(lens), None, None, K, lens)
    truth, visible = torch.from_numpy(scene(*pinhole_plane())).float(), visible_pixels(lens)
    inner = np.zeros_like(visible)  # the rim is interpolated with clamped border pixels
    inner[2:-2, 2:-2] = visible[2:-2, 2:-2]
    x, y = pinhole_plane()
    bent = [distort(lens, a, b) for a, b in zip(x[inner], y[inner], strict=True)]
    u, v = np.array(bent).T
    away = (abs(u * FX + CX - WIDTH / 2) < WIDTH / 2 - 2) & (
        abs(v * FY + CY - HEIGHT / 2) < HEIGHT / 2 - 2
    )
    assert away.sum() > 5000
    error = (colour - truth)[torch.from_numpy(inner)][torch.from_numpy(away)].abs()
    assert float(error.max()) < 2e-3
    # without undistortion the error would be far larger
    assert float((photograph(lens) - truth).abs().max()) > 0.05
    assert torch.equal(colour[~torch.from_numpy(visible)], torch.ones(int((~visible).sum()), 3))


def test_outside_of_the_distorted_image_is_background():
    lens = LENSES["pincushion"]
    outside = ~torch.from_numpy(visible_pixels(lens))
    assert int(outside.sum()) > 500
    full = torch.full((HEIGHT, WIDTH, 3), 0.25)
    normals = torch.tensor([0.0, 0.6, 0.8]).expand(HEIGHT, WIDTH, 3)
    colour, mask, new_normals = undistort_image(full, torch.ones(HEIGHT, WIDTH), normals, K, lens)
    assert torch.allclose(mask, (~outside).float(), atol=1e-6)
    assert torch.equal(mask > 0, ~outside)
    assert torch.equal(colour[outside], torch.ones_like(colour[outside]))
    assert torch.allclose(colour[~outside], torch.tensor(0.25), atol=1e-6)
    assert torch.equal(new_normals[outside], torch.zeros_like(new_normals[outside]))
    assert torch.allclose(new_normals[~outside], torch.tensor([0.0, 0.6, 0.8]), atol=1e-6)


def test_silhouettes_have_white_background_and_unit_normals():
    lens = LENSES["barrel"]
    x, y = pinhole_plane()
    mask = torch.from_numpy((np.hypot(x, y) < 0.25).astype(np.float32))
    colour = torch.where(mask[..., None] > 0, 0.0, 1.0).expand(HEIGHT, WIDTH, 3)
    normals = mask[..., None] * torch.tensor([0.0, 0.0, 1.0])
    colour, mask, normals = undistort_image(colour, mask, normals, K, lens)
    assert float(colour.min()) >= 0.0 and float(colour.max()) <= 1.0
    assert torch.equal(colour[mask == 0], torch.ones_like(colour[mask == 0]))
    length = normals.norm(dim=-1)
    assert bool(((length == 0) | ((length - 1).abs() < 1e-5)).all())
    assert torch.equal(length[mask == 0], torch.zeros_like(length[mask == 0]))
    assert float((length[mask > 0.2] - 1).abs().max()) < 1e-5
    # expected area of the disc with r = 0.25 in the photograph: pi r^2
    radius = np.hypot(*undistort_point(lens, 0.25, 0.0))
    assert float(mask.sum()) == pytest.approx(math.pi * radius**2 * FX * FY, rel=0.01)


def test_fold_radius_matches_the_analytic_solution():
    assert Distortion("brown", (-0.3, 0.0, 0.0)).fold_radius() == pytest.approx(0.9**-0.5)
    assert Distortion("brown", (0.3, 0.1, 0.0)).fold_radius() == math.inf
    assert LENSES["equidistant"].fold_radius() == math.inf
    # d/dt t (1 + k1 t^2) = 1 + 3 k1 t^2
    strong = Distortion("fisheye", (-0.5, 0.0, 0.0, 0.0))
    assert strong.fold_radius() == pytest.approx(math.tan((1 / 1.5) ** 0.5))


@pytest.mark.parametrize(
    ("lens", "folds"),
    [
        (LENSES["barrel"], False),
        (LENSES["decentred"], False),
        (LENSES["fisheye"], False),
        (Distortion("brown", (-1.0, 0.0, 0.0)), True),  # at 0.577, the corner is at 0.74
        (Distortion("brown", (-0.5, 0.0, 0.0)), False),  # at 0.816
        (Distortion("brown", (0.0, 0.0, 0.0), (2.0, 0.0)), True),
        (Distortion("fisheye", (-1.0, 0.0, 0.0, 0.0)), True),
        # folds at a radius of 0.7, outside the image: r (1 + 2 r^2 - 1.2 r^4 ...)
        (Distortion("brown", (5.0, -6.97, 0.0)), False),
    ],
)
def test_detects_folds_within_the_field_of_view(lens, folds):
    assert lens.folds_within(K, WIDTH, HEIGHT) is folds


def test_opencv_agrees():
    cv2 = pytest.importorskip("cv2")
    pixel_k = K.numpy() - np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])  # centres at 0
    for name in ("barrel", "decentred", "fisheye"):
        lens = LENSES[name]
        photo = photograph(lens)
        if lens.kind == "fisheye":
            maps = cv2.fisheye.initUndistortRectifyMap(
                pixel_k, np.array(lens.radial), np.eye(3), pixel_k, (WIDTH, HEIGHT), cv2.CV_32FC1
            )
        else:
            k1, k2, k3 = lens.radial
            coefficients = np.array([k1, k2, *lens.tangential, k3])
            maps = cv2.initUndistortRectifyMap(
                pixel_k, coefficients, np.eye(3), pixel_k, (WIDTH, HEIGHT), cv2.CV_32FC1
            )
        theirs = cv2.remap(photo.numpy(), *maps, cv2.INTER_CUBIC)
        ours = undistort_image(photo, None, None, K, lens)[0].numpy()
        assert np.abs(ours - theirs)[5:-5, 5:-5].max() < 5e-3
