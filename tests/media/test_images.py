from __future__ import annotations

import struct
import zlib

import av
import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from smalti import media
from smalti.errors import BudgetError, MediaError
from tests.media.files import numbered, numbers, psnr, scene


def colours(height: int = 40, width: int = 60) -> np.ndarray:
    return (scene(1, height, width)[0, :, 0].permute(1, 2, 0) * 255).round().byte().numpy()


def as_array(whole: media.Media) -> np.ndarray:
    return (whole.pixels[0, :, 0].permute(1, 2, 0) * 255).round().byte().numpy()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tiff", ".webp"])
def test_exif_orientation_is_applied(tmp_path, orientation, suffix) -> None:
    upright = colours()
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.swapaxes(0, 1),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a{suffix}"
    Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif, quality=98)
    whole = media.read(path)
    assert (whole.info.height, whole.info.width) == (40, 60)
    assert psnr(whole.pixels[0, :, 0], torch.from_numpy(upright).permute(2, 0, 1) / 255) > 30
    small = media.read(path, size=(20, 30)).pixels
    assert psnr(small, torch.nn.functional.avg_pool2d(whole.pixels[:, :, 0], 2)[:, :, None]) > 30


@pytest.mark.parametrize("orientation", range(1, 9))
def test_sixteen_bits_are_oriented_as_eight(tmp_path, orientation) -> None:
    path = tmp_path / "a.png"
    media.write_image(path, scene(1, 20, 30), bits=16)
    data = path.read_bytes()
    exif = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01" + struct.pack(">HH", orientation, 0) + bytes(4)
    chunk = b"eXIf" + exif
    chunk = struct.pack(">I", len(exif)) + chunk + struct.pack(">I", zlib.crc32(chunk))
    path.write_bytes(data[:33] + chunk + data[33:])
    deep = media.read(path)
    eight = tmp_path / "b.png"
    exif_of_pillow = Image.Exif()
    exif_of_pillow[0x0112] = orientation
    stored = (scene(1, 20, 30)[0, :, 0].permute(1, 2, 0) * 255).round().byte().numpy()
    Image.fromarray(stored).save(eight, exif=exif_of_pillow)
    assert deep.info.bit_depth == 16
    assert torch.allclose(deep.pixels, media.read(eight).pixels, atol=0.6 / 255)


def test_modes_have_defined_conversions(tmp_path) -> None:
    rgb = colours()
    grey = rgb[..., 0]
    alpha = np.full_like(grey, 255)
    alpha[:, :30] = 0
    image = Image.fromarray(rgb)
    rgba = np.dstack([rgb, alpha])
    grey_alpha = Image.merge("LA", (Image.fromarray(grey), Image.fromarray(alpha)))
    palette = image.quantize(16)
    expected = {
        "L": (Image.fromarray(grey), np.repeat(grey[..., None], 3, 2)),
        "1": (Image.fromarray(grey > 127), np.repeat(((grey > 127) * 255)[..., None], 3, 2)),
        "RGBA": (Image.fromarray(rgba), np.where(alpha[..., None] == 0, 255, rgb)),
        "LA": (grey_alpha, np.where(alpha[..., None] == 0, 255, grey[..., None].repeat(3, 2))),
        "P": (palette, np.asarray(palette.convert("RGB"))),
    }
    for mode, (picture, wanted) in expected.items():
        path = tmp_path / f"{mode}.png"
        picture.save(path)
        whole = media.read(path)
        assert np.array_equal(as_array(whole), wanted), mode
        assert whole.info.has_alpha == (mode in {"RGBA", "LA"})


def test_a_transparent_palette_goes_over_the_background(tmp_path) -> None:
    palette = Image.fromarray(colours()).quantize(16)
    path = tmp_path / "a.png"
    palette.save(path, transparency=int(np.asarray(palette)[0, 0]))
    assert media.read(path).pixels[0, :, 0, 0, 0].tolist() == [1, 1, 1]
    assert media.read(path, background=(1, 0, 0)).pixels[0, :, 0, 0, 0].tolist() == [1, 0, 0]


