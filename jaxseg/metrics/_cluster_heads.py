"""Several clusterings of the same images, by the sub-heads of one network, against classes."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from jaxseg.metrics._clustering import Matching, agreement, checked_mapping, clustering, match
from jaxseg.metrics._sums import add
from jaxseg.types import Batch, Metric, Prediction

Classes = Sequence[int] | Int[np.ndarray, " clusters"]
"""The class of each cluster, -1 for none."""


def cluster_heads(
    num_clusters: int,
    num_classes: int,
    *,
    matching: Matching = "hungarian",
    names: Sequence[str] = (),
    mapping: Classes | None = None,
    sub_head_mappings: Sequence[Classes] | Int[np.ndarray, "sub_heads clusters"] | None = None,
) -> Metric:
    """Makes the measure of clusters by several sub-heads, one of them chosen; it runs on the host.

    Each sub-head has its own table, and each is matched with the classes on its own:

    - all figures of `clustering`, under their names, for the sub-head that was chosen (by its
      loss: Ji et al., ICCV 2019, whose "lowest loss sub-head" it is).
    - `accuracy_S`: that of sub-head S, 0 and up.
    - `accuracy_mean`, `accuracy_std`: their mean and sample standard deviation (over S - 1; NaN for
      one sub-head), as the paper's "average sub-head ± deviation".
    - `accuracy_by_labels`: the highest of them. Labels choose it, so it is no result of a method
      without labels; it is there because published figures are often chosen so (in IIC's released
      code the epoch is chosen by labels).

    Which images or pixels count is as in `clustering`.

    `measure` needs of the prediction `clusters`, `[B]` or `[B, H, W]`, and `sub_heads`, `[B, S]` or
    `[B, S, H, W]`; of the batch `label` and `weight`, and `size` if images are padded.

    Args:
        num_clusters: predictions are 0 .. num_clusters - 1, of each sub-head.
        num_classes: labels are 0 .. num_classes - 1.
        matching: see `match`. Not used where there is a mapping.
        names: of the classes, for `iou_NAME`; by default their numbers.
        mapping: the class of each cluster of the chosen sub-head, -1 for none, found on another
            split: `match` of the sums' "table" there.
        sub_head_mappings: the same for each sub-head: `match` of each of the sums' "sub_heads".
            With `mapping` and without these the accuracies of the sub-heads are NaN, for they
            would not be of the same protocol.

    Returns:
        A Metric whose sums are {"table": int64 `[num_clusters, num_classes]`, "sub_heads": int64
        `[S, num_clusters, num_classes]`}.

    Raises:
        ValueError: as of `clustering`; mappings of sub-heads without one of the chosen; in
            `measure`: `sub_heads` is not of the size of `clusters` and one axis more; in `compute`:
            there are not as many mappings as sub-heads.
    """
    chosen = clustering(num_clusters, num_classes, matching=matching, mapping=mapping, names=names)
    if sub_head_mappings is not None and mapping is None:
        raise ValueError("sub_head_mappings without mapping: expected both, of the same split")
    fixed = (
        None
        if sub_head_mappings is None
        else [checked_mapping(np.asarray(x), num_clusters, num_classes) for x in sub_head_mappings]
    )

    def measure(prediction: Prediction, batch: Batch) -> dict[str, Any]:
        clusters, each = np.asarray(prediction["clusters"]), np.asarray(prediction["sub_heads"])
        if each.ndim < 2 or not each.shape[1] or each[:, 0].shape != clusters.shape:
            raise ValueError(
                f"sub_heads {each.shape}: expected clusters' {clusters.shape} with the sub-heads"
                " as the second axis"
            )
        tables = [
            chosen.measure({"clusters": each[:, s]}, batch)["table"] for s in range(each.shape[1])
        ]
        return {**chosen.measure({"clusters": clusters}, batch), "sub_heads": np.stack(tables)}

    def accuracies(tables: np.ndarray) -> np.ndarray:
        if not tables[0].sum() or (mapping is not None and fixed is None):
            return np.full(len(tables), np.nan)
        taken = [match(table, matching) for table in tables] if fixed is None else fixed
        if len(taken) != len(tables):
            raise ValueError(f"{len(taken)} sub_head_mappings for {len(tables)} sub-heads")
        right = [agreement(table, to)[0] for table, to in zip(tables, taken, strict=True)]
        return np.array(right) / tables.sum(axis=(1, 2))

    def compute(sums: dict[str, Any]) -> dict[str, float]:
        found = accuracies(np.asarray(sums["sub_heads"]))
        return {
            **chosen.compute({"table": sums["table"]}),
            "accuracy_mean": float(found.mean()),
            "accuracy_std": float(found.std(ddof=1)) if len(found) > 1 else math.nan,
            "accuracy_by_labels": float(found.max()),
            **{f"accuracy_{s}": float(value) for s, value in enumerate(found)},
        }

    return Metric(measure=measure, merge=add, compute=compute)
