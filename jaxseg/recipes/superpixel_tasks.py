"""What superpixels may be trained for beside segments: classes, flow, depth, any map of numbers.

Jampani et al., "Superpixel Sampling Networks", ECCV 2018, section 4: the loss reconstructs a
property of the pixels from its means over superpixels, cross-entropy where it is a label and L1
where it is real-valued (`losses.reconstruction`). A `Task` says where the property comes from.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxseg import data, metrics
from jaxseg.recipes.superpixels import Config, Task, open_labelled
from jaxseg.types import InputError

_SCALE_STD = 0.75
_SCALE_RANGE = (0.75, 3.0)

Change = Callable[[np.ndarray, float, bool], np.ndarray]
"""`change(target, scale, flipped) -> target`: what scaling and mirroring do to the values of
`[H, W, C]`, such as `data.flow.rescale_flow`; the pixels are moved already."""


def classes() -> Task:
    """Semantic classes: one channel for each class of the data, whose regions need not connect.

    ASA is that on the class maps (a segment of the truth is all pixels of a class); pixels
    without a class are ignored.
    """

    def open_classes(folder: Path, split: str) -> Any:
        source = open_labelled(folder, split)
        if source.info.kind != "classes":
            raise InputError(
                f"{folder}: holds {source.info.kind} images, not classes; give data whose "
                'dataset.json says "kind": "classes"'
            )
        return source

    return Task(
        open_classes,
        open_classes,
        CropLabels,
        metrics.superpixel(),
        num_labels=lambda config, source: len(source.info.classes),
    )


def dense(
    open_train: Callable[[Path, str], Any],
    change: Change,
    *,
    open_test: Callable[[Path, str], Any] | None = None,
) -> Task:
    """A real-valued property of the pixels.

    Args:
        open_train: (the data folder, split) -> a source of examples with `image` and `target`,
            float32 `[H, W, C]`; a pixel with a NaN is unknown.
        change: what scaling and mirroring do to its values; a function of a module, since
            worker processes unpickle it. `data.flow.keep_values` for nothing.
        open_test: the same for the examples that are measured; None: `open_train`.
    """
    return Task(
        open_train,
        open_test or open_train,
        lambda config: CropTarget(config, change),
        metrics.reconstruction_error(),
        best="epe",
        lowest=True,
    )


class CropLabels:
    """The random crop of the recipe with class labels as they are."""

    def __init__(self, config: Config):
        self.crop_size, self.scale_mean = config.crop_size, config.scale_mean

    def __call__(self, example: Mapping[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """Crops an example; see `data.random_crop_flip_scale`."""
        return data.random_crop_flip_scale(
            example, rng, crop_size=self.crop_size, scale_mean=self.scale_mean
        )


class CropTarget:
    """The random crop of the recipe where each pixel has numbers and not a label.

    A pixel of the crop takes the numbers of the nearest pixel, never a mixture of two, which would
    belong to neither side of a border; outside of the image they are unknown.
    """

    def __init__(self, config: Config, change: Change):
        self.crop_size, self.scale_mean, self.change = config.crop_size, config.scale_mean, change

    def __call__(self, example: Mapping[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """Crops an example with `image` and `target`."""
        drawn = self.scale_mean + _SCALE_STD * rng.standard_normal()
        scale = float(np.clip(drawn, *_SCALE_RANGE))
        flipped = bool(rng.random() < 0.5)
        target = example["target"]
        height, width, channels = target.shape
        # As a label each pixel has its own number, and tells after the crop whence it came.
        places = np.arange(height * width, dtype=np.int32).reshape(height, width)
        crop = data.random_crop_flip_scale(
            {**example, "label": places},
            rng,
            crop_size=self.crop_size,
            flip_probability=float(flipped),
            scale_mean=scale,
            scale_std=0.0,
            scale_range=(scale, scale),
        )
        places = crop.pop("label")
        values = target.reshape(-1, channels)[places]
        values[places < 0] = np.nan
        return {**crop, "target": self.change(values, scale, flipped).astype(np.float32)}
