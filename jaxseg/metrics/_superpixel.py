"""Superpixels against human segmentations: accuracy, boundaries, leakage, compactness.

S_j are the superpixels, G_i the segments of one annotation, n the pixels of the image.
"""

import math
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from jaxseg.metrics._sums import add
from jaxseg.types import Batch, Metric, Prediction

_MEANS = ("asa", "br", "bp", "br_stutz", "bp_stutz", "ue_np", "ue_levin", "co")


def superpixel(*, radius: int = 1) -> Metric:
    """Makes the measure of superpixels; it runs on the host.

    Every pair of an image and an annotation is one sample, and every figure is the plain mean over
    the pairs, as in the papers (1,063 pairs of the BSDS500 test split):

    - `asa`: achievable segmentation accuracy, (1/n) Σ_j max_i |S_j ∩ G_i| (Liu et al., CVPR 2011).
    - `br`: boundary recall, the part of G's boundary pixels with one of S in the (2r+1)² window
      around them; a boundary pixel differs from its right or lower neighbour (SEAL, Tu et al.,
      CVPR 2018; used for SSN).
    - `bp`: boundary precision, `br` with S and G exchanged.
    - `br_stutz`: `br` where a boundary pixel differs from any of its 4 neighbours and
      r = round(0.0025 · diagonal) (Stutz et al., CVIU 2018).
    - `bp_stutz`: TP / (TP + FP) on the same maps; TP are the pixels that `br_stutz` finds, FP the
      boundary pixels of S without one of G in the window.
    - `ue_np`: undersegmentation error, (1/n) Σ_i Σ_j min(|S_j ∩ G_i|, |S_j - G_i|) (Neubert and
      Protzel, 2012).
    - `ue_levin`: mean over i of (Σ_{j: S_j ∩ G_i ≠ ∅} |S_j| - |G_i|) / |G_i| (Levinshtein et al.,
      TPAMI 2009); no upper bound, and small segments rule it.
    - `co`: compactness, Σ_j |S_j|/n · 4π|S_j|/P_j², where P_j counts exposed pixel edges, those at
      the image border too (Schick et al., ICPR 2012).
    - `regions`: superpixels produced; an image counts once per annotation, as for the rest.
    - `pairs`: the number of samples.

    Stutz's undersegmentation error is 1 - `asa`. A boundary score without a pixel to count is 1
    (SEAL's rule for recall; Stutz's program says 0).

    Pixels of label -1 are cut out: they belong to no region, no boundary runs along them, and
    they expose the edges of their neighbours. An annotation without a labelled pixel is no sample.

    `measure` needs `superpixels` of the prediction (0 or more where labelled), and of the batch
    `size`, `weight` and either `labels` (every annotator's) or `label`; figures of zero samples
    are NaN.

    Args:
        radius: r of `br` and `bp`, in pixels.

    Returns:
        A Metric whose sums are a dict of float64 and int64 scalars.

    Raises:
        ValueError: `radius` is negative; in `measure`: no labels, sizes that differ, or a
            superpixel without a number.
    """
    if radius < 0:
        raise ValueError(f"radius={radius}: expected 0 or more")

    def measure(prediction: Prediction, batch: Batch) -> dict[str, Any]:
        superpixels = np.asarray(prediction["superpixels"])
        if "labels" in batch:
            labels = np.asarray(batch["labels"])
        elif "label" in batch:
            labels = np.asarray(batch["label"])[:, None]
        else:
            raise ValueError("the batch has neither 'labels' nor 'label'")
        if superpixels.shape != labels.shape[:1] + labels.shape[2:]:
            raise ValueError(
                f"superpixels {superpixels.shape} and labels {labels.shape} differ in size"
            )
        sums = _zeros()
        used = np.asarray(batch["weight"]) > 0
        for index in np.flatnonzero(used):
            height, width = (int(side) for side in np.asarray(batch["size"])[index])
            regions = superpixels[index, :height, :width]
            compact = np.unique(regions, return_inverse=True)[1].reshape(regions.shape)
            for annotation in labels[index, :, :height, :width]:
                valid = annotation >= 0
                if not valid.any():
                    continue
                if regions[valid].min() < 0:
                    raise ValueError("a labelled pixel has a negative superpixel")
                for name, value in _measure_pair(compact, annotation, radius).items():
                    sums[name] = sums[name] + value
                sums["pairs"] = sums["pairs"] + 1
        return sums

    return Metric(measure=measure, merge=add, compute=_compute)


def _zeros() -> dict[str, Any]:
    floats: dict[str, Any] = {name: np.float64(0) for name in _MEANS}
    return floats | {"regions": np.int64(0), "pairs": np.int64(0)}


