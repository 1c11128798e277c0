"""Several views of an image, for learning without labels: transforms of `train_batches`.

The recipes are those of IIC (Ji, Henriques, Vedaldi, "Invariant Information Clustering", ICCV 2019;
the released code's transforms, with the commands of the published results).
"""

import dataclasses
from collections.abc import Callable
from typing import Any, SupportsIndex

import numpy as np
from jaxtyping import UInt8

from jaxseg.data.augment import Example, Transform, random_crop_flip_scale
from jaxseg.data.geometric import RandomCrop, move, normalised, random_affine
from jaxseg.data.photometric import ColorJitter
from jaxseg.data.sources import Extent, Source

View = Callable[[np.ndarray, np.random.Generator], np.ndarray]
"""(image uint8 `[H, W, C]`, generator) -> uint8 `[h, w, c]`; one size in, one size out."""
Jitter = tuple[float, float, float, float]
"""Brightness, contrast, saturation and hue, see `photometric.ColorJitter`."""


@dataclasses.dataclass(frozen=True)
class Compose:
    """Views one after the other, as one."""

    views: tuple[View, ...]

    def __call__(
        self, image: UInt8[np.ndarray, "h w c"], rng: np.random.Generator
    ) -> UInt8[np.ndarray, "a b d"]:
        """Applies them in turn."""
        for view in self.views:
            image = view(image, rng)
        return image


def centre(size: int | tuple[int, int], side: int) -> View:
    """The middle of an image, resized: what is evaluated. Nothing in it is random."""
    return RandomCrop(size, (side,), centre_probability=1.0)


def digit_first(size: int = 24, side: int = 20, *, centre_probability: float = 0.5) -> View:
    """The first view of a digit: a window at a random place, or in the middle."""
    return RandomCrop(size, (side,), centre_probability=centre_probability)


def digit_second(
    size: int = 24,
    sides: tuple[int, ...] = (16, 20, 24),
    *,
    rotation: float = 25.0,
    rotation_probability: float = 0.5,
    jitter: Jitter = (0.4, 0.4, 0.0, 0.0),
) -> View:
    """The other views of a digit: turned at times, a window of random size, jittered.

    A deviation: interpolated, where the released code turns by nearest pixels.
    """
    crop = RandomCrop(size, sides, rotation=rotation, rotation_probability=rotation_probability)
    return Compose((crop, ColorJitter(*jitter)))


def photo_first(size: int, side: int) -> View:
    """The first view of a photograph: a random window (CIFAR: 20 to 32 pixels; STL-10: 64)."""
    return RandomCrop(size, (side,))


def photo_second(
    size: int,
    side: int,
    *,
    flip_probability: float = 0.5,
    jitter: Jitter = (0.4, 0.4, 0.4, 0.125),
) -> View:
    """The other views of a photograph: a random window, mirrored at times, jittered.

    The networks of the paper take no colours: `methods.iic.network_inputs` makes Sobel maps of it.
    """
    crop = RandomCrop(size, (side,), flip_probability=flip_probability)
    return Compose((crop, ColorJitter(*jitter)))


def image_views(
    example: Example, rng: np.random.Generator, *, first: View, second: View, repeats: int
) -> dict[str, Any]:
    """One first view of an image and several others, each from the original.

    Args:
      example: `image` uint8 `[H, W, C]`; other entries, such as the image's class, pass through.
      rng: consumed by the views.
      first: gives the new `image`.
      second: gives `views`, all of one size.
      repeats: R.

    Returns:
      A new example with `image` `[h, w, c]`, `views` uint8 `[R, h, w, c]`, and `size` of `image`.

    Raises:
      ValueError: `repeats` is below 1, or the example has a map of labels, which would not follow
        (see `pixel_views`).
    """
    if repeats < 1:
        raise ValueError(f"repeats is {repeats}; expected 1 or more")
    for key in ("label", "labels", "masks"):
        if np.ndim(example.get(key, 0)):
            raise ValueError(f"{key} has {np.ndim(example[key])} axes; expected one class, or none")
    original = example["image"]
    image = first(original, rng)
    views = np.stack([second(original, rng) for _ in range(repeats)])
    return {**example, "image": image, "views": views, "size": np.array(image.shape[:2], np.int32)}


