import itertools
import math
import statistics

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxseg.metrics import cluster_heads, clustering, match


def example(seed, clusters, classes, heads=3, count=24):
    """Sub-heads that follow the labels more and more; some labels are -1, some weights 0."""
    rng = np.random.default_rng(seed)
    label = rng.integers(-1, classes, count).astype(np.int32)
    told = rng.integers(0, clusters, (count, heads)).astype(np.int32)
    follows = rng.random((count, heads)) < np.linspace(0.2, 0.9, heads)
    told = np.where(follows, label[:, None] % clusters, told).astype(np.int32)
    weight = (rng.random(count) < 0.8).astype(np.float32)
    return told, {"label": label, "weight": weight}


def prediction(told, chosen):
    return {"sub_heads": told, "clusters": told[:, chosen]}


def figures(told, batch, chosen, *sizes, **options):
    metric = cluster_heads(*sizes, **options)
    return metric.compute(metric.measure(prediction(told, chosen), batch))


def best_accuracy(told, label, clusters, classes, matching):
    """The highest of all assignments of classes to clusters, one by one; -1 is none."""
    every = itertools.product(range(-1, classes), repeat=clusters)
    accuracies = []
    for taken in every:
        classes_taken = [c for c in taken if c >= 0]
        if matching == "many_to_one" or len(set(classes_taken)) == len(classes_taken):
            accuracies.append(np.mean([taken[k] == c for k, c in zip(told, label, strict=True)]))
    return max(accuracies)


@settings(deadline=None, max_examples=15)
@given(
    st.integers(0, 10_000),
    st.integers(2, 3),
    st.integers(2, 3),
    st.sampled_from(["hungarian", "many_to_one"]),
)
def test_equals_brute_force(seed, clusters, classes, matching):
    told, batch = example(seed, clusters, classes)
    options = {"matching": matching, "names": ("a", "b", "c")[:classes]}
    got = figures(told, batch, 1, clusters, classes, **options)
    there = (batch["label"] >= 0) & (batch["weight"] > 0)
    each = [
        best_accuracy(told[there, s], batch["label"][there], clusters, classes, matching)
        for s in range(3)
    ]
    assert [got[f"accuracy_{s}"] for s in range(3)] == pytest.approx(each)
    assert got["accuracy_mean"] == pytest.approx(statistics.mean(each))
    assert got["accuracy_std"] == pytest.approx(statistics.stdev(each), abs=1e-12)
    assert got["accuracy_by_labels"] == pytest.approx(max(each))
    one = clustering(clusters, classes, **options)
    expected = one.compute(one.measure({"clusters": told[:, 1]}, batch))
    assert {name: got[name] for name in expected} == pytest.approx(expected, nan_ok=True)
    assert got["accuracy"] == got["accuracy_1"]


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10_000))
def test_sums_merge_in_any_order_and_names_do_not_matter(seed):
    told, batch = example(seed, 4, 3)
    rng = np.random.default_rng(seed)
    metric = cluster_heads(4, 3)
    whole = metric.measure(prediction(told, 2), batch)
    cut = sorted(rng.integers(0, len(told) + 1, 2))
    parts = [
        metric.measure(prediction(told[i], 2), {name: x[i] for name, x in batch.items()})
        for i in (slice(0, cut[0]), slice(*cut), slice(cut[1], None))
    ]
    a, b, c = parts
    for merged in (metric.merge(metric.merge(a, b), c), metric.merge(a, metric.merge(b, c))):
        for name, table in whole.items():
            np.testing.assert_array_equal(merged[name], table)
            assert merged[name].dtype == np.int64
    # Each sub-head has names of clusters of its own.
    renamed = np.stack([rng.permutation(4)[told[:, s]] for s in range(3)], axis=1)
    order = rng.permutation(3)
    first = metric.compute(whole)
    other = figures(renamed[:, order], batch, int(np.flatnonzero(order == 2)[0]), 4, 3)
    for place, s in enumerate(order):
        assert other[f"accuracy_{place}"] == pytest.approx(first[f"accuracy_{s}"])
    for name in ("accuracy", "accuracy_mean", "accuracy_std", "accuracy_by_labels", "nmi", "ari"):
        assert other[name] == pytest.approx(first[name], abs=1e-12)


