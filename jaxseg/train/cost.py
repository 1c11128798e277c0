"""What a function costs: multiply-accumulates and parameters of what really runs.

Nothing is computed: the function is traced, and its program is read. One multiply-accumulate (MAC)
is a product and its addition, two floating-point operations (FLOPs). Papers on networks often call
MACs "FLOPs".

Counted are convolutions and products of matrices, as papers on networks do; some counters add a
little for the rest:
    - a convolution costs output positions × taps of the kernel × input channels of a group × output
      channels, whatever its dilation; taps that meet the padding count. A transposed one with
      strides has the input's positions in place of the output's.
    - what acts on every number by itself (bias, batch norm, activations) and pooling cost nothing.
    - neither does a product with a fixed array, which depends on no parameter and no input:
      resizing and colour conversion are such products here.
    - of a convolution that has a form of its own for some platform, the native form is counted: all
      forms have the same result.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from jax.extend.core import Jaxpr, JaxprEqn, Literal

from jaxseg.train._programs import (
    body_of,
    branches_of,
    either,
    holds_products,
    live_inputs,
    live_operands,
    programs_in,
    shape_of,
)
from jaxseg.types import PyTree


class Cost(NamedTuple):
    """Of one call of a function."""

    parameters: int
    """Numbers in the parameters that the result depends on."""
    macs: int
    """Multiply-accumulates."""
    uncounted: tuple[str, ...] = ()
    """What `macs` lacks: "while", a loop of unknown length, whose body counts once; other names are
    those of operations that cannot be read, and count for nothing."""

    @property
    def flops(self) -> int:
        """Floating-point operations, two for each multiply-accumulate."""
        return 2 * self.macs


def cost(function: Callable[..., Any], params: PyTree, *arguments: Any) -> Cost:
    """Counts what `function(params, *arguments)` computes, such as `Method.predict`.

    What the result does not depend on counts for nothing, such as a branch for training alone.

    Args:
        function: any that `jit` takes.
        params: arrays, or their shapes as `jax.ShapeDtypeStruct`.
        *arguments: likewise; statistics of batch norm are best given here, apart from `params`.
    """
    program = jax.make_jaxpr(function)(params, *arguments).jaxpr
    used, _ = live_inputs(program, [True] * len(program.outvars))
    leaves = jax.tree.leaves(params)
    own = zip(leaves, used[: len(leaves)], strict=True)
    counted = _count(program, [True] * len(program.invars), [True] * len(program.outvars))
    return Cost(
        sum(math.prod(leaf.shape) for leaf, live in own if live),
        counted.macs,
        tuple(sorted(counted.uncounted)),
    )


def live(function: Callable[..., Any], params: PyTree, *arguments: Any) -> PyTree:
    """Which leaves of `params` the result of `function(params, *arguments)` depends on.

    Args:
        function: see `cost`.
        params: see `cost`.
        *arguments: see `cost`.

    Returns:
        The tree of `params` with a bool for each leaf.
    """
    program = jax.make_jaxpr(function)(params, *arguments).jaxpr
    used, _ = live_inputs(program, [True] * len(program.outvars))
    leaves, structure = jax.tree.flatten(params)
    return jax.tree.unflatten(structure, used[: len(leaves)])


_FOREIGN = {"ffi_call", "pure_callback", "io_callback"}


class _Counted(NamedTuple):
    macs: int
    varies: list[bool]
    """Which outputs depend on what is given."""
    uncounted: frozenset[str] = frozenset()


def _count(jaxpr: Jaxpr, varies: Sequence[bool], wanted: Sequence[bool]) -> _Counted:
    """The cost of the wanted outputs, where only some inputs vary."""
    _, used = live_inputs(jaxpr, wanted)
    varying = {v for v, yes in zip(jaxpr.invars, varies, strict=True) if yes}
    macs, uncounted = 0, frozenset[str]()
    for equation, outputs in zip(jaxpr.eqns, used, strict=True):
        if any(outputs):
            inputs = [not isinstance(v, Literal) and v in varying for v in equation.invars]
            counted = _count_equation(equation, inputs, outputs)
            macs += counted.macs
            uncounted |= counted.uncounted
            found = zip(equation.outvars, counted.varies, strict=True)
            varying.update(v for v, yes in found if yes)
    outvars = [not isinstance(v, Literal) and v in varying for v in jaxpr.outvars]
    return _Counted(macs, outvars, uncounted)


def _count_equation(equation: JaxprEqn, varies: list[bool], wanted: list[bool]) -> _Counted:
    name = equation.primitive.name
    if name == "cond":
        return _count_cond(equation, varies, wanted)
    if name == "scan":
        return _count_scan(equation, varies, wanted)
    if name == "while":
        return _count_while(equation, varies)
    if (inner := body_of(equation)) is not None:
        return _count(inner, varies, wanted)
    varying = [any(varies)] * len(equation.outvars)
    if name in _FOREIGN or any(map(holds_products, programs_in(equation))):
        return _Counted(0, varying, frozenset({name}))
    macs = 0
    if name == "dot_general" and all(varies):
        (contracted, _), _ = equation.params["dimension_numbers"]
        summed = math.prod(shape_of(equation.invars[0])[axis] for axis in contracted)
        macs = math.prod(shape_of(equation.outvars[0])) * summed
    elif name == "conv_general_dilated" and all(varies):
        macs = _convolution(equation)
    return _Counted(macs, varying)


def _convolution(equation: JaxprEqn) -> int:
    shape, kernel = map(shape_of, equation.invars)
    output = shape_of(equation.outvars[0])
    layout = equation.params["dimension_numbers"]
    # Zeros between the pixels of what is transposed are no terms.
    positions = [
        shape[before] if dilation > 1 else output[after]
        for before, after, dilation in zip(
            layout.lhs_spec[2:], layout.out_spec[2:], equation.params["lhs_dilation"], strict=True
        )
    ]
    # The kernel's channels are those of one group already.
    return output[layout.out_spec[0]] * math.prod(positions) * math.prod(kernel)


def _count_cond(equation: JaxprEqn, varies: list[bool], wanted: list[bool]) -> _Counted:
    """The costliest branch; of those for platforms, the one for all others."""
    branches = [_count(branch, varies[1:], wanted) for branch in branches_of(equation)]
    varying = [varies[0] or out for out in either(*(branch.varies for branch in branches))]
    platforms = equation.params.get("branches_platforms")
    if platforms is not None and None in platforms:
        chosen = branches[platforms.index(None)]
    else:
        chosen = max(branches, key=lambda branch: branch.macs)
    return chosen._replace(varies=varying)


def _count_scan(equation: JaxprEqn, varies: list[bool], wanted: list[bool]) -> _Counted:
    body, params = equation.params["jaxpr"].jaxpr, equation.params
    first, carry = params["num_consts"], params["num_carry"]
    live = live_operands(equation, wanted)[first : first + carry]
    varying = list(varies)
    while True:
        counted = _count(body, varying, live + wanted[carry:])
        kept = either(varying[first : first + carry], counted.varies[:carry])
        if kept == varying[first : first + carry]:
            # A carry that does not change varies if it did so at first.
            return counted._replace(
                macs=counted.macs * params["length"], varies=kept + counted.varies[carry:]
            )
        varying[first : first + carry] = kept


def _count_while(equation: JaxprEqn, varies: list[bool]) -> _Counted:
    params = equation.params
    parts = [
        _count(part, [True] * len(part.invars), [True] * len(part.outvars))
        for part in (params["cond_jaxpr"].jaxpr, params["body_jaxpr"].jaxpr)
    ]
    macs = sum(part.macs for part in parts)
    uncounted = frozenset[str]().union(*(part.uncounted for part in parts))
    if macs:
        uncounted |= {"while"}
    return _Counted(macs, [any(varies)] * len(equation.outvars), uncounted)
