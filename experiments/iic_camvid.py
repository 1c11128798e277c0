"""IIC on CamVid in three groups (Ji, Henriques, Vedaldi, ICCV 2019): segments without labels.

    jaxseg train experiments/iic_camvid.py --data CAMVID --workdir RUN
    jaxseg evaluate RUN --data CAMVID --split test

Sky; what stands (buildings, trees, poles, signs, fences); what is on the ground (road, pavement,
vehicles, people): as coarse as the paper's COCO-Stuff-3. No label is read in training. "small" is
for two CPU cores: images at a sixth of their height, where what a cell sees is half of it (at half
of the height clusters were of texture), an eighth of the network's width, and images brought to one
exposure: without that, clusters told dark images from bright ones. "paper" has the numbers of the
released command for COCO-Stuff-3, for a GPU. "semi" is the paper's IIC*: it over-clusters, and
labels say later what each cluster is, see `iic_over_clustering.py`.
"""

import dataclasses

from jaxseg.recipes.iic_pixels import Config, build

__all__ = ["VARIANTS", "Config", "build"]

GROUPS = (
    "sky: Sky",
    "standing: Building, Tree, Pole, SignSymbol, Fence",
    "ground: Road, Pavement, Car, Pedestrian, Bicyclist",
)

_PAPER = Config(
    num_clusters=3,
    over_clusters=15,
    groups=GROUPS,
    class_colors=((70, 130, 180), (190, 153, 60), (128, 64, 128)),
    lamb=1.5,
    size=(180, 240),
    crop=(128, 128),
    batch_size=120,
    main_steps=100,
    over_steps=100,
    steps=20_000,
    learning_rate=1e-4,
    decay="constant",
    warmup=0,
    watched=200,
    train_split="train+val+test",
    evaluate_every=1000,
)
_SMALL = dataclasses.replace(
    _PAPER,
    width=8,
    lamb=1.0,
    standardise=True,
    displacement=5,
    size=(60, 80),
    crop=(56, 76),
    batch_size=16,
    main_steps=1,
    over_steps=1,
    steps=300,
    learning_rate=2e-3,
    decay="cosine",
    warmup=30,
    watched=64,
    evaluate_every=100,
)

VARIANTS = {
    "small": _SMALL,
    "paper": _PAPER,
    "semi": dataclasses.replace(_SMALL, predicts="over"),
}
