"""The numbers of a training of instances, and which of them can be used."""

import dataclasses
import math
from typing import Literal, get_args, get_type_hints

from jaxseg.types import InputError


@dataclasses.dataclass(frozen=True)
class Config:
    """The numbers of a training; see `methods.semiconv` and `methods.mask_rcnn`.

    Attributes:
        method: "embedding": objects from semi-convolutional embeddings alone, by a U-Net;
            "mask_rcnn"; or "semiconv": Mask R-CNN whose masks such an embedding corrects.
        num_classes: of the objects; "embedding" knows one.
        class_names: for figures and results; none: their numbers.
        input: "image"; or "binary": the union of the true masks, 255 there. Then give binary
            pictures to `jaxseg predict` too.
        width: channels of the U-Net's first block, or of the ResNet's first stage.
        depth: how often the U-Net halves the map, or the layers of the ResNet.
        reduce: of "embedding": the U-Net sees the image averaged over squares of this side, and its
            maps are enlarged bilinearly: so it sees further, and takes less time.
        embedding: D, channels of the embedding; 8 in the paper.
        features: of Mask R-CNN: channels of the pyramid and the heads.
        hidden: of Mask R-CNN: of the box head's layers.
        mask_size: of Mask R-CNN: 28 or 56.
        batch_norm: what evaluation normalises with; "frozen": the encoder's stays as `encoder` or
            `initial` give it, and so do its first two stages.
        dtype: of Mask R-CNN's computation.
        mean: the network sees (image - mean) / std, of an image in [0, 1].
        std: see `mean`.
        scale: pixels in a unit of the embedding.
        sigma: of the kernel at the beginning, in that unit, of "semiconv".
        radius: of an object in the embedding, in that unit, of "embedding".
        coordinates: of "embedding": "semi", or "none" for a plain convolutional one.
        kernel_weight: of the kernel's loss.
        repulsion: of "embedding": weight of the term that keeps means apart.
        margin: of "embedding": how far apart it keeps them.
        seed_score: of "embedding": least probability of an object's seed.
        min_size: of "embedding": pixels of the smallest object.
        anchor_sizes: of Mask R-CNN: sides of the boxes that each level begins with.
        anchor_ratios: of Mask R-CNN: height by width of those.
        canonical_size: of Mask R-CNN: see `methods.mask_rcnn.Options`.
        proposals: of Mask R-CNN: boxes of an image that are classified.
        pre_nms: of Mask R-CNN: boxes that each level proposes.
        rois: of Mask R-CNN: boxes that are learned from.
        detection_score: of Mask R-CNN: least probability of a detection that is measured.
        nms: of Mask R-CNN: overlap of boxes beyond which the less likely one is dropped.
        max_detections: objects that an image may be given.
        min_score: of objects that AP_dsb, panoptic quality and `jaxseg predict` count.
        encoder: of Mask R-CNN: file of torchvision's weights (.pth or .safetensors), of a ResNet or
            of a whole Mask R-CNN; "": random ones.
        initial: a run's folder, or weights of `jaxseg weights`, that training begins with, of the
            same network or, for "semiconv", of "mask_rcnn"; "": random weights.
        crop: height and width of a training crop.
        scale_std: standard deviation of the random scale, whose mean is 1.
        scale_range: smallest and largest random scale.
        turns: whether crops are also turned by quarters and mirrored; they must be square.
        max_instances: places for the objects of a training crop; 0: the most that an image has.
        overflow: of a crop with more: "error"; or "largest": those of the largest area are learned,
            and the others, whose pixels then look like background, are not.
        batch_size: crops in a step.
        accumulate: parts that a step takes its batch in.
        steps: in all; a run that goes on to another number stretches its decay.
        first_steps: of "semiconv": those of Mask R-CNN alone, which come first; each stage has an
            optimizer and a schedule of its own.
        optimizer: "adamw" or "sgd" (momentum 0.9).
        learning_rate: its peak.
        decay: "cosine", to 0, or "steps": to a tenth at each of `falls`.
        falls: parts of a stage's steps.
        warmup: steps over which the rate rises from 0.
        weight_decay: of all but biases and batch norm; decoupled from the gradient in "adamw".
        clip: greatest norm of the gradient; 0: any.
        ema_decay: of the moving average of the weights, which then predicts; 0: none.
        train_split: such as "train".
        validation_split: evaluated during training, and chooses the best; "": see `hold_out`.
        hold_out: each n-th example of `train_split` is not trained on, and takes the place of a
            validation split; 0: none.
        best: the figure that chooses.
        pad: images that are measured are padded to multiples of it, so that a set of images of
            many sizes makes few programs; 0: they are not.
        seed: of weights and data.
        log_every: steps.
        save_every: steps.
        evaluate_every: steps; 0: only at the end.
    """

    method: Literal["embedding", "mask_rcnn", "semiconv"] = "embedding"
    num_classes: int = 1
    class_names: tuple[str, ...] = ()
    input: Literal["image", "binary"] = "image"
    width: int = 16
    depth: int = 4
    reduce: int = 1
    embedding: int = 8
    features: int = 256
    hidden: int = 1024
    mask_size: Literal[28, 56] = 28
    batch_norm: Literal["running", "batch", "frozen"] = "running"
    dtype: Literal["float32", "bfloat16"] = "float32"
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.25, 0.25, 0.25)
    scale: float = 32.0
    sigma: float = 1.0
    radius: float = 0.25
    coordinates: Literal["semi", "none"] = "semi"
    kernel_weight: float = 1.0
    repulsion: float = 0.0
    margin: float = 1.0
    seed_score: float = 0.5
    min_size: int = 1
    anchor_sizes: tuple[float, ...] = (32.0, 64.0, 128.0, 256.0, 512.0)
    anchor_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    canonical_size: float = 224.0
    proposals: int = 1000
    pre_nms: int = 2000
    rois: int = 512
    detection_score: float = 0.05
    nms: float = 0.5
    max_detections: int = 100
    min_score: float = 0.0
    encoder: str = ""
    initial: str = ""
    crop: tuple[int, int] = (256, 256)
    scale_std: float = 0.0
    scale_range: tuple[float, float] = (0.75, 1.25)
    turns: bool = False
    max_instances: int = 0
    overflow: Literal["error", "largest"] = "error"
    batch_size: int = 4
    accumulate: int = 1
    steps: int = 1000
    first_steps: int = 0
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = 1e-3
    decay: Literal["cosine", "steps"] = "cosine"
    falls: tuple[float, ...] = ()
    warmup: int = 0
    weight_decay: float = 1e-4
    clip: float = 0.0
    ema_decay: float = 0.0
    train_split: str = "train"
    validation_split: str = ""
    hold_out: int = 0
    best: str = "ap"
    pad: int = 0
    seed: int = 0
    log_every: int = 50
    save_every: int = 500
    evaluate_every: int = 0


