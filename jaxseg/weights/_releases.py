"""Public weights of other people's releases that become weights of jaxseg, a closed table."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from jaxseg.models import weights as names
from jaxseg.recipes import semantic
from jaxseg.weights._tensors import check_finite, name_tensors

CITYSCAPES = {
    "road": (128, 64, 128),
    "sidewalk": (244, 35, 232),
    "building": (70, 70, 70),
    "wall": (102, 102, 156),
    "fence": (190, 153, 153),
    "pole": (153, 153, 153),
    "traffic light": (250, 170, 30),
    "traffic sign": (220, 220, 0),
    "vegetation": (107, 142, 35),
    "terrain": (152, 251, 152),
    "sky": (70, 130, 180),
    "person": (220, 20, 60),
    "rider": (255, 0, 0),
    "car": (0, 0, 142),
    "truck": (0, 0, 70),
    "bus": (0, 60, 100),
    "train": (0, 80, 100),
    "motorcycle": (0, 0, 230),
    "bicycle": (119, 11, 32),
}
"""The 19 classes that Cityscapes is evaluated on, and its colours (Cordts et al., CVPR 2016)."""


class Release(NamedTuple):
    """Weights that somebody published."""

    constructor: str
    """A key of `CONSTRUCTORS`."""
    config: semantic.Config
    naming: names.Naming
    what: str
    data: str
    terms: str


def _espnetv2(scale: float) -> Release:
    config = semantic.Config(
        network="espnetv2",
        scale=scale,
        num_classes=20,
        class_names=(*CITYSCAPES, "background"),
        class_colors=(*CITYSCAPES.values(), (0, 0, 0)),
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        size=(512, 1024),
    )
    return Release(
        "semantic",
        config,
        names.ESPNETV2,
        f"ESPNetv2 of scale {scale:g} (Mehta et al., CVPR 2019), the authors' release (EdgeNets)",
        "Cityscapes",
        "MIT for the release; the terms of Cityscapes for its data",
    )


RELEASES: Mapping[str, Release] = {
    f"espnetv2-{scale:g}-cityscapes": _espnetv2(scale) for scale in (0.5, 1.0, 1.5, 2.0)
}


def convert(release: Release, source: Path) -> dict[str, np.ndarray]:
    """Reads a released file into tensors under jaxseg's names.

    Args:
        release: what the file is of.
        source: safetensors, or .pth where torch is installed.

    Raises:
        InputError: the file cannot be read, or is of another network.
    """
    experiment = semantic.build(release.config)
    like = jax.eval_shape(experiment.method().init, jax.random.key(0), experiment.example)
    variables = {"params": like[0], "batch_stats": like[1]}
    filled = names.read(source, variables, naming=release.naming)
    tensors = name_tensors(filled["params"], filled["batch_stats"])
    check_finite(tensors, source)
    return tensors
