"""DSRL on poses: HRNet-W32 on COCO's people, heatmaps of twice the input's size.

    jaxseg train experiments/dsrl_coco_pose.py --data COCO --workdir RUN [--variant w32_base]
    jaxseg evaluate RUN --data COCO --split val

COCO holds `annotations/person_keypoints_{train,val}2017.json` and `{train,val}2017/`. Top-down, as
Sun et al. (CVPR 2019): one crop for each person, here around the annotated box; `--boxes FILE`
takes a detector's results in COCO's format for the evaluation, as published tables do. The network
sees 128×96 pixels of a crop of 256×192, and its maps are as large as the crop. Scored by COCO's
average precision over object keypoint similarity (`metrics.keypoint_oks`), without a second pass on
the mirrored crop.

Wang et al. (CVPR 2020) report 2 points of average precision more at equal cost. No figure of this
file has been measured: it wants a GPU and the data.
"""

import dataclasses
import functools
import math
from pathlib import Path
from typing import Literal, get_args, get_type_hints

import jax
import numpy as np
import optax

from jaxseg import data, metrics
from jaxseg.data import CocoKeypointSource
from jaxseg.data.coco_people import KEYPOINTS
from jaxseg.data.person_crops import random_crop_person
from jaxseg.methods import dsrl, heatmaps
from jaxseg.models import weights
from jaxseg.models.dsrl import dsrl as dsrl_network
from jaxseg.models.dsrl import enlarged
from jaxseg.models.hrnet import hrnet
from jaxseg.models.trunk import TrunkOption
from jaxseg.train import Evaluation, Experiment, Phase, Schedule
from jaxseg.types import InputError, Method, PyTree

__all__ = ["VARIANTS", "Config", "build"]


@dataclasses.dataclass(frozen=True)
class Config:
    """The numbers of a training.

    Attributes:
        stage: "base": HRNet, its maps enlarged bilinearly; "sssr", "sisr", "affinity": the stages
            of DSRL.
        residual: whether DSRL's main branch adds to the plain network's maps, enlarged, and begins
            with them; otherwise it takes the place of the layers that predict.
        width: of HRNet's finest branch, 32 or 48 as published.
        stem: channels of its first convolutions.
        modules: exchanges in its last three stages.
        blocks: in every branch of an exchange.
        encoder: file of the authors' weights (.pth or .safetensors) that the trunk begins with; "":
            random ones.
        crop: height and width of a person's crop, twice those that the network sees.
        sigma: of the heatmaps' Gaussians, in pixels of the crop (8 in the published recipe: 2 at a
            quarter of the size).
        image_weight: of the image's loss.
        affinity_weight: of feature affinity.
        boxes: a detector's results in COCO's format, for the evaluation; "": annotated boxes.
        batch_size: people in a step.
        steps: in all; the rate falls to a tenth after 170, and again after 200, of 210 parts.
        learning_rate: of Adam.
        seed: of weights and data.
        log_every: steps.
        save_every: steps.
    """

    stage: Literal["base", "sssr", "sisr", "affinity"] = "affinity"
    residual: bool = True
    width: int = 32
    stem: int = 64
    modules: tuple[int, int, int] = (1, 4, 3)
    blocks: int = 4
    encoder: str = ""
    crop: tuple[int, int] = (256, 192)
    sigma: float = 8.0
    image_weight: float = 0.1
    affinity_weight: float = 1.0
    boxes: str = ""
    batch_size: int = 128
    # 210 passes over 149,813 people.
    steps: int = 245_700
    learning_rate: float = 1e-3
    seed: int = 0
    log_every: int = 100
    save_every: int = 2000


VARIANTS = {
    "w32_affinity": Config(),
    "w32_sisr": Config(stage="sisr"),
    "w32_sssr": Config(stage="sssr"),
    "w32_base": Config(stage="base"),
}


