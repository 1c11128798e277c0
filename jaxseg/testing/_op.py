"""The contract of an op: a pure function on the arrays of one example."""

import copy
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxseg.testing._contract import (
    TraceCounter,
    assert_close,
    assert_finite,
    contract,
    is_array,
    is_float,
    require,
)
from jaxseg.types import PyTree

PLATFORMS = ("cpu", "cuda", "tpu")


def check_op(
    function: Callable[..., PyTree],
    *arguments: Any,
    options: Mapping[str, Any] | None = None,
    gradient: Literal["exact", "finite", "none"] = "exact",
    tolerance: float = 1e-4,
    gradient_tolerance: float = 1e-5,
    platforms: tuple[str, ...] = PLATFORMS,
) -> PyTree:
    """Checks that a function on one example can be traced, batched, differentiated and lowered.

    Among arguments and options, arrays and NumPy scalars are data: they are traced, mapped over
    and, if they are floats, differentiated. Everything else (Python numbers, tuples, strings, None)
    is static. So `sigma=2.0` checks a static option, `sigma=np.float32(2)` a traced one.

    A batch is made of three variants of the example: floats times 1, 0.9 and 0.8, all else rolled
    along the first axis. The contracts, by the names that failures begin with:

        eager       a plain call works, and no float in its output is NaN;
        promotion   it can be traced under rank promotion "raise" and strict dtype promotion, which
                    hold from here on;
        jit, vmap, pmap
                    give what the plain calls give, pmap on all local devices;
        trace       a second jitted call, with equal static arguments and other data of the same
                    shapes, traces nothing;
        dtype       floats out are float32 for float32 in, whether or not 64 bits are enabled,
                    and float64 for float64 in; other outputs have one type throughout;
        gradient    of a random linear functional of the floats that come out, by every
                    float that goes in: finite in float32; under vmap in float64 equal to a central
                    difference along a random direction;
        export      `jax.export` lowers it for each platform.

    Args:
        function: of one example; a pytree of arrays comes out.
        *arguments: of one example, float32 where they are floats.
        options: keyword arguments of `function`.
        gradient: "exact" for the whole contract; "finite" where the gradient is meant to be another
            than the derivative; "none" where none is defined or nothing is a float.
        tolerance: of values, relative to the largest entry of each output.
        gradient_tolerance: of the float64 gradient, relative.
        platforms: to lower for.

    Returns:
        What the plain call returned.

    Raises:
        AssertionError: a contract is broken; the message begins with its name.
        ValueError: a float argument is not float32, or nothing is an array.
    """
    call = _Call(function, arguments, dict(options or {}))
    batch = [[_variant(x, k) for x in call.data] for k in range(3)]
    lenient = jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard")
    with contract("eager"), lenient[0], lenient[1]:
        expected = [call(*data) for data in batch]
        _assert_no_nan(expected)
    with contract("jit"), lenient[0], lenient[1]:
        jax.eval_shape(call, *batch[0])
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        with contract("promotion"):
            jax.eval_shape(call, *batch[0])
        _check_transforms(call, batch, expected, tolerance)
        with contract("trace"):
            _check_trace(call, batch)
        with contract("dtype"):
            _check_dtypes(call)
        if gradient != "none":
            with contract("gradient"):
                _check_gradient(call, batch, gradient == "exact", gradient_tolerance)
        with contract("export"):
            shapes = [jax.ShapeDtypeStruct(np.shape(x), x.dtype) for x in call.data]
            jax.export.export(jax.jit(call), platforms=platforms)(*shapes)
    return expected[0]


class _Call:
    """A function of its data alone, the static arguments being bound."""

    def __init__(self, function: Callable, arguments: tuple, options: dict[str, Any]):
        self.function, self.arguments, self.options = function, arguments, options
        self.places = [i for i, x in enumerate(arguments) if is_array(x)]
        self.names = [name for name, x in options.items() if is_array(x)]
        self.data = [*(arguments[i] for i in self.places), *(options[n] for n in self.names)]
        if not self.data:
            raise ValueError("no argument is an array: there is nothing to trace")
        for x in self.data:
            if is_float(x) and x.dtype != np.float32:
                raise ValueError(f"an argument of {x.dtype}: give float32, others are derived")
        self.floats = [i for i, x in enumerate(self.data) if is_float(x)]

    def merge(self, data: Any) -> tuple[list, dict[str, Any]]:
        arguments, options = list(self.arguments), dict(self.options)
        for i, x in zip(self.places, data, strict=False):
            arguments[i] = x
        options.update(zip(self.names, data[len(self.places) :], strict=True))
        return arguments, options

    def __call__(self, *data: Any) -> PyTree:
        arguments, options = self.merge([jnp.asarray(x) for x in data])
        return self.function(*arguments, **options)


def _variant(x: Any, k: int) -> np.ndarray:
    x = np.asarray(x)
    if is_float(x):
        return np.asarray(x * np.asarray(1 - 0.1 * k, x.dtype))
    return np.roll(x, k, axis=0) if x.ndim else x


