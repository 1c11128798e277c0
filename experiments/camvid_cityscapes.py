"""A network that was trained on Cityscapes, on CamVid without any training.

    jaxseg weights convert RELEASED --release espnetv2-2-cityscapes -o W.safetensors
    python experiments/camvid_cityscapes.py --weights W.safetensors --data CAMVID

Probabilities of Cityscapes' 19 classes are summed to CamVid's eleven as CamVid groups its own 32
(a wall is Building, a rider or a motorcycle is Bicyclist, terrain is Tree, traffic lights are
SignSymbol, trucks, buses and trains are Car); the 20th, background, counts for nothing.
"""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import tyro

import jaxseg
from jaxseg import data, metrics
from jaxseg.commands.options import progress, table
from jaxseg.train import Evaluation
from jaxseg.train.evaluate import evaluate
from jaxseg.train.sharding import data_mesh
from jaxseg.types import Batch, InputError, Method, Prediction, PyTree

GROUPS = {
    "Sky": ("sky",),
    "Building": ("building", "wall"),
    "Pole": ("pole",),
    "Road": ("road",),
    "Pavement": ("sidewalk",),
    "Tree": ("vegetation", "terrain"),
    "SignSymbol": ("traffic light", "traffic sign"),
    "Fence": ("fence",),
    "Car": ("car", "truck", "bus", "train"),
    "Pedestrian": ("person",),
    "Bicyclist": ("rider", "motorcycle", "bicycle"),
}


@dataclasses.dataclass(frozen=True)
class ZeroShot:
    """Options."""

    weights: Path
    """Converted weights."""
    data: Path
    """The folder of CamVid."""
    split: str = "test"
    """Measured on it."""


def grouped(method: Method, names: Sequence[str]) -> Method:
    """The method, whose probabilities are summed by group.

    Args:
        method: with "probabilities" in its prediction.
        names: of its classes, the 19 of Cityscapes and perhaps "background".

    Raises:
        InputError: the names are others.
    """
    known = {name for group in GROUPS.values() for name in group}
    strange = [name for name in names if name not in known and name != "background"]
    if strange or not known <= set(names):
        raise InputError(f"classes {', '.join(names) or 'without names'}; give Cityscapes weights")
    matrix = np.array([[n in group for group in GROUPS.values()] for n in names], np.float32)

    def predict(params: PyTree, model_state: PyTree, batch: Batch, /) -> Prediction:
        chances = method.predict(params, model_state, batch)["probabilities"]
        return {"classes": jnp.argmax(chances @ matrix, axis=-1).astype(jnp.int32)}

    return method._replace(predict=predict)


def run(options: ZeroShot) -> None:
    """Measures and prints."""
    predictor = jaxseg.load(options.weights)
    source = data.open_data(options.data, options.split, channels="rgb")
    if source.info.classes != tuple(GROUPS):
        raise InputError(f"{options.data}: has classes {source.info.classes}; give CamVid")
    names = predictor.experiment.class_names
    if not names:
        raise InputError(f"{options.weights}: has no names of classes; give Cityscapes weights")
    row = Evaluation(
        grouped(predictor.experiment.method(probabilities=True), names),
        metrics.confusion(len(GROUPS), names=tuple(GROUPS)),
        data.eval_batches(source, batch_size=1),
    )
    figures = evaluate(
        {"full": row}, predictor.params, predictor.model_state, data_mesh(), progress=progress
    )
    print(f"{len(source)} images of {options.split}")
    print(table(figures))


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    options = tyro.cli(ZeroShot, args=argv, description=__doc__)
    try:
        run(options)
    except InputError as error:
        print(f"camvid_cityscapes: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
