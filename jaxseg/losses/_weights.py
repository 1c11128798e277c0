"""Weights of classes, from how often each occurs in the training labels; on the host."""

import numpy as np
from jaxtyping import Float, Integer


def median_frequency_weights(
    counts: Integer[np.ndarray, "n c"], *, image_pixels: Integer[np.ndarray, " n"] | None = None
) -> Float[np.ndarray, " c"]:
    """Weights a class by the median frequency over its own (host).

    w_c = median(f) / f_c with f_c = the pixels of class c / the pixels of those images that hold c
    (Eigen and Fergus, ICCV 2015, section 4.3.2; used for SegNet).

    Args:
        counts: pixels of each class in each label map, ignored ones left out.
        image_pixels: pixels of each image, ignored ones too; None: the labelled ones alone.

    Returns:
        float64; 0 for a class without a pixel, which the median leaves out too.

    Raises:
        ValueError: a count is negative, all are 0, or an image has fewer pixels than labels.
    """
    _check(counts)
    wide = counts.astype(np.float64)
    pixels, labelled = wide.sum(axis=0), wide.sum(axis=1)
    if image_pixels is not None and np.any(image_pixels < labelled):
        n = int(np.argmax(image_pixels < labelled))
        raise ValueError(f"image {n} of {image_pixels[n]} pixels has {labelled[n]:.0f} labelled")
    around = (labelled if image_pixels is None else image_pixels) @ (counts > 0)
    found = pixels > 0
    frequency = pixels[found] / around[found]
    weights = np.zeros(counts.shape[1])
    weights[found] = np.median(frequency) / frequency
    return weights


def _check(counts: np.ndarray) -> None:
    if counts.min(initial=0) < 0:
        raise ValueError(f"counts hold {counts.min()}: expected 0 or more")
    if not counts.any():
        raise ValueError("counts are all 0: expected a labelled pixel")
