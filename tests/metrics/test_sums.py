import numpy as np
import pytest

from jaxseg import metrics


def pair(seed, images):
    rng = np.random.default_rng(seed)
    label, classes = rng.integers(0, 3, (2, images, 9, 12))
    size = np.full((images, 2), (9, 12), np.int32)
    weight = np.ones(images, np.float32)
    batch = {"label": label.astype(np.int32), "size": size, "weight": weight}
    return {"classes": classes.astype(np.int32)}, batch


def test_one_measure_of_several_and_names_with_a_prefix():
    plain, near = metrics.confusion(3), metrics.trimap(3, (1, 4))
    both = metrics.together(plain, metrics.prefixed("near_", near))
    first, second = pair(0, 2), pair(1, 3)
    sums = both.merge(both.measure(*first), both.measure(*second))
    found = both.compute(sums)
    expected = plain.compute(plain.merge(plain.measure(*first), plain.measure(*second)))
    of_near = near.compute(near.merge(near.measure(*first), near.measure(*second)))
    expected |= {f"near_{name}": value for name, value in of_near.items()}
    assert "near_miou_4" in expected
    assert found == pytest.approx(expected, nan_ok=True)
