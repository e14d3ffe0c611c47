"""Decoding of image files: formats, orientations, decompression bombs, damage, memory."""

from __future__ import annotations

import io
import json
import re
import struct
import subprocess
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile, ImageOps

from nova3d_core.errors import InputError
from nova3d_core.io.images import decode as image_files
from nova3d_core.io.images.decode import (
    MAX_PIXELS,
    decode_pixels,
    open_image,
    printable_name,
    read_image_header,
)
from nova3d_core.io.images.images import read_image, read_mask
from nova3d_core.io.mesh.primitives import decode_texture

CORE = Path(image_files.__file__).parents[2]
NOISE = np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)


def chunk(kind: bytes, content: bytes) -> bytes:
    check = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)


def png(
    width: int,
    height: int,
    rows: bytes,
    extra: bytes = b"",
    bits: int = 8,
    colour_type: int = 2,
) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    data = chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + data + chunk(b"IEND", b"")


def encode_pil_image(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, format=kind, **options)
    return file.getvalue()


def exif_with_orientation(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def read_error(path: Path) -> str:
    """The error line of reading a file; warnings are errors."""
    with warnings.catch_warnings(), pytest.raises(InputError) as caught:
        warnings.simplefilter("error")
        read_image(path)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 500
    assert path.name in message
    return message


def try_read_image(path: Path) -> tuple[torch.Tensor | None, str]:
    """The image, or None and the error line; no other exception is raised."""
    try:
        return read_image(path), ""
    except InputError as error:
        message = str(error)
    assert len(message) < 500
    assert "\n" not in message
    return None, message


def test_images_are_opened_in_one_module_only():
    """`Image.open` without a list of formats runs Ghostscript for EPS files."""
    folders = [CORE, CORE.parent / "nodes"]
    files = [path for folder in folders for path in folder.rglob("*.py")]
    assert len(files) > 100
    calls = {p.name for p in files if re.search(r"\bImage\.open\(|imread\(", p.read_text("utf-8"))}
    assert calls == {"decode.py"}


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "BMP", "PPM", "TGA", "GIF", "JPEG"])
def test_each_format_decodes_to_its_pixels(tmp_path, kind):
    options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 100, "subsampling": 0}}
    image = Image.fromarray(NOISE)
    path = tmp_path / f"image.{kind.lower()}"
    path.write_bytes(encode_pil_image(image, kind, **options.get(kind, {})))
    with Image.open(path) as opened:  # pillow's own pixels
        expected = np.asarray(opened.convert("RGB"))
    read = read_image(path)
    assert torch.equal(read, torch.from_numpy(expected.astype(np.float32) / 255.0))
    assert np.abs(expected.astype(int) - NOISE).max() <= {"GIF": 255, "JPEG": 6}.get(kind, 0)
    assert read_image_header(path) == image_files.ImageHeader(40, 24, 1)


@pytest.mark.parametrize(
    ("kind", "name"),
    [("EPS", "a.eps"), ("EPS", "a.png"), ("PDF", "a.jpg"), ("ICO", "a.png"), ("PCX", "a.png"),
     ("DDS", "a.png"), ("TGA", "a.png"), ("SGI", "a.png"), ("JPEG2000", "a.jpg")],
)  # fmt: skip
def test_other_formats_are_rejected_whatever_the_suffix(tmp_path, kind, name):
    (tmp_path / name).write_bytes(encode_pil_image(Image.fromarray(NOISE), kind))
    assert "is not an image of a supported format" in read_error(tmp_path / name)
    with pytest.raises(InputError, match=r"texture wood referenced by a\.obj is not an image"):
        decode_texture(tmp_path / name, "wood", "a.obj")


def test_eps_file_does_not_run_ghostscript(tmp_path, monkeypatch):
    """A program named gs, first in PATH, would create a file."""
    program = tmp_path / "bin" / "gs"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent))
    (tmp_path / "a.eps").write_bytes(encode_pil_image(Image.fromarray(NOISE), "EPS"))
    read_error(tmp_path / "a.eps")
    assert not (tmp_path / "started").exists()


def test_size_limit_allows_8k_textures():
    assert MAX_PIXELS >= 8192 * 8192


