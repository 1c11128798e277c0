import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import entropy
from skimage.metrics import variation_of_information

from jaxseg.metrics import clustering, confusion, match


def example(seed, clusters, classes, count=40):
    """Labels, and clusters that follow them in part; some of both may never occur."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, rng.integers(1, classes + 1), count)
    told = np.where(rng.random(count) < 0.5, label % clusters, rng.integers(0, clusters, count))
    return told.astype(np.int32), label.astype(np.int32)


def figures(told, label, *sizes, **options):
    metric = clustering(*sizes, **options)
    batch = {"label": np.asarray(label), "weight": np.ones(len(label), np.float32)}
    return metric.compute(metric.measure({"clusters": np.asarray(told)}, batch))


def assignments(clusters, classes):
    """All ways to give clusters classes, each at most once; -1 is none."""
    padded = [*range(classes), *[-1] * max(clusters - classes, 0)]
    return set(itertools.permutations(padded, clusters))


def slow_rand(told, label):
    """Hubert and Arabie's index from all pairs, one by one."""
    pairs = list(itertools.combinations(range(len(label)), 2))
    both = sum(told[i] == told[j] and label[i] == label[j] for i, j in pairs)
    within = sum(told[i] == told[j] for i, j in pairs)
    alike = sum(label[i] == label[j] for i, j in pairs)
    expected, most = within * alike / len(pairs), (within + alike) / 2
    return 1.0 if most == expected else (both - expected) / (most - expected)


def slow_miou(taken, told, label, classes):
    mapped = np.array(taken)[told]
    iou = []
    for c in range(classes):
        union = np.sum((mapped == c) | (label == c))
        iou.append(np.sum((mapped == c) & (label == c)) / union if union else math.nan)
    return iou


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.integers(1, 5), st.integers(1, 5))
def test_equals_brute_force(seed, clusters, classes):
    told, label = example(seed, clusters, classes)
    got = figures(told, label, clusters, classes)
    best = max(np.mean(np.array(taken)[told] == label) for taken in assignments(clusters, classes))
    assert got["accuracy"] == pytest.approx(best)
    many = figures(told, label, clusters, classes, matching="many_to_one")
    each = [max(np.sum((told == k) & (label == c)) for c in range(classes)) for k in set(told)]
    assert many["accuracy"] == pytest.approx(sum(each) / len(label))
    assert many["accuracy"] >= got["accuracy"]
    assert got["ari"] == pytest.approx(slow_rand(told, label), abs=1e-12)
    sizes = np.bincount(told, minlength=clusters)
    assert got["cluster_entropy"] == pytest.approx(entropy(sizes), abs=1e-12)
    assert got["empty_clusters"] == clusters - len(set(told))
    assert got["counted"] == len(label)
    # Mutual information from skimage's conditional entropies, which are in bits.
    whole = (entropy(sizes, base=2) + entropy(np.bincount(label), base=2)) / 2
    apart = sum(variation_of_information(told, label))
    nmi = (whole - apart / 2) / whole if whole else 1.0
    assert got["nmi"] == pytest.approx(nmi, abs=1e-9) == many["nmi"]
    table = clustering(clusters, classes).measure(
        {"clusters": told}, {"label": label, "weight": np.ones(len(label))}
    )["table"]
    for matching, found in (("hungarian", got), ("many_to_one", many)):
        iou = slow_miou(match(table, matching), told, label, classes)
        assert [found[f"iou_{c}"] for c in range(classes)] == pytest.approx(iou, nan_ok=True)
        assert found["miou"] == pytest.approx(np.nanmean(iou))


def test_figures_that_are_known():
    # By hand: 2 pairs together in one, 1 in the other, 1 in both, 6 in all.
    assert figures([0, 0, 1, 1], [0, 0, 1, 2], 2, 3)["ari"] == pytest.approx(4 / 7)
    crossed = figures([0, 0, 1, 1], [0, 1, 0, 1], 2, 2)
    assert (crossed["ari"], crossed["nmi"]) == (-0.5, 0)
    # ln 2 against the mean of ln 2 and 3/2 ln 2.
    assert figures([0, 0, 1, 1], [0, 0, 1, 2], 2, 3)["nmi"] == pytest.approx(0.8)
    same = figures([2, 2, 0, 0], [0, 0, 1, 1], 3, 2, names=("sky", "ground"))
    assert same["accuracy"] == same["nmi"] == same["ari"] == same["miou"] == same["iou_sky"] == 1
    assert same["empty_clusters"] == 1


def test_what_is_one_part_or_nothing_is_defined():
    one = figures([1, 1, 1], [0, 0, 0], 3, 2)
    assert one["accuracy"] == one["nmi"] == one["ari"] == 1
    assert (one["cluster_entropy"], one["empty_clusters"], one["miou"]) == (0, 2, 1)
    assert math.isnan(one["iou_1"])
    single = figures([0, 0, 0], [0, 1, 1], 1, 2)
    assert (single["nmi"], single["ari"], single["accuracy"]) == (0, 0, 2 / 3)
    alone = figures([1], [1], 2, 2)
    assert alone["nmi"] == alone["ari"] == alone["accuracy"] == 1
    nothing = figures([0, 1, 1], [-1, -1, -1], 2, 3)
    assert (nothing.pop("empty_clusters"), nothing.pop("counted")) == (2, 0)
    assert all(math.isnan(value) for value in nothing.values())


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000), st.sampled_from(["hungarian", "many_to_one"]))
def test_names_of_clusters_do_not_matter(seed, matching):
    told, label = example(seed, 5, 4)
    renamed = np.random.default_rng(seed).permutation(5)[told]
    options = {"matching": matching}
    a, b = (figures(x, label, 5, 4, **options) for x in (told, renamed))
    free = {"miou", "iou_0", "iou_1", "iou_2", "iou_3"}  # Of assignments that are equally good.
    for name in set(a) - free:
        assert a[name] == pytest.approx(b[name], abs=1e-12)


