"""Runs of IIC: what they are, and what they predict of a split.

For iic_over_clustering.py and iic_pictures.py.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

import jaxseg
from jaxseg import metrics
from jaxseg.predictor import Predictor
from jaxseg.recipes import iic_images, iic_pixels
from jaxseg.train import Evaluation
from jaxseg.train.run_folder import open_run
from jaxseg.types import Batch, InputError, Prediction


class Run(NamedTuple):
    """A trained run."""

    folder: Path
    config: iic_images.Config | iic_pixels.Config
    predictor: Predictor

    @property
    def clusters(self) -> int:
        """Of the head that predicts."""
        over = self.config.predicts == "over"
        return self.config.over_clusters if over else self.config.num_clusters

    @property
    def chosen(self) -> int:
        """The sub-head that predicts, by its running information."""
        information = self.predictor.model_state["information"][self.config.predicts]
        return int(np.argmax(information))

    def rows(self, folder: Path, split: str) -> dict[str, Evaluation]:
        """The experiment's evaluations of a split."""
        return dict(self.predictor.experiment.evaluations(folder, split))

    def match(self, table: np.ndarray) -> np.ndarray:
        """The class of each cluster by counts `[clusters, classes]`, -1 for none."""
        one_to_one = self.config.predicts == "main"
        return metrics.match(table, "hungarian" if one_to_one else "many_to_one")


def open_iic(folder: Path) -> Run:
    """Opens a run.

    Raises:
        InputError: it is none of IIC, or not trained.
    """
    _, config = open_run(folder)
    if not isinstance(config, iic_images.Config | iic_pixels.Config):
        raise InputError(f"{folder}: is no run of IIC; give the --workdir of one")
    return Run(folder, config, jaxseg.load(folder))


def predictions(run: Run, row: Evaluation) -> Iterator[tuple[Batch, Prediction]]:
    """The batches of an evaluation, and what is predicted of each, as NumPy arrays."""
    predict = jax.jit(row.method.predict)
    variables = run.predictor.params, run.predictor.model_state
    for batch in row.data:
        inputs = {key: value for key, value in batch.items() if key in row.inputs}
        yield batch, jax.device_get(predict(*variables, inputs))


def class_names(figures: dict[str, Any]) -> tuple[str, ...]:
    """Of the classes that figures of `metrics.clustering` are of."""
    return tuple(name.removeprefix("iou_") for name in figures if name.startswith("iou_"))