def header_only_jpeg(width: int, height: int) -> bytes:
    small = encode_pil_image(Image.new("RGB", (8, 8)), "JPEG")
    at = small.index(b"\xff\xc0") + 5
    return small[:at] + struct.pack(">HH", height, width) + small[at + 4 :]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("wide.png", png(2**31 - 1, 1, b"")),
        ("over.png", png(11586, 11586, b"")),  # just above the limit
        ("huge.png", png(60000, 60000, b"")),
        ("huge.jpg", header_only_jpeg(65500, 65500)),
        ("huge.ppm", b"P6 100000 100000 255\n"),
        ("huge.gif", b"GIF89a" + struct.pack("<HH", 65535, 65535) + b"\0\0\0;"),
        ("huge.bmp", b"BM" + struct.pack("<IIIIiiHHIIIIII", 0, 0, 54, 40, 60000, 60000, 1, 24,
                                          0, 0, 0, 0, 0, 0)),
        ("huge.tga", struct.pack("<BBBHHBHHHHBB", 0, 0, 2, 0, 0, 0, 0, 0, 60000, 60000, 24, 0)),
    ],
)  # fmt: skip
def test_decompression_bombs_are_rejected_before_decoding(tmp_path, name, content, monkeypatch):
    path = tmp_path / name
    path.write_bytes(content)
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("decoded"))
    message = read_error(path)
    if name != "huge.gif":  # truncated before its first frame
        assert "134 million pixels" in message


def test_large_image_below_the_limit_gives_no_warning(tmp_path):
    """Pillow warns above 89 million pixels."""
    rows = (b"\0" + b"\xff" * 1250) * 10000  # 1 bit per pixel
    (tmp_path / "large.png").write_bytes(png(10000, 10000, rows, bits=1, colour_type=0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        filters = list(warnings.filters)
        read = read_image(tmp_path / "large.png", longest_px=100)
        assert warnings.filters == filters
    assert read.shape == (105, 105, 3)  # reduced by 96
    assert float(read.min()) == 1.0


def test_text_and_profile_bombs_are_rejected(tmp_path):
    bomb = zlib.compress(b"\0" * 200_000_000)
    rows = (b"\0" + b"\x10\x20\x30" * 4) * 4
    for kind, head in ((b"zTXt", b"a\0\0"), (b"iTXt", b"a\0\1\0\0\0"), (b"iCCP", b"a\0\0")):
        content = png(4, 4, rows, chunk(kind, head + bomb))
        (tmp_path / "bomb.png").write_bytes(content)
        assert "cannot be decoded" in read_error(tmp_path / "bomb.png")


def test_jpeg_with_many_scans_is_rejected(tmp_path):
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    content = encode_pil_image(noise, "JPEG", progressive=True)
    scan = content.index(b"\xff\xda")
    (tmp_path / "good.jpg").write_bytes(content)
    assert read_image(tmp_path / "good.jpg").shape == (64, 64, 3)
    at = content.index(b"\xff\xc2") + 5
    large = content[:at] + struct.pack(">HH", 11000, 11000) + content[at + 4 :]
    bomb = large[:-2] + content[scan:-2] * 20 + b"\xff\xd9"
    (tmp_path / "scans.jpg").write_bytes(bomb)
    assert "scans, which would take too long" in read_error(tmp_path / "scans.jpg")


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "TIFF", "PNG"])
def test_first_frame_of_animations_is_read(tmp_path, kind):
    frames = [Image.new("RGB", (8, 8), (0, 51 * (i % 5), 0)) for i in range(1, 50)]
    options = {"save_all": True, "append_images": frames}
    if kind == "WEBP":
        options["lossless"] = True
    first = Image.new("RGB", (8, 8), (255, 0, 0))
    (tmp_path / "many").write_bytes(encode_pil_image(first, kind, **options))
    assert torch.equal(
        read_image(tmp_path / "many", 3), torch.tensor([1.0, 0.0, 0.0]).expand(8, 8, 3)
    )


