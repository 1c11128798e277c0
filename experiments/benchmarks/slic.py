"""Speed of superpixels on this machine, beside other libraries and a straightforward version.

python experiments/benchmarks/slic.py [--repeats 20] [--peak-gbs 4800]

A 321x481 image; features of 20 channels for the soft algorithm, RGB for the hard one; 10 iterations
(5 for gradients). The straightforward version is the same algorithm as one would write it first:
gathered candidates, channels minor, differentiated by JAX. OpenCV's SLIC (if it is there) gets the
same float32 RGB and the same number of superpixels; its conversion to Lab is counted, as ours
and scikit-image's are. Rounds are interleaved, so that a machine that slows down slows all
of them. Beside wall time stands the processor time of all threads: with other work on the
machine it says more.

Where there is a GPU, a second part runs batches of 32 there, with the kernel and without, and
says which part of the memory's bandwidth (--peak-gbs, of its data sheet) an iteration reaches.
"""

import argparse
import functools
import importlib.util
import os
import platform
import time
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import scipy.ndimage
import skimage
from skimage.segmentation import slic as skimage_slic

from jaxseg.ops import _blocks, _kmeans, _kmeans_pallas
from jaxseg.ops.slic import grid_shape, slic, soft_slic

cv2 = importlib.import_module("cv2") if importlib.util.find_spec("cv2") else None
SIZE = (321, 481)
FEW, MANY = (8, 12), (25, 38)
BATCH = 32


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
    return (
        jitted
        | {
            "hard, 96 superpixels": (hard, rgb),
            "scikit-image, 20 channels": (
                functools.partial(peer, n_segments=96, convert2lab=False, compactness=1.0),
                features,
            ),
            "scikit-image, RGB": (functools.partial(peer, n_segments=100), image),
        }
        | ({"OpenCV, RGB": (opencv, image)} if cv2 else {})
    )


def opencv(image):
    """Labels of OpenCV's SLIC."""
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2Lab)
    side = round((SIZE[0] * SIZE[1] / (FEW[0] * FEW[1])) ** 0.5)
    algorithm = cv2.ximgproc.createSuperpixelSLIC(lab, cv2.ximgproc.SLIC, side, 10.0)
    algorithm.iterate(10)
    assert algorithm.getNumberOfSuperpixels() == FEW[0] * FEW[1]
    return algorithm.getLabels()


def measure(runs, repeats):
    """Wall and processor seconds [repeats, 2] of each run, right after one that is not counted."""
    times = {name: [] for name in runs}
    for _ in range(repeats):
        for name, (f, x) in runs.items():
            jax.block_until_ready(f(x))
            start, used = time.perf_counter(), time.process_time()
            jax.block_until_ready(f(x))
            times[name].append((time.perf_counter() - start, time.process_time() - used))
    return {name: np.array(t) for name, t in times.items()}


def no_compilation(run, *arguments):
    """What `run` returns; an error if it compiles anything, be it only logged as a warning."""
    traces = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, _, **__: traces.append(event) if "compile" in event else None
    )
    result = run(*arguments)
    assert not traces, f"a second call compiled: {traces}"
    return result


