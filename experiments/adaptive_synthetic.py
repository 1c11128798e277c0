"""Adaptive downsampling where it should pay most: small objects in clumps, made up.

    jaxseg train experiments/adaptive_synthetic.py --data . --workdir RUN --variant unet_64_learned
    jaxseg evaluate RUN --data . --split test
    python experiments/compare_adaptive.py --runs RUN [RUN ...]

Scenes of 512×512 pixels, or with `--scene-size 1024` of 1024×1024, are made when they are asked
for, of `--scene-seed` and their number (`jaxseg.data.synthetic_objects`); `--data` is not read. The
objects of three classes are the targets. Variants are NETWORK_NODES_MODE as in adaptive_camvid.py,
for two CPU cores. Crops are whole scenes: `--size` and `--crop` are refused.
"""

import dataclasses
from pathlib import Path
from typing import Any

from jaxseg.data.synthetic_objects import CLASSES, TARGETS, Scenes, SyntheticObjectsSource
from jaxseg.recipes import adaptive
from jaxseg.train import Experiment
from jaxseg.types import InputError

COUNTS = {"train": 200, "val": 30, "test": 60}


@dataclasses.dataclass(frozen=True)
class Config(adaptive.Config):
    """The numbers of a training.

    Attributes:
        crop: a whole scene, whatever its size.
        scene_size: height and width of a scene.
        scene_seed: of all scenes.
        scene_share: part of the number of scenes, for a quick try.
    """

    crop: tuple[int, int] = (512, 512)
    scene_size: int = 512
    scene_seed: int = 0
    scene_share: float = 1.0


def build(config: Config) -> Experiment:
    """The experiment of a config.

    Raises:
        InputError: if a number cannot be used.
    """
    if config.scene_size < 64 or config.scene_seed < 0 or not 0 < config.scene_share <= 1:
        raise InputError(
            f"scene_size is {config.scene_size}, scene_seed {config.scene_seed}, scene_share "
            f"{config.scene_share}; give 64 or more, 0 or more, and 0 to 1"
        )
    side = (config.scene_size, config.scene_size)
    if any(config.size) or config.crop not in (Config.crop, side):
        raise InputError(
            f"size is {config.size} and crop {config.crop}, but scenes are trained on and measured "
            "whole; leave both out, and give --scene-size"
        )

    def open_scenes(folder: Path, split: str) -> SyntheticObjectsSource:
        return SyntheticObjectsSource(
            split,
            count=max(round(COUNTS.get(split, 1) * config.scene_share), 1),
            seed=config.scene_seed,
            scenes=Scenes(size=side),
            cache_bytes=adaptive.CACHE_BYTES,
        )

    return adaptive.build(dataclasses.replace(config, crop=side), open_scenes)


_SCENES = Config(
    num_classes=len(CLASSES),
    class_names=tuple(CLASSES),
    class_colors=tuple(CLASSES.values()),
    target_classes=TARGETS,
    scale_std=0.0,
    scale_range=(1.0, 1.0),
    brightness=0.1,
    contrast=0.2,
    class_weights="inverse_log",
    batch_size=8,
    steps=600,
    learning_rate=3e-3,
    decay="cosine",
    warmup=30,
    ema_decay=0.98,
    sampler_grid=(16, 16),
    sampler_features=16,
    sampler_steps=400,
    sampler_rate=3e-3,
    save_every=500,
)
_NETWORKS: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "unet": ((32, 64, 96, 128), {"network": "unet", "width": 16, "depth": 3}),
    "pspnet": ((128,), {"network": "pspnet", "depth": 50, "width": 16}),
    "deeplab": ((128,), {"network": "deeplab_mobilenetv2", "scale": 0.5, "features": 64}),
}

VARIANTS = {
    f"{name}_{nodes}_{mode}": dataclasses.replace(
        _SCENES, nodes=(nodes, nodes), mode=mode, **network
    )
    for name, (sizes, network) in _NETWORKS.items()
    for nodes in sizes
    for mode in adaptive.MODES
}