def test_cmyk_jpeg(tmp_path) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(colours()).convert("CMYK").save(path, quality=98)
    assert psnr(media.read(path).pixels[0, :, 0], torch.from_numpy(colours()).permute(2, 0, 1) / 255) > 30


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_sixteen_bit_grey_keeps_its_precision(tmp_path, suffix) -> None:
    ramp = np.linspace(0, 65535, 40 * 60).astype(np.uint16).reshape(40, 60)
    path = tmp_path / f"a{suffix}"
    Image.fromarray(ramp).save(path)
    whole = media.read(path)
    assert whole.info.bit_depth == 16
    assert torch.equal(whole.pixels[0, 2, 0], torch.from_numpy(ramp.astype(np.float32)) / 65535)


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_sixteen_bit_colours_keep_their_precision(tmp_path, suffix) -> None:
    pixels = scene(1, 40, 60)
    path = tmp_path / f"a{suffix}"
    media.write_image(path, pixels, bits=16)
    whole = media.read(path)
    assert whole.info.bit_depth == 16
    assert float((whole.pixels - pixels).abs().max()) < 0.51 / 65535
    assert media.read(path, size=(20, 30)).pixels.shape[-2:] == (20, 30)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "AVIF"])
def test_animations_are_clips_with_times(tmp_path, kind) -> None:
    shown = [100, 40, 250, 100]
    frames = [Image.fromarray(f) for f in (numbered(4)[0].permute(1, 2, 3, 0) * 255).byte().numpy()]
    path = tmp_path / f"a.{kind.lower()}"
    options = {} if kind in {"GIF", "PNG"} else {"quality": 95}
    frames[0].save(path, kind, save_all=True, append_images=frames[1:], duration=shown, **options)
    whole = media.read(path)
    assert (whole.info.kind, whole.info.frames) == ("clip", 4)
    assert numbers(whole.pixels) == [0, 1, 2, 3]
    assert whole.times == pytest.approx([0, 0.1, 0.14, 0.39])
    assert whole.info.duration == pytest.approx(0.49)
    assert whole.fps is None
    assert numbers(media.read(path, frames=2).pixels) == [1, 3]


def test_a_cut_animation(tmp_path) -> None:
    path = tmp_path / "a.gif"
    media.write_clip(path, scene(8, 48, 64), fps=10)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(MediaError) as caught:
        media.read(path)
    assert caught.value.decoded is not None
    kept = media.read(path, on_truncated="keep")
    assert 0 < kept.pixels.shape[2] == caught.value.decoded < 8


def test_a_cut_picture_is_refused(tmp_path) -> None:
    for suffix in (".png", ".jpg", ".webp", ".tiff", ".avif"):
        path = tmp_path / f"a{suffix}"
        media.write_image(path, scene(1, 64, 64))
        data = path.read_bytes()
        path.write_bytes(data[: len(data) // 2])
        with pytest.raises(MediaError, match=path.name):
            media.read(path)


def huge(kind: str) -> bytes:
    side = 100_000
    if kind == "png":
        header = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
        data = b"IDAT" + zlib.compress(bytes(100))
        chunks = [
            struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (header, data)
        ]
        return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)
    if kind == "tiff":
        tags = [
            (256, side),
            (257, side),
            (258, 8),
            (259, 1),
            (262, 1),
            (273, 8),
            (277, 1),
            (278, side),
            (279, 1),
        ]
        entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
        return b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(tags)) + entries + bytes(4)
    if kind == "webp":
        extent = struct.pack("<I", side - 1)[:3] * 2
        body = b"WEBPVP8X" + struct.pack("<I", 10) + b"\0\0\0\0" + extent
        return b"RIFF" + struct.pack("<I", len(body)) + body
    raise KeyError(kind)


@pytest.mark.parametrize("kind", ["png", "tiff", "webp"])
def test_a_huge_header_is_refused_before_anything_is_allocated(tmp_path, kind) -> None:
    path = tmp_path / f"a.{kind}"
    path.write_bytes(huge(kind))
    with pytest.raises(BudgetError, match="100000x100000"):
        media.read(path)


def test_a_gif_of_a_million_frames_is_refused(tmp_path) -> None:
    frame = b"\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x4c\x01\x00"
    header = b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0x80, 0, 0) + bytes(6)
    path = tmp_path / "a.gif"
    path.write_bytes(header + frame * 1_000_000 + b"\x3b")
    with pytest.raises(BudgetError, match="frames"):
        media.read(path)


