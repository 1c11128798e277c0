"""What clusters of two views tell of each other: measures without labels, and their warnings."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool

from jaxseg.metrics._clustering import entropy, information, normalised_information
from jaxseg.metrics._sums import add
from jaxseg.types import Batch, Metric, Prediction

_BLIND = 1e-3
"""Below this part of ln K views tell nothing of each other: IIC's plateau is at 1e-5 to 1e-3."""
_UNSURE = 0.1
"""Below this part of the way from 1/K to 1 a confidence is near that of uniform outputs."""
_APART = 0.5
"""Below this agreement sub-heads have found different clusters."""


def view_information(num_clusters: int, *, lamb: float = 1.0) -> Metric:
    """Makes the measure of probabilities for two views, without labels; it runs on the host.

    P is the symmetrised joint of the clusters of an image and of its other views, over all batches
    together, p its marginal; I = Σ P_kl ln(P_kl / p_k p_l), H = -Σ p_k ln p_k, in float64, and
    loss = -(I + 2 (lamb - 1) H) for each sub-head (Ji et al., ICCV 2019, eq. 3). The chosen one has
    the lowest loss, the first of equals. The released code sums the losses of batches instead,
    which are biased downwards, the more the smaller the batch; here its size does not matter.

    - `chosen`: the number of the chosen sub-head, S of `cluster_heads`'s `accuracy_S`.
    - `information`, `entropy`, `loss`: I, H and the loss of the chosen, in nats. I ≤ H ≤ ln K.
    - `information_mean`, `entropy_mean`, `loss_mean`: means over the sub-heads; `loss_S`: each.
    - `smallest_cluster`, `largest_cluster`: their parts of the images (or pixels), where each is in
      its most probable cluster; of the chosen.
    - `empty_clusters`: how many clusters of the chosen are the most probable of no image.
    - `agreement`: the mean over pairs of sub-heads of the `nmi` (see `clustering`) of one's
      clusters with the other's; NaN for one sub-head.
    - `confidence`: the mean of the largest probability; of the chosen.
    - `counted`: images or pixels.

    Where nothing counts all but `empty_clusters` and `counted` are NaN. Examples of weight 0 count
    for nothing.

    `measure` needs `weight` of the batch and, of the prediction, one of:

    - `probabilities` `[B, S, K]`, of the images, and `view_probabilities` `[B, R, S, K]`, of R
      other views of each. Not negative, of sum 1.
    - `joint` `[B, S, K, K]`, for maps: Σ x yᵀ over the pixels that count, and `counts` `[B, S, K]`,
      the pixels whose most probable cluster is k, and if known `certainty` `[B, S]`, the sum over
      pixels of the largest probability, and `pairs` `[B, S, S, K, K]`, the pixels in k by one
      sub-head and in l by another. `confidence` or `agreement` are NaN without the last two.

    Args:
        num_clusters: K.
        lamb: of the loss, by which the sub-head is chosen.

    Returns:
        A Metric whose sums are {"joint": float64 `[S, K, K]`, "counts": int64 `[S, K]`,
        "certainty": float64 `[S]`, "pairs": int64 `[S, S, K, K]`}, the last two if they are known.

    Raises:
        ValueError: `num_clusters` is below 1 or `lamb` negative; in `measure`: what is needed is
            absent, or not of these sizes, negative or not finite, probabilities have another sum
            than 1, counts are not whole.
    """
    if num_clusters < 1:
        raise ValueError(f"num_clusters={num_clusters}: expected 1 or more")
    if not 0 <= lamb < math.inf:
        raise ValueError(f"lamb={lamb}: expected 0 or more")

    def measure(prediction: Prediction, batch: Batch) -> dict[str, Any]:
        there = np.asarray(batch["weight"]) > 0
        for needed, of in (
            (("joint", "counts"), _of_tables),
            (("probabilities", "view_probabilities"), _of_probabilities),
        ):
            if all(name in prediction for name in needed):
                return of(prediction, there, num_clusters)
        raise ValueError(
            f"a prediction of {sorted(prediction)}: expected joint and counts, or probabilities"
            " and view_probabilities; the batches must have views"
        )

    def compute(sums: dict[str, Any]) -> dict[str, float]:
        counts, joints = sums["counts"], sums["joint"]
        known = [_of_joint(joint) for joint in joints]
        told, spread = (np.array(values) for values in zip(*known, strict=True))
        losses = -(told + 2 * (lamb - 1) * spread)
        counted = int(counts[0].sum())
        best = int(np.argmin(losses))
        sizes = counts[best]
        certainty = sums["certainty"][best] if "certainty" in sums else math.nan
        return {
            "chosen": math.nan if np.isnan(losses[best]) else float(best),
            "information": float(told[best]),
            "entropy": float(spread[best]),
            "loss": float(losses[best]),
            "information_mean": float(told.mean()),
            "entropy_mean": float(spread.mean()),
            "loss_mean": float(losses.mean()),
            **{f"loss_{s}": float(value) for s, value in enumerate(losses)},
            "smallest_cluster": float(sizes.min() / counted) if counted else math.nan,
            "largest_cluster": float(sizes.max() / counted) if counted else math.nan,
            "empty_clusters": float(np.sum(sizes == 0)),
            "agreement": _mean_agreement(sums["pairs"]) if "pairs" in sums else math.nan,
            "confidence": float(certainty / counted) if counted else math.nan,
            "counted": float(counted),
        }

    return Metric(measure=measure, merge=add, compute=compute)


