"""People cut out of images for networks that see one person each; their keypoints follow.

The top-down protocol of Xiao et al., "Simple Baselines for Human Pose Estimation and Tracking",
ECCV 2018, and Sun et al., "Deep High-Resolution Representation Learning for Human Pose Estimation",
CVPR 2019.
"""

from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Float64, UInt8

from jaxseg.data.augment import Example
from jaxseg.data.coco_people import KEYPOINTS

SIZE = (256, 192)
"""Height and width of the crop in the published tables."""

_SIDES = {"left": "right", "right": "left"}


def _mirrored(name: str) -> int:
    side, _, part = name.partition("_")
    return KEYPOINTS.index(f"{_SIDES[side]}_{part}" if side in _SIDES else name)


SWAPPED = tuple(_mirrored(name) for name in KEYPOINTS)
"""The keypoint that each one is in a mirror."""


def to_image(
    points: Float[np.ndarray, "... p 2"], crop: Float[np.ndarray, "... 2 3"]
) -> Float64[np.ndarray, "... p 2"]:
    """Points of a crop in pixels of the image that it was cut from."""
    affine = crop.astype(np.float64)
    turned = np.einsum("...ij,...pj->...pi", affine[..., :2], points.astype(np.float64))
    return turned + affine[..., None, :, 2]


def crop_person(
    example: Example,
    *,
    size: tuple[int, int] = SIZE,
    padding: float = 1.25,
    scale: float = 1.0,
    rotation: float = 0.0,
    flip: bool = False,
) -> dict[str, Any]:
    """Cuts the person in a box out of an image.

    The window has the middle of the box, the smallest size of the crop's proportions that holds the
    box, times `padding` and `scale`, and is turned about its middle. Pixels are interpolated
    bilinearly, without an average where the image shrinks, as in the released code; what lies
    outside of the image is black.

    A deviation: pixel centres of crop and window coincide at their middles. The released code is
    off by half a pixel of the crop less half a pixel of the image (Huang et al., "The Devil is in
    the Details", CVPR 2020); it moves image and points alike.

    Args:
      example: `image` uint8 `[H, W, 3]`, `box` `[4]` as `[y0, x0, y1, x1]` in pixels from the
        image's corner, `points` `[17, 2]` (row, column) in pixels of the image, centres at
        integers, `kinds` `[17]`: k or -1 at place k; other entries pass through.
      size: height and width of the crop in pixels.
      padding: how much larger the window is than the box.
      scale: of the window; above 1 the person becomes smaller.
      rotation: degrees by which the person is turned clockwise.
      flip: mirrors left and right, after turning; left and right keypoints change places.

    Returns:
      A new example: `image` of `size`; `points` float32 in its pixels and `kinds`, -1 (and the
      point 0) also where a point lies outside; `size` `[2]` int32; `crop` `[2, 3]` float32: the
      pixel (row, column) of the crop is the point `crop @ (row, column, 1)` of the image
      (`to_image`).

    Raises:
      ValueError: an option is out of range, or the box is empty.
    """
    if min(size) < 1:
        raise ValueError(f"size is {size}; expected 1 or more")
    if not padding > 0 or not scale > 0:
        raise ValueError(f"padding is {padding}, scale is {scale}; expected more than 0")
    y0, x0, y1, x1 = (float(side) for side in example["box"])
    if not (y1 > y0 and x1 > x0):
        raise ValueError(f"box is {(y0, x0, y1, x1)}; expected y0 < y1 and x0 < x1")
    step = max((y1 - y0) / size[0], (x1 - x0) / size[1]) * padding * scale
    cosine, sine = np.cos(np.deg2rad(rotation)), np.sin(np.deg2rad(rotation))
    turn = step * np.array([[cosine, -sine], [sine, cosine]]) * [1.0, -1.0 if flip else 1.0]
    middle = np.array([y0 + y1 - 1, x0 + x1 - 1]) / 2
    shift = middle - turn @ ((np.array(size) - 1) / 2)
    # Rounded before it is used, so that the way back is that of the pixels.
    crop = np.concatenate([turn, shift[:, None]], axis=1).astype(np.float32)

    kinds = np.asarray(example["kinds"], np.int32)
    offset = np.asarray(example["points"], np.float64) - crop[:, 2]
    points = np.linalg.solve(crop[:, :2].astype(np.float64), offset.T).T
    if flip:
        points = points[list(SWAPPED)]
        present = kinds[list(SWAPPED)] >= 0
    else:
        present = kinds >= 0
    present &= ((points >= -0.5) & (points < np.array(size) - 0.5)).all(axis=1)
    return {
        **example,
        "image": _warp(example["image"], crop, size),
        "points": np.where(present[:, None], points, 0.0).astype(np.float32),
        "kinds": np.where(present, np.arange(len(kinds)), -1).astype(np.int32),
        "size": np.array(size, np.int32),
        "crop": crop,
    }


def _warp(
    image: UInt8[np.ndarray, "h w 3"], crop: Float32[np.ndarray, "2 3"], size: tuple[int, int]
) -> UInt8[np.ndarray, "a b 3"]:
    from PIL import Image

    (a, b, row), (c, d, column) = crop.astype(np.float64)
    # Pillow counts x, y from the corner of the first pixel.
    data = (d, c, column + (1 - c - d) / 2, b, a, row + (1 - a - b) / 2)
    picture = Image.fromarray(np.ascontiguousarray(image)).transform(
        size[::-1], Image.Transform.AFFINE, data, resample=Image.Resampling.BILINEAR
    )
    return np.array(picture)


def random_crop_person(
    example: Example,
    rng: np.random.Generator,
    *,
    size: tuple[int, int] = SIZE,
    padding: float = 1.25,
    scale: float = 0.35,
    rotation: float = 45.0,
    rotation_probability: float = 0.6,
    flip_probability: float = 0.5,
) -> dict[str, Any]:
    """`crop_person` with a random scale, rotation and mirror, for training.

    The window is scaled by clip(N(1, scale), 1 - scale, 1 + scale), and turned, at times, by an
    angle that is uniform in ±`rotation`. The scale and the ranges are those of the HRNet paper
    (±35 %, ±45°). A deviation: its released code draws the angle from N(0, 45°), clipped at ±90°.

    Args:
      example: see `crop_person`; of a source with whole images.
      rng: consumed by four draws, whatever the example.
      size: height and width of the crop in pixels.
      padding: how much larger the window is than the box before it is scaled.
      scale: the deviation of the scale and its largest distance from 1, in [0, 1).
      rotation: the largest angle in degrees.
      rotation_probability: of turning at all.
      flip_probability: of mirroring left and right.

    Returns:
      See `crop_person`.

    Raises:
      ValueError: an option is out of range, or the box is empty.
    """
    if not 0 <= scale < 1:
        raise ValueError(f"scale is {scale}; expected 0 to below 1")
    if not 0 <= rotation <= 180:
        raise ValueError(f"rotation is {rotation}; expected 0..180 degrees")
    chances = {"rotation_probability": rotation_probability, "flip_probability": flip_probability}
    for name, chance in chances.items():
        if not 0 <= chance <= 1:
            raise ValueError(f"{name} is {chance}; expected 0..1")
    factor = float(np.clip(1 + scale * rng.standard_normal(), 1 - scale, 1 + scale))
    angle = rotation * (2 * rng.random() - 1)
    angle = angle if rng.random() < rotation_probability else 0.0
    flip = bool(rng.random() < flip_probability)
    return crop_person(example, size=size, padding=padding, scale=factor, rotation=angle, flip=flip)
