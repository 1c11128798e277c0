"""Reading programs that JAX traced: what is inside of an operation, what a result depends on."""

from collections.abc import Iterable, Sequence
from typing import Any

import jax
from jax.extend.core import Jaxpr, JaxprEqn, Literal, Var

from jaxseg.ops import _kmeans_pallas

_PRODUCTS = {"dot_general", "conv_general_dilated"}
_DEFINITIONS = {"slic_slab_sums": _kmeans_pallas.plain_slab_sums}
"""Operations of this package, by what they compute."""


def body_of(equation: JaxprEqn) -> Jaxpr | None:
    """The program of what is a call and nothing more: its variables are those of the equation."""
    if equation.primitive.name in _DEFINITIONS:
        avals: list[Any] = [v.aval for v in equation.invars]
        shapes = [jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in avals]
        return jax.make_jaxpr(_DEFINITIONS[equation.primitive.name])(*shapes).jaxpr
    for name in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        inner = equation.params.get(name)
        body = getattr(inner, "jaxpr", inner)
        if body is not None and _fits(body, equation):
            return body
    return None


def _fits(body: Jaxpr, equation: JaxprEqn) -> bool:
    sides = (body.invars, equation.invars), (body.outvars, equation.outvars)
    return all(list(map(shape_of, inner)) == list(map(shape_of, outer)) for inner, outer in sides)


def shape_of(variable: Any) -> tuple[Any, ...]:
    """Numbers, or symbolic dimensions; () of what is no array."""
    return getattr(variable.aval, "shape", ())


def branches_of(equation: JaxprEqn) -> list[Jaxpr]:
    """The branches of a "cond", which take all operands but the first."""
    return [branch.jaxpr for branch in equation.params["branches"]]


def holds_products(jaxpr: Jaxpr) -> bool:
    """Whether there is a product of matrices or a convolution at any depth."""
    return any(
        equation.primitive.name in _PRODUCTS or any(map(holds_products, programs_in(equation)))
        for equation in jaxpr.eqns
    )


def programs_in(equation: JaxprEqn) -> list[Jaxpr]:
    """Every program in an equation, whatever it is for."""
    values = equation.params.values()
    flat = [x for value in values for x in (value if isinstance(value, tuple) else (value,))]
    bodies = [getattr(x, "jaxpr", x) for x in flat]
    return [body for body in bodies if hasattr(body, "eqns")]


def either(*rows: Iterable[bool]) -> list[bool]:
    """The "or" of each column."""
    return [any(column) for column in zip(*rows, strict=True)]


def live_inputs(jaxpr: Jaxpr, wanted: Sequence[bool]) -> tuple[list[bool], list[list[bool]]]:
    """Which inputs the wanted outputs depend on; and of each equation, which outputs they do."""
    needed: set[Var] = set()

    def add(variables: Sequence[Any], which: Sequence[bool]) -> None:
        chosen = zip(variables, which, strict=True)
        needed.update(v for v, yes in chosen if yes and not isinstance(v, Literal))

    add(jaxpr.outvars, wanted)
    used = []
    for equation in reversed(jaxpr.eqns):
        outputs = [v in needed for v in equation.outvars]
        used.append(outputs)
        if any(outputs):
            add(equation.invars, live_operands(equation, outputs))
    return [v in needed for v in jaxpr.invars], used[::-1]


def live_operands(equation: JaxprEqn, wanted: list[bool]) -> list[bool]:
    """Which operands the wanted outputs of one operation depend on; all, where that is unknown."""
    name, params = equation.primitive.name, equation.params
    if name == "cond":
        rows = [live_inputs(branch, wanted)[0] for branch in branches_of(equation)]
        return [True, *either(*rows)]
    if name == "scan":
        body, constants, carry = params["jaxpr"].jaxpr, params["num_consts"], params["num_carry"]
        kept = wanted[:carry]
        while True:
            inputs = live_inputs(body, kept + wanted[carry:])[0]
            more = either(kept, inputs[constants : constants + carry])
            if more == kept:
                return inputs[:constants] + kept + inputs[constants + carry :]
            kept = more
    if (inner := body_of(equation)) is not None:
        return live_inputs(inner, wanted)[0]
    return [True] * len(equation.invars)
