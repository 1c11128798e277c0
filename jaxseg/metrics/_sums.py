"""How sums of measures are merged."""

from typing import Any

from jaxseg.types import Batch, Metric, Prediction


def add(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
    """The sums of both, name by name."""
    return {name: a[name] + b[name] for name in a}


def prefixed(prefix: str, metric: Metric) -> Metric:
    """Makes a measure whose figures have `prefix` before their names."""

    def compute(sums: Any) -> dict[str, float]:
        return {prefix + name: figure for name, figure in metric.compute(sums).items()}

    return metric._replace(compute=compute)


def together(*metrics: Metric) -> Metric:
    """Makes one measure of several, whose figures have names that differ.

    It runs on the host if one of them does.
    """

    def measure(prediction: Prediction, batch: Batch) -> list[Any]:
        return [metric.measure(prediction, batch) for metric in metrics]

    def merge(a: list[Any], b: list[Any]) -> list[Any]:
        return [m.merge(x, y) for m, x, y in zip(metrics, a, b, strict=True)]

    def compute(sums: list[Any]) -> dict[str, float]:
        figures: dict[str, float] = {}
        for metric, one in zip(metrics, sums, strict=True):
            figures |= metric.compute(one)
        return figures

    return Metric(measure=measure, merge=merge, compute=compute)
