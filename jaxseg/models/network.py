"""From a Linen module to two pure functions; beyond this package nobody sees a module."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
from jax import Array

from jaxseg.types import Network, PyTree


def network(module: nn.Module) -> Network:
    """Makes a `Network` of a module whose call is `(*inputs, train, mask, axis_name)`.

    The variables are {"params", "batch_stats"}; `batch_stats` is {} where there is no batch norm.
    """

    def init(key: Array, /, *inputs: Array) -> dict[str, PyTree]:
        variables = module.init(key, *inputs)
        return {
            "params": variables.get("params", {}),
            "batch_stats": variables.get("batch_stats", {}),
        }

    def apply(
        variables: Mapping[str, PyTree],
        /,
        *inputs: Array,
        train: bool = False,
        mask: Array | None = None,
        axis_name: str | None = None,
    ) -> tuple[Any, PyTree]:
        outputs, changed = module.apply(
            variables,
            *inputs,
            train=train,
            mask=mask,
            axis_name=axis_name,
            mutable=["batch_stats"] if train else [],
        )
        return outputs, changed.get("batch_stats", variables["batch_stats"])

    return Network(init, apply)
