"""Every public function of `ops` and `losses`, with every option, against the contract of an op.

A function is found by reflection; without a case in `CASES` (or its name in `PLAIN`,
`COLLECTIVE`), or with an option that no case sets, the tests fail.
"""

import functools
import importlib
import inspect
import pathlib
import pkgutil
import types
import typing
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contract_cases_augment import CASES as AUGMENT
from contract_cases_detection import CASES as DETECTION
from contract_cases_filters import CASES as FILTERS
from contract_cases_heatmap import CASES as HEATMAP
from contract_cases_mask_rcnn import CASES as MASK_RCNN
from contract_cases_mutual_information import CASES as MUTUAL_INFORMATION
from contract_cases_mutual_information import COUPLED
from contract_cases_segmentation import CASES as SEGMENTATION
from contract_cases_segmentation import HOST as SEGMENTATION_HOST
from contract_cases_semiconv import CASES as SEMICONV
from contract_cases_super_resolution import CASES as SUPER_RESOLUTION
from contract_cases_warp import CASES as WARP
from contract_cases_warp import HOST as WARP_HOST
from jaxtyping import AbstractArray

import jaxseg.losses
import jaxseg.ops
from jaxseg.testing import check_op

RNG = np.random.default_rng(0)
SIZE, GRID, BATCH = (8, 7), (3, 2), 5


class Case(NamedTuple):
    """Arguments to run a function with; see `check_op`."""

    arguments: tuple
    options: dict[str, Any] = {}  # noqa: RUF012 (never changed)
    gradient: str = "exact"


def case(*arguments, gradient="exact", **options):
    return Case(arguments, options, gradient)


def floats(*shape):
    return RNG.random(shape, np.float32)


def affinities(*batch, ties="floor"):
    """Probabilities of the nine candidates, 0 off the grid."""
    exists = np.ones((*SIZE, 9), bool)
    for axis, (length, cells) in enumerate(zip(SIZE, GRID, strict=True)):
        position = np.arange(length)
        cell = position * cells // length
        if ties == "lower":
            cell -= (position * cells % length == 0) & (position > 0)
        step = np.divmod(np.arange(9), 3)[axis] - 1
        there = (cell[:, None] + step >= 0) & (cell[:, None] + step < cells)
        exists &= np.expand_dims(there, 1 - axis)
    p = np.exp(2 * RNG.standard_normal((*batch, *SIZE, 9))) * exists
    return (p / p.sum(-1, keepdims=True)).astype(np.float32)


def labels(*shape, low=-1, high=4):
    return RNG.integers(low, high, shape).astype(np.int32)


IMAGE = floats(*SIZE, 3)
IMAGE[0, 0], IMAGE[0, 1] = 0, 1
FEATURES = 2 * floats(*SIZE, 4)
MASK = RNG.random(SIZE) < 0.7
NOTHING = np.zeros(SIZE, bool)
FLOW = floats(BATCH, *SIZE, 2)
FLOW[:, 2, 3] = np.nan
VALUE = np.float32(2.5)  # a traced scalar
REGIONS = labels(*SIZE, low=0, high=3)

CASES = {
    "ops.color.to_float": [
        case((255 * IMAGE).astype(np.uint8), gradient="none"),
        case(IMAGE),
    ],
    "ops.color.at_least_float32": [case(IMAGE)],
    "ops.color.rgb_to_lab": [case(IMAGE)],
    "ops.gradient.scale_gradient": [
        case(FEATURES, np.float32(-0.5), gradient="finite"),
        case(FEATURES, 0.3, gradient="finite"),
    ],
    "ops.slic.soft_slic": [
        case(FEATURES, GRID, num_iters=1),
        case(FEATURES, GRID, num_iters=3, ties="lower"),
        case(FEATURES, GRID, num_iters=3, mask=MASK, ties="floor"),
        case(FEATURES, GRID, num_iters=2, mask=NOTHING),
    ],
    "ops.slic.hard_labels": [
        case(affinities(), GRID, gradient="none"),
        case(affinities(ties="lower"), GRID, ties="lower", gradient="none"),
    ],
    "ops.slic.pool": [
        case(FEATURES, affinities(), GRID),
        case(FEATURES, affinities(ties="lower"), GRID, mask=MASK, ties="lower"),
        case(FEATURES, affinities(), GRID, mask=NOTHING),
    ],
    "ops.slic.unpool": [
        case(floats(*GRID, 3), affinities(), GRID),
        case(floats(*GRID, 3), affinities(ties="lower"), GRID, hard=True, ties="lower"),
    ],
    "ops.slic.slic": [
        case(IMAGE, 6, gradient="none"),
        case(IMAGE, 6, compactness=30.0, num_iters=2, gradient="none"),
        case(IMAGE, 6, compactness=VALUE, gradient="none"),
    ],
    "ops.connectivity.connected_components": [
        case(MASK, gradient="none"),
        case(MASK, connectivity=8, gradient="none"),
    ],
    "losses.reconstruction": [
        case(affinities(BATCH), labels(BATCH, *SIZE), GRID),
        case(affinities(BATCH), labels(BATCH, *SIZE), GRID, num_labels=3, ignore_label=1),
        case(affinities(BATCH), np.full((BATCH, *SIZE), -1, np.int32), GRID),
        case(affinities(BATCH), floats(BATCH, *SIZE, 2), GRID),
        case(affinities(BATCH), FLOW, GRID, gradient="finite"),
    ],
    "losses.compactness": [
        case(affinities(BATCH), GRID),
        case(affinities(BATCH), GRID, position_scale=0.3),
        case(affinities(BATCH), GRID, position_scale=VALUE),
    ],
}

