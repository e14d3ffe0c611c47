"""Reading and writing images: exact levels, and errors that name the file."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nova3d_core.errors import InputError
from nova3d_core.imaging.alpha import alpha_channel, flatten_on_white
from nova3d_core.io.images.images import (
    read_image,
    read_mask,
    write_image,
)


def save(path: Path, levels: np.ndarray, mode: str | None = None, **options) -> Path:
    image = Image.fromarray(levels)
    (image if mode is None else image.convert(mode)).save(path, **options)
    return path


def test_round_trip_keeps_all_256_levels(tmp_path):
    levels = torch.arange(256).reshape(16, 16)
    write_image(tmp_path / "grey.png", levels / 255.0)
    read = read_image(tmp_path / "grey.png")
    assert read.shape == (16, 16, 3)
    assert read.dtype == torch.float32
    assert torch.equal((read * 255.0).round().long(), levels[..., None].expand(16, 16, 3))


@pytest.mark.parametrize("channels", [3, 4])
def test_round_trip_error_is_below_half_a_level(tmp_path, channels):
    image = torch.rand(9, 13, channels, generator=torch.Generator().manual_seed(0))
    path = write_image(tmp_path / "new" / "image.png", image)
    assert path == tmp_path / "new" / "image.png"
    assert torch.allclose(read_image(path), image, atol=0.5 / 255 + 1e-6)


def test_rows_and_columns_are_not_swapped(tmp_path):
    levels = np.zeros((2, 3, 3), dtype=np.uint8)
    levels[0, 2] = (255, 51, 0)
    read = read_image(save(tmp_path / "one.png", levels))
    assert torch.allclose(read[0, 2], torch.tensor([1.0, 0.2, 0.0]))
    assert float(read.sum()) == pytest.approx(1.2)


@pytest.mark.parametrize("name", ["grey.png", "grey.tif", "grey.pgm"])
def test_reads_16_bit_grey_exactly(tmp_path, name):
    levels = np.array([[0, 1, 32768], [12345, 65534, 65535]], dtype=np.uint16)
    read = read_image(save(tmp_path / name, levels))
    assert torch.allclose(read[..., 1], torch.from_numpy(levels / 65535.0).float(), atol=1e-7)


def test_reads_16_bit_colour_to_one_8_bit_level(tmp_path):
    levels = np.array([[[0, 300, 65535], [40000, 12345, 32768]]], dtype=">u2")

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)

    rows = b"".join(b"\0" + row.tobytes() for row in levels)
    header = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)
    (tmp_path / "deep.png").write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )
    expected = torch.from_numpy(levels.astype(np.float32) / 65535.0)
    assert torch.allclose(read_image(tmp_path / "deep.png"), expected, atol=1 / 255)


def test_reads_palette_colours_and_transparency(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "opaque.png")
    image.save(tmp_path / "clear.png", transparency=1)
    red_blue = torch.tensor([[[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]])
    assert torch.equal(read_image(tmp_path / "opaque.png"), red_blue)
    clear = read_image(tmp_path / "clear.png")
    assert torch.equal(clear[..., :3], red_blue)
    assert torch.equal(clear[..., 3], torch.tensor([[1.0, 0.0]]))


def test_reads_colour_key_and_grey_alpha_transparency(tmp_path):
    save(tmp_path / "key.png", np.array([[[9, 9, 9], [1, 2, 3]]], np.uint8), transparency=(1, 2, 3))
    Image.new("LA", (1, 1), (51, 102)).save(tmp_path / "grey.png")
    assert torch.equal(read_image(tmp_path / "key.png")[..., 3], torch.tensor([[1.0, 0.0]]))
    assert torch.allclose(read_image(tmp_path / "grey.png"), torch.tensor([[[0.2, 0.2, 0.2, 0.4]]]))


def test_channels_parameter(tmp_path):
    save(tmp_path / "half.png", np.array([[[0, 255, 0, 51]]], np.uint8))
    save(tmp_path / "rgb.png", np.array([[[0, 255, 0]]], np.uint8))
    assert torch.allclose(read_image(tmp_path / "half.png", 3), torch.tensor([[[0.8, 1.0, 0.8]]]))
    assert torch.equal(read_image(tmp_path / "rgb.png", 4), torch.tensor([[[0.0, 1.0, 0.0, 1.0]]]))
    assert torch.equal(
        flatten_on_white(read_image(tmp_path / "half.png")), read_image(tmp_path / "half.png", 3)
    )


def test_exif_orientation_is_applied(tmp_path):
    levels = np.zeros((2, 3, 3), dtype=np.uint8)
    levels[0, 0] = 255  # camera rotated: orientation 6 means 90 degrees clockwise
    exif = Image.Exif()
    exif[0x0112] = 6
    read = read_image(save(tmp_path / "photo.png", levels, exif=exif))
    assert read.shape == (3, 2, 3)
    assert torch.equal(read[0, 1], torch.ones(3))


def test_mask_is_alpha_or_brightness(tmp_path):
    grey = np.array([[0, 51, 255]], np.uint8)
    colour = np.stack([grey] * 3, axis=-1)
    opaque = np.concatenate([colour, np.full_like(colour[..., :1], 255)], axis=-1)
    cut_out = np.concatenate([255 - colour, grey[..., None]], axis=-1)
    expected = torch.tensor([[0.0, 0.2, 1.0]])
    for name, levels in {"l": grey, "rgb": colour, "rgba": opaque, "cut": cut_out}.items():
        assert torch.allclose(read_mask(save(tmp_path / f"{name}.png", levels)), expected), name


def test_opaque_alpha_is_ignored():
    assert alpha_channel(torch.ones(2, 2, 4)) is None
    assert alpha_channel(torch.zeros(2, 2, 3)) is None
    assert torch.equal(alpha_channel(torch.zeros(2, 2, 4)), torch.zeros(2, 2))


def test_missing_file_and_folder_are_reported(tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.png does not exist"):
        read_image(tmp_path / "nowhere.png")
    (tmp_path / "a.png").mkdir()
    with pytest.raises(InputError, match=r"a\.png"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("content", [b"", b"solid cube\nendsolid\n", b"\0" * 500])
def test_non_image_is_reported(tmp_path, content):
    (tmp_path / "cube.png").write_bytes(content)
    with pytest.raises(InputError, match=r"cube\.png is not an image"):
        read_image(tmp_path / "cube.png")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif"])
@pytest.mark.parametrize("share", [0.3, 0.7, 0.95])
def test_truncated_image_is_reported(tmp_path, suffix, share):
    noise = np.random.default_rng(0).integers(0, 255, (40, 40, 3)).astype(np.uint8)
    whole = save(tmp_path / f"whole{suffix}", noise).read_bytes()
    cut = tmp_path / f"cut{suffix}"
    cut.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(InputError, match=rf"cut\{suffix}"):
        read_image(cut)


def test_floating_point_images_are_rejected(tmp_path):
    path = save(tmp_path / "depth.tif", np.full((2, 2), 3.5, np.float32))
    with pytest.raises(InputError, match=r"depth\.tif has floating-point"):
        read_image(path)


@pytest.mark.parametrize(
    ("image", "name", "fragment"),
    [
        (torch.full((2, 2, 3), torch.nan), "a.png", "NaN"),
        (torch.full((2, 2, 3), 255.0), "a.png", "values from 255"),
        (torch.zeros(2, 2, 2), "a.png", r"shape \(2, 2, 2\)"),
        (torch.zeros(1, 2, 2, 3), "a.png", r"shape \(1, 2, 2, 3\)"),
        (torch.zeros(2, 2, 3), "a.docx", r"\.docx"),
        (torch.zeros(2, 2, 4), "a.jpg", r"\.jpg"),
    ],
)
def test_failed_write_leaves_no_file(tmp_path, image, name, fragment):
    with pytest.raises(InputError, match=fragment):
        write_image(tmp_path / name, image)
    assert list(tmp_path.iterdir()) == []


def test_existing_image_is_kept_without_overwrite(tmp_path):
    write_image(tmp_path / "a.png", torch.zeros(1, 1))
    with pytest.raises(InputError, match="already exists"):
        write_image(tmp_path / "a.png", torch.ones(1, 1))
    assert float(read_image(tmp_path / "a.png").max()) == 0.0
    write_image(tmp_path / "a.png", torch.ones(1, 1, 1), overwrite=True)
    assert float(read_image(tmp_path / "a.png").min()) == 1.0


def test_large_image_is_reduced_by_integer_factors(tmp_path):
    levels = np.random.default_rng(0).integers(0, 256, (60, 41, 3), dtype=np.uint8)
    path = save(tmp_path / "large.png", levels)
    small = read_image(path, longest_px=20)  # squares of 3
    assert small.shape == (20, 14, 3)
    means = levels[:60, :39].reshape(20, 3, 13, 3, 3).mean(axis=(1, 3)) / 255.0
    np.testing.assert_allclose(small[:, :13].numpy(), means, atol=0.6 / 255)
    assert read_image(path, longest_px=31).equal(read_image(path))

    rotated = Image.Exif()
    rotated[0x0112] = 6  # rotated by 90 degrees
    path = save(tmp_path / "rotated.png", levels, exif=rotated)
    assert read_image(path, longest_px=20).equal(small.rot90(-1))

    clear = np.zeros((40, 40, 4), dtype=np.uint8)
    clear[:, :19] = (255, 0, 0, 255)  # one column of each 4 x 4 block at the border is transparent
    small = read_image(save(tmp_path / "clear.png", clear), longest_px=10)
    assert small[0, 4].tolist() == pytest.approx([1.0, 0.0, 0.0, 191 / 255], abs=2 / 255)
    assert small[0, 5, 3] == 0.0
