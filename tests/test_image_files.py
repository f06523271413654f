"""Reading images: channels, EXIF orientation, sizes from headers, scaled decode, bad files."""

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from vision.datasets.image_files import read_image
from vision.datasets.image_headers import image_size
from vision.datasets.image_list import list_images, scan_images

FORMATS = ["jpg", "png", "webp"]


def quadrants(height: int = 40, width: int = 60) -> np.ndarray:
    """Red, green / blue, white: every orientation of it differs."""
    image = np.zeros((height, width, 3), np.uint8)
    image[: height // 2, : width // 2, 0] = 250
    image[: height // 2, width // 2 :, 1] = 250
    image[height // 2 :, : width // 2, 2] = 250
    image[height // 2 :, width // 2 :] = 250
    return image


def save(path, image: np.ndarray, *, orientation: int | None = None, **options):
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    Image.fromarray(image).save(path, exif=exif, **options)
    return path


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_as_pillow_does(tmp_path, suffix, orientation):
    options = {} if suffix == "png" else {"quality": 95}
    path = save(tmp_path / f"a.{suffix}", quadrants(), orientation=orientation, **options)
    with Image.open(path) as image:
        expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    pixels = read_image(path)
    assert pixels.dtype == np.uint8 and pixels.flags.c_contiguous
    assert pixels.shape == expected.shape
    assert image_size(path) == expected.shape[:2]
    # decoders round differently, most of all at the edges of the colours
    assert np.abs(pixels.astype(int) - expected).mean() < 2


def test_annotated_size_decides_whether_to_rotate(tmp_path):
    path = save(tmp_path / "a.png", quadrants(40, 60), orientation=6)
    assert read_image(path, size=(60, 40)).shape == (60, 40, 3)
    np.testing.assert_array_equal(read_image(path, size=(40, 60)), quadrants(40, 60))
    with pytest.raises(ValueError, match=r"a\.png.*40x60.*50x60"):
        read_image(path, size=(60, 50))


def test_square_image_is_turned_although_the_size_fits_both_ways(tmp_path):
    path = save(tmp_path / "a.png", quadrants(40, 40), orientation=3)
    np.testing.assert_array_equal(read_image(path, size=(40, 40)), quadrants(40, 40)[::-1, ::-1])


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "CMYK"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    suffix = "jpg" if mode == "CMYK" else "png"
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(np.full((6, 8, 3), 255, np.uint8)).convert(mode).save(path)
    pixels = read_image(path)
    assert pixels.shape == (6, 8, 3)
    assert pixels.min() >= 253


def test_sixteen_bits_become_eight(tmp_path):
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), np.full((4, 5), 0x80FF, np.uint16))
    np.testing.assert_array_equal(read_image(path), np.full((4, 5, 3), 0x80, np.uint8))


def test_the_suffix_does_not_matter(tmp_path):
    path = tmp_path / "really_a_png.jpg"
    Image.fromarray(quadrants()).save(path, format="PNG")
    assert image_size(path) == (40, 60)
    np.testing.assert_array_equal(read_image(path), quadrants())


@pytest.mark.parametrize(
    ("min_size", "expected"),
    [
        ((300, 300), (300, 400)),
        ((301, 300), (600, 800)),
        ((150, 200), (150, 200)),
        ((1, 1), (150, 200)),
    ],
    ids=["quarter", "just not a quarter", "eighth", "never below an eighth"],
)
def test_scaled_decode_keeps_the_minimum(tmp_path, min_size, expected):
    path = save(tmp_path / "a.jpg", quadrants(1200, 1600))
    assert read_image(path, size=(1200, 1600), min_size=min_size).shape == (*expected, 3)


def test_scaled_decode_of_a_rotated_image(tmp_path):
    path = save(tmp_path / "a.jpg", quadrants(400, 1600), orientation=6)
    assert read_image(path, min_size=(800, 200)).shape == (800, 200, 3)
    assert read_image(path, size=(400, 1600), min_size=(200, 800)).shape == (200, 800, 3)


def test_scaled_decode_leaves_other_formats_whole(tmp_path):
    path = save(tmp_path / "a.png", quadrants(400, 400))
    assert read_image(path, min_size=(100, 100)).shape == (400, 400, 3)


def test_odd_sizes_round_up(tmp_path):
    path = save(tmp_path / "a.jpg", quadrants(401, 603))
    assert read_image(path, min_size=(201, 302)).shape == (201, 302, 3)


@pytest.mark.parametrize("read", [read_image, image_size])
def test_bad_files_are_named(tmp_path, read):
    empty, text = tmp_path / "empty.jpg", tmp_path / "text.jpg"
    empty.touch()
    text.write_text("no image at all")
    with pytest.raises(ValueError, match=r"empty\.jpg"):
        read(empty)
    with pytest.raises(ValueError, match=r"text\.jpg"):
        read(text)
    with pytest.raises(OSError, match=r"absent\.jpg"):
        read(tmp_path / "absent.jpg")


@pytest.mark.parametrize("suffix", [*FORMATS, "bmp"])
def test_cut_header_is_an_error_that_names_the_file(tmp_path, suffix):
    whole = tmp_path / f"whole.{suffix}"
    Image.fromarray(quadrants()).save(whole)
    for length in (2, 3, 9, 13, 17, 24):
        path = tmp_path / f"cut{length}.{suffix}"
        path.write_bytes(whole.read_bytes()[:length])
        with pytest.raises(ValueError, match=path.name):
            read_image(path)


@pytest.mark.parametrize("length", [1, 2, 30, 300])
def test_a_truncated_jpeg_is_an_error_and_a_trailer_is_not(tmp_path, length):
    content = save(tmp_path / "a.jpg", quadrants()).read_bytes()
    (tmp_path / "cut.jpg").write_bytes(content[:-length])
    with pytest.raises(ValueError, match=r"cut\.jpg: .*validate_image_files"):
        read_image(tmp_path / "cut.jpg")
    (tmp_path / "trailer.jpg").write_bytes(content + b"\xff" * length)
    assert read_image(tmp_path / "trailer.jpg").shape == (40, 60, 3)


@pytest.mark.parametrize("damage", [b"II*\0\xff\xff\xff\xff", b"II*\0", b"garbage", b""])
def test_damaged_exif_reads_as_upright(tmp_path, damage):
    path = tmp_path / "a.jpg"
    Image.fromarray(quadrants()).save(path, exif=b"Exif\0\0" + damage)
    assert image_size(path) == (40, 60)
    assert read_image(path).shape == (40, 60, 3)


@pytest.mark.parametrize("suffix", ["bmp", "webp"])
def test_the_size_of_an_image_larger_than_pillow_takes(tmp_path, monkeypatch, suffix):
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(quadrants()).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert image_size(path) == (40, 60) and Image.MAX_IMAGE_PIXELS == 100


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_tiff_is_upright(tmp_path, orientation):
    """OpenCV turns it, whatever it is told, and scikit-image does not."""
    path = tmp_path / "a.tif"
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(quadrants()).save(path, exif=exif)
    png = save(tmp_path / "a.png", quadrants(), orientation=orientation)
    assert image_size(path) == image_size(png)
    np.testing.assert_array_equal(read_image(path), read_image(png))


def test_a_tiff_of_numbers_says_what_to_do(tmp_path):
    Image.fromarray(np.ones((4, 5), np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match=r"a\.tif: .*8 bits"):
        read_image(tmp_path / "a.tif")


def test_list_images_knows_suffixes_of_any_case(tmp_path):
    shown = (
        "b.JPG",
        "a.jpeg",
        "c d.\u00e9.webp",
        "f.JFIF",
        "g.Tif",
        "h.tiff",
        "i.MPO",
        "sub/e.Png",
    )
    for name in (*shown, ".hidden.jpg", "notes.txt", "j.HEIC", "._k.gif"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    names = [file[len(str(tmp_path)) + 1 :] for file in list_images(tmp_path)]
    assert names == sorted(shown)
    found = scan_images(tmp_path, recursive=False)
    assert len(found.images) == 7 and found.others == [str(tmp_path / "j.HEIC")]


def test_headers_of_real_photos_agree_with_the_decoder(shared):
    files = list_images(shared / "data" / "coco-mini" / "val2017")[:40]
    assert len(files) == 40
    for file in files:
        assert image_size(file) == cv2.imread(file).shape[:2]
        np.testing.assert_array_equal(read_image(file), cv2.imread(file)[..., ::-1])
