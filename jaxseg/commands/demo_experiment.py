"""SSN on the bundled nuclei: an experiment like any other, sized for two minutes on two cores.

The nuclei's instance labels, with the background as one more segment, teach the network which
pixels belong together. The ten test images are never trained on.
"""

from jaxseg.recipes.superpixels import Config, build

__all__ = ["VARIANTS", "Config", "build"]

VARIANTS = {
    "demo": Config(
        width=16,
        train_superpixels=(100,),
        crop_size=129,
        batch_size=8,
        steps=500,
        learning_rate=3e-3,
        decay="cosine",
        ema_decay=0.95,
        train_split="train",
        evaluation_superpixels=(50, 100, 200),
        log_every=20,
        save_every=100,
    )
}