def _assert_no_nan(tree: PyTree) -> None:
    """Requires that no float is NaN; an infinity may be meant."""
    for x in jax.tree.leaves(tree):
        require(is_array(x), f"an output is a {type(x).__name__}, not an array")
        if is_float(x):
            require(not np.isnan(x).any(), f"{int(np.isnan(x).sum())} of {x.size} entries are NaN")


def _stack(trees: list[PyTree]) -> PyTree:
    return jax.tree.map(lambda *leaves: np.stack([np.asarray(x) for x in leaves]), *trees)


def _check_transforms(call: _Call, batch: list, expected: list, tolerance: float) -> None:
    with contract("jit"):
        assert_close(jax.jit(call)(*batch[0]), expected[0], tolerance)
    with contract("vmap"):
        got = jax.jit(jax.vmap(call))(*_stack(batch))
        assert_close(got, _stack(expected), tolerance)
    with contract("pmap"):
        which = [i % len(batch) for i in range(jax.local_device_count())]
        got = jax.pmap(call)(*_stack([batch[i] for i in which]))
        assert_close(got, _stack([expected[i] for i in which]), tolerance)


def _check_trace(call: _Call, batch: list) -> None:
    # Static arguments go through jit's cache here, as in use: they must hash, and equal ones must
    # be taken for the same.
    places = tuple(i for i in range(len(call.arguments)) if i not in call.places)
    names = tuple(name for name in call.options if name not in call.names)

    counted = TraceCounter(call.function)
    jitted = jax.jit(counted, static_argnums=places, static_argnames=names)
    for data in batch[:2]:
        arguments, options = call.merge(data)
        for i in places:
            arguments[i] = copy.deepcopy(arguments[i])
        options.update({name: copy.deepcopy(options[name]) for name in names})
        jax.block_until_ready(jitted(*arguments, **options))
    require(counted.traces == 1, f"two calls traced the function {counted.traces} times")


def _check_dtypes(call: _Call) -> None:
    def types(width: type) -> PyTree:
        shapes = [
            jax.ShapeDtypeStruct(np.shape(x), width if is_float(x) else x.dtype) for x in call.data
        ]
        return jax.tree.map(lambda x: x.dtype, jax.eval_shape(call, *shapes))

    narrow = types(np.float32)
    for x in jax.tree.leaves(narrow):
        floating = jnp.issubdtype(x, jnp.floating)
        require(not floating or x == np.float32, f"float32 in gives {x} out")
    with jax.enable_x64(True):
        still = types(np.float32)
        require(
            still == narrow, f"float32 in gives {still} where 64 bits are enabled, not {narrow}"
        )
        wide = types(np.float64)
    widened = narrow
    if call.floats:
        widened = jax.tree.map(lambda x: np.dtype(np.float64) if x == np.float32 else x, narrow)
    require(wide == widened, f"float64 in gives {wide} out, expected {widened}")


def _check_gradient(call: _Call, batch: list, exact: bool, tolerance: float) -> None:
    require(call.floats, "no argument is a float: say gradient='none'")
    outputs = [x for x in jax.tree.leaves(jax.eval_shape(call, *batch[0])) if _floating(x)]
    require(outputs, "no output is a float: say gradient='none'")
    rng = np.random.default_rng(0)
    weights = [rng.standard_normal(x.shape) for x in outputs]

    def functional(floats: list, data: list) -> jax.Array:
        data = list(data)
        for i, x in zip(call.floats, floats, strict=True):
            data[i] = x
        values = [x for x in jax.tree.leaves(call(*data)) if _floating(x)]
        return sum(  # type: ignore[return-value]
            jnp.sum(x * jnp.asarray(w, x.dtype)) for x, w in zip(values, weights, strict=True)
        )

    stacked = _stack(batch)
    floats = [stacked[i] for i in call.floats]
    gradient = jax.jit(jax.vmap(jax.grad(functional)))
    assert_finite(gradient(floats, stacked), "gradient")
    if not exact:
        return
    with jax.enable_x64(True):
        floats = [x.astype(np.float64) for x in floats]
        directions = [
            rng.choice([-1.0, 1.0], x.shape) * np.maximum(np.abs(x), 1e-2) for x in floats
        ]
        grads = gradient(floats, stacked)
        slope = sum(_inner(g, d) for g, d in zip(grads, directions, strict=True))
        value = jax.jit(jax.vmap(functional))
        step = 1e-6
        up, down = (
            np.asarray(value([x + s * d for x, d in zip(floats, directions, strict=True)], stacked))
            for s in (step, -step)
        )
        difference = (up - down) / (2 * step)
        rounding = 1e-15 * np.maximum(np.abs(up), 1) / step
        size = sum(_inner(np.abs(g), np.abs(d)) for g, d in zip(grads, directions, strict=True))
        error = np.abs(slope - difference)
        bound = tolerance * (np.abs(difference) + 1e-3 * size) + rounding
        require(
            np.all(error <= bound),
            f"along a random direction the gradient says {slope}, central differences {difference}",
        )


def _floating(x: Any) -> bool:
    return bool(jnp.issubdtype(x.dtype, jnp.floating))


def _inner(a: Any, b: Any) -> np.ndarray:
    product = np.asarray(a) * np.asarray(b)
    return product.reshape(len(product), -1).sum(1)
