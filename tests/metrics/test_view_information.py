import itertools
import math

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxseg import losses
from jaxseg.metrics import clustering, complaints, view_information


def softmax(logits):
    e = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return (e / e.sum(axis=-1, keepdims=True)).astype(np.float32)


def example(seed, count=12, repeats=2, heads=3, clusters=4, sharpness=1.5):
    """Views that follow their image, more or less; float32 as from a network."""
    rng = np.random.default_rng(seed)
    logits = sharpness * rng.normal(size=(count, 1, heads, clusters))
    views = logits + 0.5 * sharpness * rng.normal(size=(count, repeats, heads, clusters))
    return softmax(logits[:, 0]), softmax(views)


def measured(metric, x, y, weight=None):
    weight = np.ones(len(x), np.float32) if weight is None else weight
    return metric.measure({"probabilities": x, "view_probabilities": y}, {"weight": weight})


def figures(x, y, weight=None, **options):
    metric = view_information(x.shape[-1], **options)
    return metric.compute(measured(metric, x, y, weight))


def slow_information(x, y):
    """I and H of one sub-head, image by image and view by view."""
    clusters = x.shape[-1]
    joint = np.zeros((clusters, clusters))
    for i, r, k, m in itertools.product(range(len(x)), range(y.shape[1]), *[range(clusters)] * 2):
        product = float(x[i, k]) * float(y[i, r, m]) / (2 * len(x) * y.shape[1])
        joint[k, m] += product
        joint[m, k] += product
    joint /= joint.sum()
    p = joint.sum(axis=0)
    found = sum(
        joint[k, m] * math.log(joint[k, m] / (p[k] * p[m]))
        for k, m in itertools.product(range(clusters), repeat=2)
    )
    return found, -sum(value * math.log(value) for value in p)


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 10_000), st.sampled_from([0.5, 1.0, 1.5]))
def test_equals_a_loop(seed, lamb):
    x, y = example(seed)
    got = figures(x, y, lamb=lamb)
    told, spread = zip(*[slow_information(x[:, s], y[:, :, s]) for s in range(3)], strict=True)
    values = [-(i + 2 * (lamb - 1) * h) for i, h in zip(told, spread, strict=True)]
    best = min(range(3), key=values.__getitem__)
    assert got["chosen"] == best
    assert [got[f"loss_{s}"] for s in range(3)] == pytest.approx(values, abs=1e-12)
    for name, each in (("information", told), ("entropy", spread), ("loss", values)):
        assert got[name] == pytest.approx(each[best], abs=1e-12)
        assert got[f"{name}_mean"] == pytest.approx(sum(each) / 3, abs=1e-12)
    hard = x.argmax(axis=-1)
    sizes = [sum(hard[:, best] == k) for k in range(4)]
    assert got["smallest_cluster"] == min(sizes) / 12
    assert got["largest_cluster"] == max(sizes) / 12
    assert got["empty_clusters"] == sizes.count(0)
    assert got["confidence"] == pytest.approx(x[:, best].max(axis=-1).mean(), rel=1e-6)
    assert got["counted"] == 12
    tables = np.zeros((3, 3, 4, 4), np.int64)
    for i, s, t in itertools.product(range(12), range(3), range(3)):
        tables[s, t, hard[i, s], hard[i, t]] += 1
    nmi = [clustering(4, 4).compute({"table": tables[i]})["nmi"] for i in ((0, 1), (0, 2), (1, 2))]
    assert got["agreement"] == pytest.approx(np.mean(nmi), abs=1e-12)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10_000))
def test_invariants(seed):
    x, y = example(seed, repeats=1)
    rng = np.random.default_rng(seed)
    metric = view_information(4)
    sums = measured(metric, x, y)
    first = metric.compute(sums)
    assert 0 <= first["information"] <= first["entropy"] <= math.log(4) + 1e-12
    assert first["loss"] == min(first[f"loss_{s}"] for s in range(3))
    # Parts of a batch, in any order; an example of weight 0 may hold anything.
    cut = sorted(rng.integers(0, 13, 2))
    a, b, c = (
        measured(metric, x[i], y[i]) for i in (slice(0, cut[0]), slice(*cut), slice(cut[1], 12))
    )
    nothing = measured(metric, np.full_like(x, np.nan), y, np.zeros(12))
    for merged in (
        metric.merge(metric.merge(a, b), c),
        metric.merge(metric.merge(nothing, a), metric.merge(b, c)),
    ):
        for name, value in sums.items():
            np.testing.assert_allclose(merged[name], value, rtol=1e-12)
            assert merged[name].dtype == value.dtype
        assert metric.compute(merged) == pytest.approx(first, abs=1e-12)
    # Views change places: of the tables of joints and of nothing else.
    names = ("information_mean", "entropy_mean", "loss_mean")
    exchanged = figures(y[:, 0], x[:, None])
    assert [exchanged[name] for name in names] == pytest.approx([first[name] for name in names])
    # Sub-heads in another order, and clusters of one with other names.
    order, rename = rng.permutation(3), rng.permutation(4)
    moved_x, moved_y = x[:, order].copy(), y[:, :, order].copy()
    moved_x[:, 0], moved_y[:, :, 0] = moved_x[:, 0][:, rename], moved_y[:, :, 0][..., rename]
    moved = figures(moved_x, moved_y)
    assert order[int(moved.pop("chosen"))] == first["chosen"]
    for name, value in moved.items():
        expected = first[name] if name[-2:] not in ("_0", "_1", "_2") else None
        if expected is None:
            expected = first[f"loss_{order[int(name[-1])]}"]
        assert value == pytest.approx(expected, abs=1e-12), name


