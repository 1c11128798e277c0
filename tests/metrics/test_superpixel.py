import math

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from jaxseg.metrics import superpixel

PARTS = ("asa", "br", "bp", "br_stutz", "bp_stutz", "ue_np", "co")


def blocks(rng, shape, cell, count):
    grid = rng.integers(0, count, (shape[0] // cell + 1, shape[1] // cell + 1))
    return np.kron(grid, np.ones((cell, cell), int))[: shape[0], : shape[1]].astype(np.int32)


def figures(superpixels, labels, **options):
    """The measure of one image with annotations `[A, H, W]`."""
    metric = superpixel(**options)
    return metric.compute(metric.measure(*example(superpixels, labels)))


def example(superpixels, labels):
    batch = {"labels": labels[None], "weight": np.ones(1, np.float32)}
    batch["size"] = np.array([superpixels.shape])
    return {"superpixels": superpixels[None]}, batch


def neighbors(y, x, shape, steps):
    for dy, dx in steps:
        if 0 <= y + dy < shape[0] and 0 <= x + dx < shape[1]:
            yield y + dy, x + dx


FORWARD = ((0, 1), (1, 0))
AROUND = (*FORWARD, (0, -1), (-1, 0))


def edge_pixels(labels, ignored, steps):
    return {
        (y, x)
        for y, x in np.ndindex(labels.shape)
        for other in neighbors(y, x, labels.shape, steps)
        if labels[y, x] != labels[other] and not ignored[y, x] and not ignored[other]
    }


def near(pixels, y, x, radius):
    return any(max(abs(y - v), abs(x - u)) <= radius for v, u in pixels)


def slow(s, g, radius):
    """Every figure by its definition, in loops over sets of pixels."""
    ignored = g < 0
    valid = [p for p in np.ndindex(g.shape) if not ignored[p]]
    ours = [{p for p in valid if s[p] == i} for i in {int(s[p]) for p in valid}]
    theirs = [{p for p in valid if g[p] == i} for i in {int(g[p]) for p in valid}]
    n = len(valid)
    result = {"regions": len(ours), "pairs": 1}
    result["asa"] = sum(max(len(a & b) for b in theirs) for a in ours) / n
    result["ue_np"] = sum(min(len(a & b), len(a - b)) for a in ours for b in theirs) / n
    leak = [(sum(len(a) for a in ours if a & b) - len(b)) / len(b) for b in theirs]
    result["ue_levin"] = sum(leak) / len(leak)
    result["co"] = 0.0
    for a in ours:
        inner = sum(1 for p in a for other in neighbors(*p, s.shape, AROUND) if other in a)
        result["co"] += len(a) / n * 4 * math.pi * len(a) / (4 * len(a) - inner) ** 2
    for suffix, steps, r in (
        ("", FORWARD, radius),
        ("_stutz", AROUND, round(0.0025 * math.hypot(*s.shape))),
    ):
        es, eg = edge_pixels(s, ignored, steps), edge_pixels(g, ignored, steps)
        hit = [p for p in eg if near(es, *p, r)]
        result["br" + suffix] = len(hit) / len(eg) if eg else 1.0
        if not suffix:
            result["bp"] = sum(near(eg, *p, r) for p in es) / len(es) if es else 1.0
        else:
            wrong = [p for p in es - eg if not near(eg, *p, r)]
            total = len(hit) + len(wrong)
            result["bp" + suffix] = len(hit) / total if total else 1.0
    return result


@pytest.mark.parametrize("radius", [0, 1, 2])
@pytest.mark.parametrize("ignored", [0.0, 0.15])
def test_equals_slow_loops(radius, ignored):
    rng = np.random.default_rng(radius)
    s = blocks(rng, (13, 18), 3, 40) * 5
    g = blocks(rng, (13, 18), 4, 5)
    g[rng.random(g.shape) < ignored] = -1
    got = figures(s, g[None], radius=radius)
    expected = slow(s, g, radius)
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        assert got[name] == pytest.approx(value, rel=1e-12), name


def test_radius_of_stutz_grows_with_the_diagonal():
    g = np.zeros((6, 700), np.int32)
    g[:, 100:] = 1
    s = np.zeros_like(g)
    s[:, 103:] = 1
    got = figures(s, g[None])
    # Two-sided maps: columns 99, 100 and 102, 103; r = round(1.75), or 1 for half the length.
    assert (got["br_stutz"], got["bp_stutz"]) == (0.5, 0.5)
    half = figures(s[:, :350], g[None, :, :350])
    assert (half["br_stutz"], half["bp_stutz"]) == (0.0, 0.0)


@hypothesis.given(st.integers(0, 10_000), st.integers(1, 6), st.integers(1, 6))
@hypothesis.settings(max_examples=60, deadline=None)
def test_bounds(seed, ours, theirs):
    rng = np.random.default_rng(seed)
    s, g = blocks(rng, (11, 14), ours, 30), blocks(rng, (11, 14), theirs, 6)
    got = figures(s, g[None])
    assert all(0 <= got[name] <= 1 for name in PARTS)
    assert got["ue_levin"] >= 0
    assert got["ue_np"] >= 1 - got["asa"] - 1e-12
    assert got["br"] <= figures(s, g[None], radius=2)["br"]


def test_perfect_segmentation():
    g = blocks(np.random.default_rng(0), (24, 31), 5, 9)
    got = figures(g[::1] + 3, g[None])
    assert [got[name] for name in ("asa", "br", "bp", "br_stutz", "bp_stutz")] == [1.0] * 5
    assert got["ue_np"] == got["ue_levin"] == 0.0
    flat = figures(np.zeros((8, 8), np.int32), np.zeros((1, 8, 8), np.int32))
    assert [flat[name] for name in ("asa", "br", "bp", "br_stutz", "bp_stutz")] == [1.0] * 5
    assert flat["co"] == pytest.approx(math.pi / 4)


def test_numbers_of_the_segments_change_nothing():
    rng = np.random.default_rng(8)
    s, g = blocks(rng, (20, 20), 3, 50), blocks(rng, (20, 20), 6, 5)
    # Counted in a table, by sorting, and with windows beyond the image.
    assert figures(s, g[None] * 100_003) == figures(s, g[None])
    assert figures(s, g[None], radius=25)["br"] == figures(s, g[None], radius=19)["br"] == 1.0


def test_ignored_pixels_change_nothing():
    rng = np.random.default_rng(4)
    s, g = blocks(rng, (20, 20), 3, 50), blocks(rng, (20, 20), 6, 5)
    hidden = rng.random(g.shape) < 0.2
    g[hidden] = -1
    other = np.where(hidden, rng.integers(-1, 900, g.shape), s).astype(np.int32)
    assert figures(other, g[None]) == figures(s, g[None])


def batch_of(rng, count=4):
    s = np.stack([blocks(rng, (16, 20), 4, 40) for _ in range(count)])
    g = np.stack([[blocks(rng, (16, 20), 5, 6) for _ in range(3)] for _ in range(count)])
    size = np.array([[16, 20], [10, 20], [16, 9], [12, 13]])[:count]
    return s, g, size


def test_padding_weights_and_absent_annotators():
    rng = np.random.default_rng(5)
    s, g, size = batch_of(rng)
    g[1, 2] = -1
    weight = np.array([1, 0.5, 0, 1], np.float32)
    metric = superpixel()
    sums = metric.measure({"superpixels": s}, {"labels": g, "weight": weight, "size": size})
    expected = [
        figures(s[b, :h, :w], g[b, a, :h, :w][None])
        for b, (h, w) in enumerate(size)
        for a in range(3)
        if weight[b] and g[b, a].max() >= 0
    ]
    got = metric.compute(sums)
    assert got["pairs"] == len(expected) == 8
    for name in got.keys() - {"pairs"}:
        assert got[name] == pytest.approx(np.mean([one[name] for one in expected])), name
    for b, (h, w) in enumerate(size):
        s[b, h:], s[b, :, w:] = -7, 8
        g[b, :, h:], g[b, :, :, w:] = 3, 4
    again = metric.measure({"superpixels": s}, {"labels": g, "weight": weight, "size": size})
    assert again == sums


def test_merge_adds():
    s, g, size = batch_of(np.random.default_rng(6), 3)
    metric = superpixel()

    def measure(*rows):
        rows = list(rows)
        batch = {"labels": g[rows], "weight": np.ones(len(rows)), "size": size[rows]}
        return metric.measure({"superpixels": s[rows]}, batch)

    a, b, c = measure(0), measure(1), measure(2)
    left = metric.compute(metric.merge(metric.merge(a, b), c))
    assert left == pytest.approx(metric.compute(metric.merge(a, metric.merge(b, c))))
    assert left == pytest.approx(metric.compute(measure(0, 1, 2)))
    assert a["pairs"].dtype == a["regions"].dtype == np.int64
    assert a["asa"].dtype == a["co"].dtype == np.float64


def test_single_label_maps_and_bad_input():
    rng = np.random.default_rng(7)
    s, g = blocks(rng, (9, 9), 3, 9), blocks(rng, (9, 9), 4, 3)
    metric = superpixel()
    prediction, batch = example(s, g[None])
    rest = {name: batch[name] for name in ("weight", "size")}
    single = metric.measure(prediction, rest | {"label": g[None]})
    assert single == metric.measure(prediction, batch)
    nothing = metric.compute(metric.measure(prediction, batch | {"weight": np.zeros(1)}))
    assert nothing["pairs"] == 0 and math.isnan(nothing["asa"])
    with pytest.raises(ValueError, match="neither 'labels' nor 'label'"):
        metric.measure(prediction, rest)
    with pytest.raises(ValueError, match="differ in size"):
        metric.measure(prediction, rest | {"label": g[None, :8]})
    with pytest.raises(ValueError, match="negative superpixel"):
        metric.measure({"superpixels": s[None] - 1 - s.min()}, batch)
    with pytest.raises(ValueError, match="radius=-1"):
        superpixel(radius=-1)