def _compute(sums: dict[str, Any]) -> dict[str, float]:
    pairs = int(sums["pairs"])
    figures = {
        name: float(sums[name]) / pairs if pairs else math.nan for name in (*_MEANS, "regions")
    }
    return figures | {"pairs": float(pairs)}


def _measure_pair(
    regions: Int[np.ndarray, "h w"], annotation: Int[np.ndarray, "h w"], radius: int
) -> dict[str, Any]:
    valid = annotation >= 0
    area = np.bincount(regions[valid], minlength=int(regions.max()) + 1)
    same = np.zeros_like(area)
    for a, b, both in _neighbors(regions, valid):
        same += np.bincount(a[(a == b) & both], minlength=len(area))
    produced = area > 0
    area, perimeter = area[produced], (4 * area - 2 * same)[produced]
    compactness = np.sum(area**2 * 4 * np.pi / perimeter**2) / area.sum()

    stutz_radius = int(0.0025 * math.hypot(*regions.shape) + 0.5)
    ours, theirs = _boundaries(regions, valid), _boundaries(annotation, valid)
    one_s, one_g = ours[0], theirs[0]
    two_s, two_g = ours[1], theirs[1]
    found = two_g & _window(two_s, stutz_radius)
    wrong = two_s & ~_window(two_g, stutz_radius)
    return _overlap(regions[valid], annotation[valid]) | {
        "br": _ratio(one_g & _window(one_s, radius), one_g),
        "bp": _ratio(one_s & _window(one_g, radius), one_s),
        "br_stutz": _ratio(found, two_g),
        "bp_stutz": _ratio(found, found | wrong),
        "co": compactness,
        "regions": np.int64(len(area)),
    }


def _overlap(
    regions: Int[np.ndarray, " n"], annotation: Int[np.ndarray, " n"]
) -> dict[str, np.float64]:
    """The measures that need only the sizes of the intersections."""
    base = int(annotation.max()) + 1
    keys, shared = _count(regions.astype(np.int64) * base + annotation)
    _, starts, s = np.unique(keys // base, return_index=True, return_inverse=True)
    _, g = np.unique(keys % base, return_inverse=True)
    size = np.add.reduceat(shared, starts)[s]
    segment = np.bincount(g, shared)
    return {
        "asa": np.maximum.reduceat(shared, starts).sum() / regions.size,
        "ue_np": np.minimum(shared, size - shared).sum() / regions.size,
        "ue_levin": np.mean((np.bincount(g, size) - segment) / segment),
    }


def _count(keys: Int[np.ndarray, " n"]) -> tuple[np.ndarray, np.ndarray]:
    """The keys that occur, rising, and how often; sorts only where a table would be large."""
    if keys.max() >= 16 * keys.size:
        return np.unique(keys, return_counts=True)
    table = np.bincount(keys)
    found = np.flatnonzero(table)
    return found, table[found]


def _neighbors(labels: np.ndarray, valid: np.ndarray):
    """Pixels, their right (then lower) neighbours, and whether both are labelled."""
    yield labels[:, :-1], labels[:, 1:], valid[:, :-1] & valid[:, 1:]
    yield labels[:-1], labels[1:], valid[:-1] & valid[1:]


def _boundaries(
    labels: Int[np.ndarray, "h w"], valid: Bool[np.ndarray, "h w"]
) -> tuple[Bool[np.ndarray, "h w"], Bool[np.ndarray, "h w"]]:
    """Boundary pixels by the right and lower neighbours, and by all four."""
    right, down = ((a != b) & both for a, b, both in _neighbors(labels, valid))
    one = np.zeros(labels.shape, bool)
    one[:, :-1] |= right
    one[:-1] |= down
    two = one.copy()
    two[:, 1:] |= right
    two[1:] |= down
    return one, two


def _window(marked: Bool[np.ndarray, "h w"], radius: int) -> Bool[np.ndarray, "h w"]:
    """Whether the (2r+1)² window around each pixel, cut at the border, holds a marked one."""
    rows = marked.copy()
    for step in range(1, radius + 1):
        rows[step:] |= marked[:-step]
        rows[:-step] |= marked[step:]
    near = rows.copy()
    for step in range(1, radius + 1):
        near[:, step:] |= rows[:, :-step]
        near[:, :-step] |= rows[:, step:]
    return near


def _ratio(part: np.ndarray, whole: np.ndarray) -> float:
    total = np.count_nonzero(whole)
    return np.count_nonzero(part) / total if total else 1.0
