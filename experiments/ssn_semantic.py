"""Superpixels for semantic classes: SSN trained on class labels, and beside it other weights.

    jaxseg train experiments/ssn_semantic.py --variant small --data CAMVID --workdir RUN
    jaxseg evaluate RUN --data CAMVID --split test
    python experiments/ssn_semantic.py --data CAMVID --runs RUN BSDS_RUN PIX_RUN

Jampani et al., ECCV 2018, section 4, train for the classes of the data at hand in place of
segments; here CamVid, 11 classes at 360x480, unlabelled pixels ignored. Trained on train; nothing
is chosen on val. ASA is that on the class maps. The last command measures any runs on this data, at
equal numbers of regions.
"""

from jaxseg.recipes import superpixel_tasks
from jaxseg.recipes.superpixels import Config
from jaxseg.recipes.superpixels import build as build_superpixels
from jaxseg.train import Experiment

__all__ = ["VARIANTS", "Config", "build"]

VARIANTS = {
    # The paper's numbers for every task: Adam 1e-4, batches of 8 crops of 201 pixels.
    "paper": Config(train_split="train"),
    # Minutes on two cores; the network of the small variant of ssn_bsds500.
    "small": Config(
        train_split="train",
        width=32,
        batch_size=4,
        steps=300,
        learning_rate=2e-3,
        decay="cosine",
        warmup=50,
        ema_decay=0.99,
        save_every=100,
    ),
    # No network: what the learned features have to beat. Nothing is trained.
    "pix": Config(train_split="train", network="pix", steps=0),
}


def build(config: Config) -> Experiment:
    """The experiment of a config; see `jaxseg.recipes.superpixels.build`."""
    return build_superpixels(config, superpixel_tasks.classes())


if __name__ == "__main__":
    from jaxseg.recipes.superpixel_table import main

    main(VARIANTS, build, figures=("asa", "br", "co"))