HOST = {  # run with NumPy arrays that cannot be written to
    "ops.connectivity.official_sizes": [case(SIZE, 6)],
    "ops.connectivity.enforce_connectivity": [
        case(REGIONS, min_size=2, max_size=20),
        case(REGIONS, min_size=2, max_size=20, exact=True, num_regions=5, features=np.array(IMAGE)),
    ],
    "ops.connectivity.set_region_count": [case(REGIONS, 5, np.array(IMAGE))],
    "ops.regions.region_adjacency": [case(labels(*SIZE))],
    "ops.regions.region_means": [case(IMAGE, REGIONS, 3)],
    "ops.regions.region_statistics": [case(labels(*SIZE)), case(REGIONS, np.array(IMAGE))],
    "ops.regions.region_records": [
        case(jaxseg.ops.regions.region_statistics(REGIONS, np.array(IMAGE)))
    ],
}
CASES |= {name: [Case(*c) for c in cases] for name, cases in SEGMENTATION.items()}
CASES |= {name: [Case(*c) for c in cases] for name, cases in SUPER_RESOLUTION.items()}
CASES |= {name: [Case(*c) for c in cases] for name, cases in HEATMAP.items()}
CASES |= {name: [Case(*c) for c in cases] for name, cases in MUTUAL_INFORMATION.items()}
CASES |= {name: [Case(*c) for c in cases] for name, cases in FILTERS.items()}
CASES |= {name: [Case(*c) for c in cases] for name, cases in AUGMENT.items()}
CASES |= {name: [Case(*c) for c in cases] for name, cases in DETECTION.items()}
CASES |= {name: [Case(*c) for c in cases] for name, cases in WARP.items()}
CASES |= {name: [Case(*c) for c in cases] for name, cases in SEMICONV.items()}
CASES |= {name: [Case(*c) for c in cases] for name, cases in MASK_RCNN.items()}
HOST |= {name: [Case(*c) for c in cases] for name, cases in SEGMENTATION_HOST.items()}
HOST |= {name: [Case(*c) for c in cases] for name, cases in WARP_HOST.items()}
PLAIN = {"ops.slic.grid_shape"}  # of Python numbers
COLLECTIVE = {f"ops.collective.{name}" for name in ("axis_size", "vary", "psum", "total")}


def public_functions():
    """Name -> function: what is defined in a public module of ops, or anywhere in losses."""
    found = {}
    for package in (jaxseg.ops, jaxseg.losses):
        for info in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
            hidden = info.name.rpartition(".")[2].startswith("_")
            if hidden and package is jaxseg.ops:
                continue
            module = importlib.import_module(info.name)
            prefix = (package if hidden else module).__name__.removeprefix("jaxseg.")
            for name, thing in vars(module).items():
                ours = getattr(thing, "__module__", None) == info.name
                if ours and callable(thing) and not isinstance(thing, type) and name[0] != "_":
                    found[f"{prefix}.{name}"] = thing
    return found


FUNCTIONS = public_functions()


def choices(annotation):
    """The values that an option must be given, if its type lists them."""
    if annotation is bool:
        return {True, False}
    if typing.get_origin(annotation) is typing.Literal:
        return set(typing.get_args(annotation))
    return set()


def takes_array(annotation):
    union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    kinds = typing.get_args(annotation) if union else (annotation,)
    return any(isinstance(kind, type) and issubclass(kind, AbstractArray) for kind in kinds)


