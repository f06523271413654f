"""Draws one image of the sample data set: a background and overlapping shapes with masks."""

from dataclasses import dataclass

import cv2
import numpy as np

MIN_VISIBLE = 0.35  # smallest visible share of a shape; else another place is tried
_PLACEMENT_TRIALS = 25
_SUBPIXEL_BITS = 4


@dataclass(frozen=True)
class ShapeClass:
    """A class of the sample data set: its form, and the hue of most of its objects."""

    name: str
    corners: tuple[tuple[float, float], ...]  # outline within the unit circle
    hue: float  # degrees
    max_turn: float  # degrees, in both directions


@dataclass
class DrawnShape:
    """One object of an image; its mask [H, W] has the pixels that no later shape covers."""

    class_index: int
    mask: np.ndarray
    num_pixels: int  # of the whole shape, covered parts included


def _regular(num_corners: int, *, inner: float | None = None) -> tuple[tuple[float, float], ...]:
    """Return the corners of a regular polygon or, with an inner radius `inner`, of a star."""
    count = num_corners if inner is None else 2 * num_corners
    angles = 2 * np.pi * np.arange(count) / count - np.pi / 2
    radii = np.where(np.arange(count) % 2 == 0, 1.0, 1.0 if inner is None else inner)
    return tuple(
        zip((radii * np.cos(angles)).tolist(), (radii * np.sin(angles)).tolist(), strict=True)
    )


_SQUARE = ((-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8))
SHAPE_CLASSES = (
    ShapeClass("circle", _regular(48), hue=8.0, max_turn=0.0),
    ShapeClass("square", _SQUARE, hue=215.0, max_turn=20.0),
    ShapeClass("triangle", _regular(3), hue=125.0, max_turn=25.0),
    ShapeClass("star", _regular(5, inner=0.42), hue=50.0, max_turn=36.0),
)


def draw_image(
    size: tuple[int, int], num_shapes: int, rng: np.random.Generator
) -> tuple[np.ndarray, list[DrawnShape]]:
    """Draw a background and up to `num_shapes` shapes (fewer if no free place is found).

    Args:
        size: (height, width); the shapes' sizes are about 1/12 to 3/4 of the height.
        num_shapes: number of shapes to try.
        rng: the only source of randomness.

    Returns:
        The image uint8 [H, W, 3] RGB, and the shapes in the order drawn.
    """
    image = draw_background(size, rng)
    shapes: list[DrawnShape] = []
    largest = 0.73 * size[0] / max(1.0, num_shapes / 3) ** 0.5
    for _ in range(num_shapes):
        class_index = int(rng.integers(len(SHAPE_CLASSES)))
        span = rng.uniform(0.083 * size[0], largest)
        _draw_where_free(image, shapes, class_index, span, rng)
    return _add_sensor_noise(image, rng), shapes


def draw_crowd(
    size: tuple[int, int], rng: np.random.Generator
) -> tuple[np.ndarray, int, np.ndarray]:
    """Draw a group of small shapes of one class: the image, the class, and their mask [H, W]."""
    image = draw_background(size, rng)
    class_index = int(rng.integers(len(SHAPE_CLASSES)))
    crowd = np.zeros(size, bool)
    middle = rng.uniform(0.4, 0.6, 2) * (size[1], size[0])
    for _ in range(40):
        center = middle + rng.normal(0, 0.1, 2) * (size[1], size[0])
        outline = _outline(
            SHAPE_CLASSES[class_index], center, rng.uniform(0.05, 0.09) * size[0], rng
        )
        coverage = _fill(outline, size)
        _paint(image, coverage, outline, SHAPE_CLASSES[class_index], rng)
        crowd |= coverage > 127
    return _add_sensor_noise(image, rng), class_index, crowd


def _draw_where_free(
    image: np.ndarray,
    shapes: list[DrawnShape],
    class_index: int,
    span: float,
    rng: np.random.Generator,
) -> None:
    """Draw a shape where it and all shapes below it stay visible enough; else draw nothing."""
    shape_class, size = SHAPE_CLASSES[class_index], image.shape[:2]
    for _ in range(_PLACEMENT_TRIALS):
        center = rng.uniform(0.06, 0.94, 2) * (size[1], size[0])
        outline = _outline(shape_class, center, span, rng)
        coverage = _fill(outline, size)
        mask = coverage > 127
        num_pixels = int(mask.sum())
        inside = num_pixels / max(cv2.contourArea(outline.astype(np.float32)), 1.0)
        remaining = [(shape.mask & ~mask).sum() / shape.num_pixels for shape in shapes]
        if inside >= 0.6 and all(share >= MIN_VISIBLE for share in remaining):
            break
    else:
        return
    _paint(image, coverage, outline, shape_class, rng)
    for shape in shapes:
        shape.mask &= ~mask
    shapes.append(DrawnShape(class_index, mask, num_pixels))


def _outline(
    shape_class: ShapeClass, center: np.ndarray, span: float, rng: np.random.Generator
) -> np.ndarray:
    """Return a shape's corners [K, 2] in pixels: about `span` wide, stretched and rotated."""
    stretch = rng.uniform(0.85, 1.18)
    corners = np.array(shape_class.corners) * (span / 2 * stretch, span / 2 / stretch)
    turn = np.deg2rad(rng.uniform(-1, 1) * shape_class.max_turn)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    return corners @ rotation.T + center


def _fixed_point(outline: np.ndarray) -> np.ndarray:
    return np.rint(outline * 2**_SUBPIXEL_BITS).astype(np.int32)


