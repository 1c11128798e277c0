"""Quarter turns and mirrors of an example: for images that have no upper side."""

from collections.abc import Callable
from typing import Any

import numpy as np

from jaxseg.data.augment import Example


def random_turn(example: Example, rng: np.random.Generator) -> dict[str, Any]:
    """One of the eight turns and mirrors of the square, each as likely; what has pixels follows.

    An image of other proportions changes its shape by a quarter turn: batches need square ones.

    Args:
      example: `image` `[H, W, C]` and any of `label` `[H, W]` and `labels`, `masks`, `pixel_weight`
        `[..., H, W]`; other entries pass through, `size` with its sides exchanged where they are.
      rng: consumed by one draw.

    Returns:
      A new example.

    Raises:
      ValueError: the example has points, which do not follow, or padding.
    """
    if "points" in example:
        raise ValueError("random_turn: the example has points, which it does not move")
    shape = example["image"].shape[:2]
    if "size" in example and tuple(np.asarray(example["size"]).tolist()) != shape:
        raise ValueError(
            f"random_turn: size is {tuple(example['size'])} in an image of {shape}; "
            "turn images before they are padded"
        )
    which = int(rng.integers(8))
    result = dict(example)
    result["image"] = turn(example["image"], which, axes=(0, 1))
    for key in ("label", "labels", "masks", "pixel_weight"):
        if key in example and np.ndim(example[key]) > 1:
            result[key] = turn(example[key], which, axes=(-2, -1))
    if "size" in example:
        result["size"] = np.array(result["image"].shape[:2], np.int32)
    return result


def turn(values: np.ndarray, which: int, *, axes: tuple[int, int]) -> np.ndarray:
    """Number `which` of the eight: `which` % 4 quarter turns, mirrored from 4 on."""
    turned = np.rot90(values, which % 4, axes)
    return np.ascontiguousarray(np.flip(turned, axes[1]) if which >= 4 else turned)


def in_turn(*transforms: Callable[[Example, np.random.Generator], Example]) -> Any:
    """A transform that applies several, the first one first."""

    def transform(example: Example, rng: np.random.Generator) -> Example:
        for one in transforms:
            example = one(example, rng)
        return example

    return transform
