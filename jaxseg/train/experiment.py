"""What an experiment file hands to training, evaluation and prediction.

An experiment is a Python file with

    a frozen dataclass `Config`, every field with a default;
    `VARIANTS`, a dict of named `Config`s, the first of which is the default;
    `build(config) -> Experiment`.

The slots that need data are functions, so that a trained run predicts without any.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxseg.train.phases import Phase
from jaxseg.types import Batch, Method, Metric, Prediction, PyTree


class Evaluation(NamedTuple):
    """One row of an evaluation: figures of a method on data."""

    method: Method
    metric: Metric
    data: Iterable[Batch]
    """Finite host batches; may be iterated again."""
    inputs: tuple[str, ...] = ("image", "index", "weight", "size")
    """What of the batch the method's `predict` is given, on the device."""


class Schedule(NamedTuple):
    """The numbers that the loop needs; None or 0 turns a thing off, but for the first three and
    `log_every`, which is at least 1.
    """

    steps: int
    seed: int = 0
    accumulate: int = 1
    ema_decay: float | None = None
    log_every: int = 50
    save_every: int = 500
    evaluate_every: int = 0
    best: str = ""
    """The evaluation figure by which the best checkpoint is kept, such as "100/asa"; every
    evaluated step is then saved."""
    lowest: bool = False
    """Whether a smaller `best` is better."""


class Experiment(NamedTuple):
    """What `build(config)` returns."""

    schedule: Schedule
    method: Callable[..., Method]
    """`method(**options)`: the Method to predict with; every option has a default."""
    example: Batch
    """A batch of the smallest shapes, which `Method.init` reads when weights are loaded."""
    phases: Callable[[Path], Sequence[Phase]]
    """The data folder -> what to train."""
    evaluations: Callable[[Path, str], Mapping[str, Evaluation]]
    """(the data folder, split) -> rows by name; figures are called "row/figure"."""
    validation: Callable[[Path], Mapping[str, Evaluation]] | None = None
    """The data folder -> what is evaluated during training."""
    picture: Callable[[Prediction, Batch], np.ndarray] | None = None
    """Draws the first example of a batch: uint8 `[H, W, 3]`."""
    initial: Callable[[PyTree, PyTree], tuple[PyTree, PyTree]] | None = None
    """What a training begins with instead of random variables, see `fit`."""
    class_names: tuple[str, ...] = ()
    """Of what `classes` of a prediction hold, for legends; none: their numbers."""
    class_colors: tuple[tuple[int, int, int], ...] = ()
    """RGB 0..255 of each class; none: distinct ones."""
    tiles: bool = False
    """Whether large images go by tiles: it predicts classes, at the size that images have."""


class ExperimentFile(NamedTuple):
    """The three names of an experiment file."""

    Config: type
    VARIANTS: Mapping[str, Any]
    build: Callable[[Any], Experiment]
