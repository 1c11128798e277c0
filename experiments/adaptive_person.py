r"""Adaptive downsampling for persons (Marin et al., ICCV 2019), from any folder of masks.

    jaxseg train experiments/adaptive_person.py --data PERSONS --workdir RUN \
        --variant unet_64_learned
    jaxseg evaluate RUN --data PERSONS --split test

PERSONS is a folder of this package's form: `images/train/ID.jpg` and `labels/train/ID.png` with 0
for the background and 1 for a person, likewise `test`, and `dataset.json` with

    {"kind": "classes", "layout": "folders", "classes": ["background", "person"], "ignore": 255}

(see `jaxseg.data.open_folder`). The paper has 5711 images of Supervisely's persons, 5140 of them to
train on, which have to be exported as such masks; it says that it gains up to 5.8 points of mIoU.
Images may be of any size; crops are of 1024×1024, mirrored where an image is smaller. The paper
measures the largest square in the middle of each image, here it is the whole image; training crops
are square, so that in training nodes have another aspect than on one that is not. Adam, the rate
1e-4 and 1000 epochs are the paper's, as far as they are known. No figure of this file has been
measured: it wants a GPU and the data.
"""

import dataclasses

from jaxseg.recipes.adaptive import MODES, Config, build

__all__ = ["VARIANTS", "Config", "build"]

IMAGES, EPOCHS = 5140, 1000

_PERSONS = Config(
    num_classes=2,
    class_names=("background", "person"),
    class_colors=((60, 60, 60), (220, 20, 60)),
    target_classes=(1,),
    crop=(1024, 1024),
    scale_std=0.25,
    scale_range=(0.5, 1.5),
    brightness=0.1,
    contrast=0.2,
    class_weights="none",
    weight_decay=0.0,
    learning_rate=1e-4,
    decay="exponential",
    sampler_steps=20_000,
    sampler_rate=1e-4,
    log_every=100,
    save_every=5000,
)
_BATCHES = {16: 128, 32: 128, 64: 128, 128: 32, 256: 24}

VARIANTS = {
    f"unet_{nodes}_{mode}": dataclasses.replace(
        _PERSONS,
        nodes=(nodes, nodes),
        mode=mode,
        batch_size=batch,
        steps=EPOCHS * IMAGES // batch,
    )
    for nodes, batch in _BATCHES.items()
    for mode in MODES
}
