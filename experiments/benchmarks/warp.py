"""Speed and exactness of the warp, beside SciPy.

python experiments/benchmarks/warp.py [--repeats 5]

The energy's minimiser: `solve_sampling` in float32 beside SciPy's sparse LU (`spsolve`, both
coordinates; assembling its matrix is not counted), with the errors of both precisions, for random
targets and smoothness 1. The way back: `unwarp` of 19 channels of 64x64 nodes to 1024x2048 pixels,
inversion counted, beside `griddata(method="linear")`, on a scene of ten ellipses solved at 64x64
with smoothness 10. SciPy runs once, ours in the median of several rounds. Beside wall time stands
the processor time of all threads: with other work on the machine it says more. Memory is XLA's own
figure of temporary buffers.
"""

import argparse
import functools
import os
import platform
import time

import jax
import jax.numpy as jnp
import numpy as np
import scipy
import scipy.sparse as sp
from scipy.interpolate import griddata
from scipy.sparse.linalg import spsolve

from jaxseg.ops import boundary, warp

SHAPE, NODES, CHANNELS = (1024, 2048), (64, 64), 19


def timed(run):
    """Result, wall and processor seconds."""
    start, used = time.perf_counter(), time.process_time()
    result = jax.block_until_ready(run())
    return result, time.perf_counter() - start, time.process_time() - used


def repeated(run, repeats):
    """The same in the median, after a call that is not counted."""
    jax.block_until_ready(run())
    results = [timed(run) for _ in range(repeats)]
    return results[0][0], *np.median([r[1:] for r in results], axis=0)


def path(n, fixed):
    """Second difference along a path of n nodes; its fixed ends taken off."""
    diagonal = np.full(n, 2.0)
    if not fixed:
        diagonal[[0, -1]] = 1
    matrix = sp.diags([-np.ones(n - 1), diagonal, -np.ones(n - 1)], [-1, 0, 1])
    return matrix.tocsr()[1:-1, 1:-1] if fixed else matrix.tocsr()


def systems(targets, smoothness):
    """(matrix, right-hand side) of the free nodes, for both coordinates, in float64."""
    for b in (targets[..., 0], targets[..., 1].T):
        h, w = b.shape
        along = sp.kron(path(h, True), sp.identity(w)) + sp.kron(sp.identity(h - 2), path(w, False))
        right = b[1:-1].astype(np.float64).copy()
        right[-1] += smoothness
        yield (sp.identity((h - 2) * w) + smoothness * along).tocsc(), right.ravel()


def direct(built, shape):
    rows, cols = (spsolve(matrix, right) for matrix, right in built)
    h, w = shape
    inner = rows.reshape(h - 2, w), cols.reshape(w - 2, h).T
    rows = np.concatenate([np.zeros((1, w)), inner[0], np.ones((1, w))])
    cols = np.concatenate([np.zeros((h, 1)), inner[1], np.ones((h, 1))], axis=1)
    return np.stack([rows, cols], -1)


def solver(repeats):
    solve = jax.jit(functools.partial(warp.solve_sampling, smoothness=1.0))
    print(f"{'solve_sampling':16}{'ms':>9}{'proc.':>9}{'SciPy ms':>11}{'proc.':>9}", end="")
    print(f"{'ratio':>8}{'proc.':>8}{'err. f64':>11}{'f32':>9}")
    for shape in ((8, 8), (32, 48), (64, 64), (128, 128), (256, 256), (512, 512)):
        targets = np.random.default_rng(0).random((*shape, 2), np.float32)
        built = list(systems(targets, 1.0))
        wanted, *theirs = timed(lambda built=built, shape=shape: direct(built, shape))
        b = jnp.asarray(targets)
        single, *ours = repeated(lambda b=b: solve(b), repeats)
        with jax.enable_x64(True):
            double = solve(jnp.asarray(targets, jnp.float64))
        errors = [np.abs(np.asarray(x) - wanted).max() for x in (double, single)]
        ratios = [t / o for t, o in zip(theirs, ours, strict=True)]
        numbers = f"{1e3 * ours[0]:9.2f}{1e3 * ours[1]:9.2f}"
        numbers += f"{1e3 * theirs[0]:11.1f}{1e3 * theirs[1]:9.1f}{ratios[0]:8.0f}{ratios[1]:8.0f}"
        print(f"{shape!s:16}{numbers}{errors[0]:11.1e}{errors[1]:9.1e}", flush=True)


