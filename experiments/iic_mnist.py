"""IIC on MNIST (Ji, Henriques, Vedaldi, ICCV 2019): digits without labels.

    jaxseg train experiments/iic_mnist.py --data MNIST --workdir RUN
    jaxseg evaluate RUN --data MNIST --split train+test

MNIST is a folder with `mnist.npz`, or what TFDS has prepared. No label is read in training, nor to
choose a step or a sub-head. "labelled/accuracy" is that of the sub-head of largest information,
under the best matching of clusters and digits over all 70,000 images, the paper's protocol.

"small" is for two CPU cores: a network of a thirtieth of the size, and an entropy weight that
rises after the clusters have formed, since clusters of equal size are known to be right here.
"paper" has the network, transforms, heads and rates of the released
command, and its budget is for a GPU. There, by an error, both phases train the head of ten
outputs; so `over_clusters` is 0 and "over" adds the head of 50 that the paper describes.
"semi" over-clusters alone, for labels that come later, see `iic_over_clustering.py`.
"""

import dataclasses

from jaxseg.recipes.iic_images import Config, build

__all__ = ["VARIANTS", "Config", "build"]

_SMALL = Config(
    widths=(16, 32, 64, 128),
    kernel_size=3,
    lamb=2.0,
    lamb_from=250,
    batch_size=100,
    repeats=5,
    steps=1500,
    learning_rate=2e-3,
    decay_from=0.6,
)
_PAPER = Config(
    batch_norm="batch",
    batch_size=140,
    repeats=5,
    steps=45_000,
    learning_rate=1e-4,
    decay="constant",
    warmup=0,
    evaluate_every=1500,
)

VARIANTS = {
    "small": _SMALL,
    "paper": _PAPER,
    "over": dataclasses.replace(_PAPER, over_clusters=50, main_steps=2),
    "semi": dataclasses.replace(
        _SMALL, over_clusters=30, predicts="over", lamb=1.0, lamb_from=0, over_steps=4, steps=1000
    ),
}
