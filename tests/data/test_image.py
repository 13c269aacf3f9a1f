import runpy

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from clipself_d2.data import ImageError, read_image
from clipself_d2.data import image as image_module
from clipself_d2.data.image import image_size
from clipself_d2.data.labels import read_panoptic_png, read_semantic_labels
from clipself_d2.errors import InputError
from clipself_d2.regions import letterbox


@pytest.fixture
def gradient():
    """A 12 x 20 RGB image whose corners all differ."""
    y, x = np.mgrid[:12, :20]
    return np.stack([x * 12, y * 20, 255 - x * 6 - y * 8], axis=-1).astype(np.uint8)


def read(path):
    image = read_image(path)
    assert image.dtype == torch.uint8 and image.is_contiguous() and image.shape[0] == 3
    return image.permute(1, 2, 0).numpy()


def test_rgb(tmp_path, gradient):
    Image.fromarray(gradient).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read(tmp_path / "a.png"), gradient)
    np.testing.assert_array_equal(read(str(tmp_path / "a.png")), gradient)


def test_what_other_software_holds(gradient):
    """Images of Pillow, upright and of any mode, and arrays, also views."""
    np.testing.assert_array_equal(read(gradient), gradient)
    np.testing.assert_array_equal(read(gradient[..., ::-1]), gradient[..., ::-1])
    np.testing.assert_array_equal(read(gradient[..., 0]), gradient[..., :1].repeat(3, axis=2))
    image = Image.fromarray(gradient)
    np.testing.assert_array_equal(read(image), gradient)
    np.testing.assert_array_equal(read(image.convert("RGBA")), gradient)
    image.getexif()[ExifTags.Base.Orientation] = 3
    np.testing.assert_array_equal(read(image), gradient[::-1, ::-1])


@pytest.mark.parametrize("array", [np.zeros((4, 5, 3)), np.zeros((3, 4, 5), np.uint8), np.zeros((0, 5, 3), np.uint8)])
def test_other_arrays_are_refused(array):
    with pytest.raises(ImageError, match="give H x W x 3 uint8 in RGB"):
        read_image(array)


def test_grey(tmp_path, gradient):
    Image.fromarray(gradient[..., 0]).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read(tmp_path / "a.png"), gradient[..., :1].repeat(3, axis=2))


def test_bilevel(tmp_path):
    Image.fromarray(np.eye(8) > 0).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read(tmp_path / "a.png")[..., 1], np.eye(8) * 255)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bits_are_scaled_not_clipped(tmp_path, suffix):
    levels = np.array([[0, 257, 128 * 257, 40000, 65535]], dtype=np.uint16)
    Image.fromarray(levels).save(tmp_path / f"a.{suffix}")
    np.testing.assert_array_equal(read(tmp_path / f"a.{suffix}")[0, :, 0], [0, 1, 128, round(40000 / 257), 255])


def test_levels_beyond_16_bits_are_refused(tmp_path):
    Image.fromarray(np.array([[0, 65536]], dtype=np.int32)).save(tmp_path / "a.tif")
    with pytest.raises(ImageError, match=r"a\.tif.*beyond 16 bits"):
        read_image(tmp_path / "a.tif")


def test_cmyk(tmp_path):
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=100)
    assert np.abs(read(tmp_path / "a.jpg").astype(int) - [255, 0, 0]).max() <= 2


def test_palette_with_transparency(tmp_path, gradient):
    rgba = np.concatenate([gradient, np.full((12, 20, 1), 255, np.uint8)], axis=-1)
    rgba[:4, :4] = [9, 8, 7, 0]
    Image.fromarray(rgba).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read(tmp_path / "a.png"), rgba[..., :3])
    Image.new("P", (4, 4), 3).save(tmp_path / "b.png", transparency=3)
    assert read(tmp_path / "b.png").shape == (4, 4, 3)


@pytest.mark.parametrize(
    ("orientation", "turn"),
    [
        (1, lambda a: a),
        (2, lambda a: a[:, ::-1]),
        (3, lambda a: a[::-1, ::-1]),
        (6, lambda a: np.rot90(a, -1)),
        (8, lambda a: np.rot90(a)),
    ],
)
def test_exif_orientation_is_applied(tmp_path, gradient, orientation, turn):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(gradient).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read(tmp_path / "a.png"), turn(gradient))