def _fill(outline: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return the coverage of each pixel, uint8 [H, W], smooth at the edges."""
    coverage = np.zeros(size, np.uint8)
    cv2.fillPoly(coverage, [_fixed_point(outline)], 255, cv2.LINE_AA, _SUBPIXEL_BITS)
    return coverage


def _paint(
    image: np.ndarray,
    coverage: np.ndarray,
    outline: np.ndarray,
    shape_class: ShapeClass,
    rng: np.random.Generator,
) -> None:
    """Colour the covered pixels in place: full, with a rim, striped, or only a thick outline."""
    x, y, width, height = cv2.boundingRect(coverage)
    window = (slice(y, y + height), slice(x, x + width))
    hue = shape_class.hue + rng.normal(0, 10)
    if rng.random() < 0.12:  # some have another colour, so that the form must be learned too
        hue = rng.uniform(0, 360)
    color = _rgb(hue, rng.uniform(0.65, 1.0), rng.uniform(0.6, 1.0))
    rim_color = color * rng.uniform(0.25, 0.6)
    style = rng.choice(["full", "rim", "striped", "hollow"], p=[0.35, 0.35, 0.2, 0.1])
    shade = 1.0 - rng.uniform(0, 0.35) * np.linspace(0, 1, height)[:, None, None]
    paint = np.broadcast_to(color * shade, (height, width, 3))
    alpha = coverage[window][:, :, None] / 255
    span = float(np.ptp(outline, axis=0).max())
    if style == "striped":
        paint = np.where(_stripes((height, width), span / 5, rng)[:, :, None], paint, rim_color)
    elif style != "full":
        rim = _rim(outline - (x, y), (height, width), span * (0.12 if style == "rim" else 0.28))
        if style == "rim":
            paint = paint * (1 - rim) + rim_color * rim
        else:
            alpha = np.minimum(alpha, rim)
    image[window] = np.rint(image[window] * (1 - alpha) + paint * alpha).astype(np.uint8)


def _rim(outline: np.ndarray, size: tuple[int, int], thickness: float) -> np.ndarray:
    """Return the coverage 0..1 [H, W, 1] of a line along the outline."""
    rim = np.zeros(size, np.uint8)
    points = [_fixed_point(outline)]
    cv2.polylines(rim, points, True, 255, max(2, round(thickness)), cv2.LINE_AA, _SUBPIXEL_BITS)
    return rim[:, :, None] / 255


def draw_background(size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Draw a background [H, W, 3]: a gradient, blotches or a pattern, often with random lines."""
    first, second = (
        _rgb(rng.uniform(0, 360), rng.uniform(0, 0.35), rng.uniform(0.15, 0.95)) for _ in range(2)
    )
    kind = rng.choice(["gradient", "blotches", "stripes", "checks"], p=[0.3, 0.4, 0.15, 0.15])
    if kind == "gradient":
        weight = _ramp(size, rng)
    elif kind == "blotches":
        weight = _blotches(size, rng)
    elif kind == "stripes":
        weight = _stripes(size, rng.uniform(0.04, 0.2) * size[0], rng) * 0.5 + 0.25
    else:
        side = rng.uniform(0.05, 0.15) * size[0]
        weight = (_stripes(size, side, rng) ^ _stripes(size, side, rng)) * 0.4 + 0.3
    weight = 0.8 * weight + 0.2 * _blotches(size, rng)
    image = first + (second - first) * weight[:, :, None]
    image = np.rint(image).clip(0, 255).astype(np.uint8)
    if rng.random() < 0.5:
        _draw_clutter(image, rng)
    return image


def _draw_clutter(image: np.ndarray, rng: np.random.Generator) -> None:
    """Draw random thin lines, which belong to no class."""
    height, width = image.shape[:2]
    for _ in range(rng.integers(5, 30)):
        color = _rgb(rng.uniform(0, 360), rng.uniform(0, 0.5), rng.uniform(0.1, 1.0)).tolist()
        points = (rng.random((rng.integers(2, 5), 2)) * (width, height)).astype(np.int32)
        thickness = int(rng.integers(1, max(2, height // 120) + 1))
        cv2.polylines(image, [points], False, color, thickness, cv2.LINE_AA)


def _add_sensor_noise(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    noise = rng.normal(0, rng.uniform(1, 8), image.shape[:2]).astype(np.float32)[:, :, None]
    return np.rint(image + noise).clip(0, 255).astype(np.uint8)


def _rgb(hue: float, saturation: float, value: float) -> np.ndarray:
    """Convert a hue in degrees, a saturation and a value in 0..1 to RGB 0..255 [3]."""
    pixel = np.array([[[hue % 360, saturation, value]]], np.float32)
    return cv2.cvtColor(pixel, cv2.COLOR_HSV2RGB)[0, 0] * 255


def _ramp(size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Return weights 0..1 [H, W] that grow in a random direction."""
    y, x = np.mgrid[-1 : 1 : size[0] * 1j, -1 : 1 : size[1] * 1j]
    angle = rng.uniform(0, 2 * np.pi)
    return (np.cos(angle) * x + np.sin(angle) * y) / 2.83 + 0.5


def _blotches(size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Return smooth noise of several scales, 0..1 [H, W]."""
    total = np.zeros(size, np.float32)
    for cells in (3, 7, 17, 43):
        grid = rng.random((cells, cells), dtype=np.float32) / cells**0.7
        total += cv2.resize(grid, size[::-1], interpolation=cv2.INTER_CUBIC)
    return (total - total.min()) / np.ptp(total)


def _stripes(size: tuple[int, int], period: float, rng: np.random.Generator) -> np.ndarray:
    """Return stripes in a random direction with a `period` in pixels: bool [H, W]."""
    y, x = np.mgrid[: size[0], : size[1]]
    angle = rng.uniform(0, np.pi)
    return np.sin((np.cos(angle) * x + np.sin(angle) * y) * 2 * np.pi / period) > 0
