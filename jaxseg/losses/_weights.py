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


def inverse_log_weights(
    counts: Integer[np.ndarray, "n c"], *, offset: float = 1.02
) -> Float[np.ndarray, " c"]:
    """Weights a class by 1 / ln(offset + p), p its part of all labelled pixels (host).

    Paszke et al., ENet, 2016, section 5.2: unlike inverse frequencies these are bounded, by 1.42
    and 50.5 at their offset.

    Args:
        counts: pixels of each class in each label map (or in all of them: n = 1), ignored ones
            left out.
        offset: above 1; the greater, the less the weights differ.

    Returns:
        float64; the bound 1 / ln(offset) for a class without a pixel.

    Raises:
        ValueError: a count is negative, all are 0, or `offset` is not above 1.
    """
    _check(counts)
    if not offset > 1:
        raise ValueError(f"offset={offset}: expected more than 1")
    pixels = counts.astype(np.float64).sum(axis=0)
    return 1 / np.log(offset + pixels / pixels.sum())


def effective_number_weights(
    counts: Integer[np.ndarray, "n c"], *, beta: float = 0.9999
) -> Float[np.ndarray, " c"]:
    """Weights a class by the inverse of its effective number of samples (host).

    w_c = (1 - β) / (1 - β^n_c), n_c the samples of class c, then scaled so that the weights sum to
    the number of classes (Cui et al., CVPR 2019, section 4). β = 0 weighs all classes alike, β → 1
    by inverse frequency. The effective number never exceeds 1 / (1 - β): classes of many more
    samples weigh alike, so with pixels for samples β has to be nearer to 1 than with images
    (`counts > 0`).

    Args:
        counts: samples of each class in each label map (or in all of them: n = 1), ignored ones
            left out.
        beta: β, 0 or more and less than 1.

    Returns:
        float64; 0 for a class without a sample, which is left out of the number of classes too.

    Raises:
        ValueError: a count is negative, all are 0, or `beta` is out of range.
    """
    _check(counts)
    if not 0 <= beta < 1:
        raise ValueError(f"beta={beta}: expected 0 or more and less than 1")
    samples = counts.astype(np.float64).sum(axis=0)
    found = samples > 0
    weights = np.zeros(counts.shape[1])
    # 1 - β^n by way of the logarithm keeps its digits where β is near to 1.
    number = -np.expm1(samples[found] * np.log(beta)) if beta > 0 else np.ones(int(found.sum()))
    weights[found] = 1 / number
    return weights * (found.sum() / weights.sum())


def _check(counts: np.ndarray) -> None:
    if counts.min(initial=0) < 0:
        raise ValueError(f"counts hold {counts.min()}: expected 0 or more")
    if not counts.any():
        raise ValueError("counts are all 0: expected a labelled pixel")
