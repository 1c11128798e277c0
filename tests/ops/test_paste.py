import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from jaxseg.ops.paste import paste_masks

pytestmark = pytest.mark.usefixtures("strict_dtypes")
SHAPE = (15, 21)
paste = jax.jit(lambda masks, boxes: paste_masks(masks, boxes, shape=SHAPE))


def reference(masks, boxes):
    """Each pixel's centre looked up by SciPy, with zeros around the mask."""
    canvas = np.zeros((len(masks), *SHAPE))
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]] + 0.5
    for image, mask, (y0, x0, y1, x1) in zip(canvas, masks, boxes.astype(float), strict=True):
        if y1 > y0 and x1 > x0:
            rows = (y - y0) / (y1 - y0) * mask.shape[0] - 0.5
            cols = (x - x0) / (x1 - x0) * mask.shape[1] - 0.5
            image[:] = map_coordinates(mask, [rows, cols], order=1, mode="grid-constant")
    return canvas


def test_pasted_masks_are_those_of_scipy():
    """Boxes inside, across the border, outside, below a pixel, empty and reversed."""
    rng = np.random.default_rng(0)
    masks = rng.random((40, 4, 5)).astype(np.float32)
    low = rng.uniform(-12, 20, (40, 2))
    boxes = np.concatenate([low, low + np.exp(rng.uniform(-2, 3, (40, 2)))], 1).astype(np.float32)
    boxes[0], boxes[1], boxes[2] = (3, 3, 3, 9), (9, 9, 2, 2), (-90, -90, -50, -50)
    got = paste(masks, boxes)
    np.testing.assert_allclose(got, reference(masks, boxes), atol=2e-5)
    assert not np.asarray(got[:3]).any() and np.asarray(got[3:]).any()


def test_a_mask_as_large_as_its_box_is_copied():
    mask = np.random.default_rng(0).random((1, 4, 5)).astype(np.float32)
    canvas = np.zeros((1, *SHAPE), np.float32)
    canvas[0, 3:7, 8:13] = mask[0]
    np.testing.assert_allclose(
        paste(mask, np.array([[3, 8, 7, 13]], np.float32)), canvas, atol=1e-6
    )


def test_ones_stay_ones_up_to_half_a_cell_from_the_edge():
    got = np.asarray(paste(np.ones((1, 4, 5), np.float32), np.array([[2, 3, 14, 18]], np.float32)))
    assert got.min() == 0 and got.max() <= 1 + 1e-6
    np.testing.assert_allclose(got[0, 4:12, 5:16], 1, atol=1e-6)


def test_empty_boxes_have_no_gradient(key):
    boxes = jnp.array([[3, 3, 3, 3], [0, 0, 4, 4]], jnp.float32)
    masks = jax.random.uniform(key, (2, 3, 3))
    slope = jax.jit(jax.grad(lambda m, b: jnp.sum(paste(m, b) ** 2), (0, 1)))(masks, boxes)
    for x in slope:
        assert np.isfinite(x).all() and not np.asarray(x[0]).any() and np.asarray(x[1]).any()


def test_bad_canvas():
    with pytest.raises(ValueError, match=r"shape=\(0, 3\)"):
        paste_masks(jnp.zeros((1, 2, 2)), jnp.zeros((1, 4)), shape=(0, 3))
