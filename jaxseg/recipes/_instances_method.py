"""From the words and numbers of a config to a method for instances, and to its optimizer."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from jaxseg.methods import mask_rcnn, semiconv
from jaxseg.models import weights
from jaxseg.models.mask_rcnn import MaskRCNN
from jaxseg.models.mask_rcnn import mask_rcnn as mask_rcnn_networks
from jaxseg.models.mask_rcnn_weights import encoder_from_torchvision, from_torchvision
from jaxseg.models.unet import unet
from jaxseg.recipes._instances_config import Config
from jaxseg.recipes._semantic_initial import from_run
from jaxseg.train.optimizers import cosine
from jaxseg.types import Method, Network, Prediction, PyTree


def build_stages(config: Config) -> dict[str, Method]:
    """The methods of a config over one tree, in the order in which they are trained."""
    if config.method == "embedding":
        network = unet(
            config.embedding + 2,
            width=config.width,
            depth=config.depth,
            batch_norm="batch" if config.batch_norm == "batch" else "running",
        )
        method = semiconv.embedding(
            _reduced(network, config.reduce),
            coordinates=config.coordinates,
            scale=config.scale,
            stride=config.reduce * 2**config.depth,
            radius=config.radius,
            kernel_weight=config.kernel_weight,
            repulsion=config.repulsion,
            margin=config.margin,
            max_instances=config.max_detections,
            min_score=config.seed_score,
            min_size=config.min_size,
            mean=config.mean,
            std=config.std,
        )
        return {"embedding": method}
    networks, options = _networks(config), _detection_options(config)
    if config.method == "mask_rcnn":
        return {"mask_rcnn": mask_rcnn.method(networks, **options)}
    stages = semiconv.stages(
        networks,
        scale=config.scale,
        sigma=config.sigma,
        kernel_weight=config.kernel_weight,
        **options,
    )
    return stages._asdict()


def _reduced(network: Network, side: int) -> Network:
    """The network on the means of squares of pixels."""

    def means(image: Float[Array, "b h w c"]) -> Float[Array, "b _ _ c"]:
        batch, height, width, channels = image.shape
        squares = image.reshape(batch, height // side, side, width // side, side, channels)
        return jnp.mean(squares, axis=(2, 4))

    def init(key: Array, /, *inputs: Array) -> dict[str, PyTree]:
        return network.init(key, *map(means, inputs))

    def apply(variables: Any, /, *inputs: Array, **options: Any) -> tuple[Any, PyTree]:
        return network.apply(variables, *map(means, inputs), **options)

    return network if side == 1 else Network(init, apply)


def _networks(config: Config) -> MaskRCNN:
    return mask_rcnn_networks(
        config.num_classes,
        depth=config.depth,
        width=config.width,
        features=config.features,
        hidden=config.hidden,
        mask_size=config.mask_size,
        embedding=config.embedding if config.method == "semiconv" else 0,
        anchors_per_cell=len(config.anchor_ratios),
        batch_norm=config.batch_norm,
        dtype=None if config.dtype == "float32" else config.dtype,
    )


def _detection_options(config: Config) -> dict[str, Any]:
    return {
        "mean": config.mean,
        "std": config.std,
        "anchor_sizes": config.anchor_sizes,
        "anchor_ratios": config.anchor_ratios,
        "canonical_size": config.canonical_size,
        "pre_nms": config.pre_nms,
        "test_pre_nms": min(config.pre_nms, 1000),
        "proposals": config.proposals,
        "rois": config.rois,
        "score_threshold": config.detection_score,
        "nms_threshold": config.nms,
        "max_detections": config.max_detections,
    }


def make_method(config: Config, *, min_score: float | None = None) -> Method:
    """The method to predict with.

    Args:
        config: as a whole.
        min_score: objects with a lower score are left out; None: `config.min_score`. Average
            precision wants all, 0.
    """
    least = config.min_score if min_score is None else min_score
    method = list(build_stages(config).values())[-1]
    return method._replace(finish=lambda prediction, _: without_unlikely(prediction, least))


def without_unlikely(prediction: Prediction, min_score: float) -> Prediction:
    """Objects whose score is lower become padding: kind -1, score 0, no mask."""
    kinds, scores = np.asarray(prediction["kinds"]), np.asarray(prediction["scores"])
    if not np.any((kinds >= 0) & (scores < min_score)):
        return prediction
    kept = (kinds >= 0) & (scores >= min_score)
    masks = np.asarray(prediction["masks"]) & kept[..., None, None]
    found = {**prediction, "masks": masks}
    found |= {"kinds": np.where(kept, kinds, -1), "scores": np.where(kept, scores, 0)}
    found["boxes"] = np.where(kept[..., None], np.asarray(prediction["boxes"]), 0)
    if "instances" in prediction:
        found["instances"] = np.where(masks.any(axis=1), np.asarray(prediction["instances"]), 0)
    return found


def make_optimizer(config: Config, stage: str, steps: int) -> optax.GradientTransformation:
    """The optimizer of a stage; what the stage does not learn stays, weight decay or not."""
    rate = _rate(config, steps)

    def kernels(params: Any) -> Any:
        return jax.tree.map(lambda p: p.ndim > 1, params)

    parts = [optax.clip_by_global_norm(config.clip)] if config.clip else []
    if config.optimizer == "adamw":
        parts.append(optax.adamw(rate, weight_decay=config.weight_decay, mask=kernels))
    else:
        # Here the decay joins the gradient, as in the published recipes.
        parts.append(optax.add_decayed_weights(config.weight_decay, mask=kernels))
        parts.append(optax.sgd(rate, momentum=0.9))

    def label(params: Any) -> Any:
        def of(path: Any, _: Any) -> str:
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            return "rests" if name.startswith(_idle(config, stage)) else "learns"

        return jax.tree_util.tree_map_with_path(of, params)

    return optax.partition({"learns": optax.chain(*parts), "rests": optax.set_to_zero()}, label)


def _idle(config: Config, stage: str) -> tuple[str, ...]:
    """Beginnings of the names of parameters that no gradient reaches."""
    names: tuple[str, ...] = ()
    if config.batch_norm == "frozen":
        # Its networks hold the encoder's first two stages by default.
        names = tuple(f"pyramid/encoder/{part}" for part in ("conv1/", "bn1/", "layer1/"))
    if config.method == "semiconv" and stage == "mask_rcnn":
        names += ("embed/", "semiconv/")
    return names


def _rate(config: Config, steps: int) -> optax.Schedule:
    if config.decay == "cosine":
        return cosine(config.learning_rate, steps, warmup=config.warmup)
    falls = {int(steps * part): 0.1 for part in config.falls}
    rate = optax.piecewise_constant_schedule(config.learning_rate, falls)
    return lambda count: rate(count) * jnp.minimum((count + 1) / max(config.warmup, 1), 1.0)


def initial_variables(config: Config, params: PyTree, model_state: PyTree) -> Any:
    """The random variables, filled from `config.encoder` or `config.initial`.

    Raises:
        InputError: the file is missing, or not of this network.
    """
    if config.initial:
        from jaxseg.predictor import load

        given = load(config.initial)
        found = jax.device_get((given.params, given.model_state))
        return from_run(found, (params, model_state), config.initial)
    tensors = weights.read_tensors(Path(config.encoder))
    variables = jax.device_get({"params": params, "batch_stats": model_state})
    if any(name.startswith("roi_heads.") for name in tensors):
        # Its classes are COCO's with gaps, and its batch normalisation was trained with epsilon 0.
        filled = from_torchvision(
            tensors, variables, predictors=False, epsilon=0.0, source=config.encoder
        )
    else:
        filled = encoder_from_torchvision(tensors, variables, source=config.encoder)
    return filled["params"], filled["batch_stats"]