def test_matching():
    table = np.array([[3, 3, 0], [0, 5, 5], [0, 0, 0], [9, 0, 0]])
    np.testing.assert_array_equal(match(table, "many_to_one"), [0, 1, 0, 0])
    np.testing.assert_array_equal(match(table, "hungarian"), [1, 2, -1, 0])
    np.testing.assert_array_equal(match(table[:2, :], "hungarian"), [0, 1])
    assert match(table, "hungarian").dtype == np.int64
    assert sorted(match(np.zeros((2, 2), np.int64), "hungarian")) == [0, 1]


def test_a_mapping_from_another_split():
    told, label = example(0, 6, 3)
    seen, unseen = slice(0, 20), slice(20, None)
    metric = clustering(6, 3, matching="many_to_one")
    batch = {"label": label[seen], "weight": np.ones(20)}
    table = metric.measure({"clusters": told[seen]}, batch)["table"]
    mapping = match(table, "many_to_one")
    got = figures(told[unseen], label[unseen], 6, 3, mapping=mapping)
    assert got["accuracy"] == np.mean(mapping[told[unseen]] == label[unseen])
    own = figures(told[unseen], label[unseen], 6, 3, matching="many_to_one")
    assert own["accuracy"] >= got["accuracy"] and own["nmi"] == got["nmi"]
    none = figures([0, 1, 1], [0, 1, 1], 2, 2, mapping=(0, -1))
    assert none["accuracy"] == pytest.approx(1 / 3) and none["iou_1"] == 0


def test_maps_equal_confusion_where_clusters_are_classes():
    rng = np.random.default_rng(0)
    label = rng.integers(-1, 3, (3, 5, 6)).astype(np.int32)
    told = rng.integers(0, 3, label.shape).astype(np.int32)
    told[label < 0] = -9  # What is ignored is not looked at.
    batch = {
        "label": label,
        "weight": np.array([1, 0, 1], np.float32),
        "size": np.array([[5, 6], [5, 6], [3, 4]], np.int32),
    }
    ours, semantic = clustering(3, 3, mapping=[0, 1, 2]), confusion(3)
    got = ours.compute(ours.measure({"classes": told}, batch))
    expected = semantic.compute(semantic.measure({"classes": told}, batch))
    assert got["accuracy"] == pytest.approx(expected["pixel_accuracy"])
    for name in ("miou", "iou_0", "iou_1", "iou_2"):
        assert got[name] == pytest.approx(expected[name])
    assert got["counted"] == expected["pixels"]
    unpadded = {name: batch[name] for name in ("label", "weight")}
    assert ours.measure({"classes": told}, unpadded)["table"].sum() > got["counted"]


def test_sums_add_and_large_ones_stay_exact():
    told, label = example(1, 4, 3)
    metric = clustering(4, 3)
    parts = [
        metric.measure({"clusters": told[i]}, {"label": label[i], "weight": np.ones(len(label[i]))})
        for i in (slice(0, 7), slice(7, None))
    ]
    whole = metric.measure({"clusters": told}, {"label": label, "weight": np.ones(len(label))})
    np.testing.assert_array_equal(metric.merge(*parts)["table"], whole["table"])
    assert whole["table"].dtype == np.int64
    # 1e12 pixels: pairs of them are beyond 64 bits.
    table = np.array([[5, 1], [2, 4]], np.int64) * 10**11
    got = clustering(2, 2).compute({"table": table})
    p = table / table.sum()
    together, within, alike = (np.sum(x**2) for x in (p, p.sum(1), p.sum(0)))
    expected = (together - within * alike) / ((within + alike) / 2 - within * alike)
    assert got["ari"] == pytest.approx(expected, rel=1e-9)
    assert got["accuracy"] == 0.75


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: clustering(0, 2), "num_clusters=0"),
        (lambda: clustering(2, 0), "num_classes=0"),
        (lambda: clustering(2, 2, names=("a",)), "1 names for 2"),
        (lambda: clustering(2, 2, mapping=[0, 1, 1]), "expected 2 whole numbers"),
        (lambda: clustering(2, 2, mapping=[0, 2]), "mapping holds 2"),
        (lambda: figures([0, 2], [0, 1], 2, 2), "a cluster is 2: expected 0 to 1"),
        (lambda: figures([0, 1], [0, 3], 2, 2), "a label is 3: expected 0 to 1"),
        (lambda: figures([0, 1, 1], [0, 1], 2, 2), "differ in size"),
    ],
)
def test_bad_input(make, named):
    with pytest.raises(ValueError, match=named):
        make()


def test_what_type_checkers_refuse_first():
    table = np.zeros((2, 2), np.int64)
    for call, named in (
        (lambda: match.__wrapped__(table, "best"), "matching='best'"),
        (lambda: clustering.__wrapped__(2, 2, matching="best"), "matching='best'"),
        (lambda: clustering.__wrapped__(2, 2, mapping=[0.0, 1.0]), "expected 2 whole numbers"),
    ):
        with pytest.raises(ValueError, match=named):
            call()