def test_maps():
    rng = np.random.default_rng(0)
    label = rng.integers(-1, 3, (3, 4, 5)).astype(np.int32)
    told = rng.integers(0, 3, (3, 2, 4, 5)).astype(np.int32)
    told[:, 1] = np.where(rng.random(label.shape) < 0.7, label, told[:, 1])
    told[np.broadcast_to(label[:, None] < 0, told.shape)] = -9  # Ignored pixels are not looked at.
    size = np.array([[4, 5], [4, 5], [2, 3]], np.int32)
    batch = {"label": label, "weight": np.array([1, 0, 1], np.float32), "size": size}
    got = figures(told, batch, 0, 3, 3)
    pixels = np.concatenate([told[0].reshape(2, -1), told[2, :, :2, :3].reshape(2, -1)], axis=1)
    classes = np.concatenate([label[0].reshape(-1), label[2, :2, :3].reshape(-1)])
    there = classes >= 0
    for s in range(2):
        best = best_accuracy(pixels[s, there], classes[there], 3, 3, "hungarian")
        assert got[f"accuracy_{s}"] == pytest.approx(best)
    assert got["accuracy_by_labels"] == got["accuracy_1"] > got["accuracy"] == got["accuracy_0"]
    assert got["counted"] == there.sum()


def test_one_sub_head_and_nothing():
    told, batch = example(0, 3, 3, heads=1)
    one = figures(told, batch, 0, 3, 3)
    assert one["accuracy_mean"] == one["accuracy_by_labels"] == one["accuracy_0"] == one["accuracy"]
    assert math.isnan(one["accuracy_std"]) and "accuracy_1" not in one
    told, batch = example(0, 3, 3)
    nothing = figures(told, {**batch, "weight": np.zeros(len(told))}, 0, 3, 3)
    assert (nothing.pop("empty_clusters"), nothing.pop("counted")) == (3, 0)
    assert all(math.isnan(value) for value in nothing.values())


def test_mappings_from_another_split():
    told, batch = example(3, 5, 3, count=60)
    batch["weight"][:] = 1
    seen, unseen = ({name: x[i::2] for name, x in batch.items()} for i in range(2))
    metric = cluster_heads(5, 3, matching="many_to_one")
    sums = metric.measure(prediction(told[::2], 0), seen)
    mapping = match(sums["table"], "many_to_one")
    each = [match(table, "many_to_one") for table in sums["sub_heads"]]
    got = figures(told[1::2], unseen, 0, 5, 3, mapping=mapping, sub_head_mappings=each)
    labelled = unseen["label"] >= 0
    expected = [np.mean((each[s][told[1::2, s]] == unseen["label"])[labelled]) for s in range(3)]
    assert [got[f"accuracy_{s}"] for s in range(3)] == pytest.approx(expected)
    assert got["accuracy"] == pytest.approx(expected[0])
    own = figures(told[1::2], unseen, 0, 5, 3, matching="many_to_one")
    assert own["accuracy_mean"] > got["accuracy_mean"]
    alone = figures(told[1::2], unseen, 0, 5, 3, mapping=mapping.tolist())
    assert alone["accuracy"] == got["accuracy"] and alone["counted"] == got["counted"]
    others = [name for name in alone if name.startswith("accuracy_")]
    assert len(others) == 6 and all(math.isnan(alone[name]) for name in others)


def measured(**changed):
    told, batch = example(0, 2, 2)
    given = prediction(np.abs(told), 0) | changed
    return cluster_heads(2, 2).measure(given, batch)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: cluster_heads(0, 2), "num_clusters=0"),
        (lambda: cluster_heads(2, 2, mapping=[0, 2]), "mapping holds 2"),
        (lambda: cluster_heads(2, 2, sub_head_mappings=[[0, 1]]), "expected both"),
        (lambda: cluster_heads(2, 2, mapping=[0, 1], sub_head_mappings=[[0, 3]]), "holds 3"),
        (lambda: measured(sub_heads=np.zeros(24, int)), r"sub_heads \(24,\): expected clusters'"),
        (lambda: measured(sub_heads=np.zeros((24, 0), int)), "as the second axis"),
        (lambda: measured(sub_heads=np.zeros((23, 2), int)), "as the second axis"),
        (lambda: measured(sub_heads=np.full((24, 2), 2)), "a cluster is 2: expected 0 to 1"),
        (
            lambda: figures(
                *example(0, 2, 2), 0, 2, 2, mapping=[0, 1], sub_head_mappings=[[0, 1]] * 2
            ),
            "2 sub_head_mappings for 3 sub-heads",
        ),
    ],
)
def test_bad_input(make, named):
    with pytest.raises(ValueError, match=named):
        make()