def test_truncated(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.jpg")
    content = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(content[: len(content) // 2])
    with pytest.raises(ImageError, match=r"a\.jpg"):
        read_image(tmp_path / "a.jpg")


@pytest.mark.parametrize("content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n broken"])
def test_unreadable(tmp_path, content):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.png") as caught:
        read_image(tmp_path / "a.png")
    assert "\n" not in str(caught.value)


def test_missing_and_floating_point(tmp_path):
    with pytest.raises(ImageError, match=r"no\.jpg"):
        read_image(tmp_path / "no.jpg")
    Image.fromarray(np.ones((4, 4), np.float32)).save(tmp_path / "f.tif")
    with pytest.raises(ImageError, match=r"f\.tif"):
        read_image(tmp_path / "f.tif")
    with pytest.raises(ImageError):
        read_image(tmp_path)  # a folder


def write_image(height, width):
    """A smooth picture whose corners all differ, H x W x 3."""
    y, x = np.mgrid[:height, :width] / max(height, width)
    waves = np.stack([np.sin(7 * x + 3 * y), np.cos(9 * y), np.sin(5 * x * y)], axis=-1)
    return (waves * 100 + 128).astype(np.uint8)


@pytest.mark.parametrize("height, width", [(300, 401), (401, 300), (160, 160), (4, 900)])
@pytest.mark.parametrize("min_decode_size", [20, 50, 51, 100, 101, 200, 400, 9999])
def test_a_large_jpeg_is_decoded_at_the_smallest_scale_that_suffices(tmp_path, height, width, min_decode_size):
    picture = write_image(height, width)
    Image.fromarray(picture).save(tmp_path / "a.jpg", quality=95)
    divisor = max(s for s in (1, 2, 4, 8) if s == 1 or max(height, width) / s >= min_decode_size)
    if height == 4:  # Pillow leaves no side without a pixel
        divisor = min(divisor, 4)
    image = read_image(tmp_path / "a.jpg", min_decode_size)
    assert image.shape == (3, -(-height // divisor), -(-width // divisor))
    assert max(image.shape) >= min(min_decode_size, max(height, width))
    rows, columns = height // divisor, width // divisor  # that were averaged from whole blocks
    blocks = picture[: rows * divisor, : columns * divisor].reshape(rows, divisor, columns, divisor, 3)
    assert np.abs(image[:, :rows, :columns].permute(1, 2, 0).numpy() - blocks.mean(axis=(1, 3))).mean() < 3


def test_other_formats_are_decoded_whole(tmp_path):
    Image.fromarray(write_image(64, 80)).save(tmp_path / "a.png")
    assert torch.equal(read_image(tmp_path / "a.png", 10), read_image(tmp_path / "a.png"))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
def test_size_is_that_of_the_upright_image(tmp_path, orientation, suffix):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(write_image(40, 64)).save(path, exif=exif)
    assert image_size(path) == read_image(path).shape[1:] == ((64, 40) if orientation > 4 else (40, 64))
    whole, half = read_image(path), read_image(path, 32)
    if suffix == "jpg":  # turned alike
        averaged = whole.float().unflatten(1, (-1, 2)).unflatten(3, (-1, 2)).mean(dim=(2, 4))
        assert (averaged - half.float()).abs().mean() < 3


def test_size_of_what_is_no_image(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"not an image")
    with pytest.raises(ImageError, match=r"a\.jpg"):
        image_size(tmp_path / "a.jpg")
    with pytest.raises(ImageError, match=r"no\.jpg"):
        image_size(tmp_path / "no.jpg")


def test_reduced_images_letterbox_alike(tmp_path, assets):
    differences = []
    for path in sorted((assets / "data/coco/val2017").glob("*.jpg"))[:12]:
        whole, reduced = read_image(path), read_image(path, 320)
        assert max(reduced.shape[1:]) in (max(whole.shape[1:]), max(whole.shape[1:]) // 2)
        views = [letterbox([image], 320)[0] for image in (whole, reduced)]
        differences.append((views[0] - views[1]).abs().mean().item())
    assert np.mean(differences) < 2.5  # grey levels


def test_heic_without_its_reader_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "a.jpg").write_bytes(b"\0\0\0\x20ftypheic" + bytes(20))
    monkeypatch.delitem(Image.OPEN, "HEIF", raising=False)
    monkeypatch.setattr(Image, "ID", [kind for kind in Image.ID if kind != "HEIF"])
    with pytest.raises(ImageError, match=r"a\.jpg: is HEIC: pip install pillow-heif"):
        read_image(tmp_path / "a.jpg")


def test_heic_is_read_by_pillow_heif(tmp_path):
    pytest.importorskip("pillow_heif")
    image = Image.radial_gradient("L").resize((60, 40)).convert("RGB")
    for name in ("a.HEIC", "renamed.jpg"):
        image.save(tmp_path / name, "HEIF", quality=95)
        assert image_size(tmp_path / name) == (40, 60)
        levels = read_image(tmp_path / name).permute(1, 2, 0).numpy().astype(int) - np.asarray(image)
        assert np.abs(levels).mean() < 3
    (tmp_path / "cut.heic").write_bytes((tmp_path / "a.HEIC").read_bytes()[:200])
    with pytest.raises(ImageError, match=r"cut\.heic"):
        read_image(tmp_path / "cut.heic")


def test_more_pixels_than_are_read(tmp_path, monkeypatch):
    Image.new("L", (300, 200)).save(tmp_path / "a.png")
    for read in (read_image, image_size, read_semantic_labels, read_panoptic_png):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 29_999)
        with pytest.raises(ImageError, match=r"a\.png: has more pixels than .*CLIPSELF_D2_MAX_PIXELS"):
            read(tmp_path / "a.png")
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 30_000)
        read(tmp_path / "a.png")


def test_the_limit_of_pixels_can_be_set(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)  # put back afterwards
    monkeypatch.setenv("CLIPSELF_D2_MAX_PIXELS", "400000000")
    runpy.run_path(image_module.__file__)
    assert Image.MAX_IMAGE_PIXELS == 200000000
    monkeypatch.setenv("CLIPSELF_D2_MAX_PIXELS", "many")
    with pytest.raises(InputError, match="CLIPSELF_D2_MAX_PIXELS=many: give the pixels"):
        runpy.run_path(image_module.__file__)