def test_cmyk_jpegs_with_inverted_adobe_inks(tmp_path):
    inks = np.zeros((16, 16, 4), dtype=np.uint8)
    inks[:, :, 0] = 255  # cyan alone: no red
    image = Image.fromarray(inks, mode="CMYK")
    (tmp_path / "cmyk.jpg").write_bytes(encode_pil_image(image, "JPEG", quality=100))
    assert b"Adobe" in (tmp_path / "cmyk.jpg").read_bytes()
    expected = torch.tensor([0.0, 1.0, 1.0]).expand(16, 16, 3)
    assert torch.allclose(read_image(tmp_path / "cmyk.jpg"), expected, atol=2 / 255)


def test_reads_1_bit_palette_and_grey_alpha(tmp_path):
    bits = np.array([[0, 255, 255], [255, 0, 0]], dtype=np.uint8)
    expected = torch.from_numpy(bits / 255.0).float()[..., None].expand(2, 3, 3)
    for name in ("a.png", "a.tif", "a.pbm", "a.bmp"):
        Image.fromarray(bits).convert("1").save(tmp_path / name)
        assert torch.equal(read_image(tmp_path / name), expected), name
    grey_alpha = np.stack([bits, np.full_like(bits, 102)], axis=-1)
    Image.fromarray(grey_alpha, mode="LA").save(tmp_path / "la.png")
    read = read_image(tmp_path / "la.png")
    assert torch.equal(read[..., :3], expected)
    assert torch.allclose(read[..., 3], torch.tensor(0.4))
    palette = Image.fromarray(NOISE).quantize(200)
    palette.save(tmp_path / "p.png", transparency=bytes(range(200)))
    rgba = np.asarray(palette.convert("RGB"))
    assert np.array_equal(decode_texture(tmp_path / "p.png", "p", "a.obj"), rgba / np.float32(255))
    assert torch.allclose(
        read_image(tmp_path / "p.png")[..., 3],
        torch.from_numpy(np.array(palette)).float() / 255.0,
    )


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.pgm"])
def test_reads_16_bit_stored_rotated_and_reduced(tmp_path, name):
    levels = np.random.default_rng(2).integers(0, 65536, (12, 20), dtype=np.uint16)
    Image.fromarray(levels).save(tmp_path / name)
    exact = torch.from_numpy(levels.astype(np.float32) / 65535.0)[..., None].expand(12, 20, 3)
    assert torch.equal(read_image(tmp_path / name), exact)
    assert np.array_equal(decode_texture(tmp_path / name, name, "a.obj"), exact.numpy())
    small = read_image(tmp_path / name, longest_px=10)  # like an 8-bit mask of the same size
    means = exact.reshape(6, 2, 10, 2, 3).mean(dim=(1, 3))
    torch.testing.assert_close(small, means, atol=1e-6, rtol=0)


def test_reads_big_endian_16_bit_and_rejects_32_bit(tmp_path):
    levels = np.array([[0, 258, 65535]], dtype=">u2")
    (tmp_path / "big.tif").write_bytes(tiff(3, 1, levels.tobytes(), bits=16, order=">"))
    expected = torch.tensor([0.0, 258 / 65535, 1.0])
    assert torch.allclose(read_image(tmp_path / "big.tif")[0, :, 0], expected, atol=1e-7)
    Image.fromarray(np.array([[0, 70000]], dtype=np.int32)).save(tmp_path / "deep.tif")
    assert "32-bit values" in read_error(tmp_path / "deep.tif")
    Image.fromarray(np.array([[0.5]], dtype=np.float32)).save(tmp_path / "f.tif")
    with pytest.raises(InputError, match="floating-point values"):
        decode_texture(tmp_path / "f.tif", "f.tif", "a.obj")


def test_lab_colours_are_rejected(tmp_path):
    Image.new("LAB", (4, 4)).save(tmp_path / "lab.tif")
    assert "unsupported colour space LAB" in read_error(tmp_path / "lab.tif")


