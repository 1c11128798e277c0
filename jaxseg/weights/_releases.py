"""Public weights of other people's releases that become weights of jaxseg, a closed table."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from jaxseg.data.cityscapes import CLASSES
from jaxseg.models import weights as names
from jaxseg.recipes import semantic
from jaxseg.weights._tensors import check_finite, name_tensors


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
        class_names=(*CLASSES, "background"),
        class_colors=(*CLASSES.values(), (0, 0, 0)),
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
