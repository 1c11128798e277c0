"""Training with adaptive downsampling on images with classes; the experiments choose numbers."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxseg import data
from jaxseg.data.resized import ResizedSource
from jaxseg.methods import adaptive
from jaxseg.models.sampler import double_unet, mobilenet_sampler
from jaxseg.recipes import _adaptive_measures as measures
from jaxseg.recipes import semantic
from jaxseg.recipes._adaptive_config import MODES as MODES
from jaxseg.recipes._adaptive_config import Config as Config
from jaxseg.recipes._adaptive_config import check
from jaxseg.recipes._semantic_initial import initial_variables
from jaxseg.recipes._semantic_network import build_network
from jaxseg.train import Evaluation, Experiment, Phase, Schedule
from jaxseg.train.optimizers import by_parameter
from jaxseg.types import InputError, Method, Network, PyTree

CACHE_BYTES = 2 << 30

OpenSource = Callable[[Path, str], Any]
"""(the data folder, split) -> a source of classes of pixels, with an `info`."""


def build(config: Config, open_source: OpenSource | None = None) -> Experiment:
    """The experiment of a config.

    The row "full" measures classes at the size of the labels: `full/miou`, `full/target_miou`, and
    in an evaluation also `full/trimap_miou_R` and the like (see `metrics.trimap`) and
    `full/recall_K` (`metrics.size_recall`). Its cost is that of sampler and network; the row
    "sampler" (`_adaptive_measures.sampling`) has the sampler's own.

    Args:
        config: its numbers.
        open_source: gives the data; None: `data.open_data`.

    Raises:
        InputError: if a number cannot be used.
    """
    check(config)
    _try_network(config)
    opened = functools.partial(_opened, config, open_source or _open)

    def phases(folder: Path) -> Sequence[Phase]:
        source = opened(folder, config.train_split)
        # The sampler has a stream of its own: the network sees the same crops in every mode.
        own, batches = (
            data.train_batches(
                source,
                batch_size=config.batch_size,
                seed=seed,
                transform=functools.partial(augment, config=config),
                max_instances=0,
            )
            for seed in ((config.seed + 1) % 2**31, config.seed)
        )
        weights = semantic.find_class_weights(config, source, folder)
        stages = make_stages(config, class_weights=weights)
        turns = {
            "sampler": (stages.sampler, config.sampler_steps * config.learns, ("sampler",)),
            "segmentation": (stages.segmentation, config.steps, ("network",)),
            "joint": (stages.joint, config.joint_steps, ("sampler", "network")),
        }
        found = [
            Phase(
                name,
                method,
                _optimizer(config, name, steps, learn),
                steps,
                own if name == "sampler" else batches,
            )
            for name, (method, steps, learn) in turns.items()
            if steps
        ]
        # A run of no steps still has to say what it would train.
        only = Phase("segmentation", stages.segmentation, _optimizer(config), 1, batches)
        return found or [only]

    def full(folder: Path, split: str, details: bool) -> Evaluation:
        source = opened(folder, split)
        targets = config.target_classes or tuple(range(config.num_classes))
        metric = measures.classes(config.num_classes, source.info.classes, targets, details=details)
        batches = data.eval_batches(source, batch_size=1)
        labels = ("label",) if config.mode == "oracle" else ()
        inputs = ("image", "index", "weight", "size", *labels)
        return Evaluation(make_method(config, confidence=False), metric, batches, inputs)

    def evaluations(folder: Path, split: str) -> Mapping[str, Evaluation]:
        rows = {"full": full(folder, split, details=True)}
        if config.learns:
            metric = measures.sampling(
                config.sampler_grid,
                smoothness=config.smoothness,
                target_classes=config.target_classes or None,
            )
            method = _coords_alone(rows["full"].method)
            rows["sampler"] = rows["full"]._replace(method=method, metric=metric)
        return rows

    def validation(folder: Path) -> Mapping[str, Evaluation]:
        return {"full": full(folder, config.validation_split, details=False)}

    steps = config.steps + config.joint_steps + config.sampler_steps * config.learns
    return Experiment(
        schedule=Schedule(
            steps=steps,
            seed=config.seed,
            ema_decay=config.ema_decay or None,
            log_every=config.log_every,
            save_every=config.save_every,
            evaluate_every=config.evaluate_every,
            best="full/target_miou" if config.validation_split else "",
        ),
        method=functools.partial(make_method, config),
        example=_example(config),
        phases=phases,
        evaluations=evaluations,
        validation=validation if config.validation_split else None,
        picture=functools.partial(semantic.picture, colors=config.class_colors),
        initial=functools.partial(_fill, config) if config.encoder else None,
        class_names=config.class_names,
        class_colors=config.class_colors,
    )


def make_stages(
    config: Config,
    *,
    class_weights: Sequence[float] | None = None,
    scale: float = 1.0,
    confidence: bool = True,
    probabilities: bool = False,
) -> adaptive.Stages:
    """The methods of a config, over one tree; see `methods.adaptive.stages`.

    Args:
        config: as a whole.
        class_weights: of the loss.
        scale: factor on `config.nodes`.
        confidence: whether the prediction holds the probability of each pixel's class.
        probabilities: whether the prediction holds that of every class.
    """
    network, stride, dropout = build_network(config)
    height, width = (max(round(n * scale), 2) for n in config.nodes)
    return adaptive.stages(
        make_sampler(config),
        network,
        num_classes=config.num_classes,
        size=(height, width),
        grid=config.sampler_grid,
        input_size=config.sampler_size,
        smoothness=config.smoothness,
        target_classes=config.target_classes or None,
        mode="learned" if config.learns else config.mode,
        order=config.order,
        antialias=config.antialias,
        fold_free=config.fold_free,
        stride=stride,
        dropout=dropout,
        loss=semantic.LOSSES[config.loss],
        class_weights=class_weights,
        mean=config.mean,
        std=config.std,
        confidence=confidence,
        probabilities=probabilities,
    )


def make_method(config: Config, **options: Any) -> Method:
    """The method that predicts; options are those of `make_stages`.

    Raises:
        InputError: with `size`, which prediction by tiles asks for.
    """
    if "size" in options:
        height, width = config.nodes
        raise InputError(
            f"adaptive downsampling reads the whole image, at {height}x{width} nodes, and goes by "
            "no tiles; leave --tile out"
        )
    return make_stages(config, **options).segmentation


def make_sampler(config: Config) -> Network:
    """The sampler of a config; the modes without one have the smallest, which nothing uses."""
    if config.mode != "learned":
        return constant_sampler(config.sampler_grid)
    if config.sampler == "mobilenet":
        return mobilenet_sampler(
            config.sampler_grid,
            input_size=config.sampler_size,
            mean=config.sampler_mean,
            batch_norm=config.batch_norm,
        )
    return double_unet(
        config.sampler_grid,
        features=config.sampler_features,
        input_size=config.sampler_size,
        mean=config.sampler_mean,
        batch_norm=config.batch_norm,
    )


def constant_sampler(grid: tuple[int, int]) -> Network:
    """A sampler that sees nothing: the same shifts for every image, learned; 0 at first."""

    def init(key: Any, /, *inputs: Any) -> dict[str, PyTree]:
        return {"params": {"mean": jnp.zeros((*grid, 2))}, "batch_stats": {}}

    def apply(variables: Mapping[str, PyTree], /, *inputs: Any, **_: Any) -> tuple[Any, PyTree]:
        mean = variables["params"]["mean"]
        return jnp.broadcast_to(mean[None], (inputs[0].shape[0], *grid, 2)), {}

    return Network(init, apply)


def augment(example: data.Example, rng: np.random.Generator, *, config: Config) -> dict[str, Any]:
    """A training crop: scaled, cropped and mirrored at random, brightness and contrast changed.

    Colours change by one table of 256 values for each channel, for crops are large. Salt and
    pepper, as published, there is none.
    """
    result = data.random_crop_flip_scale(
        example,
        rng,
        crop_size=config.crop,
        flip_probability=config.flip_probability,
        scale_std=config.scale_std,
        scale_range=config.scale_range,
    )
    shift, contrast, *tints = 2 * rng.random(5) - 1
    if config.brightness or config.contrast or config.tint:
        image = result["image"]
        # Enough pixels for a mean.
        mean = float(image[::8, ::8].mean())
        factor = np.exp(config.contrast * contrast + config.tint * np.array(tints))
        values = (np.arange(256)[:, None] - mean) * factor + mean
        table = np.clip(np.rint(values + 255 * config.brightness * shift), 0, 255)
        channels = [table.astype(np.uint8)[:, c][image[..., c]] for c in range(3)]
        result["image"] = np.stack(channels, axis=-1)
    return result


def _optimizer(config: Config, name: str = "segmentation", steps: int = 1, learn: Any = ()) -> Any:
    """Of one stage, with a schedule of its own; what it does not train rests."""
    rates = {"sampler": config.sampler_rate, "joint": config.joint_rate}
    part = dataclasses.replace(config, steps=steps, warmup=min(config.warmup, steps // 2))
    if name in rates:
        rate: dict[str, Any] = {
            "learning_rate": rates[name],
            "decay": "cosine",
            "decay_to": Config.decay_to,
        }
        part = dataclasses.replace(part, **rate)
    learns = tuple(f"{tree}/" for tree in learn or ("network",))
    # The nodes' own shifts say where boundaries are on average: nothing pulls them to 0.
    free = semantic.make_optimizer(dataclasses.replace(part, weight_decay=0.0))
    optimizer = optax.partition({True: semantic.make_optimizer(part), False: free}, _decays)
    return by_parameter(optimizer, lambda path: path.startswith(learns))


def _decays(params: PyTree) -> PyTree:
    def decays(path: Any, _: Any) -> bool:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        return not (name.startswith("sampler/") and name.endswith("/mean"))

    return jax.tree_util.tree_map_with_path(decays, params)


def _coords_alone(method: Method) -> Method:
    """The same, which predicts only where it samples: what the sampler costs."""

    def predict(params: PyTree, model_state: PyTree, batch: Any, /) -> dict[str, Any]:
        return {"coords": method.predict(params, model_state, batch)["coords"]}

    return method._replace(predict=predict)


def _open(folder: Path, split: str) -> Any:
    return data.open_data(folder, split, channels="rgb", cache_bytes=CACHE_BYTES)


def _opened(config: Config, open_source: OpenSource, folder: Path, split: str) -> Any:
    """The examples, checked, at the config's size."""
    source = open_source(folder, split)
    info = source.info
    if info.kind != "classes" or info.num_classes != config.num_classes:
        raise InputError(
            f"{folder}: holds {info.kind} with {info.num_classes} classes; give data with classes, "
            f"and set num_classes, which is {config.num_classes}, to their number"
        )
    if config.class_names and config.class_names != info.classes:
        raise InputError(
            f"{folder}: has the classes {', '.join(info.classes)}; set class_names to them"
        )
    if any(config.size):
        return ResizedSource(source, config.size, cache_bytes=CACHE_BYTES)
    return source


def _example(config: Config) -> dict[str, np.ndarray]:
    return {"image": np.zeros((1, *config.crop, 3), np.uint8)}


def _try_network(config: Config) -> None:
    try:
        method = make_method(config)
        jax.eval_shape(lambda: method.init(jax.random.key(0), _example(config)))
    except ValueError as error:
        raise InputError(f"the networks cannot be built: {error}") from error


def _fill(config: Config, params: PyTree, model_state: PyTree) -> tuple[PyTree, PyTree]:
    """Released weights go into the encoder of the network that segments."""
    trees = initial_variables(config, params["network"], model_state["network"])
    return params | {"network": trees[0]}, model_state | {"network": trees[1]}
