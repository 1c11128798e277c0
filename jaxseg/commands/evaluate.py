"""`jaxseg evaluate`: measures a trained run on a split of its data."""

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jaxseg.commands.options import Run, check_data, parse, progress, table
from jaxseg.data.files import write_text

if TYPE_CHECKING:
    from jaxseg.train import Evaluation
    from jaxseg.types import Batch, PyTree


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Measures a trained run on a split of its data, and keeps the figures in the run's folder.

    Below them stands what one image costs, see `jaxseg.train.cost`. Weights by name or file are
    measured too; their figures are printed alone.
    """

    run: Run
    data: Path
    """The folder of the data."""
    split: str = "test"
    """Which part of the data."""
    checkpoint: Literal["best", "latest"] = "best"
    """By the experiment's figure on its validation data, or the last."""


def run(argv: Sequence[str]) -> int:
    """Parses, measures, prints and writes `evaluation_SPLIT.json`."""
    import jax

    from jaxseg.predictor import load
    from jaxseg.train.evaluate import evaluate
    from jaxseg.train.sharding import data_mesh, replicated
    from jaxseg.weights import find

    options = parse(Evaluate, argv, "evaluate")
    check_data(options.data)
    predictor = load(options.run, step=options.checkpoint)
    rows = predictor.experiment.evaluations(options.data, options.split)
    mesh = data_mesh()
    params, model_state = jax.device_put(
        (predictor.params, predictor.model_state), replicated(mesh)
    )
    sizes = _Sizes(rows)
    figures = evaluate(rows, params, model_state, mesh, progress=sizes.watch)
    costs = {name: sizes.cost(name, params, model_state) for name in rows}
    print(f"{options.run}, step {predictor.step}, {options.split}")
    print(table(figures))
    for name, cost in costs.items():
        print(_describe(name, cost))
    if find(options.run) is not None:  # a file of weights has no folder
        return 0
    record = {"step": predictor.step, "split": options.split, "figures": figures, "costs": costs}
    path = options.run / f"evaluation_{options.split.replace('+', '_')}.json"
    write_text(path, json.dumps(record, indent=2) + "\n")
    print(f"written to {path}")
    return 0


class _Sizes:
    """Notes, while batches are evaluated, of what shapes they are."""

    def __init__(self, rows: "Mapping[str, Evaluation]"):
        self._rows = rows
        self._first: dict[str, Any] = {}
        self._images: dict[str, set[tuple[int, int]]] = {name: set() for name in rows}

    def watch(self, batches: "Iterable[Batch]", name: str) -> "Iterator[Batch]":
        """Passes on the batches of a row, with a progress bar."""
        for batch in progress(batches, name):
            self._first.setdefault(name, batch)
            self._images[name].add(batch["image"].shape[1:3])
            yield batch

    def cost(self, name: str, params: "PyTree", model_state: "PyTree") -> dict[str, Any]:
        """What predicting the first image of a row costs, for the record."""
        import jax

        from jaxseg.train.cost import cost

        row, first = self._rows[name], self._first[name]
        image = {
            key: jax.ShapeDtypeStruct((1, *value.shape[1:]), value.dtype)
            for key, value in first.items()
            if key in row.inputs
        }
        found = cost(row.method.predict, params, model_state, image)
        return {
            "parameters": found.parameters,
            "macs": found.macs,
            "flops": found.flops,
            "uncounted": found.uncounted,
            "size": first["image"].shape[1:3],
            "sizes": len(self._images[name]),
        }


def _describe(name: str, cost: "Mapping[str, Any]") -> str:
    height, width = cost["size"]
    others = f" (the first of {cost['sizes']} sizes)" if cost["sizes"] > 1 else ""
    words = (
        f"{name}: {cost['parameters']:,} parameters, {_giga(cost['macs'])} G multiply-accumulates "
        f"({_giga(cost['flops'])} GFLOPs) for an image of {height}x{width}{others}"
    )
    if "while" in cost["uncounted"]:
        words += "; loops of unknown length are counted once"
    if unread := [name for name in cost["uncounted"] if name != "while"]:
        words += f"; {', '.join(unread)} not counted"
    return words


def _giga(number: int) -> str:
    return f"{number / 1e9:.4g}"
