"""IIC on STL-10 (Ji, Henriques, Vedaldi, ICCV 2019).

    jaxseg train experiments/iic_stl10.py --data STL10 --workdir RUN
    jaxseg evaluate RUN --data STL10 --split train+test

The data is what TFDS has prepared as ArrayRecord (`stl10`). The numbers are those of the released
command, for a GPU; the published accuracy is 59.6 per cent. A deviation: there the head of ten
clusters sees the labelled part's images alone and the other head the unlabelled ones too; here both
see `train_split`. "labelled_part" trains without the unlabelled images (published: 49.9).
"""

import dataclasses

from jaxseg.recipes.iic_images import Config, build

__all__ = ["VARIANTS", "Config", "build"]

_FULL = Config(
    network="net5g",
    widths=(64,),
    channels=3,
    inputs="sobel",
    over_clusters=70,
    main_steps=93,
    over_steps=807,
    size=64,
    side=64,
    sides=(64,),
    image_side=96,
    centre_probability=0.0,
    rotation=0.0,
    rotation_probability=0.0,
    flip_probability=0.5,
    jitter=(0.4, 0.4, 0.4, 0.125),
    repeats=5,
    batch_size=140,
    steps=300_000,
    learning_rate=1e-4,
    decay="constant",
    warmup=0,
    train_split="train+unlabelled+test",
    evaluate_every=900,
)

VARIANTS = {
    "full": _FULL,
    "labelled_part": dataclasses.replace(_FULL, train_split="train+test", over_steps=93),
}
