"""Identical dots, which a convolutional embedding cannot tell apart.

    jaxseg train experiments/semiconv_dots.py --data . --workdir RUN [--variant conv]
    jaxseg evaluate RUN --data . --split test

The dots are drawn (`jaxseg.data.dots`); nothing is read from `--data`. Novotny et al., ECCV 2018,
section 4.1: an embedding of 8 dimensions is trained by the loss of eq. 5 alone, and the pixels of
the dots are clustered by k-means, told how many dots there are. The variants "semi" and "conv"
differ in one thing, whether coordinates are added. They share a small U-Net that does not see from
one dot past the next; "paper" and "paper_conv" have the paper's network, ResNet-50 cut after its
first stage (stride 4) and a 1x1 convolution, and its optimizer, gradient descent. Random weights
are the default; `--encoder FILE` begins with torchvision's, as the paper does. Beside the embedding
a foreground is learned, so that a run predicts.

Figures, of images that were not trained on: `ari`, the Rand index adjusted for chance of the
clusters over the pixels of the dots, the mean over images; `loss`, eq. 5; `distance`, from a dot's
mean embedding to the nearest other one; `ratio`, of the two. The convolutional loss ends lower, by
the same embedding everywhere. Results are in experiments/results/semiconv.md.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxseg import data
from jaxseg.data.dots import DotsSource
from jaxseg.methods.semiconv import embedding
from jaxseg.models import weights
from jaxseg.models.mask_rcnn_weights import MEAN, STD
from jaxseg.models.resnet import resnet
from jaxseg.models.unet import unet
from jaxseg.ops.cluster import Clusters, kmeans
from jaxseg.train import Evaluation, Experiment, Phase, Schedule
from jaxseg.types import Batch, InputError, Method, Metric, Network, Prediction, PyTree

__all__ = ["VARIANTS", "Config", "build"]

STAGES = ("conv1", "bn1", "layer1")
"""What is left of ResNet-50: up to res2c, as Caffe calls it."""


@dataclasses.dataclass(frozen=True)
class Config:
    """The numbers of a training.

    Attributes:
        coordinates: "semi": semi-convolutional; "none": convolutional.
        network: "small": a U-Net; "resnet50": the paper's.
        encoder: file of torchvision's ResNet-50 (.pth or .safetensors); "": random weights.
        dimensions: of the embedding.
        width: channels of the U-Net's first block.
        depth: how often it halves the map.
        grid: rows and columns of dots.
        pitch: pixels from a dot to the next.
        radius: of a dot in pixels.
        scale: pixels in a unit of the embedding.
        images: that are trained on; half as many are evaluated, four at most.
        batch_size: images in a step.
        steps: in all.
        optimizer: "adam" or "sgd", with momentum 0.9.
        learning_rate: constant.
        seed: of weights and dots.
        log_every: steps.
        save_every: steps.
    """

    coordinates: Literal["semi", "none"] = "semi"
    network: Literal["small", "resnet50"] = "small"
    encoder: str = ""
    dimensions: int = 8
    width: int = 8
    depth: int = 2
    grid: tuple[int, int] = (6, 6)
    pitch: int = 40
    radius: float = 9.0
    scale: float = 40.0
    images: int = 64
    batch_size: int = 2
    steps: int = 250
    optimizer: Literal["adam", "sgd"] = "adam"
    learning_rate: float = 1e-2
    seed: int = 0
    log_every: int = 25
    save_every: int = 250


_PAPER = Config(network="resnet50", optimizer="sgd", learning_rate=0.05, steps=1000)
VARIANTS = {
    "semi": Config(),
    "conv": Config(coordinates="none"),
    "paper": _PAPER,
    "paper_conv": dataclasses.replace(_PAPER, coordinates="none"),
}


def build(config: Config) -> Experiment:
    """The experiment of a config.

    Raises:
        InputError: if a number cannot be used.
    """
    _check(config)

    def source(split: str) -> DotsSource:
        number = config.images if split == "train" else min(4, max(config.images // 2, 1))
        seed = 2 * config.seed + (split != "train")
        return DotsSource(
            number, grid=config.grid, pitch=config.pitch, radius=config.radius, seed=seed
        )

    def phases(folder: Path) -> list[Phase]:
        batches = data.train_batches(
            source("train"), batch_size=config.batch_size, seed=config.seed
        )
        return [Phase("", method(config), _optimizer(config), 1, batches)]

    def evaluations(folder: Path, split: str) -> dict[str, Evaluation]:
        batches = data.eval_batches(source(split), batch_size=1)
        return {"dots": Evaluation(method(config, details=True), clustering(), batches)}

    height, width = (n * config.pitch for n in config.grid)
    return Experiment(
        schedule=Schedule(
            steps=config.steps,
            seed=config.seed,
            log_every=config.log_every,
            save_every=config.save_every,
        ),
        method=functools.partial(method, config),
        example={"image": np.zeros((1, height, width, 3), np.uint8)},
        phases=phases,
        evaluations=evaluations,
        validation=functools.partial(evaluations, split="test"),
        initial=functools.partial(_fill, config) if config.encoder else None,
    )


def method(config: Config, *, details: bool = False) -> Method:
    """The method of a config, which clusters by k-means."""
    channels = config.dimensions + 2
    if config.network == "small":
        network = unet(channels, width=config.width, depth=config.depth)
    else:
        network = first_stage(resnet(50), channels)
    number = math.prod(config.grid)
    # As torchvision's weights want it.
    normal: dict[str, Any] = {"mean": MEAN, "std": STD} if config.network == "resnet50" else {}

    def decoder(points: jax.Array, scores: jax.Array, mask: jax.Array) -> Clusters:
        key = jax.random.key(config.seed)
        return kmeans(key, points, number, mask=mask, num_starts=10, num_iters=50)

    return embedding(
        network,
        coordinates=config.coordinates,
        scale=config.scale,
        stride=2**config.depth,
        seed_weight=0.0,
        decoder=decoder,
        max_instances=number,
        details=details,
        **normal,
    )


def first_stage(trunk: Network, channels: int) -> Network:
    """ResNet cut after its first stage, and a 1x1 convolution: `[B, h / 4, w / 4, channels]`.

    Params are {"trunk": {conv1, bn1, layer1}, "head": {kernel, bias}}.
    """

    def kept(tree: PyTree) -> dict[str, PyTree]:
        return {name: x for name, x in tree.items() if name in STAGES}

    def whole(tree: PyTree, shapes: PyTree) -> PyTree:
        # What is cut off is computed of zeros and used by nothing: it is never compiled.
        rest = {name: x for name, x in shapes.items() if name not in STAGES}
        return {**tree, **jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), rest)}

    def init(key: jax.Array, /, *inputs: jax.Array) -> dict[str, PyTree]:
        trunk_key, head_key = jax.random.split(key)
        found = trunk.init(trunk_key, *inputs)
        width = jax.eval_shape(lambda v: trunk.apply(v, *inputs)[0][1], found).shape[-1]
        kernel = jax.random.normal(head_key, (width, channels)) / math.sqrt(width)
        head = {"kernel": kernel, "bias": jnp.zeros((channels,))}
        params = {"trunk": kept(found["params"]), "head": head}
        return {"params": params, "batch_stats": kept(found["batch_stats"])}

    def apply(
        variables: Mapping[str, PyTree], /, *inputs: jax.Array, **options: Any
    ) -> tuple[jax.Array, PyTree]:
        shapes = jax.eval_shape(trunk.init, jax.random.key(0), *inputs)
        full = {
            "params": whole(variables["params"]["trunk"], shapes["params"]),
            "batch_stats": whole(variables["batch_stats"], shapes["batch_stats"]),
        }
        maps, batch_stats = trunk.apply(full, *inputs, **options)
        head = variables["params"]["head"]
        scores = jnp.einsum("bhwc,cd->bhwd", maps[1], head["kernel"], precision="highest")
        return scores + head["bias"][None, None, None], kept(batch_stats)

    return Network(init, apply)


def clustering() -> Metric:
    """The figures of this file; on the host, from "instances" and "embedding" of a prediction."""

    def measure(prediction: Prediction, batch: Batch) -> dict[str, Any]:
        sums = {"ari": 0.0, "loss": 0.0, "distance": 0.0, "images": 0}
        for i in np.flatnonzero(np.asarray(batch["weight"]) > 0):
            masks = np.asarray(batch["masks"][i])[np.asarray(batch["valid"][i])]
            psi = np.asarray(prediction["embedding"][i], np.float64)
            pixels = [psi[mask] for mask in masks]
            means = np.stack([x.mean(axis=0) for x in pixels])
            off = [np.linalg.norm(x - m, axis=1).mean() for x, m in zip(pixels, means, strict=True)]
            apart = np.linalg.norm(means[:, None] - means, axis=-1)
            np.fill_diagonal(apart, np.inf)
            inside = masks.any(axis=0)
            true, told = (
                masks.argmax(axis=0)[inside],
                np.asarray(prediction["instances"][i])[inside],
            )
            sums["ari"] += adjusted_rand(true, told)
            sums["loss"] += float(np.mean(off))
            sums["distance"] += float(apart.min(axis=1).mean()) if len(masks) > 1 else 0.0
            sums["images"] += 1
        return sums

    def merge(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
        return {name: a[name] + b[name] for name in a}

    def compute(sums: dict[str, Any]) -> dict[str, float]:
        found = {name: sums[name] / sums["images"] for name in ("ari", "loss", "distance")}
        return {**found, "ratio": found["distance"] / max(found["loss"], 1e-12)}

    return Metric(measure=measure, merge=merge, compute=compute)


def adjusted_rand(a: np.ndarray, b: np.ndarray) -> float:
    """Rand's index adjusted for chance (Hubert and Arabie 1985); 1 for equal partitions."""
    _, a = np.unique(a, return_inverse=True)
    _, b = np.unique(b, return_inverse=True)
    table = np.bincount(a * (b.max() + 1) + b).astype(float)

    def pairs(counts: np.ndarray) -> float:
        return float(np.sum(counts * (counts - 1) / 2))

    rows, cols = pairs(np.bincount(a).astype(float)), pairs(np.bincount(b).astype(float))
    expected = rows * cols / max(len(a) * (len(a) - 1) / 2, 1)
    most = (rows + cols) / 2
    return (pairs(table) - expected) / (most - expected) if most != expected else 1.0


def _fill(config: Config, params: PyTree, model_state: PyTree) -> tuple[PyTree, PyTree]:
    """Puts torchvision's weights in the trunk."""
    found = weights.read(
        Path(config.encoder),
        {"params": params["trunk"], "batch_stats": model_state},
        leave_out=(r"^layer[2-4]\.", r"^fc\."),
    )
    return params | {"trunk": found["params"]}, found["batch_stats"]


def _optimizer(config: Config) -> optax.GradientTransformation:
    if config.optimizer == "sgd":
        return optax.sgd(config.learning_rate, momentum=0.9)
    return optax.adam(config.learning_rate)


def _check(config: Config) -> None:
    for name in ("dimensions", "width", "batch_size", "images", "log_every", "save_every"):
        if getattr(config, name) < 1:
            raise InputError(f"{name} is {getattr(config, name)}; give 1 or more")
    for name in ("scale", "learning_rate"):
        value = getattr(config, name)
        if not (math.isfinite(value) and value > 0):
            raise InputError(f"{name} is {value}; give more than 0")
    if config.encoder and config.network == "small":
        raise InputError("an encoder is of resnet50; choose --network resnet50")
    DotsSource(config.images, grid=config.grid, pitch=config.pitch, radius=config.radius)
