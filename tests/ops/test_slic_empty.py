"""A superpixel of `slic` that loses all its pixels keeps its centre, and may win some back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from skimage.color import rgb2lab

from jaxseg.ops.slic import slic

SIZE, CELLS, COMPACTNESS = 12, 6, 1.0


def loop(image, num_iters, keep):
    """Labels by a search over pixels; an empty superpixel keeps its centre or starts afresh."""
    y, x = np.mgrid[:SIZE, :SIZE]
    position = COMPACTNESS * CELLS / SIZE * np.stack([y, x], -1)
    features = np.concatenate([rgb2lab(image), position], -1)
    row, col = y * CELLS // SIZE, x * CELLS // SIZE
    labels = row * CELLS + col
    first = np.stack([features[labels == k].mean(0) for k in range(CELLS**2)])
    centers = first.copy()
    for i in range(num_iters):
        if i:
            for k in range(CELLS**2):
                inside = features[labels == k]
                centers[k] = inside.mean(0) if len(inside) else (centers if keep else first)[k]
        labels = np.zeros_like(row)
        for p in np.ndindex(SIZE, SIZE):
            r, c = row[p], col[p]
            near = [
                s * CELLS + t
                for s in range(max(r - 1, 0), min(r + 2, CELLS))
                for t in range(max(c - 1, 0), min(c + 2, CELLS))
            ]
            labels[p] = near[np.argmin(np.sum((features[p] - centers[near]) ** 2, -1))]
    return labels


@pytest.mark.parametrize("seed", [41, 94])
def test_an_empty_superpixel_keeps_its_centre(seed, x64):
    image = np.random.default_rng(seed).random((SIZE, SIZE, 3))
    kept = loop(image, 10, keep=True)
    assert (kept != loop(image, 10, keep=False)).any(), "no superpixel was emptied and refilled"
    run = jax.jit(slic, static_argnums=1)
    got = run(jnp.asarray(image), CELLS**2, compactness=COMPACTNESS)
    np.testing.assert_array_equal(got, kept)
