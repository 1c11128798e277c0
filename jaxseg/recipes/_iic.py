"""What trainings without labels have in common: their numbers, turns of the heads, and figures."""

import dataclasses
import sys
from collections.abc import Callable, Mapping
from typing import Any, Literal

import optax

from jaxseg import metrics
from jaxseg.data import Example, Extent
from jaxseg.methods.iic import Inputs
from jaxseg.train import Phase, Schedule
from jaxseg.train.phases import DataSource
from jaxseg.types import InputError, Method, Metric

Select = Literal["last", "information", "labels"]
Decay = Literal["constant", "cosine"]


@dataclasses.dataclass(frozen=True)
class Config:
    """The numbers of a training of IIC.

    Attributes:
        num_clusters: outputs of the head "main".
        over_clusters: outputs of the head "over"; 0: there is none.
        sub_heads: of each head.
        main_steps: in a row, before the other head has its turn.
        over_steps: likewise; the head "over" begins.
        predicts: the head that is measured and predicts: "over" is matched many to one.
        lamb: weight of the entropy in the loss of "main"; above 1 it asks for clusters of equal
            size.
        lamb_from: step from which `lamb` counts, where there is no head "over"; before, the weight
            is 1. Asked for at once, equal clusters are formed by chance; later they part two
            classes that have gone into one.
        over_lamb: in that of "over".
        inputs: what the network is given: "image", "grey", "sobel" or "image+sobel".
        batch_norm: what evaluation normalises with: "running" statistics, or those of the "batch",
            with which an image by itself is not what it is among others.
        class_names: of the labels, for figures; none: those of the data.
        repeats: views beside the first of each image.
        batch_size: images in a step, before they are repeated.
        steps: in all.
        learning_rate: of Adam, its peak.
        decay: "constant", or "cosine" to 0.
        decay_from: part of the steps after which a cosine falls.
        warmup: steps over which the rate rises from 0.
        ema_decay: of the moving average of the weights, which then predicts; 0: none.
        select: which step is kept as the best: the "last"; by "information", that of the lowest
            loss on images and views that are always the same, which is early stopping without
            labels; or that of most accuracy by "labels", as the published figures.
        watched: images that figures without labels are taken from during training.
        seed: of everything random.
        train_split: what is trained on. IIC trains and is measured on all images, since it sees no
            label.
        log_every: steps between log lines.
        save_every: steps between checkpoints.
        evaluate_every: steps between evaluations; 0: only at the end.
    """

    num_clusters: int = 10
    over_clusters: int = 0
    sub_heads: int = 5
    main_steps: int = 1
    over_steps: int = 1
    predicts: Literal["main", "over"] = "main"
    lamb: float = 1.0
    lamb_from: int = 0
    over_lamb: float = 1.0
    inputs: Inputs = "image"
    batch_norm: Literal["running", "batch"] = "running"
    class_names: tuple[str, ...] = ()
    repeats: int = 3
    batch_size: int = 200
    steps: int = 1000
    learning_rate: float = 1e-3
    decay: Decay = "cosine"
    decay_from: float = 0.0
    warmup: int = 50
    ema_decay: float = 0.0
    select: Select = "last"
    watched: int = 1000
    seed: int = 0
    train_split: str = "train+test"
    log_every: int = 50
    save_every: int = 500
    evaluate_every: int = 0


def check(config: Config) -> None:
    """Raises InputError for a number that cannot be used."""
    at_least_one = ("num_clusters", "sub_heads", "main_steps", "over_steps", "repeats", "watched")
    for name in (*at_least_one, "batch_size", "steps", "log_every"):
        if getattr(config, name) < 1:
            raise InputError(f"{name} is {getattr(config, name)}; give 1 or more")
    for name in ("over_clusters", "warmup", "seed", "save_every", "evaluate_every"):
        if getattr(config, name) < 0:
            raise InputError(f"{name} is {getattr(config, name)}; give 0 or more")
    for name in ("lamb", "over_lamb", "learning_rate"):
        if not 0 < getattr(config, name) < float("inf"):
            raise InputError(f"{name} is {getattr(config, name)}; give a number above 0")
    if not 0 <= config.decay_from < 1:
        raise InputError(f"decay_from is {config.decay_from}; give 0 or more, below 1")
    if not 0 <= config.ema_decay < 1:
        raise InputError(f"ema_decay is {config.ema_decay}; give 0 or more, below 1")
    if config.lamb_from and config.over_clusters:
        raise InputError(
            f"lamb_from is {config.lamb_from} and over_clusters {config.over_clusters}; give 0 for "
            "one of them"
        )
    if not 0 <= config.lamb_from < config.steps:
        raise InputError(
            f"lamb_from is {config.lamb_from}; give less than steps, {config.steps}, or 0"
        )
    if config.select != "last" and not config.evaluate_every:
        raise InputError(
            f'select is "{config.select}", but evaluate_every is 0; give the steps between them'
        )
    if config.predicts == "over" and not config.over_clusters:
        raise InputError('predicts is "over", but over_clusters is 0; give how many there are')


