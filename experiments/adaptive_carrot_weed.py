r"""Adaptive downsampling on carrot fields: 1224×1632 pixels read at 32² to 128².

    jaxseg train experiments/adaptive_carrot_weed.py --data DATA --workdir RUN \
        --variant unet_64_learned
    jaxseg evaluate RUN --data DATA --split test
    python experiments/compare_adaptive.py --runs RUN [RUN ...]

DATA is a folder with the classes soil, weed and carrot (Lameski et al., ICT Innovations 2017; here
24 images at half the published resolution, 18 to train on and 6 to test). Weed and carrot are the
targets. Variants are NETWORK_NODES_MODE as in adaptive_camvid.py, for two CPU cores.

Leaves are thin and nearly everywhere, which bounds what can be gained: of labels alone, read at 64²
to 128² nodes that the labels placed and interpolated back, 8×8 nodes of a sampler keep about 1
point of target mIoU more than an even grid, 16×16 about 2, 32×32 about 3 (all 24 images, smoothness
0.3) and 64×64 about 4.5 (every second of them). These are bounds from the labels, those of the 6
test images too, and no result of a network.
"""

import dataclasses
from typing import Any

from jaxseg.recipes.adaptive import MODES, Config, build

__all__ = ["VARIANTS", "Config", "build"]


_FIELDS = Config(
    num_classes=3,
    class_colors=((110, 80, 50), (255, 140, 0), (0, 200, 80)),
    target_classes=(1, 2),
    crop=(1224, 1632),
    scale_std=0.15,
    scale_range=(1.0, 1.4),
    brightness=0.1,
    contrast=0.2,
    tint=0.05,
    # As published.
    class_weights="none",
    batch_size=4,
    steps=500,
    learning_rate=3e-3,
    decay="cosine",
    warmup=30,
    ema_decay=0.98,
    sampler_grid=(32, 32),
    sampler_features=16,
    sampler_steps=300,
    sampler_rate=3e-3,
    save_every=500,
)
_NETWORKS: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "unet": ((32, 48, 64, 96, 128), {"network": "unet", "width": 16, "depth": 3}),
    "pspnet": ((64,), {"network": "pspnet", "depth": 50, "width": 16}),
    "deeplab": ((64,), {"network": "deeplab_mobilenetv2", "scale": 0.5, "features": 64}),
}

VARIANTS = {
    f"{name}_{nodes}_{mode}": dataclasses.replace(
        _FIELDS, nodes=(nodes, nodes), mode=mode, **network
    )
    for name, (sizes, network) in _NETWORKS.items()
    for nodes in sizes
    for mode in MODES
}
