"""Changes of an image's colours, as torchvision's `ColorJitter` defines them, in float32.

What is random is a view, uint8 in and out (see `views.View`). The single changes take values 0..255
of one channel (grey) or three (RGB) with the channels first, and all pixels in a row: several times
as fast. The luma is that of ITU-R 601.
"""

import dataclasses

import numpy as np
from jaxtyping import Float32, UInt8

Values = Float32[np.ndarray, "c n"]

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
_CORNERS = np.array([[5.0], [3.0], [1.0]], np.float32)


def luma(values: Values) -> Float32[np.ndarray, " n"]:
    """Grey values: the luma of three channels, or the one channel."""
    return values[0] if len(values) == 1 else _LUMA @ values


def adjust_brightness(values: Values, factor: float) -> Values:
    """Multiplies; 1 changes nothing."""
    return _clipped(values * np.float32(factor))


def adjust_contrast(values: Values, factor: float) -> Values:
    """Multiplies the differences from the mean luma; 1 changes nothing."""
    grey = luma(values)
    mean = float(np.add.reduce(grey)) / len(grey)
    return _clipped(values * np.float32(factor) + np.float32(mean * (1 - factor)))


def adjust_saturation(values: Values, factor: float) -> Values:
    """Multiplies the differences from the luma of each pixel; 1 changes nothing."""
    return _clipped(values * np.float32(factor) + luma(values) * np.float32(1 - factor))


def adjust_hue(values: Values, shift: float) -> Values:
    """Turns the hue of HSV by `shift`, in turns of the circle; grey stays as it is."""
    if len(values) == 1:
        return values
    red, green, blue = values
    high = np.maximum(np.maximum(red, green), blue)
    chroma = high - np.minimum(np.minimum(red, green), blue)
    # In sixths of the circle, from red; 0 where there is no colour.
    rest = np.where(high == green, blue - red, red - green)
    rest = np.where(high == red, green - blue, rest)
    hue = rest / np.maximum(chroma, np.float32(1e-6))
    hue += np.where(high == red, np.float32(0), np.where(high == green, 2, 4)).astype(np.float32)
    place = hue + (_CORNERS + np.float32(6 * shift))
    place -= 6 * np.floor(place * np.float32(1 / 6))
    fall = np.minimum(place, 4 - place)
    np.maximum(fall, 0, out=fall)
    np.minimum(fall, 1, out=fall)
    return high - chroma * fall


def _clipped(values: Values) -> Values:
    np.maximum(values, 0, out=values)
    return np.minimum(values, 255, out=values)


_CHANGES = (adjust_brightness, adjust_contrast, adjust_saturation, adjust_hue)


@dataclasses.dataclass(frozen=True)
class ColorJitter:
    """A view (see `views.View`) with random brightness, contrast, saturation and hue.

    Factors are uniform in [max(0, 1 - a), 1 + a], the turn of the hue in [-hue, hue], and the
    order of the four is random, as in torchvision. Grey images take the first two alone. Channels
    beyond three (infrared), or beyond one of two, stay as they are.

    A deviation: values are rounded once, at the end, as torchvision does on floating-point tensors;
    on Pillow's images, which the released code of IIC has, it rounds after each change.
    """

    brightness: float = 0.0
    """a of the brightness."""
    contrast: float = 0.0
    """a of the contrast."""
    saturation: float = 0.0
    """a of the saturation."""
    hue: float = 0.0
    """In turns of the circle, at most 0.5."""

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if value < 0 or (name == "hue" and value > 0.5):
                raise ValueError(f"{name} is {value}; expected 0 or more, of the hue up to 0.5")

    def __call__(
        self, image: UInt8[np.ndarray, "h w c"], rng: np.random.Generator
    ) -> UInt8[np.ndarray, "h w c"]:
        """Changes an image; two draws of four, whatever the image."""
        amounts = (self.brightness, self.contrast, self.saturation, self.hue)
        draws, order = rng.random(4).tolist(), rng.random(4).argsort().tolist()
        if not any(amounts):
            return image
        height, width, channels = image.shape
        colors = 3 if channels >= 3 else 1
        values = _planes(image, colors)
        for k in order:
            if amounts[k] and (colors == 3 or k < 2):
                low = -self.hue if k == 3 else max(0.0, 1 - amounts[k])
                high = self.hue if k == 3 else 1 + amounts[k]
                values = _CHANGES[k](values, low + (high - low) * draws[k])
        np.rint(values, out=values)
        changed = values.T.astype(np.uint8, order="C").reshape(height, width, colors)
        return changed if channels == colors else np.concatenate([changed, image[..., colors:]], -1)


@dataclasses.dataclass(frozen=True)
class Grey:
    """A view (see `views.View`): one channel of luma for three; what is beyond three follows."""

    def __call__(
        self, image: UInt8[np.ndarray, "h w c"], rng: np.random.Generator
    ) -> UInt8[np.ndarray, "h w d"]:
        """Takes the colours away; draws nothing."""
        if image.shape[2] < 3:
            return image
        grey = np.rint(luma(_planes(image, 3))).astype(np.uint8).reshape(*image.shape[:2], 1)
        return np.concatenate([grey, image[..., 3:]], axis=-1)


def _planes(image: np.ndarray, count: int) -> np.ndarray:
    """The first channels as rows of float32."""
    return image[..., :count].reshape(-1, count).T.astype(np.float32, order="C")