def scene():
    rng = np.random.default_rng(0)
    labels = np.zeros(SHAPE, np.int32)
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    for k in range(10):
        center, radius = rng.random(2) * SHAPE, (0.02 + 0.08 * rng.random(2)) * SHAPE[0]
        labels[((y - center[0]) / radius[0]) ** 2 + ((x - center[1]) / radius[1]) ** 2 < 1] = k % 5
    return labels


def way_back(repeats):
    labels = jnp.asarray(scene())
    targets = jax.jit(warp.sampling_targets, static_argnums=1, static_argnames="smoothness")
    coords, wall, used = repeated(lambda: targets(labels, NODES, smoothness=10.0), repeats)
    print(f"{'sampling_targets':34}{1e3 * wall:9.0f}{1e3 * used:9.0f}   wall, processor ms")
    inverse = jax.jit(warp.invert_sampling, static_argnums=1)(coords, SHAPE)
    mask = boundary.boundary_map(labels)
    print(
        f"boundary pixels {int(mask.sum())}, folded cells {float(warp.fold_fraction(coords)):.2%}, "
        f"pixels not found {int(inverse.unconverged)}, worst residual "
        f"{float(inverse.residual.max()):.1e} pixel"
    )
    noise = np.random.default_rng(1).standard_normal((*NODES, CHANNELS))
    values = jnp.asarray(noise, jnp.float32)
    points = np.asarray(coords, np.float64).reshape(-1, 2) * (np.array(SHAPE) - 1)
    rows, cols = np.mgrid[: SHAPE[0], : SHAPE[1]]
    flat = np.asarray(values).reshape(-1, CHANNELS)
    theirs, *reference = timed(lambda: griddata(points, flat, (rows, cols), method="linear"))
    print(f"{'griddata, linear':34}{1e3 * reference[0]:9.0f}{1e3 * reference[1]:9.0f}")
    cases = {
        "unwarp": {},
        "unwarp, argmax": {"argmax": True},
        "unwarp, triangles": {"mode": "triangles"},
        "unwarp, inverse given": {"inverse": inverse.coords},
        "unwarp, inverse given, argmax": {"inverse": inverse.coords, "argmax": True},
    }
    for name, options in cases.items():
        run = jax.jit(functools.partial(warp.unwarp, output_shape=SHAPE, **options))
        run = run.lower(values, coords).compile()
        result, wall, used = repeated(lambda run=run: run(values, coords), repeats)
        size = run.memory_analysis().temp_size_in_bytes / 2**20
        ratios = reference[0] / wall, reference[1] / used
        print(
            f"{name:34}{1e3 * wall:9.0f}{1e3 * used:9.0f}{ratios[0]:8.1f}{ratios[1]:8.1f}"
            f"{size:8.1f} MiB",
            flush=True,
        )
        if name == "unwarp, triangles":
            near = np.abs(np.asarray(result) - theirs).max(-1) < 1e-3
            print(f"  within 1e-3 of griddata: {near.mean():.3f} of the pixels")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    print(
        f"jax {jax.__version__} on {jax.default_backend()}, SciPy {scipy.__version__}, "
        f"Python {platform.python_version()}, {os.cpu_count()} cores, "
        f"load {os.getloadavg()[0]:.1f}, {options.repeats} rounds"
    )
    solver(options.repeats)
    way_back(options.repeats)
    print(f"load {os.getloadavg()[0]:.1f} at the end")


if __name__ == "__main__":
    main()
