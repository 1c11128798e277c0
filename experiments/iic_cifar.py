"""IIC on CIFAR-10 and on the 20 classes of CIFAR-100 (Ji, Henriques, Vedaldi, ICCV 2019).

    jaxseg train experiments/iic_cifar.py --data CIFAR10 --workdir RUN
    jaxseg evaluate RUN --data CIFAR10 --split train+test

The data is what TFDS has prepared as ArrayRecord (`cifar10`, `cifar100`). The numbers are those of
the released commands, for a GPU; the published accuracies are 61.7 and 25.7 per cent.
"""

import dataclasses

from jaxseg.recipes.iic_images import Config, build

__all__ = ["VARIANTS", "Config", "build"]

_CIFAR10 = Config(
    network="net5g",
    widths=(64,),
    channels=3,
    inputs="sobel",
    batch_norm="batch",
    over_clusters=70,
    main_steps=546,
    over_steps=273,
    size=32,
    side=20,
    sides=(20,),
    image_side=32,
    centre_probability=0.0,
    rotation=0.0,
    rotation_probability=0.0,
    flip_probability=0.5,
    jitter=(0.4, 0.4, 0.4, 0.125),
    repeats=3,
    batch_size=220,
    steps=80_000,
    learning_rate=1e-4,
    decay="constant",
    warmup=0,
    evaluate_every=819,
)

VARIANTS = {
    "cifar10": _CIFAR10,
    "cifar100_20": dataclasses.replace(
        _CIFAR10,
        batch_norm="running",
        num_clusters=20,
        over_clusters=140,
        main_steps=300,
        over_steps=300,
        repeats=5,
        batch_size=200,
        label="coarse_label",
    ),
}