def test_large_pictures_pass_pillows_own_limit(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    path = tmp_path / "a.png"
    media.write_image(path, scene(1, 40, 60))
    assert media.read(path).pixels.shape[-2:] == (40, 60)
    assert Image.MAX_IMAGE_PIXELS == 100


def test_a_picture_has_one_time_and_no_rate(tmp_path) -> None:
    path = tmp_path / "a.png"
    media.write_image(path, scene(1, 1, 1))
    whole = media.read(path)
    assert whole.pixels.shape == (1, 3, 1, 1, 1)
    assert (whole.times, whole.fps, whole.info.frames, whole.info.kind) == ((0.0,), None, 1, "image")


def test_content_decides_not_the_name(tmp_path) -> None:
    path = tmp_path / "a.png"
    media.write_image(path, scene(1, 8, 8))
    path = path.rename(tmp_path / "a.mp4")
    assert media.probe(path).codec == "png"


def wide_gamut_profile() -> bytes:
    """A matrix profile of sRGB's primaries with red and green exchanged: its effect is plain."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    tags = {profile[i : i + 4].decode(): i for i in range(132, 132 + 12 * profile[131], 12)}
    red, green = tags["rXYZ"], tags["gXYZ"]
    profile[red : red + 4], profile[green : green + 4] = b"gXYZ", b"rXYZ"
    return bytes(profile)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tiff"])
def test_a_colour_profile_is_applied(tmp_path, suffix) -> None:
    path = tmp_path / f"a{suffix}"
    options = {"lossless": True} if suffix == ".webp" else {"quality": 98} if suffix == ".jpg" else {}
    Image.fromarray(colours()).save(path, icc_profile=wide_gamut_profile(), **options)
    expected = torch.from_numpy(colours()[..., [1, 0, 2]].copy()).permute(2, 0, 1) / 255
    assert psnr(media.read(path).pixels[0, :, 0], expected) > 35


def test_a_colour_profile_leaves_transparency(tmp_path) -> None:
    rgba = np.dstack([colours(), np.full((40, 60), 255, np.uint8)])
    rgba[:, :30, 3] = 0
    path = tmp_path / "a.png"
    Image.fromarray(rgba).save(path, icc_profile=wide_gamut_profile())
    found = as_array(media.read(path))
    assert (found[:, :30] == 255).all()
    assert np.abs(found[:, 30:].astype(int) - rgba[:, 30:, [1, 0, 2]]).max() <= 2


@pytest.mark.parametrize("kind", ["srgb", "broken", "of grey"])
def test_a_profile_that_changes_nothing_or_makes_no_sense_leaves_pixels_exact(tmp_path, kind) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    if kind == "broken":
        profile = profile[:200]
    if kind == "of grey":
        profile = profile[:16] + b"GRAY" + profile[20:]
    path = tmp_path / "a.png"
    Image.fromarray(colours()).save(path, icc_profile=profile)
    assert np.array_equal(as_array(media.read(path)), colours())


def ten_bit_avif(path):
    """A grey ramp of 10 bits."""
    ramp = np.linspace(0, 65535, 256).astype(np.uint16)
    pixels = np.ascontiguousarray(np.broadcast_to(ramp[None, :, None], (64, 256, 3)))
    with av.open(str(path), "w", format="avif") as container:
        stream = container.add_stream("libsvtav1", rate=1, options={"crf": "3", "preset": "8"})
        stream.height, stream.width, stream.pix_fmt = 64, 256, "yuv420p10le"
        stream.codec_context.color_range, stream.codec_context.colorspace = 2, 1
        frame = av.VideoFrame.from_ndarray(pixels, "rgb48le")
        frame = frame.reformat(format="yuv420p10le", dst_colorspace=1, dst_color_range=2)
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return torch.from_numpy(ramp.astype(np.float32)) / 65535


def test_ten_bits_of_an_avif_stay(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("SVT_LOG", "1")
    path = tmp_path / "a.avif"
    ramp = ten_bit_avif(path)
    whole = media.read(path)
    assert (whole.info.bit_depth, whole.info.kind, whole.pixels.shape) == (10, "image", (1, 3, 1, 64, 256))
    grey = whole.pixels[0, 1, 0, 32]
    assert torch.allclose(grey, ramp, atol=5 / 1023)
    finer = (grey * 255 - (grey * 255).round()).abs() > 0.1  # levels that eight bits do not have
    assert finer.float().mean() > 0.3
    assert media.read(path, size=(32, 100)).pixels.shape[-2:] == (32, 100)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(MediaError, match=r"a\.avif"):
        media.read(path)


def test_eight_bits_of_an_avif_are_told(tmp_path) -> None:
    media.write_image(tmp_path / "a.avif", scene(1, 40, 60))
    assert media.probe(tmp_path / "a.avif").bit_depth == 8
