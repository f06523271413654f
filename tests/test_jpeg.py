"""JPEGs that are whole whatever follows them, and JPEGs that are not."""

import io
import struct

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from skimage import io as skimage_io

from vision.datasets.image_files import read_image
from vision.datasets.jpeg import is_cut_off

KINDS = {
    "baseline": {},
    "grayscale": {},
    "subsampled": {"subsampling": 2, "quality": 60},
    "optimised": {"optimize": True},
    "progressive": {"progressive": True},
    "restarts": {"restart_marker_blocks": 3},
}


def picture(kind: str, *, seed: int = 0, **options) -> bytes:
    """A photo-like JPEG of 90 x 120."""
    pixels = np.random.default_rng(seed).integers(0, 256, (12, 15, 3), dtype=np.uint8)
    image = Image.fromarray(cv2.resize(pixels, (120, 90)))
    stream = io.BytesIO()
    image.convert("L" if kind == "grayscale" else "RGB").save(
        stream, "JPEG", **KINDS[kind], **options
    )
    return stream.getvalue()


def video(size: int = 40_000) -> bytes:
    """What follows a motion photo: boxes of an MP4 with any bytes, the markers of JPEG included."""
    noise = np.random.default_rng(1).integers(0, 256, size, dtype=np.uint8).tobytes()
    return struct.pack(">I4s", size, b"mdat") + b"\xff\xda\x00\x08" + noise + b"\xff\xd8\xff\xe1"


TRAILERS = {
    "nothing": b"",
    "video": video(),
    "a second picture": picture("baseline", seed=2),
    "zeros": bytes(5000),
    "fill bytes": b"\xff" * 300,
    "maker data": b"\x00\x00\x01\x0aSEFH" + b"\x08" * 200 + b"SEFT",
    "a start of scan": b"\xff\xda",
}


@pytest.mark.parametrize("trailer", TRAILERS)
@pytest.mark.parametrize("kind", KINDS)
def test_what_follows_the_picture_does_not_matter(tmp_path, kind, trailer):
    content = picture(kind)
    path = tmp_path / "a.jpg"
    path.write_bytes(content + TRAILERS[trailer])
    assert not is_cut_off(path.read_bytes())
    expected = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    np.testing.assert_array_equal(read_image(path), expected)


@pytest.mark.parametrize("kind", ["baseline", "grayscale", "subsampled", "optimised", "restarts"])
@pytest.mark.parametrize("trailer", ["zeros", "maker data"])
def test_a_panorama_without_an_end_marker_that_decoders_accept(tmp_path, kind, trailer):
    content = picture(kind)[:-2] + TRAILERS[trailer]
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    skimage_io.imread(io.BytesIO(content))  # decodes without an error
    assert read_image(path).shape == (90, 120, 3)


@pytest.mark.parametrize("trailer", TRAILERS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_part_that_is_missing_is_noticed_whatever_follows(kind, trailer, share):
    if trailer == "maker data":  # or noise
        pytest.skip("without a marker in it, it reads as pixels")
    content = picture(kind)
    assert is_cut_off(content[: int(share * len(content))] + TRAILERS[trailer])


def test_a_thumbnail_is_not_taken_for_the_picture():
    """The Exif segment holds a whole JPEG with its own end marker."""
    thumbnail = b"Exif\0\0" + picture("baseline", seed=3)
    content = picture("baseline", exif=thumbnail)
    assert content.index(b"\xff\xd9") < len(content) - 2
    assert not is_cut_off(content) and not is_cut_off(content + video())
    assert is_cut_off(content[: len(thumbnail) + 1200])


@pytest.mark.parametrize("length", range(2, 400, 7))
def test_any_beginning_of_a_jpeg_is_cut_off(length):
    assert is_cut_off(picture("baseline")[:length])


@settings(max_examples=100)
@given(
    st.lists(
        st.sampled_from([b"\xff", b"\xd8", b"\xd9", b"\xda", b"\xc0", b"\xe1", b"\0", b"\x08"])
    )
)
def test_no_bytes_stop_the_walk(pieces):
    assert is_cut_off(b"\xff\xd8" + b"".join(pieces)) in (True, False)


def test_real_photos_are_whole_and_their_halves_are_not(shared):
    for path in sorted((shared / "data/coco-mini/val2017").iterdir())[:40]:
        content = path.read_bytes()
        assert not is_cut_off(content) and not is_cut_off(content + video(4000))
        assert is_cut_off(content[: len(content) // 2] + video(4000))