@pytest.mark.parametrize("lamb", [1.0, 1.5])
def test_equals_the_loss(lamb):
    x, y = example(0, count=20, repeats=1, heads=1)
    weight = (np.arange(20) % 3 > 0).astype(np.float32)
    ours = figures(x, y, weight, lamb=lamb)["loss"]
    x, y, weight = jnp.asarray(x[:, 0]), jnp.asarray(y[:, 0, 0]), jnp.asarray(weight)
    loss = losses.mutual_information(x, y, lamb=lamb, weight=weight)
    assert ours == pytest.approx(float(loss), abs=1e-6)


def test_figures_that_are_known():
    sure = np.eye(4, dtype=np.float32)[np.arange(20) % 4][:, None]
    same = figures(sure, sure[:, None])
    assert same["information"] == same["entropy"] == pytest.approx(math.log(4))
    assert same["smallest_cluster"] == same["largest_cluster"] == 0.25
    assert same["confidence"] == 1 and math.isnan(same["agreement"])
    # Each cluster meets each as often.
    other = np.eye(4, dtype=np.float32)[np.arange(16) // 4][:, None, None]
    assert figures(sure[:16], other)["information"] == pytest.approx(0, abs=1e-15)
    # H rules a loss of large lamb: two pure clusters against four that are not.
    two = np.eye(4, dtype=np.float32)[np.arange(20) % 2]
    blurred = (np.eye(4) * 0.4 + 0.15).astype(np.float32)[np.arange(20) % 4]
    both = np.stack([two, blurred], axis=1)
    low, high = (figures(both, both[:, None], lamb=lamb) for lamb in (1.0, 3.0))
    assert (low["chosen"], low["empty_clusters"]) == (0, 2)
    assert low["information"] == pytest.approx(math.log(2))
    assert (high["chosen"], high["empty_clusters"]) == (1, 0)
    assert high["entropy"] == pytest.approx(math.log(4))
    # One says i mod 4, the other i mod 2: ln 2 of the mean of ln 4 and ln 2.
    assert low["agreement"] == pytest.approx(2 / 3)


def test_information_near_none_keeps_its_digits():
    rng = np.random.default_rng(0)
    base = 0.02 * rng.normal(size=(700, 10))
    x, y = (softmax(base + 0.01 * rng.normal(size=base.shape)) for _ in range(2))
    got = figures(x[:, None], y[:, None, None])["information"]
    # The centred form, in which no digit is lost.
    x, y = (z.astype(np.float64) / z.sum(axis=1, keepdims=True, dtype=np.float64) for z in (x, y))
    p = (x.mean(axis=0) + y.mean(axis=0)) / 2
    d = (x - p).T @ (y - p) / 700
    r = (d + d.T) / 2 / np.outer(p, p)
    expected = np.sum(np.outer(p, p) * ((1 + r) * np.log1p(r) - r))
    assert expected < 1e-7
    assert got == pytest.approx(expected, rel=1e-5)


def test_maps_as_tables():
    x, y = example(1, count=12)
    hard = np.eye(4)[x.argmax(axis=-1)]
    image = np.repeat([0, 1, 2], 4)  # Three images of four pixels.
    joint, counts, pairs = np.zeros((3, 3, 4, 4)), np.zeros((3, 3, 4)), np.zeros((3, 3, 3, 4, 4))
    certainty = np.zeros((3, 3))
    for pixel, i in enumerate(image):
        for s in range(3):
            counts[i, s] += hard[pixel, s]
            certainty[i, s] += x[pixel, s].max()
            for view in y[pixel]:
                joint[i, s] += np.outer(x[pixel, s], view[s]) / 2
            for t in range(3):
                pairs[i, s, t] += np.outer(hard[pixel, s], hard[pixel, t])
    joint[1] = np.nan
    weight = np.array([1, 0, 1], np.float32)
    metric = view_information(4)
    tables = {
        "joint": joint.astype(np.float32),
        "counts": counts.astype(np.float32),
        "certainty": certainty,
        "pairs": pairs.astype(np.int32),
        "probabilities": np.zeros((3, 2, 2, 4)),  # Maps of the chosen sub-head, for pictures.
    }
    sums = metric.measure(tables, {"weight": weight})
    assert sums["counts"].dtype == sums["pairs"].dtype == np.int64
    got = metric.compute(sums)
    assert got == pytest.approx(figures(x, y, weight[image]), rel=1e-5)
    less = {name: tables[name] for name in ("joint", "counts")}
    unknown = metric.compute(metric.measure(less, {"weight": weight}))
    assert math.isnan(unknown.pop("confidence")) and math.isnan(unknown.pop("agreement"))
    assert unknown == {name: got[name] for name in unknown}


def complaints_of(x, y):
    return complaints(figures(x, y), num_clusters=x.shape[-1])


def one_hot(clusters, number=5):
    return np.eye(number, dtype=np.float32)[np.asarray(clusters)]


def test_complaints():
    rng = np.random.default_rng(0)
    label = np.arange(400) % 5
    good = one_hot(np.stack([label, (label + 1) % 5], axis=1))
    assert complaints_of(good, good[:, None]) == []

    flat = softmax(0.02 * rng.normal(size=(400, 2, 5)))
    (uniform,) = complaints_of(flat, flat[:, None])
    assert "uniform" in uniform and "1.61 nats" in uniform and "confidence 0.20" in uniform

    strangers = one_hot((np.arange(400) // 5) % 5)[:, None]
    (blind,) = complaints_of(good[:, :1], strangers[:, None])
    assert "nothing of other views" in blind

    three = one_hot(np.stack([label % 3, (label + 1) % 3], axis=1))
    empty = complaints_of(three, three[:, None])[0]
    assert empty.startswith("2 of 5 clusters are empty") and "lamb" in empty
    four = one_hot(label % 4)[:, None]
    assert complaints_of(four, four[:, None])[0].startswith("1 of 5 cluster is empty")
    collapsed = one_hot(np.zeros(400, int))[:, None]
    assert [text[:6] for text in complaints_of(collapsed, collapsed[:, None])] == ["4 of 5"]

    apart = one_hot(np.stack([label, (np.arange(400) // 5) % 5], axis=1))
    (disagree,) = complaints_of(apart, apart[:, None])
    assert "sub-heads disagree" in disagree and "0.00 of 1" in disagree


def test_complaints_where_not_all_is_known():
    metric = view_information(5)
    flat = np.full((1, 1, 5, 5), 4.0)
    for joint, counts, starts in (
        (flat, np.full((1, 1, 5), 20), ["The outputs are still uniform"]),
        (np.eye(5)[None, None] * 20, np.full((1, 1, 5), 20), []),
        (np.diag([100.0, 0, 0, 0, 0])[None, None], np.array([[[100, 0, 0, 0, 0]]]), ["4 of 5"]),
    ):
        got = metric.compute(
            metric.measure({"joint": joint, "counts": counts}, {"weight": np.ones(1)})
        )
        told = complaints(got, num_clusters=5)
        assert len(told) == len(starts)
        assert all(text.startswith(start) for text, start in zip(told, starts, strict=True))
    x, y = example(0)
    nothing = figures(x, y, np.zeros(12))
    assert complaints(nothing, num_clusters=4)[0].startswith("No image was counted")
    assert (nothing.pop("empty_clusters"), nothing.pop("counted")) == (4, 0)
    assert all(math.isnan(value) for value in nothing.values())


def tables(**changed):
    given = {"joint": np.ones((2, 1, 3, 3)), "counts": np.ones((2, 1, 3), int)} | changed
    return view_information(3).measure(given, {"weight": np.ones(2)})


def probabilities(**changed):
    x, y = example(0, count=2, clusters=3)
    given = {"probabilities": x, "view_probabilities": y} | changed
    return view_information(3).measure(given, {"weight": np.ones(2)})


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: view_information(0), "num_clusters=0"),
        (lambda: view_information(2, lamb=-1.0), "lamb=-1.0"),
        (
            lambda: view_information(2).measure(
                {"probabilities": np.ones((1, 1, 2)), "joint": 0}, {"weight": np.ones(1)}
            ),
            r"prediction of \['joint', 'probabilities'\]: .* must have views",
        ),
        (lambda: probabilities(probabilities=np.ones((2, 3, 4)) / 4), r"expected \(2, 3, 3\)"),
        (lambda: probabilities(probabilities=np.ones((2, 2, 3)) / 3), r"\(2, 2, 2, 3\)"),
        (lambda: probabilities(probabilities=np.ones((2, 3, 3))), "^probabilities: .* sum of 1"),
        (lambda: probabilities(view_probabilities=np.ones((2, 2, 3, 3))), "^view_.* sum of 1"),
        (lambda: probabilities(probabilities=np.full((2, 3, 3), np.nan)), "finite numbers"),
        (lambda: probabilities(view_probabilities=np.ones((2, 0, 3, 3))), "1 or more"),
        (lambda: tables(joint=-np.ones((2, 1, 3, 3))), "joint: expected finite"),
        (lambda: tables(joint=np.ones((2, 3, 3))), r"joint \(2, 3, 3\)"),
        (lambda: tables(counts=np.full((2, 1, 3), 0.3)), "counts: expected whole"),
        (lambda: tables(pairs=np.ones((2, 1, 3, 3))), r"expected \(2, 1, 1, 3, 3\)"),
    ],
)
def test_bad_input(make, named):
    with pytest.raises(ValueError, match=named):
        make()
