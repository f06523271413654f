"""Random brightness, contrast, saturation and hue, on uint8 pixels."""

from dataclasses import dataclass

import cv2
import numpy as np


@dataclass(frozen=True)
class PhotometricDistort:
    """Colour distortion of the SSD paper (after Howard, 2013), with the values of its Caffe code.

    Brightness, contrast, saturation and hue are each changed with `probability`; contrast is
    changed before or after saturation and hue, equally likely. Values are clipped to 0..255 after
    each step.

    Attributes:
        brightness: largest number added to the 0..255 values, positive or negative.
        contrast: range of the factor on the values.
        saturation: range of the factor on HSV saturation.
        hue: largest rotation of HSV hue in degrees, in both directions.
        probability: that of each of the four.
    """

    brightness: float = 32.0
    contrast: tuple[float, float] = (0.5, 1.5)
    saturation: tuple[float, float] = (0.5, 1.5)
    hue: float = 18.0
    probability: float = 0.5

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Distort `image` uint8 [H, W, 3] RGB; the result may be `image` itself."""
        shift = self._draw(rng, -self.brightness, self.brightness, unchanged=0.0)
        contrast = self._draw(rng, *self.contrast, unchanged=1.0)
        saturation = self._draw(rng, *self.saturation, unchanged=1.0)
        turn = self._draw(rng, -self.hue, self.hue, unchanged=0.0)
        contrast_first = rng.random() < 0.5
        if saturation == 1.0 and turn == 0.0:
            return _change_tone(image, shift, contrast)
        image = _change_tone(image, shift, contrast if contrast_first else 1.0)
        image = _change_color(image, saturation, turn)
        return image if contrast_first else _change_tone(image, 0.0, contrast)

    def _draw(
        self, rng: np.random.Generator, low: float, high: float, *, unchanged: float
    ) -> float:
        """Draw a number between `low` and `high`, with `probability`; else take `unchanged`."""
        return rng.uniform(low, high) if rng.random() < self.probability else unchanged


def _change_tone(image: np.ndarray, shift: float, contrast: float) -> np.ndarray:
    """Add `shift`, rounded, then multiply by `contrast`."""
    # At most half the time of cv2.LUT, which looks up each value in a table of 256.
    levels = round(abs(shift))
    if levels:
        image = (cv2.add if shift > 0 else cv2.subtract)(image, (levels,) * 4)
    return image if contrast == 1.0 else cv2.convertScaleAbs(image, alpha=contrast)


def _change_color(image: np.ndarray, saturation: float, turn: float) -> np.ndarray:
    """Multiply the saturation, and rotate the hue by `turn` degrees."""
    # The _FULL conversions map 360 degrees to 0..255, so the hue wraps around as uint8 does.
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)
    if turn != 0.0:
        # Whole rows, with 0 for the other channels: three times as fast as the strided hue channel.
        row = np.zeros((hsv.shape[1], 3), np.uint8)
        row[:, 0] = round(turn * 256 / 360) % 256
        levels = hsv.reshape(len(hsv), -1)
        levels += row.ravel()
    if saturation != 1.0:
        scaled = cv2.convertScaleAbs(cv2.extractChannel(hsv, 1), alpha=saturation)
        cv2.insertChannel(scaled, hsv, 1)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)
