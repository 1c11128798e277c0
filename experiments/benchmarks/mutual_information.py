"""Time and memory of the mutual information of maps with its gradients, beside PyTorch.

python experiments/benchmarks/mutual_information.py [--repeats 5] [--methods fft conv scan]

Value and both gradients of the mean over (2T + 1)² displacements, for N maps of S x S pixels with
C classes. "torch" is the formula of the paper as its released code states it, written anew: one
convolution with the second maps for kernel, then logarithms of clamped joints and marginals. Rounds
are interleaved, so that a machine that slows down slows all of them; beside wall time stands the
processor time of all threads. Memory is XLA's own figure of temporary buffers. Values and gradients
are compared before anything is timed.
"""

import argparse
import functools
import os
import platform
import time

import jax
import jax.numpy as jnp
import numpy as np
import torch

from jaxseg import losses

SIZE = (8, 15, 64, 10)  # N, C, S, T
LARGE = (60, 15, 128, 10)
FLOOR = 2.0**-52
MIB = 2**20


def probabilities(n, c, s):
    rng = np.random.default_rng(0)
    common = rng.normal(size=(n, s, s, c))
    logits = [common + 0.5 * rng.normal(size=common.shape) for _ in range(2)]
    return [np.array(jax.nn.softmax(jnp.asarray(x, jnp.float32))) for x in logits]


def formula(x, y, displacement):
    """-mean_t I(P_t) in PyTorch, for maps [N, C, S, S]."""
    joint = torch.nn.functional.conv2d(
        x.transpose(0, 1), y.transpose(0, 1), padding=(displacement, displacement)
    ).permute(2, 3, 0, 1)
    joint = joint / joint.sum((2, 3), keepdim=True)
    joint = (joint + joint.transpose(2, 3)) / 2
    rows, cols = joint.sum(3, keepdim=True), joint.sum(2, keepdim=True)
    logs = [torch.log(p.clamp(min=FLOOR)) for p in (joint, rows, cols)]
    return -(joint.clamp(min=FLOOR) * (logs[0] - logs[1] - logs[2])).sum((2, 3)).mean()


def in_torch(x, y, displacement):
    x, y = (torch.from_numpy(z).permute(0, 3, 1, 2).contiguous() for z in (x, y))

    def run():
        maps = [z.detach().requires_grad_() for z in (x, y)]
        value = formula(*maps, displacement)
        value.backward()
        return value.item(), [z.grad.permute(0, 2, 3, 1).numpy() for z in maps]

    return run


def ours(x, y, displacement, method):
    """A compiled program, and a call of it."""
    loss = functools.partial(losses.mutual_information_2d, displacement=displacement, method=method)
    data = [jnp.asarray(z) for z in (x, y)]
    program = jax.jit(jax.value_and_grad(loss, (0, 1))).lower(*data).compile()
    return program, lambda: jax.block_until_ready(program(*data))


def tangent(gradient):
    """What a softmax lets through: nothing that is equal for all classes."""
    return gradient - gradient.mean(-1, keepdims=True)


def measure(runs, repeats):
    """Wall and processor seconds [repeats, 2] of each run."""
    times = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            start, used = time.perf_counter(), time.process_time()
            run()
            times[name].append((time.perf_counter() - start, time.process_time() - used))
    return {name: np.array(t) for name, t in times.items()}


def memory(program):
    return program.memory_analysis().temp_size_in_bytes / MIB


def compare(name, got, expected):
    np.testing.assert_allclose(got[0], expected[0], rtol=1e-4, err_msg=name)
    for a, b in zip(got[1], expected[1], strict=True):
        a, b = tangent(np.asarray(a)), tangent(b)
        assert abs(a - b).max() < 1e-3 * abs(b).max(), name


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--methods", nargs="+", default=["fft", "conv", "scan"])
    parser.add_argument("--run-large", action="store_true", help="not only its memory")
    options = parser.parse_args()
    print(
        f"jax {jax.__version__} on {jax.default_backend()}, torch {torch.__version__} with "
        f"{torch.get_num_threads()} threads, Python {platform.python_version()}, "
        f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {options.repeats} rounds"
    )
    n, c, s, t = SIZE
    x, y = probabilities(n, c, s)
    runs, programs = {"torch": in_torch(x, y, t)}, {}
    for method in options.methods:
        programs[method], runs[method] = ours(x, y, t, method)
    expected = runs["torch"]()
    for method in options.methods:
        compare(method, runs[method](), expected)
    print(
        f"{f'(N, C, S, T) = {SIZE}, ms':34}{'median':>10}{'least':>10}{'processor':>11}{'MiB':>9}"
    )
    times = measure(runs, options.repeats)
    for name, seconds in times.items():
        wall, used = 1e3 * seconds.T
        line = f"{name:34}{np.median(wall):10.1f}{min(wall):10.1f}{np.median(used):11.1f}"
        print(line + (f"{memory(programs[name]):9.1f}" if name in programs else ""), flush=True)
    for name in options.methods:
        (wall, used), least = (
            np.median(times["torch"], 0) / np.median(times[name], 0),
            min(times["torch"][:, 0]) / min(times[name][:, 0]),
        )
        print(f"{f'torch / {name}':34}{wall:10.1f}{least:10.1f}{used:11.1f}", flush=True)

    n, c, s, t = LARGE
    x, y = probabilities(n, c, s)
    for method in options.methods:
        program, run = ours(x, y, t, method)
        line = f"{f'{LARGE}, {method}':34}{memory(program):10.1f} MiB, wanted < 1024"
        if options.run_large and method == "fft":
            run()
            (wall, used) = np.median(measure({method: run}, 3)[method], 0)
            line += f"; {wall:.2f} s, processor {used:.2f} s"
        print(line, flush=True)


if __name__ == "__main__":
    main()
