"""Tensors by name, held against those of a network."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jaxseg.models.weights import MismatchError
from jaxseg.types import InputError, PyTree


def name_tensors(params: PyTree, model_state: PyTree) -> dict[str, Any]:
    """The leaves by their paths, "params/..." and "batch_stats/...", in the order of the tree."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for half in ({"params": params}, {"batch_stats": model_state})
        for path, leaf in jax.tree_util.tree_flatten_with_path(half)[0]
    }


def check_tensors(
    expected: Mapping[str, Any], found: Mapping[str, Any], source: object = "weights"
) -> None:
    """Checks that tensors are those of a network, whatever naming both sides use.

    Args:
        expected: by name, what has `shape` and `dtype`: arrays or `jax.ShapeDtypeStruct`.
        found: likewise.
        source: what the message begins with, such as the file.

    Raises:
        MismatchError: tensors are missing, unexpected, or of another shape or type.
    """
    missing = [name for name in expected if name not in found]
    unexpected = [name for name in found if name not in expected]
    other = [
        f"{name} is {_kind(found[name])} instead of {_kind(expected[name])}"
        for name in expected
        if name in found and _kind(found[name]) != _kind(expected[name])
    ]
    faults = {"missing": missing, "unexpected": unexpected, "wrong": other}
    if any(faults.values()):
        raise MismatchError(source, faults, "give weights of it")


def _kind(tensor: Any) -> str:
    return f"{np.dtype(tensor.dtype).name} {list(tensor.shape)}"


def check_finite(tensors: Mapping[str, np.ndarray], source: object) -> None:
    """Checks values.

    Raises:
        InputError: one line with every tensor that holds a NaN or an infinity.
    """
    broken = [name for name, value in tensors.items() if not np.all(np.isfinite(value))]
    if broken:
        raise InputError(
            f"{source}: not finite in {', '.join(broken)}; take an earlier checkpoint, or train "
            "with a lower learning rate"
        )