def tiff(
    width: int,
    height: int,
    data: bytes,
    bits: int = 8,
    order: str = "<",
    extra: tuple[tuple[int, int, int, int], ...] = (),
) -> bytes:
    """An uncompressed greyscale TIFF; `extra` are more tags (tag, type, count, value)."""
    tags = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, bits), (259, 3, 1, 1),
            (262, 3, 1, 1), (273, 4, 1, 0), (277, 3, 1, 1), (278, 4, 1, height),
            (279, 4, 1, len(data)), *extra]  # fmt: skip
    tags = sorted({tag[0]: tag for tag in tags}.values())
    start = 8 + 2 + 12 * len(tags) + 4
    directory = struct.pack(f"{order}H", len(tags))
    for tag, kind, count, value in tags:
        value = start if tag == 273 else value
        code = "HH" if kind == 3 else "I"
        values = (value, 0) if kind == 3 else (value,)
        directory += struct.pack(f"{order}HHI{code}", tag, kind, count, *values)
    mark = b"II*\0" if order == "<" else b"MM\0*"
    return mark + struct.pack(f"{order}I", 8) + directory + b"\0" * 4 + data


@pytest.mark.parametrize(
    "extra",
    [
        (257, 4, 1, 2**31),
        (256, 4, 1, 2**30),
        (258, 3, 2**31, 8),
        (273, 4, 2**30, 8),
        (277, 3, 1, 60000),
        (339, 3, 1, 9),
        (278, 4, 1, 0),
        (34675, 7, 2**31, 8),
        (0, 0, 2**32 - 1, 2**32 - 1),
    ],
)
def test_tiffs_with_extreme_tags_take_little_memory(tmp_path, extra):
    import tracemalloc

    path = tmp_path / "absurd.tif"
    path.write_bytes(tiff(4, 4, bytes(range(16)), extra=(extra,)))
    tracemalloc.start()
    try:
        read, message = try_read_image(path)
        if read is None:
            assert "absurd.tif" in message
        elif extra[0] != 258:  # BitsPerSample defaults to 1
            assert torch.equal(read[..., 0], torch.arange(16).reshape(4, 4) / 255.0)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 20e6


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_all_exif_orientations(tmp_path, kind, orientation):
    options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 95}}.get(kind, {})
    stored = Image.fromarray(NOISE)
    path, untagged = tmp_path / "rotated", tmp_path / "untagged"
    untagged.write_bytes(encode_pil_image(stored, kind, **options))
    path.write_bytes(
        encode_pil_image(stored, kind, exif=exif_with_orientation(orientation), **options)
    )
    expected = read_image(untagged, upright=False)
    assert torch.equal(read_image(path, upright=False), expected)
    assert read_image_header(path) == image_files.ImageHeader(40, 24, orientation)
    levels = Image.fromarray((expected.numpy() * 255).round().astype(np.uint8))
    levels.getexif()[0x0112] = orientation
    upright = np.asarray(ImageOps.exif_transpose(levels)).astype(np.float32) / 255.0
    assert torch.equal(read_image(path), torch.from_numpy(upright))
    assert torch.equal(read_mask(path), torch.from_numpy(upright).mean(dim=-1))
    assert np.array_equal(decode_texture(path, "t", "a.obj"), expected.numpy())


def test_damaged_exif_is_ignored(tmp_path):
    content = encode_pil_image(
        Image.fromarray(NOISE), "PNG", exif=b"Exif\0\0MM\0*\0\0\xff\xff broken"
    )
    (tmp_path / "a.png").write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read = read_image(tmp_path / "a.png")
    assert torch.equal(read, torch.from_numpy(NOISE.astype(np.float32) / 255.0))


@pytest.mark.parametrize("longest", [20, 30, 41, 50, 100])
def test_reduced_jpegs_match_their_reduced_masks(tmp_path, longest):
    y, x = np.mgrid[0:333, 0:417]
    smooth = np.stack([x / 417, y / 333, (x + y) / 750], axis=-1)
    image = Image.fromarray((smooth * 255).round().astype(np.uint8))
    image.save(tmp_path / "a.jpg", quality=100, subsampling=0)
    image.save(tmp_path / "a.png")
    photo = read_image(tmp_path / "a.jpg", longest_px=longest)
    exact = read_image(tmp_path / "a.png", longest_px=longest)
    assert photo.shape == exact.shape
    assert longest <= max(exact.shape) < 2 * longest
    assert float((photo - exact).abs().max()) < 4 / 255
    assert read_mask(tmp_path / "a.png", longest_px=longest).shape == photo.shape[:2]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "TGA"])
