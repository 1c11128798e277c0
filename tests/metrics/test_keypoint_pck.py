import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxseg.metrics import keypoint_pck


def example(points, kinds, scores=None):
    points = np.asarray(points, np.float32).reshape(1, -1, 2)
    kinds = np.asarray(kinds, np.int32).reshape(1, -1)
    scores = np.ones(kinds.shape, np.float32) if scores is None else np.float32([scores])
    return {"points": points, "kinds": kinds, "scores": scores, "weight": np.ones(1, np.float32)}


def figures(told, true, **options):
    metric = keypoint_pck(**options)
    return metric.compute(metric.measure(told, true))


def most_pairs(near):
    """By trying every assignment of the smaller side."""
    if len(near) > len(near[0]):
        near = near.T
    return max(
        sum(near[i, j] for i, j in enumerate(order))
        for order in itertools.permutations(range(near.shape[1]), len(near))
    )


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**31))
def test_pairs_are_as_many_as_possible_in_any_order(seed):
    rng = np.random.default_rng(seed)
    true, told = rng.uniform(0, 10, (6, 2)), rng.uniform(0, 10, (5, 2))
    kinds = rng.integers(-1, 2, 6), rng.integers(-1, 2, 5)
    limits = (0.0, 1.0, 3.0, 20.0)
    got = figures(example(told, kinds[1]), example(true, kinds[0]), thresholds=limits)
    there, found = (kinds[0] >= 0).sum(), (kinds[1] >= 0).sum()
    for limit in limits:
        pairs = 0
        for kind in (0, 1):
            a, b = true[kinds[0] == kind], told[kinds[1] == kind]
            if len(a) and len(b):
                distance = np.hypot(*np.moveaxis(a[:, None] - b[None], -1, 0))
                pairs += most_pairs(distance <= limit)
        for name, whole in (("pck", there), ("precision", found), ("f1", (there + found) / 2)):
            wanted = pairs / whole if whole else math.nan
            np.testing.assert_allclose(got[f"{name}_{limit:g}"], wanted)
    p, q = rng.permutation(5), rng.permutation(6)
    again = figures(example(told[p], kinds[1][p]), example(true[q], kinds[0][q]), thresholds=limits)
    np.testing.assert_equal(again, got)


def test_a_nearer_point_does_not_take_the_only_partner_of_another():
    """Greedily, 2 is paired with 3 and 0 with nothing."""
    got = figures(
        example([[0, 0], [0, 3]], [0, 0]), example([[0, 2], [0, 5]], [0, 0]), thresholds=[2.0]
    )
    assert got["pck_2"] == got["precision_2"] == 1


def test_kinds_are_not_confused_and_a_pair_is_made_once():
    told = example([[1, 1], [1, 1], [5, 5]], [0, 0, 1])
    got = figures(told, example([[1, 1], [5, 5], [9, 9]], [0, 0, 2]), thresholds=[0.5])
    np.testing.assert_allclose([got["pck_0.5"], got["precision_0.5"], got["f1_0.5"]], 1 / 3)
    assert (got["points"], got["predicted"], got["images"]) == (3, 3, 1)
    got = figures(
        told, example([[1, 1], [5, 5], [9, 9]], [0, 0, 2]), thresholds=[0.5], ignore_absent=True
    )
    assert (got["predicted"], got["precision_0.5"]) == (2, 0.5)


def test_scores_below_the_least_are_left_out():
    told = example([[1, 1], [2, 2]], [0, 0], [0.9, 0.2])
    true = example([[2, 2]], [0])
    assert figures(told, true, thresholds=[0.5], min_score=0.2)["pck_0.5"] == 1
    assert figures(told, true, thresholds=[0.5], min_score=0.3)["pck_0.5"] == 0


def test_thresholds_are_parts_of_a_length():
    true = {**example([[0, 0]], [0]), "head": np.array([8.0])}
    told = example([[0, 4]], [0])
    got = figures(told, true, thresholds=[0.4, 0.5], reference="head")
    assert (got["pck_0.4"], got["pck_0.5"]) == (0, 1)
    with pytest.raises(ValueError, match="head of example 0 is 0"):
        figures(told, {**true, "head": np.zeros(1)}, thresholds=[1.0], reference="head")


def test_sums_add_and_padding_counts_for_nothing():
    rng = np.random.default_rng(0)
    true, told = (
        {
            "points": rng.uniform(0, 6, (4, count, 2)).astype(np.float32),
            "kinds": rng.integers(-1, 2, (4, count)),
            "scores": np.ones((4, count)),
            "weight": np.array([1, 0.5, 0, 1]),
        }
        for count in (7, 5)
    )
    true["points"][2] = told["points"][2] = np.nan
    metric = keypoint_pck(thresholds=[1.0, 2.0])
    whole = metric.measure(told, true)

    def part(which):
        rows = [{k: v[which] for k, v in side.items()} for side in (told, true)]
        return metric.measure(*rows)

    merged = metric.merge(part(slice(0, 1)), part(slice(1, 4)))
    np.testing.assert_equal(merged, whole)
    assert whole["images"] == 3 and 0 < metric.compute(whole)["pck_1"] < 1
    true["kinds"][0, 0], true["points"][0, 0] = 0, np.nan
    with pytest.raises(ValueError, match="example 0 is not finite"):
        metric.measure(told, true)


def test_figures_of_nothing_are_nan():
    nothing = {**example([[0, 0]], [-1]), "weight": np.zeros(1)}
    got = figures(nothing, nothing, thresholds=[2.0])
    assert got.pop("images") == 0
    assert all(math.isnan(x) for x in got.values())


@pytest.mark.parametrize("thresholds", [(), (-1.0,), (math.nan,)])
def test_bad_thresholds(thresholds):
    with pytest.raises(ValueError, match="thresholds="):
        keypoint_pck(thresholds=thresholds)
