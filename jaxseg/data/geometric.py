"""Crops, rotations and flips of an image, each pixel resampled once."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

Pixels = UInt8[np.ndarray, "h w c"]
Affine = Float[np.ndarray, "2 3"]


def _by_planes(image: np.ndarray, change: Callable[[Any], Any]) -> np.ndarray:
    """Applies what Pillow does to pictures of one or three channels; others channel by channel."""
    from PIL import Image

    height, width, channels = image.shape
    if channels not in (1, 3):
        # Each channel alone: four channels at once would be taken for transparency.
        planes = [_by_planes(image[..., c : c + 1], change) for c in range(channels)]
        return np.concatenate(planes, axis=-1)
    mode = "L" if channels == 1 else "RGB"
    pixels = np.ascontiguousarray(image)
    # Half the time of `fromarray` and `asarray`, which is most of it for a small image.
    result = change(Image.frombuffer(mode, (width, height), pixels, "raw", mode, 0, 1))
    found = np.frombuffer(result.tobytes(), np.uint8)
    return found.reshape(result.height, result.width, channels)


def resize(image: Pixels, size: tuple[int, int]) -> UInt8[np.ndarray, "a b c"]:
    """Bilinear; where it shrinks, averaged over the pixels that fall into one."""
    from PIL import Image

    if image.shape[:2] == size:
        return image
    return _by_planes(image, lambda one: one.resize(size[::-1], Image.Resampling.BILINEAR))


def warp(image: Pixels, matrix: Affine, size: tuple[int, int]) -> UInt8[np.ndarray, "a b c"]:
    """Bilinear samples, rounded down, without an average where it shrinks; black outside.

    Args:
      image: what is sampled.
      matrix: the pixel with centre (x, y) shows the place `matrix @ (x, y, 1)` of `image`, in
        pixels from the upper left corner: the first centre is (0.5, 0.5).
      size: height and width of the result.
    """
    from PIL import Image

    data = tuple(matrix.ravel().tolist())
    kind, filter_ = Image.Transform.AFFINE, Image.Resampling.BILINEAR
    return _by_planes(image, lambda one: one.transform(size[::-1], kind, data, resample=filter_))


def random_affine(
    rng: np.random.Generator,
    size: tuple[int, int],
    rotation: float,
    scale_range: tuple[float, float],
    translation: float,
    shear: float,
) -> Affine:
    """Where a pixel of the crop goes in the view; both (x, y), in pixels from the middle.

    The options are those of `views.pixel_views`; five numbers are drawn.
    """
    turn, lean, x, y = (2 * rng.random(4) - 1).tolist()
    factor = scale_range[0] + (scale_range[1] - scale_range[0]) * rng.random()
    angle = np.deg2rad(rotation * turn)
    turned = factor * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    leant = np.array([[1.0, np.tan(np.deg2rad(shear * lean))], [0.0, 1.0]])
    shift = translation * np.array([x * size[1], y * size[0]])
    return np.concatenate([turned @ leant, shift[:, None]], axis=1)


def move(image: Pixels, affine: Affine) -> Pixels:
    """Moves the pixels of an image by a map such as `random_affine` gives; black from outside."""
    size = image.shape[:2]
    back = np.linalg.inv(affine[:, :2])
    middle = np.array([size[1] / 2, size[0] / 2])
    shift = middle - back @ (middle + affine[:, 2])
    return warp(image, np.concatenate([back, shift[:, None]], axis=1), size)


def normalised(affine: Affine, size: tuple[int, int]) -> Affine:
    """The same map where the centres of the outermost pixels are at -1 and 1."""
    half = np.array([max(size[1] - 1, 1), max(size[0] - 1, 1)]) / 2
    return affine * [*half, 1.0] / half[:, None]


@dataclasses.dataclass(frozen=True)
class RandomCrop:
    """A view (see `views.View`): a square window of an image, resized; turned and mirrored at will.

    The image is turned about its middle, black beyond its borders, and the window taken of that, as
    if by one step after the other, but each pixel is interpolated once. Without a turn it is
    exactly the window resized as Pillow does.

    Raises:
      ValueError: an option is out of range, or, when called, a side is larger than the image.
    """

    size: int | tuple[int, int]
    """Height and width of the view, one number for a square."""
    sides: tuple[int, ...]
    """Of the window, in pixels of the image; one of them is drawn."""
    centre_probability: float = 0.0
    """Of the window in the middle, not at a random place."""
    rotation: float = 0.0
    """The largest angle in degrees, either way."""
    rotation_probability: float = 1.0
    """Of turning at all."""
    flip_probability: float = 0.0
    """Of mirroring left and right."""

    def __post_init__(self) -> None:
        if not self.sides or min(*self.sides, *self._shape) < 1:
            raise ValueError(f"sides are {self.sides}, size is {self.size}; expected 1 or more")
        if not 0 <= self.rotation <= 180:
            raise ValueError(f"rotation is {self.rotation}; expected 0..180 degrees")
        for name in ("centre_probability", "rotation_probability", "flip_probability"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected 0..1")

    @property
    def _shape(self) -> tuple[int, int]:
        return (self.size, self.size) if isinstance(self.size, int) else self.size

    def __call__(self, image: Pixels, rng: np.random.Generator) -> UInt8[np.ndarray, "a b c"]:
        """Takes a view; seven numbers are drawn, whatever the image."""
        which, y, x, middle, turned, angle, mirrored = rng.random(7).tolist()
        side = self.sides[int(which * len(self.sides))]
        room_y, room_x = image.shape[0] - side, image.shape[1] - side
        if min(room_y, room_x) < 0:
            raise ValueError(
                f"a window of {side} from an image of {image.shape[0]}x{image.shape[1]}; "
                "expected one that fits"
            )
        top, left = int(y * (room_y + 1)), int(x * (room_x + 1))
        if middle < self.centre_probability:
            top, left = room_y // 2, room_x // 2
        if self.rotation and turned < self.rotation_probability:
            result = self._turned(image, top, left, side, self.rotation * (2 * angle - 1))
        else:
            result = resize(image[top : top + side, left : left + side], self._shape)
        return result[:, ::-1] if mirrored < self.flip_probability else result

    def _turned(
        self, image: np.ndarray, top: int, left: int, side: int, degrees: float
    ) -> np.ndarray:
        height, width = image.shape[:2]
        step_y, step_x = side / self._shape[0], side / self._shape[1]
        # What shrinks is averaged first, so that no pixel is left out.
        small = resize(image, (round(height / max(step_y, 1)), round(width / max(step_x, 1))))
        angle = np.deg2rad(degrees)
        cosine, sine = float(np.cos(angle)), float(np.sin(angle))
        y, x = top - height / 2, left - width / 2
        rows = np.array(
            [
                [cosine * step_x, -sine * step_y, cosine * x - sine * y + width / 2],
                [sine * step_x, cosine * step_y, sine * x + cosine * y + height / 2],
            ]
        )
        if small is not image:
            rows *= np.array([[small.shape[1] / width], [small.shape[0] / height]])
        return warp(small, rows, self._shape)
