"""CamVid: eleven classes of street scenes, 367 / 101 / 233 images (Brostow et al., ECCV 2008).

    jaxseg train experiments/camvid.py --data CAMVID --workdir RUN [--variant unet_small]
    jaxseg evaluate RUN --data CAMVID --split test

CAMVID is a folder as the README describes, of the split and the 360×480 images of SegNet. The
validation images choose the step that is kept; they are easier than the test images.
"""

from jaxseg.recipes.semantic import Config, build

__all__ = ["VARIANTS", "Config", "build"]

VARIANTS = {
    # A narrow U-Net at half the size, for two CPU cores; measured at that size too.
    "unet_small": Config(
        width=16,
        size=(180, 240),
        crop=(144, 192),
        scale_std=0.25,
        scale_range=(0.75, 1.75),
        batch_size=8,
        steps=1200,
        learning_rate=3e-3,
        decay="cosine",
        warmup=50,
        ema_decay=0.98,
        validation_split="val",
        save_every=200,
        evaluate_every=200,
    ),
    # The full network on crops of the full images, for an accelerator.
    "unet": Config(
        crop=(352, 480),
        batch_size=8,
        steps=20_000,
        validation_split="val",
        ema_decay=0.999,
        warmup=500,
        evaluate_every=1000,
    ),
}