def on_cpu(repeats):
    """Prints times and ratios of all versions."""
    features, image = inputs()
    runs = cases(features, image)
    results = {name: jax.block_until_ready(f(x)) for name, (f, x) in runs.items()}
    for ours, theirs in zip(
        results["soft, 96 superpixels"], results["soft, straightforward"], strict=True
    ):
        np.testing.assert_allclose(ours, theirs, atol=1e-2)
    times = no_compilation(measure, runs, repeats)

    peers = f"scikit-image {skimage.__version__}, " + (
        f"OpenCV {cv2.__version__} ({cv2.getNumThreads()} threads)" if cv2 else "no OpenCV"
    )
    print(
        f"jax {jax.__version__} on the processor, {peers}, Python {platform.python_version()}, "
        f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {repeats} rounds"
    )
    print(f"{'milliseconds':28}{'median':>10}{'least':>10}{'processor':>11}")
    for name, t in times.items():
        wall, used = 1e3 * t.T
        print(f"{name:28}{np.median(wall):10.1f}{min(wall):10.1f}{np.median(used):11.1f}")

    def ratio(name, a, b, wanted):
        x, y = times[a], times[b]
        (wall, used), least = np.median(x, 0) / np.median(y, 0), min(x[:, 0]) / min(y[:, 0])
        print(f"{name:28}{wall:10.2f}{least:10.2f}{used:11.2f}   {wanted}")

    print(f"{'ratios':28}{'median':>10}{'least':>10}{'processor':>11}   wanted")
    few, five, hard = "soft, 96 superpixels", "soft, 5 iterations", "hard, 96 superpixels"
    ratio("soft / scikit-image", few, "scikit-image, 20 channels", "< 0.6")
    ratio("straightforward / soft", "soft, straightforward", few, "> 4")
    ratio("950 / 96 superpixels", "soft, 950 superpixels", few, "< 1.15")
    ratio("gradient / forward, 5", "soft, 5, with gradient", five, "< 4")
    ratio("scikit-image / hard", "scikit-image, RGB", hard, "> 3")
    if cv2:
        ratio("OpenCV / hard", "OpenCV, RGB", hard, "> 1")
    else:
        print("OpenCV is not here: pip install opencv-contrib-python-headless")
    gradient, x = runs["soft, 5, with gradient"]
    temporary = gradient.lower(x).compile().memory_analysis().temp_size_in_bytes
    print(f"temporary memory of the gradient, 5: {temporary / 1e6:.0f} MB, wanted < 80 MB")
    print("a second call compiled nothing")


def on_gpu(device, repeats, peak):
    """Prints images per second of batches, and the bandwidth of an iteration of the kernel."""
    layout = _blocks.layout(*SIZE, FEW, "floor")
    x = jax.device_put(np.stack([inputs()[0]] * BATCH), device)
    data = jax.jit(jax.vmap(lambda x: _kmeans.cells(x, None, layout)))(x)
    matrix = jax.random.normal(jax.random.key(0), (*data.points.shape[:3], 9, 21))
    arguments = data.points, matrix
    runs, versions = {}, ("slab_sums", "plain_slab_sums")
    for version in versions:
        sums = getattr(_kmeans_pallas, version)
        run = jax.vmap(functools.partial(soft_slic, grid=FEW, num_iters=10))
        with mock.patch.object(_kmeans_pallas, "slab_sums", sums):
            whole = jax.jit(lambda x, run=run: run(x)).lower(x).compile()
        step = jax.jit(jax.vmap(sums)).lower(*arguments).compile()
        runs[version] = (whole, x)
        # Ten in one round: a single step is over before its launch is.
        ten = lambda a, step=step: [step(*a) for _ in range(10)]  # noqa: E731
        runs["ten of " + version] = (ten, arguments)
    results = [runs[version][0](x) for version in versions]
    for ours, theirs in zip(*results, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-3)
    times = no_compilation(measure, runs, repeats)
    size = sum(a.nbytes for a in arguments) + matrix.nbytes
    print(f"{device.device_kind}, batch {BATCH}, 96 superpixels, 20 channels, {repeats} rounds")
    for version, name in zip(versions, ("kernel", "without it"), strict=True):
        rate = BATCH / np.median(times[version][:, 0])
        speed = 10 * size / np.median(times["ten of " + version][:, 0]) / 1e9
        part = f", {speed / peak:.0%} of {peak:g}" if peak else " (no --peak-gbs)"
        print(f"{name:12}{rate:10.0f} images/s, 10 iterations; one: {speed:.0f} GB/s{part}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--peak-gbs", type=float, help="GB/s that the GPU's memory can do")
    options = parser.parse_args()
    assert grid_shape(*SIZE, 100) == FEW and grid_shape(*SIZE, 1000) == MANY
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        on_cpu(options.repeats)
    if jax.default_backend() == "gpu":
        on_gpu(jax.local_devices()[0], options.repeats, options.peak_gbs)
    else:
        print("no GPU was found: nothing was measured on one")


if __name__ == "__main__":
    main()
