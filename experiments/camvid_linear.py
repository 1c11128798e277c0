"""What a linear classifier of colour and position reaches on CamVid: the floor for a network.

    python experiments/camvid_linear.py --data CAMVID

Multinomial logistic regression of red, green, blue, row and column, each in [0, 1], on pixels drawn
evenly from the training images (seed 0), minimised by L-BFGS in float64; with and without
median-frequency weights. Measured on every labelled pixel of the test images.
"""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tyro

from jaxseg import data, losses, metrics
from jaxseg.recipes.semantic import count_labels
from jaxseg.types import InputError


@dataclasses.dataclass(frozen=True)
class Linear:
    """Options."""

    data: Path
    """The folder of CamVid."""
    split: str = "test"
    """Measured on it."""
    pixels: int = 300
    """Drawn from each training image."""
    seed: int = 0


def features(image: np.ndarray) -> np.ndarray:
    """Colour, position and 1 of each pixel, float64 `[H, W, 6]`."""
    height, width, _ = image.shape
    rows, cols = np.indices((height, width)) + 0.5
    position = np.stack([rows / height, cols / width, np.ones((height, width))], axis=-1)
    return np.concatenate([image / 255, position], axis=-1)


def fit(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The coefficients `[features, classes]` of least weighted cross-entropy.

    Args:
        x: `[N, features]`.
        y: classes `[N]`.
        weights: of classes.
    """
    from scipy.optimize import minimize
    from scipy.special import log_softmax, softmax

    classes = len(weights)
    share = weights[y] / weights[y].sum()

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        logits = x @ flat.reshape(-1, classes)
        value = -np.sum(share * log_softmax(logits, axis=1)[np.arange(len(y)), y])
        slope = softmax(logits, axis=1)
        slope[np.arange(len(y)), y] -= 1
        return float(value), (x.T @ (share[:, None] * slope)).ravel()

    start = np.zeros(x.shape[1] * classes)
    found = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 2000})
    return found.x.reshape(-1, classes)


def run(options: Linear) -> None:
    """Fits, measures, prints."""
    train = data.open_data(options.data, "train", channels="rgb")
    test = data.open_data(options.data, options.split, channels="rgb")
    classes = train.info.num_classes
    rng = np.random.default_rng(options.seed)
    drawn_x, drawn_y = [], []
    for i in range(len(train)):
        example = train[i]
        known = np.argwhere(example["label"] >= 0)
        count = min(options.pixels, len(known))
        rows, cols = known[rng.choice(len(known), count, replace=False)].T
        drawn_x.append(features(example["image"])[rows, cols])
        drawn_y.append(example["label"][rows, cols])
    x, y = np.concatenate(drawn_x), np.concatenate(drawn_y)
    counts, pixels = count_labels(train, classes)
    median = losses.median_frequency_weights(counts, image_pixels=pixels)
    metric = metrics.confusion(classes, names=train.info.classes)
    for name, weights in (("without weights", np.ones(classes)), ("median frequency", median)):
        coefficients = fit(x, y, weights)
        sums = None
        for i in range(len(test)):
            example = test[i]
            told = np.argmax(features(example["image"]) @ coefficients, axis=-1)
            batch = {
                "label": example["label"][None],
                "weight": np.ones(1),
                "size": np.array([told.shape]),
            }
            new = metric.measure({"classes": told[None]}, batch)
            sums = new if sums is None else metric.merge(sums, new)
        figures = metric.compute(sums)
        print(
            f"{name}: mIoU {100 * figures['miou']:.2f}, "
            f"accuracy {100 * figures['pixel_accuracy']:.2f}, {len(test)} images of {options.split}"
        )


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    options = tyro.cli(Linear, args=argv, description=__doc__)
    try:
        run(options)
    except InputError as error:
        print(f"camvid_linear: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
