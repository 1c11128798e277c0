"""Augmentation on the host: flip, scale and crop an example; its labels follow.

The recipe of SSN (Jampani et al., "Superpixel Sampling Networks", ECCV 2018; the data layer of the
released code).
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jaxseg.data.sources import MASK_FIELDS

Example = Mapping[str, Any]
Transform = Callable[[Example, np.random.Generator], Example]


def _resize_window(
    image: np.ndarray, window: tuple[float, float, float, float], size: tuple[int, int]
) -> np.ndarray:
    """Bilinear; `window` is (top, left, bottom, right) in pixels of `image`."""
    from PIL import Image

    top, left, bottom, right = window
    # The pixels that the filter reads: a triangle of one output pixel or one input pixel.
    reach_y = int(np.ceil(max((bottom - top) / size[0], 1.0))) + 1
    reach_x = int(np.ceil(max((right - left) / size[1], 1.0))) + 1
    y0, x0 = max(int(top) - reach_y, 0), max(int(left) - reach_x, 0)
    y1 = min(int(np.ceil(bottom)) + reach_y, image.shape[0])
    x1 = min(int(np.ceil(right)) + reach_x, image.shape[1])
    part = np.ascontiguousarray(image[y0:y1, x0:x1])
    box = (left - x0, top - y0, right - x0, bottom - y0)

    def resize(plane: np.ndarray) -> np.ndarray:
        picture = Image.fromarray(plane)
        return np.asarray(picture.resize(size[::-1], Image.Resampling.BILINEAR, box=box))

    if part.shape[2] == 3:
        return resize(part)
    # Each channel alone: four channels at once would be taken for transparency.
    return np.stack([resize(part[..., c]) for c in range(part.shape[2])], axis=-1)


def random_crop_flip_scale(
    example: Example,
    rng: np.random.Generator,
    *,
    crop_size: int | tuple[int, int] = 201,
    flip_probability: float = 0.5,
    scale_mean: float = 1.0,
    scale_std: float = 0.75,
    scale_range: tuple[float, float] = (0.75, 3.0),
) -> dict[str, Any]:
    """Scales by clip(N(1, 0.75), 0.75, 3), crops at a random place, and flips left to right.

    Only the window that is kept is resized: the image bilinearly (where it shrinks, averaged over
    the pixels that fall into one), labels, masks and weights by the nearest pixel. An image that is
    smaller than the crop after scaling fills the upper left; the rest is its mirror image with
    label -1, weight 0 and no mask, and `size` says where it begins. Masks that leave the window are
    dropped with what is said of them, and points get kind -1; kinds that a mirror exchanges (left,
    right) are not exchanged.

    Args:
      example: `image` uint8 `[H, W, C]` and any of `label` `[H, W]`, `labels` `[A, H, W]`,
        `masks` `[N, H, W]` with `kinds` `[N]` and `crowd` `[N]`, `pixel_weight` `[H, W]`, `points`
        `[P, 2]` with `kinds` `[P]` (then of no masks); other entries pass through.
      rng: consumed by four draws, whatever the sizes.
      crop_size: height and width in pixels, one number for a square.
      flip_probability: of mirroring left and right.
      scale_mean: mean of the scale before clipping.
      scale_std: its standard deviation; 0 for a fixed scale.
      scale_range: the smallest and the largest scale.

    Returns:
      A new example with `image` of `crop_size` and `size` `[2]` int32, the height and width that
      hold image and not padding.

    Raises:
      ValueError: an option is out of range.
    """
    crop = (crop_size, crop_size) if isinstance(crop_size, int) else crop_size
    if min(crop) < 1:
        raise ValueError(f"crop_size is {crop_size}; expected 1 or more")
    if not 0 < scale_range[0] <= scale_range[1]:
        raise ValueError(f"scale_range is {scale_range}; expected 0 < smallest <= largest")
    if not 0 <= flip_probability <= 1:
        raise ValueError(f"flip_probability is {flip_probability}; expected 0..1")
    image = example["image"]
    height, width = image.shape[:2]
    scale = float(np.clip(scale_mean + scale_std * rng.standard_normal(), *scale_range))
    place_y, place_x = rng.random(), rng.random()
    flip = rng.random() < flip_probability

    scaled = (max(round(height * scale), 1), max(round(width * scale), 1))
    size = (min(crop[0], scaled[0]), min(crop[1], scaled[1]))
    # In pixels of the scaled image, so that the crop is one of the whole scaled image.
    top = int(place_y * (scaled[0] - size[0] + 1))
    left = int(place_x * (scaled[1] - size[1] + 1))
    ratio = (height / scaled[0], width / scaled[1])
    window = (
        top * ratio[0],
        left * ratio[1],
        min((top + size[0]) * ratio[0], float(height)),
        min((left + size[1]) * ratio[1], float(width)),
    )
    # The pixel that holds the centre; in integers, for many centres lie on the edge of two pixels.
    rows = (2 * (np.arange(size[0]) + top) + 1) * height // (2 * scaled[0])
    columns = (2 * (np.arange(size[1]) + left) + 1) * width // (2 * scaled[1])
    if flip:
        columns = columns[::-1]
    pad = ((0, crop[0] - size[0]), (0, crop[1] - size[1]))

    result = dict(example)
    resized = _resize_window(image, window, size)
    resized = resized[:, ::-1] if flip else resized
    result["image"] = np.ascontiguousarray(
        np.pad(resized, (*pad, (0, 0)), mode="symmetric") if crop != size else resized
    )
    result["size"] = np.array(size, np.int32)
    index = (rows[:, None], columns[None, :])
    if "label" in example:
        result["label"] = np.pad(example["label"][index], pad, constant_values=-1)
    if "pixel_weight" in example:
        result["pixel_weight"] = np.pad(example["pixel_weight"][index], pad)
    if "labels" in example:
        found = example["labels"][:, *index]
        result["labels"] = np.pad(found, ((0, 0), *pad), constant_values=-1)
    if "masks" in example:
        found = example["masks"][:, *index]
        seen = found.any(axis=(1, 2))
        result["masks"] = np.pad(found[seen], ((0, 0), *pad))
        for key in MASK_FIELDS:
            if key in example and not (key == "kinds" and "points" in example):
                result[key] = example[key][seen]
    if "points" in example:
        # The borders of a pixel are those of its part of the crop; its centre moves with them.
        points = (example["points"] + 0.5) / np.array(ratio) - np.array([top, left]) - 0.5
        if flip:
            points[:, 1] = size[1] - 1 - points[:, 1]
        inside = np.all((points >= -0.5) & (points < np.array(size) - 0.5), axis=1)
        result["points"] = np.where(inside[:, None], points, 0).astype(np.float32)
        result["kinds"] = np.where(inside, example["kinds"], -1).astype(np.int32)
    return result