def heads(config: Config) -> dict[str, int]:
    """The network's heads and their outputs."""
    over = {"over": config.over_clusters} if config.over_clusters else {}
    return {"main": config.num_clusters, **over}


def schedule(config: Config) -> Schedule:
    """The numbers of the loop."""
    best = {"last": "", "information": "unlabelled/loss", "labels": "labelled/accuracy_by_labels"}
    return Schedule(
        steps=config.steps,
        seed=config.seed,
        ema_decay=config.ema_decay or None,
        log_every=config.log_every,
        save_every=config.save_every,
        evaluate_every=config.evaluate_every,
        best=best[config.select],
        lowest=config.select == "information",
    )


def phases(
    config: Config, make_method: Callable[..., Method], batches: DataSource
) -> tuple[Phase, ...]:
    """The heads in their turns; one optimizer and one stream of data for both.

    Args:
        config: its numbers.
        make_method: takes `head` and `lamb`.
        batches: with views.
    """
    optimizer = _optimizer(config)
    main = make_method(head="main", lamb=config.lamb)
    if config.lamb_from:
        free = make_method(head="main", lamb=1.0)
        return (
            Phase("free", free, optimizer, config.lamb_from, batches),
            Phase("main", main, optimizer, config.steps - config.lamb_from, batches),
        )
    if not config.over_clusters:
        return (Phase("main", main, optimizer, config.main_steps, batches),)
    over = make_method(head="over", lamb=config.over_lamb)
    return (
        Phase("over", over, optimizer, config.over_steps, batches),
        Phase("main", main, optimizer, config.main_steps, batches),
    )


def _optimizer(config: Config) -> optax.GradientTransformation:
    peak, first = config.learning_rate, round(config.decay_from * config.steps)
    after: optax.Schedule = optax.constant_schedule(peak)
    if config.decay == "cosine":
        after = optax.cosine_decay_schedule(peak, max(config.steps - max(first, config.warmup), 1))
    rise = optax.linear_schedule(0.0, peak, max(config.warmup, 1))
    level = optax.constant_schedule(peak)
    rest = optax.join_schedules([level, after], [max(first - config.warmup, 0)])
    return optax.adam(optax.join_schedules([rise, rest], [config.warmup]))


def labelled(config: Config, classes: tuple[str, ...]) -> Metric:
    """Clusters against labels: one to one of "main", many to one of "over"."""
    return _of_several(
        metrics.cluster_heads(
            heads(config)[config.predicts],
            len(classes),
            matching="hungarian" if config.predicts == "main" else "many_to_one",
            names=classes,
        ),
        config,
    )


def unlabelled(config: Config) -> Metric:
    """What can be said without labels; what looks wrong is told on stderr."""
    clusters = heads(config)[config.predicts]
    lamb = config.lamb if config.predicts == "main" else config.over_lamb
    metric = metrics.view_information(clusters, lamb=lamb)

    def compute(sums: Any) -> dict[str, float]:
        figures = metric.compute(sums)
        for sentence in metrics.complaints(figures, num_clusters=clusters):
            print(f"warning: {sentence}", file=sys.stderr)
        return figures

    return _of_several(metric._replace(compute=compute), config)


def _of_several(metric: Metric, config: Config) -> Metric:
    """Without what one sub-head has not: deviation, and agreement with others."""
    absent = () if config.sub_heads > 1 else ("accuracy_std", "agreement")

    def compute(sums: Any) -> dict[str, float]:
        return {k: v for k, v in metric.compute(sums).items() if k not in absent}

    return metric._replace(compute=compute)


def watched(
    config: Config, rows: Mapping[str, Any], by_labels: Callable[[], Mapping[str, Any]]
) -> dict[str, Any]:
    """What is evaluated during training: `rows` without labels, and others if they select."""
    return {**rows, **(by_labels() if config.select == "labels" else {})}


class First:
    """The first examples of a source."""

    def __init__(self, source: Any, count: int):
        """Keeps `count` of them, or all."""
        self._source = source
        self.ids = source.ids[:count]

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: Any) -> Example:
        """That of the source."""
        return self._source[index]

    def extent(self, index: Any) -> Extent:
        """That of the source."""
        return self._source.extent(index)