def build(config: Config) -> Experiment:
    """The experiment of a config.

    Raises:
        InputError: if a number cannot be used.
    """
    _check(config)

    def phases(folder: Path) -> list[Phase]:
        batches = data.train_batches(
            CocoKeypointSource(folder, "train", size=None),
            batch_size=config.batch_size,
            seed=config.seed,
            transform=functools.partial(random_crop_person, size=config.crop),
        )
        return [Phase("", method(config), _optimizer(config), 1, batches)]

    def evaluations(folder: Path, split: str) -> dict[str, Evaluation]:
        source = CocoKeypointSource(folder, split, size=config.crop, boxes=config.boxes or None)
        batches = data.eval_batches(source, batch_size=config.batch_size)
        metric = metrics.keypoint_oks(source.people)
        return {"people": Evaluation(method(config), metric, batches)}

    return Experiment(
        schedule=Schedule(
            steps=config.steps,
            seed=config.seed,
            log_every=config.log_every,
            save_every=config.save_every,
        ),
        method=functools.partial(method, config),
        example={"image": np.zeros((1, *config.crop, 3), np.uint8)},
        phases=phases,
        evaluations=evaluations,
        initial=functools.partial(_fill, config) if config.encoder else None,
    )


def method(config: Config, *, halve: bool = True) -> Method:
    """The method of a config; `halve`: whether a crop that is predicted is halved first."""
    trunk: TrunkOption = config.stage != "base"
    if trunk and config.residual:
        trunk = "scored"
    network = hrnet(
        len(KEYPOINTS),
        width=config.width,
        stem=config.stem,
        modules=config.modules,
        blocks=config.blocks,
        full_size=True,
        trunk=trunk,
    )
    if trunk:
        network = getattr(dsrl_network(network, len(KEYPOINTS)), config.stage)
    else:
        network = enlarged(network)
    return dsrl.method(
        network,
        heatmaps.task(len(KEYPOINTS), sigma=config.sigma, ignore_absent=True),
        stride=32,
        image_weight=config.image_weight,
        affinity_weight=config.affinity_weight,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        halve=halve,
    )


def _fill(config: Config, params: PyTree, model_state: PyTree) -> tuple[PyTree, PyTree]:
    """The trunk of the authors' weights; its fused scores are of another task."""
    base = config.stage == "base"
    found = weights.read(
        Path(config.encoder),
        {
            "params": params if base else params["trunk"],
            "batch_stats": model_state if base else model_state["trunk"],
        },
        naming=weights.HRNET,
        # Of the network for classes, which is larger at its end.
        leave_out=(r"^incre_modules\.", r"^downsamp_modules\.", r"^classifier\."),
        keep=(r"/final_layer/",),
    )
    if base:
        return found["params"], found["batch_stats"]
    return params | {"trunk": found["params"]}, model_state | {"trunk": found["batch_stats"]}


def _optimizer(config: Config) -> optax.GradientTransformation:
    falls = {config.steps * part // 210: 0.1 for part in (170, 200)}
    return optax.adam(optax.piecewise_constant_schedule(config.learning_rate, falls))


def _check(config: Config) -> None:
    known = get_args(get_type_hints(Config)["stage"])
    if config.stage not in known:
        raise InputError(f"stage is {config.stage!r}; choose {', '.join(known)}")
    for name in ("width", "stem", "blocks", "batch_size", "log_every", "save_every"):
        if getattr(config, name) < 1:
            raise InputError(f"{name} is {getattr(config, name)}; give 1 or more")
    for name in ("modules", "crop"):
        if min(getattr(config, name)) < 1:
            raise InputError(f"{name} is {getattr(config, name)}; give 1 or more each")
    for name in ("image_weight", "affinity_weight", "steps", "seed"):
        value = getattr(config, name)
        if not (math.isfinite(value) and value >= 0):
            raise InputError(f"{name} is {value}; give 0 or more")
    for name in ("sigma", "learning_rate"):
        value = getattr(config, name)
        if not (math.isfinite(value) and value > 0):
            raise InputError(f"{name} is {value}; give more than 0")
    try:
        example = {"image": np.zeros((1, *config.crop, 3), np.uint8)}
        made = method(config)
        variables = jax.eval_shape(made.init, jax.random.key(0), example)
        jax.eval_shape(made.predict, *variables, example)
    except ValueError as error:
        raise InputError(f"the network cannot be built: {error}") from error
