r"""Adaptive downsampling on SYNTHIA (Marin et al., ICCV 2019): 760×1280 read at 32² to 256².

    jaxseg train experiments/adaptive_synthia.py --data RAND_CITYSCAPES --workdir RUN \
        --variant unet_64_learned
    jaxseg evaluate RUN --data RAND_CITYSCAPES --split val

The data is SYNTHIA-RAND-CITYSCAPES, see `jaxseg.data.synthia`, with a split of ours; the paper has
13 thousand images, so another set of the same authors. Its Table 4 gives, with adaptive / uniform
sampling, mIoU over target classes of 61 / 58, 73 / 71, 83 / 81 and 91 / 89 at 32, 64, 128 and 256
nodes a side. Which classes these are is not certain: here persons, riders and vehicles, as on
Cityscapes, but for trucks and trains, of which there is hardly a pixel: the usual 16 classes leave
them out. The paper measures the largest square in the middle of each image, here it is the whole
image; training crops are square, so that in training nodes have another aspect than there. Adam,
the rate 1e-4 and the batch sizes are the paper's, as far as they are known; the number of steps is
ours. No figure of this file has been measured: it wants a GPU and the data.
"""

import dataclasses
from pathlib import Path

from jaxseg.data.synthia import CLASSES, SynthiaSource
from jaxseg.recipes import adaptive
from jaxseg.recipes.adaptive import MODES, Config
from jaxseg.train import Experiment

__all__ = ["TARGETS", "VARIANTS", "Config", "build"]

TARGETS = ("car", "pedestrian", "bicycle", "motorcycle", "rider", "bus")


def build(config: Config) -> Experiment:
    """The experiment of a config.

    Raises:
        InputError: if a number cannot be used.
    """

    def open_scenes(folder: Path, split: str) -> SynthiaSource:
        return SynthiaSource(folder, split, cache_bytes=adaptive.CACHE_BYTES)

    return adaptive.build(config, open_scenes)


_SYNTHIA = Config(
    num_classes=len(CLASSES),
    class_names=tuple(CLASSES),
    class_colors=tuple(CLASSES.values()),
    target_classes=tuple(sorted(list(CLASSES).index(name) for name in TARGETS)),
    crop=(760, 760),
    scale_std=0.0,
    scale_range=(1.0, 1.0),
    brightness=0.1,
    contrast=0.2,
    class_weights="none",
    weight_decay=0.0,
    learning_rate=1e-4,
    decay="exponential",
    steps=50_000,
    sampler_steps=20_000,
    sampler_rate=1e-4,
    log_every=100,
    save_every=5000,
)
_BATCHES = {32: 128, 64: 128, 128: 32, 256: 24}

VARIANTS = {
    f"unet_{nodes}_{mode}": dataclasses.replace(
        _SYNTHIA, nodes=(nodes, nodes), sampler_size=(nodes, nodes), mode=mode, batch_size=batch
    )
    for nodes, batch in _BATCHES.items()
    for mode in MODES
}
