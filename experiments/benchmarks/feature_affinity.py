"""Time and memory of feature affinity with its gradient, beside the straightforward versions.

python experiments/benchmarks/feature_affinity.py [--repeats 7] [--pixels 8192] [--large 32768]

Two maps of 19 and 32 channels, normalised; value and both gradients, as in training. "dense" is the
loss as one would write it first: two n x n matrices, differentiated by JAX. "scan" takes the matrix
by blocks of rows, differentiated by JAX too, once as it is and once with `jax.checkpoint` around
each block. Rounds are interleaved, so that a machine that slows down slows all of them; beside
wall time stands the processor time of all threads. Memory is XLA's own figure of temporary buffers.
Errors are those of the gradients beside dense ones in float64, relative to the largest entry.
"""

import argparse
import functools
import os
import platform
import time

import jax
import jax.numpy as jnp
import numpy as np

from jaxseg.ops.affinity import affinity_distance

WIDTHS = (19, 32)
ROWS = 512
MIB = 2**20

matmul = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


def unit(x):
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, -1, keepdims=True), 1e-12))


def dense(a, b, order):
    a, b = unit(a), unit(b)
    return jnp.mean(jnp.abs(matmul(a, a.T) - matmul(b, b.T)) ** order)


def scan(a, b, order, remat):
    """By blocks of rows; `remat` makes each block anew for its gradient."""
    a, b = unit(a), unit(b)

    def step(total, rows):
        x, y = rows
        d = matmul(x, a.T) - matmul(y, b.T)
        return total + jnp.sum(jnp.abs(d) ** order), None

    blocks = [x.reshape(-1, ROWS, x.shape[1]) for x in (a, b)]
    total, _ = jax.lax.scan(jax.checkpoint(step) if remat else step, jnp.zeros(()), blocks)
    return total / len(a) ** 2


def ours(a, b, order):
    return affinity_distance(a, b, order=order, normalize=True)


def exact(a, b, order):
    """The dense gradients in float64, by NumPy, in blocks of rows."""
    raw = [np.asarray(x, np.float64) for x in (a, b)]
    units = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in raw]
    sums = [np.zeros(x.shape) for x in raw]
    for k in range(0, len(a), ROWS):
        part = slice(k, k + ROWS)
        d = units[0][part] @ units[0].T - units[1][part] @ units[1].T
        slope = np.sign(d) if order == 1 else 2 * d
        for s, u in zip(sums, units, strict=True):
            s[part] = 2 * slope @ u / len(a) ** 2
    for s, u, x, sign in zip(sums, units, raw, (1, -1), strict=True):
        s -= u * (s * u).sum(1, keepdims=True)
        s *= sign / np.linalg.norm(x, axis=1, keepdims=True)
    return sums


def features(pixels):
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.normal(size=(pixels, c)), jnp.float32) for c in WIDTHS]


def compiled(function, order, data):
    both = jax.value_and_grad(functools.partial(function, order=order), (0, 1))
    return jax.jit(both).lower(*data).compile()


def measure(runs, data, repeats):
    """Wall and processor seconds [repeats, 2] of each run, right after one that is not counted."""
    times = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            jax.block_until_ready(run(*data))
            start, used = time.perf_counter(), time.process_time()
            jax.block_until_ready(run(*data))
            times[name].append((time.perf_counter() - start, time.process_time() - used))
    return {name: np.array(t) for name, t in times.items()}


def memory(run):
    return run.memory_analysis().temp_size_in_bytes / MIB


def report(runs, times, data, orders):
    print(f"{'milliseconds':30}{'median':>10}{'least':>10}{'processor':>11}{'MiB':>9}{'error':>10}")
    wanted = {order: exact(*data, order) for order in set(orders.values())} if orders else {}
    for name, t in times.items():
        wall, used = 1e3 * t.T
        line = f"{name:30}{np.median(wall):10.1f}{min(wall):10.1f}{np.median(used):11.1f}"
        line += f"{memory(runs[name]):9.1f}"
        if orders:
            gradients = runs[name](*data)[1]
            pairs = zip(gradients, wanted[orders[name]], strict=True)
            line += f"{max(np.abs(g - w).max() / np.abs(w).max() for g, w in pairs):10.1e}"
        print(line, flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--pixels", type=int, default=8192, help=f"a multiple of {ROWS}")
    parser.add_argument("--large", type=int, default=32768, help="for ours alone; 0: not at all")
    options = parser.parse_args()
    print(
        f"jax {jax.__version__} on {jax.default_backend()}, Python {platform.python_version()}, "
        f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {options.repeats} rounds"
    )
    print(f"{options.pixels} pixels of {WIDTHS} channels, value and gradient")
    data = features(options.pixels)
    runs, orders = {}, {}
    for order in (1, 2):
        versions = {
            "ours": ours,
            "scan, checkpoint": functools.partial(scan, remat=True),
            "scan": functools.partial(scan, remat=False),
            "dense": dense,
        }
        for version, function in versions.items():
            name = f"order {order}, {version}"
            runs[name], orders[name] = compiled(function, order, data), order
    results = {name: run(*data)[0] for name, run in runs.items()}
    for name, value in results.items():
        reference = results[f"order {orders[name]}, dense"]
        np.testing.assert_allclose(value, reference, rtol=1e-5, err_msg=name)
    times = measure(runs, data, options.repeats)
    report(runs, times, data, orders)

    print(f"{'ratios':30}{'median':>10}{'least':>10}{'processor':>11}   wanted")
    for order, wanted in ((1, 3), (2, 50)):
        x, y = times[f"order {order}, dense"], times[f"order {order}, ours"]
        (wall, used), least = np.median(x, 0) / np.median(y, 0), min(x[:, 0]) / min(y[:, 0])
        name = f"order {order}, dense / ours"
        print(f"{name:30}{wall:10.1f}{least:10.1f}{used:11.1f}   > {wanted}")
    for order, wanted in ((1, 40), (2, 10)):
        print(f"order {order}: {memory(runs[f'order {order}, ours']):.1f} MiB, wanted < {wanted}")

    value = jax.jit(functools.partial(ours, order=1)).lower(*data).compile()
    alone = measure({"order 1, ours, value alone": value}, data, options.repeats)
    report({"order 1, ours, value alone": value}, alone, data, None)
    if options.large:
        data = features(options.large)
        runs = {f"order {order}, ours": compiled(ours, order, data) for order in (1, 2)}
        print(f"{options.large} pixels")
        report(runs, measure(runs, data, 3), data, None)


if __name__ == "__main__":
    main()
