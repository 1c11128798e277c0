r"""Adaptive downsampling on ApolloScape (Marin et al., ICCV 2019): 2710×3384 read at 32² to 512².

    jaxseg train experiments/adaptive_apolloscape.py --data APOLLOSCAPE --workdir RUN \
        --variant unet_64_learned
    jaxseg evaluate RUN --data APOLLOSCAPE --split val

The data is the release of scene parsing, see `jaxseg.data.apolloscape`. The paper's Table 2 gives,
with adaptive / uniform sampling, mIoU over the eight target classes of 24 / 19, 28 / 25, 36 / 32,
44 / 40 and 47 / 44 at 32, 64, 128, 256 and 512 nodes a side. The paper measures the largest square
in the middle of each image, here it is the whole image; training crops are square, so that in
training nodes have another aspect than there. Adam, the rate 1e-5, 33 epochs and the batch sizes
are the paper's, as far as they are known. No figure of this file has been measured: it wants a GPU
and the data.
"""

import dataclasses
from pathlib import Path

from jaxseg.data.apolloscape import CLASSES, INFO, TARGETS, ApolloscapeSource
from jaxseg.recipes import adaptive
from jaxseg.recipes.adaptive import MODES, Config
from jaxseg.train import Experiment

__all__ = ["VARIANTS", "Config", "build"]

IMAGES = 105_000
"""That are trained on, about."""
EPOCHS = 33


def build(config: Config) -> Experiment:
    """The experiment of a config.

    Raises:
        InputError: if a number cannot be used.
    """

    def open_roads(folder: Path, split: str) -> ApolloscapeSource:
        # A hundred thousand images: what is kept in memory is hardly ever used again.
        return ApolloscapeSource(folder, split)

    return adaptive.build(config, open_roads)


_APOLLOSCAPE = Config(
    num_classes=len(CLASSES),
    class_names=tuple(CLASSES),
    class_colors=INFO.colors,
    target_classes=TARGETS,
    crop=(2710, 2710),
    scale_std=0.0,
    scale_range=(1.0, 1.0),
    brightness=0.1,
    contrast=0.2,
    class_weights="none",
    weight_decay=0.0,
    learning_rate=1e-5,
    decay="exponential",
    sampler_size=(32, 32),
    sampler_steps=30_000,
    sampler_rate=1e-4,
    log_every=100,
    save_every=5000,
)
_BATCHES = {32: 128, 64: 128, 128: 32, 256: 24, 512: 12}

VARIANTS = {
    f"unet_{nodes}_{mode}": dataclasses.replace(
        _APOLLOSCAPE,
        nodes=(nodes, nodes),
        mode=mode,
        batch_size=batch,
        steps=EPOCHS * IMAGES // batch,
    )
    for nodes, batch in _BATCHES.items()
    for mode in MODES
}