def missing(function, cases):
    """What no case tries of the options of `function`."""
    hints = typing.get_type_hints(function)
    for name, parameter in inspect.signature(function).parameters.items():
        # Several devices are tried in the loss' own tests.
        if parameter.kind is not parameter.KEYWORD_ONLY or name == "axis_name":
            continue
        given = [c.options.get(name, parameter.default) for c in cases]
        wanted = choices(hints[name])
        if wanted:
            for value in sorted(wanted - {x for x in given if not isinstance(x, np.ndarray)}):
                yield f"{name}={value!r}"
        elif not any(isinstance(x, np.ndarray | np.generic) for x in given):
            if takes_array(hints[name]):
                yield f"{name} as an array"
            elif all(x is parameter.default or x == parameter.default for x in given):
                yield f"{name} with another value than {parameter.default!r}"


def seeded(function):
    """Of a function that takes a key first: the same of a seed, which a case can hold."""
    if next(iter(inspect.signature(function).parameters)) != "key":
        return function
    return lambda seed, *data, **options: function(jax.random.key(seed), *data, **options)


def test_every_function_has_cases():
    registered = [*CASES, *HOST, *PLAIN, *COLLECTIVE]
    assert len(registered) == len(set(registered))
    assert set(FUNCTIONS) - set(registered) == set(), "public functions without a case"
    assert set(registered) - set(FUNCTIONS) == set(), "cases of functions that are gone"


@pytest.mark.parametrize("name", [*CASES, *HOST])
def test_every_option_has_a_case(name):
    assert list(missing(FUNCTIONS[name], {**CASES, **HOST}[name])) == []


def test_an_option_without_a_case_is_found():
    cases = CASES["ops.slic.unpool"]
    assert list(missing(FUNCTIONS["ops.slic.unpool"], cases[:1])) == ["hard=True", "ties='lower'"]
    cases = CASES["losses.compactness"]
    assert list(missing(FUNCTIONS["losses.compactness"], cases[:2])) == [
        "position_scale as an array"
    ]
    cases = CASES["losses.reconstruction"]
    assert list(missing(FUNCTIONS["losses.reconstruction"], cases[:1])) == [
        "num_labels with another value than 50",
        "ignore_label with another value than -1",
    ]


PARAMETERS = [pytest.param(n, c, id=f"{n}-{i}") for n in CASES for i, c in enumerate(CASES[n])]


@pytest.mark.parametrize(("name", "case"), PARAMETERS)
def test_op(name, case):
    function = seeded(FUNCTIONS[name])
    check_op(function, *case.arguments, options=case.options, gradient=case.gradient)


APART = [p for p in PARAMETERS if "losses" in p.values[0] and p.values[0] not in COUPLED]


@pytest.mark.parametrize(("name", "case"), APART)
def test_losses_take_each_example_alone(name, case):
    data = [x for x in case.arguments if isinstance(x, np.ndarray)]
    options = {
        option: jnp.asarray(x) if isinstance(x, np.ndarray | np.generic) else x
        for option, x in case.options.items()
    }
    maps = {option: x for option, x in options.items() if np.ndim(x) > 1}  # [B, ...]

    @jax.jit
    def loss(data, maps):
        return FUNCTIONS[name](*data, *case.arguments[len(data) :], **(options | maps))

    together = loss(data, maps)
    each = [jax.tree.map(lambda x, i=i: x[i : i + 1], (data, maps)) for i in range(BATCH)]
    alone = [loss(*one)[0] for one in each]
    assert together.shape == (BATCH,)
    np.testing.assert_allclose(together, alone, rtol=1e-5)


@pytest.mark.parametrize("name", HOST)
def test_host_functions_say_so_and_keep_their_arguments(name):
    assert "(host)" in inspect.getdoc(FUNCTIONS[name]).partition("\n")[0]
    for arguments, options, _ in HOST[name]:
        for x in jax.tree.leaves((arguments, options)):
            if isinstance(x, np.ndarray):
                x.flags.writeable = False
        results = FUNCTIONS[name](*arguments, **options)
        for x in jax.tree.leaves(results):
            assert isinstance(x, np.ndarray | int | float), type(x)


@pytest.mark.parametrize("name", PLAIN)
def test_plain_functions_stay_plain_under_jit(name):
    hints = typing.get_type_hints(FUNCTIONS[name])
    numbers = [n for n in hints if n != "return"]
    assert all(hints[n] is int for n in numbers)
    function = functools.partial(FUNCTIONS[name], *(12 for _ in numbers))
    inside = []
    jax.jit(lambda x: inside.append(function()) or x)(1.0)
    assert inside == [function()]
    assert all(type(x) is int for x in function())


def test_collective_functions_have_their_tests():
    text = (pathlib.Path(__file__).parent / "ops" / "test_collective.py").read_text()
    for name in COLLECTIVE:
        assert f"collective.{name.rpartition('.')[2]}(" in text