def pixel_views(
    example: Example,
    rng: np.random.Generator,
    *,
    crop_size: int | tuple[int, int],
    scale: float = 1.0,
    repeats: int = 1,
    flip_probability: float = 0.5,
    jitter: Jitter = (0.4, 0.4, 0.4, 0.125),
    rotation: float = 0.0,
    scale_range: tuple[float, float] = (1.0, 1.0),
    translation: float = 0.0,
    shear: float = 0.0,
) -> dict[str, Any]:
    """A random crop, and views of it whose pixels can be brought back into its frame.

    The crop is that of `random_crop_flip_scale` without a flip: its labels follow, and an image
    that is too small is continued by its mirror image with label -1. Each view is the crop
    jittered, moved by a random affine map about its middle, and mirrored at times. The published
    results have jitter and flips alone (COCO-Stuff the default, at a scale of 0.33; Potsdam 0.1
    of each); such views are exact, others interpolated, and black where they leave the crop.

    Args:
      example: see `random_crop_flip_scale`.
      rng: consumed.
      crop_size: height and width in pixels, one number for a square.
      scale: of the image before it is cropped.
      repeats: R.
      flip_probability: of mirroring a view left and right.
      jitter: of brightness, contrast, saturation and hue; infrared is left.
      rotation: the largest angle in degrees, either way.
      scale_range: smallest and largest factor; above 1 a view is a magnified part of the crop.
      translation: the largest shift, either way, as a part of the sides.
      shear: the largest angle in degrees by which columns lean, either way.

    Returns:
      A new example: `image`, `size` and what belongs to it as in `random_crop_flip_scale`, `views`
      uint8 `[R, h, w, C]`, and `affine` float32 `[R, 2, 3]`: pixel u of the crop is at A·u in
      the view, as `losses.mutual_information_2d` takes it. u is (column, row, 1), from -1 at the
      centre of the first pixel to 1 at that of the last.

    Raises:
      ValueError: an option is out of range.
    """
    if repeats < 1:
        raise ValueError(f"repeats is {repeats}; expected 1 or more")
    if not 0 <= flip_probability <= 1:
        raise ValueError(f"flip_probability is {flip_probability}; expected 0..1")
    if not (0 <= rotation <= 180 and 0 <= shear < 90 and 0 <= translation <= 1):
        raise ValueError(
            f"rotation, shear, translation are {rotation}, {shear}, {translation}; "
            "expected 0..180, 0 to below 90 degrees, 0..1"
        )
    if not 0 < scale_range[0] <= scale_range[1]:
        raise ValueError(f"scale_range is {scale_range}; expected 0 < smallest <= largest")
    result = random_crop_flip_scale(
        example,
        rng,
        crop_size=crop_size,
        flip_probability=0.0,
        scale_mean=scale,
        scale_std=0.0,
        scale_range=(scale, scale),
    )
    still = scale_range == (1.0, 1.0) and not (rotation or translation or shear)
    change = ColorJitter(*jitter)
    size = result["image"].shape[:2]
    views, maps = [], []
    for _ in range(repeats):
        view, affine = change(result["image"], rng), np.eye(2, 3)
        moved = random_affine(rng, size, rotation, scale_range, translation, shear)
        if not still:
            view, affine = move(view, moved), normalised(moved, size)
        if rng.random() < flip_probability:
            view, affine = view[:, ::-1], affine * [[-1.0], [1.0]]
        views.append(view)
        maps.append(affine)
    return {**result, "views": np.stack(views), "affine": np.stack(maps).astype(np.float32)}


class ViewsSource:
    """The examples of a source with random views that are always the same; see `sources.Source`.

    For figures without labels: example i is transformed with a generator of (seed, i).
    """

    def __init__(self, source: Source, transform: Transform, seed: int = 0):
        """Wraps a source.

        Args:
          source: whose examples are transformed.
          transform: such as `functools.partial(image_views, ...)`; from images of one size it must
            make images of one size.
          seed: 0 or more.

        Raises:
          ValueError: the seed is negative.
        """
        if seed < 0:
            raise ValueError(f"seed is {seed}; expected 0 or more")
        self.ids = source.ids
        self._source, self._transform, self._seed = source, transform, seed
        self._sizes: dict[tuple[int, int], tuple[int, int]] = {}

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: SupportsIndex) -> Example:
        """Transforms an example."""
        i = range(len(self))[index]
        return self._transform(self._source[i], np.random.default_rng((self._seed, i)))

    def extent(self, index: SupportsIndex) -> Extent:
        """Its size; the first example of each size is transformed to find it."""
        found = self._source.extent(index)
        size = found[:2]
        if size not in self._sizes:
            self._sizes[size] = self[index]["image"].shape[:2]
        return Extent(*self._sizes[size], found.maps)