def test_damaged_files_give_an_error_line_or_an_image(tmp_path, kind):
    """200 files per format, with flipped, deleted and repeated bytes."""
    generator = np.random.default_rng(3)
    image = Image.fromarray(NOISE[:12, :12])
    options = {"exif": exif_with_orientation(6)} if kind in ("PNG", "JPEG", "WEBP", "TIFF") else {}
    good = encode_pil_image(image, kind, **options)
    path = tmp_path / f"x.{kind.lower()}"
    refused = 0
    for number in range(200):
        content = bytearray(good)
        for _ in range(generator.integers(1, 6)):
            at = int(generator.integers(len(content)))
            content[at] = generator.choice([0, 1, 127, 128, 255, int(generator.integers(256))])
        if number % 4 == 0:
            content = content[: int(generator.integers(len(content)))]
        path.write_bytes(content)
        read, _ = try_read_image(path)
        refused += read is None
        assert read is None or bool(((read >= 0) & (read <= 1)).all())
    assert refused > 10


def test_paths_other_than_image_files_are_rejected(tmp_path):
    import os

    os.mkfifo(tmp_path / "pipe.png")  # opening it would block
    assert "not a regular file" in read_error(tmp_path / "pipe.png")
    for path in (tmp_path / ("a" * 5000), tmp_path / "a\0b"):
        with pytest.raises(InputError) as caught:
            read_image(path)
        assert len(str(caught.value)) < 500


def test_names_in_errors_are_one_line_and_shortened():
    assert printable_name("a.png") == "a.png"
    assert printable_name("a\nb") == "'a\\nb'"
    assert len(printable_name("x" * 1000)) <= 203


def test_shard_images_must_be_png():
    from nova3d_core.training.data.shard_members import decode_member

    strip = Image.fromarray(NOISE[:8, :4])
    views = decode_member("colour.png", encode_pil_image(strip, "PNG"), 2)
    assert np.array_equal(views, NOISE[:8, :4].reshape(2, 4, 4, 3))
    for content in (encode_pil_image(strip, "EPS"), encode_pil_image(strip, "PNG")[:60], b""):
        with pytest.raises(InputError, match=r"colour\.png"):
            decode_member("colour.png", content, 2)


def test_only_pillow_exceptions_count_as_damage():
    with (
        pytest.raises(InputError, match="own error"),
        open_image(encode_pil_image(Image.fromarray(NOISE), "PNG"), "a.png"),
    ):
        raise InputError("own error")
    with open_image(encode_pil_image(Image.fromarray(NOISE), "PNG"), "a.png") as image:
        pixels = decode_pixels(image, "a.png")
    assert np.array_equal(pixels, NOISE / np.float32(255))


PEAK = """
import json, sys
from pathlib import Path
from nova3d_core.io.images.images import read_image
def size(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))
large = sys.argv[1:]
found = []
for path in large:
    read_image(Path(path).with_name("small" + Path(path).suffix))  # imports do not count
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = size("VmRSS")
    image = read_image(path)
    found.append([Path(path).name, list(image.shape), size("VmHWM") - before])
    del image
print(json.dumps(found))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
def test_peak_memory_is_below_twice_the_decoded_size(tmp_path):
    """The decoded size is that of the result: float32, 12 or 16 bytes per pixel."""
    side = 2500
    colour = Image.new("RGB", (side, side), (200, 30, 30))
    images = {
        "rgb.png": (colour, 1),
        "rotated.jpg": (colour, 6),
        "rgba.png": (colour.convert("RGBA"), 6),
        "rgba.webp": (colour.convert("RGBA"), 1),
        "p.gif": (colour.convert("P"), None),
        "grey.tif": (Image.new("I;16", (side, side), 40000), None),
        "rgb.tif": (colour, 8),
    }
    for name, (image, orientation) in images.items():
        options = {} if orientation is None else {"exif": exif_with_orientation(orientation)}
        if image.mode == "RGBA":
            image.putalpha(100)
        image.save(tmp_path / name, **options)
        image.crop((0, 0, 50, 50)).save(tmp_path / f"small{Path(name).suffix}", **options)
    command = [sys.executable, "-c", PEAK, *(str(tmp_path / name) for name in images)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    for name, shape, grown in json.loads(done.stdout):
        assert shape[:2] == [side, side]
        assert grown < 2.0 * 4 * np.prod(shape), (name, grown)
        assert grown > 0.9 * 4 * np.prod(shape), name
