"""Which numbers of a superpixel recipe can be used."""

import math
from typing import Any

from jaxseg.models import ssn as networks
from jaxseg.ops.slic import grid_shape
from jaxseg.types import InputError

_LEAST = {
    "crop_size": 1,
    "batch_size": 1,
    "width": 1,
    "train_iters": 1,
    "num_iters": 1,
    "num_superpixels": 1,
    "num_labels": 1,
    "log_every": 1,
    "save_every": 1,
    "steps": 0,
    "seed": 0,
    "evaluate_every": 0,
    "warmup": 0,
    "position_offset": 0,
    "compactness": 0,
    "scale_mean": 0,
    "ema_decay": 0,
}


def check(config: Any) -> None:
    """Raises `InputError` for the first field of a `superpixels.Config` that cannot be used."""
    if config.network not in ("deep", "linear", "pix"):
        raise InputError(f"network is {config.network!r}; choose deep, linear or pix")
    if config.decay not in ("constant", "cosine"):
        raise InputError(f"decay is {config.decay!r}; choose constant or cosine")
    for name in ("train_superpixels", "validation_superpixels", "evaluation_superpixels"):
        if not getattr(config, name):
            raise InputError(f"{name} is empty; give at least one number")
    for name, least in _LEAST.items():
        value = getattr(config, name)
        if not (math.isfinite(value) and value >= least):
            raise InputError(f"{name} is {value}; give {least} or more")
    for name in ("learning_rate", "position_scale"):
        value = getattr(config, name)
        if not (math.isfinite(value) and value > 0):
            raise InputError(f"{name} is {value}; give more than 0")
    if config.ema_decay >= 1:
        raise InputError(f"ema_decay is {config.ema_decay}; give less than 1")
    if not 0 <= config.seed < 2**31:
        raise InputError(f"seed is {config.seed}; give 0 to 2^31 - 1")
    if config.num_features <= networks.NUM_INPUTS:
        raise InputError(f"num_features is {config.num_features}; give more than 5")
    for k in config.train_superpixels:
        try:
            grid_shape(config.crop_size, config.crop_size, k)
        except ValueError as error:
            raise InputError(f"train_superpixels: {error}") from error
    for name in ("validation_superpixels", "evaluation_superpixels"):
        if min(getattr(config, name)) < 1:
            raise InputError(f"{name} has {min(getattr(config, name))}; give 1 or more")