_LEAST = {
    **dict.fromkeys(("num_classes", "width", "depth", "reduce", "embedding", "features"), 1),
    **dict.fromkeys(("hidden", "proposals", "pre_nms", "rois", "max_detections"), 1),
    **dict.fromkeys(("min_size", "batch_size", "accumulate", "log_every", "save_every"), 1),
    "steps": 1,
    **dict.fromkeys(("kernel_weight", "repulsion", "margin", "scale_std", "max_instances"), 0),
    **dict.fromkeys(("first_steps", "warmup", "weight_decay", "clip", "ema_decay"), 0),
    **dict.fromkeys(("hold_out", "pad", "seed", "evaluate_every", "min_score", "seed_score"), 0),
}
_POSITIVE = ("scale", "sigma", "radius", "canonical_size", "learning_rate")
_OWN = {
    **dict.fromkeys(("coordinates", "radius", "repulsion", "margin"), ("embedding",)),
    **dict.fromkeys(("seed_score", "min_size", "reduce"), ("embedding",)),
    **dict.fromkeys(("sigma", "first_steps"), ("semiconv",)),
    **dict.fromkeys(("features", "hidden", "mask_size", "dtype"), ("mask_rcnn", "semiconv")),
    **dict.fromkeys(("anchor_sizes", "anchor_ratios"), ("mask_rcnn", "semiconv")),
    **dict.fromkeys(("canonical_size", "proposals", "pre_nms"), ("mask_rcnn", "semiconv")),
    **dict.fromkeys(("rois", "detection_score", "nms", "encoder"), ("mask_rcnn", "semiconv")),
}


