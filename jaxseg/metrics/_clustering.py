"""Clusters against classes: which cluster is which class, and how well they agree."""

import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Int

from jaxseg.metrics._sums import add
from jaxseg.types import Batch, Metric, Prediction

Matching = Literal["hungarian", "many_to_one"]
Table = Int[np.ndarray, "clusters classes"]


def clustering(
    num_clusters: int,
    num_classes: int,
    *,
    matching: Matching = "hungarian",
    mapping: Sequence[int] | Int[np.ndarray, " clusters"] | None = None,
    names: Sequence[str] = (),
) -> Metric:
    """Makes the measure of clusters, of images or of pixels; it runs on the host.

    The table n_kc counts the images or pixels of class c in cluster k, over all batches together;
    N = Σ n_kc, a_k = Σ_c n_kc, b_c = Σ_k n_kc. Each cluster is taken for a class, by `match` on
    this very table (the protocol without labels in training: Ji et al., ICCV 2019) or by `mapping`,
    found on another split.

    - `accuracy`: the part of N whose cluster is taken for its class.
    - `miou`, `iou_NAME`: intersection over union as in `confusion`, after the matching, which
      maximises accuracy and not this. NaN for a class that is neither labelled nor predicted.
    - `nmi`: mutual information of clusters and classes over the mean of their entropies (Strehl
      and Ghosh, JMLR 2002, with the arithmetic mean); 1 where both entropies are 0, 0 where one is.
    - `ari`: the Rand index adjusted for chance (Hubert and Arabie, J. Classification 1985); 1 where
      both partitions are one part, or single elements.
    - `cluster_entropy`: -Σ a_k/N ln(a_k/N) in nats, at most ln(num_clusters).
    - `empty_clusters`: how many a_k are 0.
    - `counted`: N.

    With N = 0 all but the last two are NaN. Labels of -1, pixels beyond an image's `size` and
    examples of weight 0 count for nothing.

    `measure` needs `clusters` of the prediction, or `classes` where it has none; `label` and
    `weight` of the batch; all `[B]`, or `clusters` and `label` `[B, H, W]`, with `size` if
    images are padded.

    Args:
        num_clusters: predictions are 0 .. num_clusters - 1.
        num_classes: labels are 0 .. num_classes - 1.
        matching: "hungarian", one class to a cluster and one cluster to a class, or
            "many_to_one"; see `match`. Not used with `mapping`.
        mapping: the class of each cluster, -1 for none.
        names: of the classes, for `iou_NAME`; by default their numbers.

    Returns:
        A Metric whose sums are {"table": int64 `[num_clusters, num_classes]`}.

    Raises:
        ValueError: an option is out of range or not as long as it must be; in `measure`: sizes that
            differ, or a cluster or class out of range where it counts.
    """
    for what, value in (("num_clusters", num_clusters), ("num_classes", num_classes)):
        if value < 1:
            raise ValueError(f"{what}={value}: expected 1 or more")
    _check_matching(matching)
    if names and len(names) != num_classes:
        raise ValueError(f"{len(names)} names for {num_classes} classes")
    called = list(names) or [str(i) for i in range(num_classes)]
    fixed = (
        None if mapping is None else checked_mapping(np.asarray(mapping), num_clusters, num_classes)
    )

    def measure(prediction: Prediction, batch: Batch) -> dict[str, Any]:
        key = "clusters" if "clusters" in prediction else "classes"
        told, label = np.asarray(prediction[key]), np.asarray(batch["label"])
        if told.shape != label.shape:
            raise ValueError(f"{key} {told.shape} and label {label.shape} differ in size")
        rest = (1,) * (label.ndim - 1)
        counts = (label >= 0) & (np.asarray(batch["weight"]) > 0).reshape(-1, *rest)
        if label.ndim == 3 and "size" in batch:
            size = np.asarray(batch["size"])[:, :, None, None]
            rows, cols = np.ogrid[: label.shape[1], : label.shape[2]]
            counts &= (rows < size[:, 0]) & (cols < size[:, 1])
        k, c = told[counts].astype(np.int64), label[counts].astype(np.int64)
        for what, found, number in (("a cluster", k, num_clusters), ("a label", c, num_classes)):
            wrong = found[(found < 0) | (found >= number)]
            if wrong.size:
                raise ValueError(f"{what} is {wrong[0]}: expected 0 to {number - 1}")
        pairs = np.bincount(k * num_classes + c, minlength=num_clusters * num_classes)
        return {"table": pairs.reshape(num_clusters, num_classes).astype(np.int64)}

    def compute(sums: dict[str, Any]) -> dict[str, float]:
        table = np.asarray(sums["table"])
        taken = match(table, matching) if fixed is None else fixed
        total, sizes = int(table.sum()), table.sum(axis=1)
        right, iou = agreement(table, taken)
        known = iou[~np.isnan(iou)]
        return {
            "accuracy": right / total if total else math.nan,
            "miou": float(known.mean()) if known.size else math.nan,
            **{f"iou_{name}": float(value) for name, value in zip(called, iou, strict=True)},
            "nmi": normalised_information(table) if total else math.nan,
            "ari": _adjusted_rand(table) if total else math.nan,
            "cluster_entropy": entropy(sizes) if total else math.nan,
            "empty_clusters": float(np.sum(sizes == 0)),
            "counted": float(total),
        }

    return Metric(measure=measure, merge=add, compute=compute)


