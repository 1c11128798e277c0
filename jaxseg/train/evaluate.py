"""Evaluation: predict, finish on the host, measure, merge the sums, compute last."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
from jax.sharding import Mesh

from jaxseg.train.experiment import Evaluation
from jaxseg.train.sharding import fetch, pad_batch, put_same_batch
from jaxseg.types import Batch, Method, Prediction, PyTree

Progress = Callable[[Iterable, str], Iterable]


def compile_predict(method: Method) -> Callable[[PyTree, PyTree, Batch], Any]:
    """`jit` of the method's prediction; compiled once for each shape of batch."""
    return jax.jit(method.predict)


def predict_batch(
    predict: Callable[[PyTree, PyTree, Batch], Any],
    row: Evaluation,
    params: PyTree,
    model_state: PyTree,
    batch: Batch,
    mesh: Mesh,
) -> tuple[Batch, Prediction]:
    """Predicts and finishes a host batch; with several processes, each gets all of it.

    Args:
        predict: `compile_predict(row.method)`.
        row: whose method finishes.
        params: on the mesh.
        model_state: on the mesh.
        batch: the same on every process.
        mesh: the batch is padded to a multiple of its size.

    Returns:
        The padded batch, and the finished prediction of NumPy arrays.
    """
    batch = pad_batch(batch, mesh.size)
    inputs = {k: v for k, v in batch.items() if k in row.inputs}
    prediction = fetch(predict(params, model_state, put_same_batch(inputs, mesh)))
    return batch, row.method.finish(prediction, batch)


def evaluate(
    rows: Mapping[str, Evaluation],
    params: PyTree,
    model_state: PyTree,
    mesh: Mesh,
    *,
    compiled: dict[str, Callable] | None = None,
    progress: Progress = lambda batches, name: batches,
) -> dict[str, float]:
    """Measures every row.

    Args:
        rows: by name.
        params: on the mesh.
        model_state: on the mesh.
        mesh: batches are padded to a multiple of its size.
        compiled: keeps the compiled predictions from one call to the next.
        progress: wraps the batches of a row, for a progress bar.

    Returns:
        The figures, "row/figure" -> value.
    """
    compiled = {} if compiled is None else compiled
    figures: dict[str, float] = {}
    for name, row in rows.items():
        predict = compiled.setdefault(name, compile_predict(row.method))
        sums = None
        for batch in progress(row.data, name):
            batch, prediction = predict_batch(predict, row, params, model_state, batch, mesh)
            new = row.metric.measure(prediction, batch)
            sums = new if sums is None else row.metric.merge(sums, new)
        if sums is None:
            raise ValueError(f"the evaluation {name!r} has no data")
        figures |= {f"{name}/{k}": float(v) for k, v in row.metric.compute(sums).items()}
    return figures