def check(config: Config) -> None:
    """Raises `InputError` for the first field that cannot be used."""
    for name, kind in get_type_hints(Config).items():
        words = () if isinstance(kind, type(tuple[int])) else get_args(kind)
        if words and (value := getattr(config, name)) not in words:
            listed = ", ".join(map(str, words[:-1])) + f" or {words[-1]}"
            raise InputError(f"{name} is {value!r}; choose {listed}")
    for name, least in _LEAST.items():
        value = getattr(config, name)
        if not (math.isfinite(value) and value >= least):
            raise InputError(f"{name} is {value}; give {least} or more")
    for name in _POSITIVE:
        value = getattr(config, name)
        if not (math.isfinite(value) and value > 0):
            raise InputError(f"{name} is {value}; give more than 0")
    fresh = Config()
    for name, methods in _OWN.items():
        value = getattr(config, name)
        if value != getattr(fresh, name) and config.method not in methods:
            # A number that would silently do nothing is a mistake.
            raise InputError(f"{name}={value} is of {' and '.join(methods)}, not {config.method}")
    _check_together(config)


def _check_together(config: Config) -> None:
    if config.method == "embedding" and config.num_classes != 1:
        raise InputError(f"num_classes is {config.num_classes}; method embedding knows one class")
    if config.method == "embedding" and config.batch_norm == "frozen":
        raise InputError("batch_norm is frozen; that is of Mask R-CNN, choose running or batch")
    if config.class_names and len(config.class_names) != config.num_classes:
        raise InputError(
            f"class_names has {len(config.class_names)} entries; give {config.num_classes}"
        )
    if min(config.crop) < 1:
        raise InputError(f"crop is {config.crop}; give a height and a width")
    if config.turns and config.crop[0] != config.crop[1]:
        raise InputError(f"crop is {config.crop}; give a square one, or --no-turns")
    low, high = config.scale_range
    if not 0 < low <= high < math.inf:
        raise InputError(f"scale_range is {config.scale_range}; give 0 < smallest <= largest")
    if not all(0 < part < 1 for part in config.falls):
        raise InputError(f"falls is {config.falls}; give parts of the steps, between 0 and 1")
    if bool(config.falls) != (config.decay == "steps"):
        raise InputError(f"falls is {config.falls}, decay is {config.decay}; falls are of steps")
    if config.first_steps >= config.steps:
        raise InputError(
            f"first_steps is {config.first_steps}, steps {config.steps}; give fewer first_steps, "
            "so that some are left for the second stage"
        )
    if config.batch_norm == "frozen" and not (config.encoder or config.initial):
        raise InputError(
            "batch_norm is frozen, of random weights; give --encoder FILE or --batch-norm running"
        )
    if config.encoder and config.initial:
        raise InputError("encoder and initial are both given; choose one")
    if config.validation_split and config.hold_out:
        raise InputError("validation_split and hold_out are both given; choose one")
    if config.hold_out == 1:
        raise InputError("hold_out is 1, which leaves nothing to train on; give 0, or 2 or more")
    if config.ema_decay >= 1:
        raise InputError(f"ema_decay is {config.ema_decay}; give less than 1")
    if config.seed >= 2**31:
        raise InputError(f"seed is {config.seed}; give 0 to 2^31 - 1")
    if not all(math.isfinite(m) for m in config.mean):
        raise InputError(f"mean is {config.mean}; give finite numbers")
    if not all(0 < s < math.inf for s in config.std):
        raise InputError(f"std is {config.std}; give more than 0")