def match(table: Table, matching: Matching) -> Int[np.ndarray, " clusters"]:
    """The class that each cluster is taken for (host).

    - "hungarian": a cluster has at most one class and a class at most one cluster, so that the
      sum of n_kc is largest (Kuhn, 1955). With more clusters than classes the clusters left over
      have -1, no class; with fewer, classes stay without a cluster. Where several assignments are
      best it is one of them, the same every time; so an empty cluster may have any class.
    - "many_to_one": the class that most of the cluster are of; the first of equals, so that an
      empty cluster has class 0 (as in IIC's released code).

    Args:
        table: n_kc, how many of class c are in cluster k, such as the sums of `clustering`.
        matching: which.

    Returns:
        int64 `[clusters]`, -1 or a class.

    Raises:
        ValueError: `matching` is neither.
    """
    _check_matching(matching)
    if matching == "many_to_one":
        return np.argmax(table, axis=1).astype(np.int64)
    from scipy.optimize import linear_sum_assignment

    clusters, classes = linear_sum_assignment(table, maximize=True)
    taken = np.full(table.shape[0], -1, np.int64)
    taken[clusters] = classes
    return taken


def agreement(table: Table, taken: np.ndarray) -> tuple[int, np.ndarray]:
    """How many are right, and the IoU of each class, NaN where there is nothing."""
    matrix = np.zeros((table.shape[1], table.shape[1]), np.int64)
    known = taken >= 0
    np.add.at(matrix, taken[known], table[known])
    right = np.diag(matrix)
    union = table.sum(axis=0) + matrix.sum(axis=1) - right
    iou = np.where(union > 0, right / np.maximum(union, 1), np.nan)
    return int(right.sum()), iou


def entropy(counts: np.ndarray) -> float:
    """Of parts proportional to these, in nats."""
    part = counts[counts > 0] / counts.sum()
    return float(np.sum(part * -np.log(part)))


def information(table: np.ndarray) -> float:
    """Mutual information of rows and columns that meet in proportion to these, in nats."""
    joint = table / table.sum()
    rows, cols = np.nonzero(joint)
    met = joint[rows, cols]
    # One after the other: the product of two marginals may be too small for a number.
    ratio = met / joint.sum(axis=1)[rows] / joint.sum(axis=0)[cols]
    return max(float(np.sum(met * np.log(ratio))), 0.0)


def normalised_information(table: np.ndarray) -> float:
    """Over the mean of the entropies of rows and columns; 1 where both are 0."""
    mean = (entropy(table.sum(axis=1)) + entropy(table.sum(axis=0))) / 2
    return min(information(table) / mean, 1.0) if mean else 1.0


def _adjusted_rand(table: Table) -> float:
    """In whole numbers of any size: pairs of pixels are beyond 64 bits."""

    def pairs(counts: np.ndarray) -> int:
        return sum(n * (n - 1) // 2 for n in map(int, counts.reshape(-1)))

    both, within, alike = (pairs(x) for x in (table, table.sum(axis=1), table.sum(axis=0)))
    every = pairs(table.sum(keepdims=True))
    top, bottom = 2 * (both * every - within * alike), (within + alike) * every - 2 * within * alike
    return top / bottom if bottom else 1.0


def _check_matching(matching: str) -> None:
    if matching not in get_args(Matching):
        raise ValueError(f"matching={matching!r}: expected one of {get_args(Matching)}")


def checked_mapping(taken: np.ndarray, num_clusters: int, num_classes: int) -> np.ndarray:
    """As int64 `[clusters]`, each -1 or a class; raises ValueError if it is not."""
    if taken.shape != (num_clusters,) or not np.issubdtype(taken.dtype, np.integer):
        raise ValueError(
            f"mapping of shape {taken.shape}, {taken.dtype}: expected {num_clusters} whole numbers"
        )
    wrong = taken[(taken < -1) | (taken >= num_classes)]
    if wrong.size:
        raise ValueError(f"mapping holds {wrong[0]}: expected -1 to {num_classes - 1}")
    return taken.astype(np.int64)
