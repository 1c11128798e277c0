import itertools

import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxseg.train import Phase
from jaxseg.train.phases import batches_used, check_phases, distinct, locate, optimizers


def make(lengths, sources=None, rates=None):
    sources = sources or [object() for _ in lengths]
    rates = rates or [optax.sgd(0.1)] * len(lengths)
    return [
        Phase(str(i), None, rate, n, data)
        for i, (n, data, rate) in enumerate(zip(lengths, sources, rates, strict=True))
    ]


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.integers(0, 60))
def test_place_and_batches_follow_from_the_step(lengths, step):
    shared = object()
    sources = [shared if i % 2 else object() for i in range(len(lengths))]
    phases = make(lengths, sources)
    order = [(i, k) for i, n in enumerate(lengths) for k in range(n)]
    walk = list(itertools.islice(itertools.cycle(order), step + 1))
    assert tuple(locate(phases, step)) == walk[-1]
    found, slots = distinct(sources)
    used = [0] * len(found)
    for i, _ in walk[:-1]:
        used[slots[i]] += 1
    assert batches_used(phases, step) == used


def test_shared_optimizers_have_one_state():
    a, b = optax.sgd(0.1), optax.adam(0.1)
    assert optimizers(make([1, 1, 1], rates=[a, b, a])) == (a, b)


def test_bad_phases_are_refused():
    with pytest.raises(ValueError, match="no phase"):
        check_phases([])
    with pytest.raises(ValueError, match="at least 1 step"):
        check_phases(make([1, 0]))
    with pytest.raises(ValueError, match="names that differ"):
        check_phases([p._replace(name="x") for p in make([1, 1])])
