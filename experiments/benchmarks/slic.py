"""Speed of superpixels on this machine, beside scikit-image and a straightforward version.

python experiments/benchmarks/slic.py [--repeats 20]

A 321x481 image; features of 20 channels for the soft algorithm, RGB for the hard one; 10 iterations
(5 for gradients). The straightforward version is the same algorithm as one would write it first:
gathered candidates, channels minor, differentiated by JAX. Rounds are interleaved, so that
a machine that slows down slows all of them; ratios are of medians.
"""

import argparse
import functools
import os
import platform
import time

import jax
import jax.numpy as jnp
import numpy as np
import scipy.ndimage
import skimage
from skimage.segmentation import slic as skimage_slic

from jaxseg.ops.slic import grid_shape, slic, soft_slic

SIZE = (321, 481)
FEW, MANY = (8, 12), (25, 38)


def straightforward(features, grid, *, num_iters):
    """(affinity [H, W, 9], centers) with the nine candidates of every pixel gathered."""
    (h, w, _), (rows, cols) = features.shape, grid
    r, c = jnp.arange(h) * rows // h, jnp.arange(w) * cols // w
    step = jnp.array([-1, 0, 1])
    row, col = r[:, None, None, None] + step[:, None], c[None, :, None, None] + step
    valid = ((row >= 0) & (row < rows) & (col >= 0) & (col < cols)).reshape(h, w, 9)
    ids = (jnp.clip(row, 0, rows - 1) * cols + jnp.clip(col, 0, cols - 1)).reshape(h, w, 9)
    own = r[:, None] * cols + c

    def mean(weights, ids, features):
        size = rows * cols
        total = jnp.zeros((size, features.shape[-1])).at[ids].add(weights[..., None] * features)
        return total / jnp.maximum(jnp.zeros(size).at[ids].add(weights), 1e-3)[:, None]

    def associate(centers):
        distance = ((features[:, :, None] - centers[ids]) ** 2).sum(-1)
        return jax.nn.softmax(jnp.where(valid, -distance, -jnp.inf), axis=-1)

    def step_(centers, _):
        return mean(associate(centers), ids, features[:, :, None]), None

    centers = mean(jnp.ones((h, w)), own, features)
    centers, _ = jax.lax.scan(step_, centers, None, length=num_iters - 1)
    affinity = associate(centers)
    return affinity, mean(affinity, ids, features[:, :, None]).reshape(rows, cols, -1)


def inputs():
    """Features with positions, colours and structure; an image with edges."""
    rng = np.random.default_rng(0)
    smooth = functools.partial(scipy.ndimage.gaussian_filter, sigma=(6, 6, 0))
    features = smooth(rng.normal(size=(*SIZE, 20))) * 30 + rng.normal(size=(*SIZE, 20)) * 0.3
    features[..., :2] = np.moveaxis(np.mgrid[: SIZE[0], : SIZE[1]], 0, -1) * 0.06
    image = np.clip(smooth(rng.random((*SIZE, 3))) * 12 - 5.5, 0, 1)
    return features.astype(np.float32), image.astype(np.float32)


def loss(run, features):
    affinity, centers = run(features)
    return (affinity**2).sum() + (centers**2).sum()


def cases(features, image):
    """Name -> (function, argument); JAX functions are jitted."""
    peer = functools.partial(
        skimage_slic, channel_axis=-1, enforce_connectivity=False, max_num_iter=10, start_label=0
    )
    compiled = {
        "soft, 96 superpixels": functools.partial(soft_slic, grid=FEW, num_iters=10),
        "soft, 950 superpixels": functools.partial(soft_slic, grid=MANY, num_iters=10),
        "soft, straightforward": functools.partial(straightforward, grid=FEW, num_iters=10),
        "soft, 5 iterations": (five := functools.partial(soft_slic, grid=FEW, num_iters=5)),
        "soft, 5, with gradient": jax.value_and_grad(functools.partial(loss, five)),
    }
    x, rgb = jnp.asarray(features), jnp.asarray(image)
    jitted = {name: (jax.jit(f), x) for name, f in compiled.items()}
    hard = jax.jit(functools.partial(slic, num_superpixels=100))
    return jitted | {
        "hard, 96 superpixels": (hard, rgb),
        "scikit-image, 20 channels": (
            functools.partial(peer, n_segments=96, convert2lab=False, compactness=1.0),
            features,
        ),
        "scikit-image, RGB": (functools.partial(peer, n_segments=100), image),
    }


def measure(runs, repeats):
    """Seconds of each run, right after one that is not counted."""
    times = {name: [] for name in runs}
    for _ in range(repeats):
        for name, (f, x) in runs.items():
            jax.block_until_ready(f(x))
            start = time.perf_counter()
            jax.block_until_ready(f(x))
            times[name].append(time.perf_counter() - start)
    return times


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=20)
    repeats = parser.parse_args().repeats
    features, image = inputs()
    assert grid_shape(*SIZE, 100) == FEW and grid_shape(*SIZE, 1000) == MANY
    runs = cases(features, image)
    results = {name: jax.block_until_ready(f(x)) for name, (f, x) in runs.items()}
    for ours, theirs in zip(
        results["soft, 96 superpixels"], results["soft, straightforward"], strict=True
    ):
        np.testing.assert_allclose(ours, theirs, atol=1e-2)

    # Anything that compiled from here on would be logged as a warning and counted.
    traces = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, _, **__: traces.append(event) if "compile" in event else None
    )
    times = measure(runs, repeats)
    assert not traces, f"a second call compiled: {traces}"

    print(
        f"jax {jax.__version__} on {jax.devices()[0].device_kind}, scikit-image "
        f"{skimage.__version__}, Python {platform.python_version()}, {os.cpu_count()} cores, "
        f"load {os.getloadavg()[0]:.1f}, {repeats} rounds"
    )
    print(f"{'':28}{'median ms':>10}{'least ms':>10}")
    for name, t in times.items():
        print(f"{name:28}{np.median(t) * 1e3:10.1f}{min(t) * 1e3:10.1f}")

    def ratio(a, b):
        medians = np.median(times[a]) / np.median(times[b])
        return f"{medians:.2f} (of the least: {min(times[a]) / min(times[b]):.2f})"

    gradient, x = runs["soft, 5, with gradient"]
    temporary = gradient.lower(x).compile().memory_analysis().temp_size_in_bytes
    print("soft / scikit-image        ", ratio("soft, 96 superpixels", "scikit-image, 20 channels"))
    print("soft / straightforward     ", ratio("soft, 96 superpixels", "soft, straightforward"))
    print("950 / 96 superpixels       ", ratio("soft, 950 superpixels", "soft, 96 superpixels"))
    print("with gradient / without    ", ratio("soft, 5, with gradient", "soft, 5 iterations"))
    print("hard / scikit-image        ", ratio("hard, 96 superpixels", "scikit-image, RGB"))
    print(f"memory of the gradient      {temporary / 1e6:.0f} MB")
    print("a second call compiled      nothing")


if __name__ == "__main__":
    main()
