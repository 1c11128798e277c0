"""`jaxseg evaluate`: measures a trained run on a split of its data."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from jaxseg.commands.options import Run, check_data, parse, progress, table
from jaxseg.data.files import write_text


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Measures a trained run on a split of its data, and keeps the figures in the run's folder.

    Weights by name or file are measured too; their figures are printed alone.
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
    figures = evaluate(rows, params, model_state, mesh, progress=progress)
    print(f"{options.run}, step {predictor.step}, {options.split}")
    print(table(figures))
    if find(options.run) is not None:  # a file of weights has no folder
        return 0
    record = {"step": predictor.step, "split": options.split, "figures": figures}
    path = options.run / f"evaluation_{options.split.replace('+', '_')}.json"
    write_text(path, json.dumps(record, indent=2) + "\n")
    print(f"written to {path}")
    return 0
