"""Training DSRL on any folder of class labels; the experiments choose numbers."""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any, Literal

import jax
import numpy as np
import optax

from jaxseg import metrics
from jaxseg.methods import dsrl
from jaxseg.methods.tasks import classes
from jaxseg.models.dsrl import dsrl as dsrl_network
from jaxseg.models.dsrl import enlarged
from jaxseg.recipes import semantic
from jaxseg.recipes._semantic_initial import from_run, given_variables, initial_variables
from jaxseg.recipes._semantic_network import TRUNKS, build_network
from jaxseg.train import Experiment, Phase
from jaxseg.train.phases import DataSource
from jaxseg.types import InputError, Method, PyTree

Stage = Literal["base", "sssr", "sisr", "affinity", "phases"]

_IDLE: dict[Stage, tuple[str, ...]] = {
    "sssr": ("reconstruction", "transform", "transform_bn"),
    "sisr": ("transform", "transform_bn"),
    "affinity": (),
}
"""The parts that no loss of a stage reaches."""


RADII = (1, 2, 4, 8, 16, 32)
"""Pixels from the borders of the labels, within which an evaluation measures once more."""


@dataclasses.dataclass(frozen=True)
class Config(semantic.Config):
    """The numbers of a training; `size` and `crop` are those of the output, twice the input's.

    `encoder` fills the encoder of the trunk. `initial` is a run of another stage, which fills all
    that both have, or one of the base, which fills the trunk.

    Attributes:
        stage: "base": the plain network, its logits enlarged bilinearly; "sssr": the main branch of
            DSRL; "sisr": and the image's; "affinity": and feature affinity; "phases": these three
            one after the other, a third of the steps each, with a schedule and an optimizer of
            its own. Such a run cannot go on to another number of steps.
        residual: whether the main branch adds to the prediction of the plain network, enlarged, and
            begins with it; otherwise it takes the place of the layers that predict.
        tail_widths: channels of the transposed convolutions, see `models.dsrl.dsrl`; none: its
            default.
        reconstruction_width: channels of the image's branch.
        affinity_stride: part of the output's sides at which features are compared.
        subsample: "average" or "nearest".
        order: of the differences of affinities: 1 or 2.
        image_weight: of the image's loss.
        affinity_weight: of feature affinity.
        heads_rate: factor on the learning rate of what DSRL adds to the trunk, such as 10 where the
            trunk is trained already, and of the layers that predict in the plain network.
    """

    stage: Stage = "affinity"
    residual: bool = True
    tail_widths: tuple[int, ...] = ()
    reconstruction_width: int = 32
    affinity_stride: int = 8
    subsample: Literal["average", "nearest"] = "average"
    order: Literal[1, 2] = 1
    image_weight: float = 0.1
    affinity_weight: float = 1.0
    heads_rate: float = 1.0