def complaints(figures: Mapping[str, float], *, num_clusters: int) -> list[str]:
    """What the figures of `view_information` say is wrong, in plain sentences (host).

    - Nothing was counted. Then nothing else is said.
    - The outputs are still uniform: I is below 1e-3 ln K, and the confidence less than a tenth of
      the way from 1/K to 1; where it is not known, H is above 0.9 ln K. Then nothing else is said,
      as the most probable cluster is chance.
    - I is as low, but the outputs are not uniform, and more than one cluster is in use.
    - Clusters are empty.
    - The agreement of the sub-heads is below 0.5.

    Args:
        figures: by their names in `view_information`.
        num_clusters: K.

    Returns:
        One sentence for what is wrong and one for what to try, each; [] where all is well.
    """
    told, sure = figures["information"], figures["confidence"]
    if math.isnan(told):
        return ["No image was counted. Check the data and their weights."]
    found = []
    most, empty = math.log(num_clusters), int(figures["empty_clusters"])
    if told < _BLIND * most:
        least = 1 / num_clusters
        if math.isnan(sure):
            known, uniform = "", figures["entropy"] > (1 - _UNSURE) * most
        else:
            known = f" and their mean confidence {sure:.3f}, near 1/K"
            uniform = sure < least + _UNSURE * (1 - least)
        if uniform:
            return [
                f"The outputs are still uniform: their information is {told:.1e} of at most"
                f" {most:.2f} nats{known}. Train for longer, with a higher learning rate, another"
                " seed or stronger changes of colour in the views, and keep the softmax and the"
                " loss in float32."
            ]
        if empty < num_clusters - 1:
            found.append(
                f"The outputs differ but tell nothing of other views: their information is"
                f" {told:.1e} of at most {most:.2f} nats. Check that the views are of the images"
                " they are paired with, train for longer, or make the views' changes weaker."
            )
    if empty:
        are = "cluster is" if empty == 1 else "clusters are"
        found.append(
            f"{empty} of {num_clusters} {are} empty. Try lamb above 1, larger batches or another"
            " seed."
        )
    if figures["agreement"] < _APART:
        found.append(
            f"The sub-heads disagree: their agreement is {figures['agreement']:.2f} of 1. Train for"
            " longer or with more clusters in the auxiliary head, and compare several seeds before"
            " the chosen one is trusted."
        )
    return found


def _of_probabilities(
    prediction: Prediction, there: Bool[np.ndarray, " b"], num_clusters: int
) -> dict[str, Any]:
    x, y = (
        np.asarray(prediction[name]).astype(np.float64)
        for name in ("probabilities", "view_probabilities")
    )
    batch, sub_heads = len(there), x.shape[1] if x.ndim > 1 else 0
    _check_size("probabilities", x, (batch, sub_heads, num_clusters))
    repeats = y.shape[1] if y.ndim > 1 else 0
    _check_size("view_probabilities", y, (batch, repeats, sub_heads, num_clusters))
    x, y = x[there], y[there]
    for name, values in (("probabilities", x), ("view_probabilities", y)):
        _check_values(name, values)
        # Half precision leaves a sum of 1 by a few thousandths.
        if not np.all(np.abs(values.sum(axis=-1) - 1) < 0.01):
            raise ValueError(f"{name}: expected a sum of 1")
    hard = np.argmax(x, axis=-1)
    heads = np.arange(sub_heads)
    counts = np.zeros((sub_heads, num_clusters), np.int64)
    np.add.at(counts, (heads, hard), 1)
    pairs = np.zeros((sub_heads, sub_heads, num_clusters, num_clusters), np.int64)
    np.add.at(pairs, (heads[:, None], heads, hard[:, :, None], hard[:, None, :]), 1)
    return {
        "joint": x.transpose(1, 2, 0) @ y.sum(axis=1).swapaxes(0, 1),
        "counts": counts,
        "certainty": x.max(axis=-1).sum(axis=0),
        "pairs": pairs,
    }


def _of_tables(
    prediction: Prediction, there: Bool[np.ndarray, " b"], num_clusters: int
) -> dict[str, Any]:
    counts = np.asarray(prediction["counts"])
    sub_heads = counts.shape[1] if counts.ndim > 1 else 0
    sizes = {
        "joint": (num_clusters, num_clusters),
        "counts": (num_clusters,),
        "certainty": (),
        "pairs": (sub_heads, num_clusters, num_clusters),
    }
    sums = {}
    for name, size in sizes.items():
        if name not in prediction:
            continue
        values = np.asarray(prediction[name]).astype(np.float64)
        _check_size(name, values, (len(there), sub_heads, *size))
        _check_values(name, values[there])
        sums[name] = values[there].sum(axis=0)
    for name in sums.keys() & {"counts", "pairs"}:
        whole = np.rint(sums[name])
        if not np.array_equal(whole, sums[name]):
            raise ValueError(f"{name}: expected whole numbers")
        sums[name] = whole.astype(np.int64)
    return sums


def _check_size(name: str, values: np.ndarray, size: tuple[int, ...]) -> None:
    if values.shape != size or 0 in size[1:]:
        raise ValueError(f"{name} {values.shape}: expected {size}, and 1 or more but for the batch")


def _check_values(name: str, values: np.ndarray) -> None:
    if not np.all((values >= 0) & (values < np.inf)):
        raise ValueError(f"{name}: expected finite numbers from 0 on")


def _of_joint(joint: np.ndarray) -> tuple[float, float]:
    """I and H of one sub-head; NaN where nothing meets."""
    if not joint.sum():
        return math.nan, math.nan
    joint = joint + joint.T
    return information(joint), entropy(joint.sum(axis=0))


def _mean_agreement(pairs: np.ndarray) -> float:
    each = [normalised_information(table) for table in pairs[np.triu_indices(len(pairs), 1)]]
    return float(np.mean(each)) if each and pairs.any() else math.nan
