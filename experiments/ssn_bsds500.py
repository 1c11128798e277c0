"""Superpixels on BSDS500: SSN as published, and a variant for two CPU cores.

    jaxseg train experiments/ssn_bsds500.py --data BSDS500 --workdir RUN [--variant small]
    jaxseg evaluate RUN --data BSDS500 --split test

Every annotation of an image is a training example: 1,633 of train and val. Evaluation is over the
1,063 pairs of an image and an annotation of test; results are in experiments/results/ssn.md.
"""

from jaxseg.recipes.superpixels import Config, build

__all__ = ["VARIANTS", "Config", "build"]

VARIANTS = {
    # Jampani et al., ECCV 2018, section 5: Adam 1e-4, batches of 8 crops of 201 pixels, 100
    # superpixels, k = 20, v = 5 in training and 10 in testing, 500,000 steps.
    "paper": Config(),
    # An hour on two shared cores; the bundled "ssn-bsds500". Without the warm-up the first steps of
    # Adam throw half of the learned channels behind the last ReLU for good.
    "small": Config(
        width=32,
        batch_size=4,
        steps=3000,
        learning_rate=2e-3,
        decay="cosine",
        warmup=100,
        ema_decay=0.99,
        save_every=200,
    ),
    # The bundled "ssn-linear-bsds500".
    "linear": Config(
        network="linear",
        batch_size=4,
        steps=2000,
        learning_rate=2e-3,
        decay="cosine",
        warmup=100,
        ema_decay=0.99,
        save_every=200,
    ),
    # No network: what the learned features have to beat. Nothing is trained.
    "pix": Config(network="pix", steps=0),
}