def build(config: Config) -> Experiment:
    """The experiment of a config; see `recipes.semantic.build`.

    An evaluation has also "full/trimap_miou_R" and the like, see `metrics.trimap`: what more detail
    is worth shows near the borders.

    Raises:
        InputError: if a number cannot be used.
    """
    if config.superpixels:
        raise InputError("superpixels is of semantic segmentation, not of DSRL; leave it 0")
    for name in ("reconstruction_width", "affinity_stride"):
        if getattr(config, name) < 1:
            raise InputError(f"{name} is {getattr(config, name)}; give 1 or more")
    if any(config.size) and any(c > s for c, s in zip(config.crop, config.size, strict=True)):
        raise InputError(
            f"crop is {config.crop}, larger than size, {config.size}; give --crop as well"
        )
    if not 0 < config.heads_rate < math.inf:
        raise InputError(f"heads_rate is {config.heads_rate}; give more than 0")
    if config.stage == "base" and config.heads_rate != 1 and config.network not in TRUNKS:
        raise InputError(
            f"heads_rate is {config.heads_rate}, and DSRL has no place in {config.network} that "
            "would tell which layers predict; give 1"
        )

    def train(weights: Sequence[float] | None, batches: DataSource) -> Sequence[Phase]:
        if config.stage != "phases":
            method = make_method(config, class_weights=weights)
            return [Phase("", method, _optimizer(config), 1, batches)]
        steps = max(-(-config.steps // len(_IDLE)), 1)
        part_config = dataclasses.replace(config, steps=steps)
        return [
            Phase(
                part,
                make_method(config, part, class_weights=weights),
                _resting(_optimizer(part_config), idle),
                steps,
                batches,
            )
            for part, idle in _IDLE.items()
        ]

    near = metrics.prefixed("trimap_", metrics.trimap(config.num_classes, RADII))
    return semantic.assemble(config, functools.partial(make_method, config), train, _fill, [near])


def _optimizer(config: Config) -> optax.GradientTransformation:
    optimizer, factor = semantic.make_optimizer(config), config.heads_rate
    if factor == 1:
        return optimizer
    predicting = _predicting(config)

    def chosen(keys: tuple[str, ...]) -> bool:
        if config.stage == "base":
            return keys in predicting
        part, *rest = keys
        return part == "heads" or tuple(rest) in predicting

    return semantic.with_rate(optimizer, chosen, factor)


def _predicting(config: Config) -> frozenset[tuple[str, ...]]:
    """Keys of the plain network's parameters that are not in a trunk without scores."""

    def params(stage: Stage) -> PyTree:
        batch = {"image": jax.ShapeDtypeStruct((1, *config.crop, 3), np.uint8)}
        method = make_method(dataclasses.replace(config, residual=False), stage)
        return jax.eval_shape(method.init, jax.random.key(0), batch)[0]

    def keys(tree: PyTree) -> frozenset[tuple[str, ...]]:
        leaves = jax.tree_util.tree_leaves_with_path(tree)
        return frozenset(semantic.keys_of(path) for path, _ in leaves)

    return keys(params("base")) - keys(params("sssr")["trunk"])


def _resting(
    optimizer: optax.GradientTransformation, idle: Sequence[str]
) -> optax.GradientTransformation:
    """The optimizer, which leaves what is below the keys `idle` as it is: weight decay, too."""

    def label(params: Any) -> Any:
        def of(path: Any, _: Any) -> str:
            return "rests" if set(semantic.keys_of(path)) & set(idle) else "learns"

        return jax.tree_util.tree_map_with_path(of, params)

    return optax.partition({"learns": optimizer, "rests": optax.set_to_zero()}, label)


def make_method(
    config: Config,
    stage: Stage | None = None,
    *,
    class_weights: Sequence[float] | None = None,
    size: tuple[int, int] | None = None,
    scale: float = 1.0,
    probabilities: bool = False,
    halve: bool = True,
) -> Method:
    """The method of a config; see `methods.dsrl.method`.

    Args:
        config: as a whole.
        stage: in place of `config.stage`; all but "base" share a tree, and predict the same.
        class_weights: of the loss.
        size: of the output that prediction works at, (0, 0) for that of the image; None:
            `config.size`.
        scale: factor on that size.
        probabilities: whether the prediction holds that of every class.
        halve: whether an image that is predicted is halved first.
    """
    stage = config.stage if stage is None else stage
    at = config.size if size is None else size
    base = stage == "base"
    network, stride, dropout = build_network(
        config,
        trunk=not base and ("scored" if config.residual else True),
        auxiliary=False,
    )
    if base:
        network = enlarged(network)
    else:
        stages = dsrl_network(
            network,
            config.num_classes,
            tail_widths=config.tail_widths or None,
            width=config.reconstruction_width,
            affinity_stride=config.affinity_stride,
            subsample=config.subsample,
            batch_norm=config.batch_norm,
            dtype=None if config.dtype == "float32" else config.dtype,
        )
        network = getattr(stages, "affinity" if stage == "phases" else stage)
    task = classes(
        config.num_classes,
        loss=semantic.LOSSES[config.loss],
        class_weights=class_weights,
        probabilities=probabilities,
    )
    return dsrl.method(
        network,
        task,
        stride=stride,
        image_weight=config.image_weight,
        affinity_weight=config.affinity_weight,
        order=config.order,
        mean=config.mean,
        std=config.std,
        dropout=dropout,
        halve=halve,
        size=at if any(at) else None,
        scale=scale,
    )


def _fill(config: Any, params: PyTree, model_state: PyTree) -> tuple[PyTree, PyTree]:
    """Weights of an encoder or of a plain network go into the trunk, those of DSRL everywhere."""
    if config.stage == "base" or not (config.encoder or config.initial):
        return initial_variables(config, params, model_state)
    trunk, trunk_state = params["trunk"], model_state["trunk"]
    if config.encoder:
        trunk, trunk_state = initial_variables(config, trunk, trunk_state)
    else:
        given = given_variables(config)
        if "trunk" in given[0]:
            return from_run(given, (params, model_state), config.initial)
        trunk, trunk_state = from_run(given, (trunk, trunk_state), config.initial, part=True)
    return params | {"trunk": trunk}, model_state | {"trunk": trunk_state}
