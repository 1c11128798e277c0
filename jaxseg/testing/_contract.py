"""What both contracts share: naming the one that broke, comparing trees."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from jaxseg.types import PyTree


@contextlib.contextmanager
def contract(name: str) -> Iterator[None]:
    """Turns whatever is raised inside into an AssertionError that begins with `name`."""
    try:
        yield
    except Exception as error:
        kind = "" if isinstance(error, AssertionError) else f"{type(error).__name__}: "
        raise AssertionError(f"{name}: {kind}{error}") from error


def require(condition: Any, message: str) -> None:
    """Raises AssertionError with `message` unless `condition`; also under `python -O`."""
    if not condition:
        raise AssertionError(message)


class TraceCounter:
    """The function, with the number of its traces (calls, outside `jit`) in `traces`."""

    def __init__(self, function: Callable):
        functools.update_wrapper(self, function)
        self.function, self.traces = function, 0

    def __call__(self, *arguments: Any, **options: Any) -> PyTree:
        """Calls the function."""
        self.traces += 1
        return self.function(*arguments, **options)


def is_array(x: Any) -> bool:
    """Whether `x` is data, not an option: an array or a NumPy scalar."""
    return isinstance(x, jax.Array | np.ndarray | np.generic)


def is_float(x: Any) -> bool:
    """Whether `x` is data of floats."""
    # NumPy alone does not know bfloat16 for a float.
    return is_array(x) and jax.dtypes.issubdtype(x.dtype, np.floating)


def host(tree: PyTree) -> PyTree:
    """The leaves as NumPy arrays, keys as their data."""

    def one(x: Any) -> np.ndarray:
        if isinstance(x, jax.Array) and jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
            x = jax.random.key_data(x)
        return np.asarray(x)

    return jax.tree.map(one, tree)


def assert_close(got: PyTree, expected: PyTree, tolerance: float, unequal: float = 0.0) -> None:
    """Requires equal trees, shapes and types, and leaves that agree.

    Args:
        got: a tree of arrays.
        expected: the same.
        tolerance: the largest difference of floats, relative to the largest entry of the
            leaf plus a hundredth of that of the tree (a gradient that is 0 in exact arithmetic is
            rounding error of the others).
        unequal: the greatest fraction of a leaf's integers and booleans that may differ.
    """
    got, expected = host(got), host(expected)
    trees: list[Any] = [jax.tree.structure(tree) for tree in (got, expected)]
    require(trees[0] == trees[1], f"the tree is {trees[0]}, expected {trees[1]}")
    leaves = jax.tree.leaves_with_path(expected)
    scale = max((_largest(x) for _, x in leaves if is_float(x)), default=0.0)
    for (path, b), a in zip(leaves, jax.tree.leaves(got), strict=True):
        name = f"leaf {jax.tree_util.keystr(path) or '(the only one)'}"
        require(
            a.shape == b.shape and a.dtype == b.dtype,
            f"{name} is {a.dtype}{list(a.shape)}, expected {b.dtype}{list(b.shape)}",
        )
        if not a.size:
            continue
        if not is_float(b):
            fraction = float(np.mean(a != b))
            require(fraction <= unequal, f"{name}: {fraction:.2%} of the entries differ")
            continue
        require(np.array_equal(np.isfinite(a), np.isfinite(b)), f"{name}: not finite in one alone")
        finite = np.isfinite(b)
        difference = _largest((a - b)[finite])
        bound = tolerance * (_largest(b[finite]) + 0.01 * scale)
        require(
            difference <= bound,
            f"{name} differs by {difference:.3g}, more than {bound:.3g} ({tolerance=})",
        )


def assert_finite(tree: PyTree, what: str) -> None:
    """Requires that every float is finite."""
    for path, x in jax.tree.leaves_with_path(host(tree)):
        if is_float(x):
            bad = int(np.sum(~np.isfinite(x)))
            name = jax.tree_util.keystr(path)
            require(bad == 0, f"{what}{name}: {bad} of {x.size} entries are not finite")


def _largest(x: np.ndarray) -> float:
    x = x[np.isfinite(x)] if x.ndim else x
    return float(np.max(np.abs(x))) if x.size else 0.0
