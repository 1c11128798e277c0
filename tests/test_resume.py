"""Resuming a real process equals no interruption, bit for bit: kill -9 and SIGTERM."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time

import chex
import jax
import numpy as np
import pytest
from command_line import EXPERIMENT, TINY

from jaxseg.data import samples_path
from jaxseg.train.checkpoint import Checkpoints
from jaxseg.train.log import read_metrics
from jaxseg.train.phases import optimizers
from jaxseg.train.run_folder import open_run
from jaxseg.train.state import init_state

STEPS = 60
OPTIONS = {
    "steps": STEPS,
    "save-every": 5,
    "log-every": 1,
    "batch-size": 4,
    "crop-size": 40,
    "ema-decay": 0.9,
    "decay": "cosine",
    "learning-rate": 0.01,
}


@pytest.fixture(scope="module")
def begin(tmp_path_factory):
    """Starts `jaxseg train` in a folder, on one CPU device."""
    root = tmp_path_factory.mktemp("resume")
    cache = {"JAX_COMPILATION_CACHE_DIR": str(root / "cache"), "JAX_NUM_CPU_DEVICES": "1"}
    # Two numbers of superpixels: a run is stopped inside a cycle of two phases.
    options = [*TINY, "--train-superpixels", "9", "16"]
    options += [text for k, v in OPTIONS.items() for text in (f"--{k}", str(v))]

    def start(name):
        command = [sys.executable, "-m", "jaxseg", "train", EXPERIMENT, *options]
        command += ["--data", samples_path(), "--workdir", root / name]
        return root / name, subprocess.Popen(
            [str(a) for a in command],
            env={**os.environ, **cache},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


@pytest.fixture(scope="module")
def whole(begin):
    """A run that nothing stopped."""
    run, process = begin("whole")
    _, err = process.communicate(timeout=200)
    assert (process.returncode, err) == (0, "")
    return run


def last_step(run):
    if not (run / "metrics.jsonl").exists():
        return 0
    return max((line["step"] for line in read_metrics(run)), default=0)


def first_step(out):
    """Of those that a process took, by what it printed."""
    return int(re.search(r"^step (\d+):", out, re.MULTILINE)[1])


def checkpoints(run):
    return [int(p.name) for p in (run / "checkpoints").glob("*") if p.name.isdigit()]


def stop(run, process, number, step, delay):
    """Sends the signal a moment after the run has reached the step; gives its output."""
    deadline = time.monotonic() + 120
    while last_step(run) < step:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    time.sleep(delay)
    process.send_signal(number)
    return process.communicate(timeout=120)


def saved(run):
    """The state and the place in the data of a run's latest checkpoint."""
    file, config = open_run(run)
    phases = file.build(config).phases(samples_path())

    def init():
        batch = next(iter(phases[0].data))
        key = jax.random.key(0)
        return init_state(key, phases[0].method, batch, optimizers(phases), ema=True)

    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    like = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), jax.eval_shape(init)
    )
    state, data = Checkpoints(run / "checkpoints", read_only=True).restore(like)
    return jax.device_get(state._replace(key=jax.random.key_data(state.key))), data


def assert_same(run, whole):
    state, data = saved(run)
    expected, expected_data = saved(whole)
    assert int(state.step) == STEPS and data == expected_data
    chex.assert_trees_all_equal(state, expected)
    moved = jax.tree.map(lambda a, b: np.any(a != b), state.params, state.ema["params"])
    assert any(jax.tree.leaves(moved))

    lines, expected_lines = (
        [{k: v for k, v in line.items() if k != "steps_per_second"} for line in read_metrics(r)]
        for r in (run, whole)
    )
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    assert lines == expected_lines


def test_three_kills(begin, whole):
    draw = random.Random(20)
    saves = [0]
    for low in (1, 15, 29):
        run, process = begin("killed")
        step = draw.randrange(low, low + 13)
        out, _ = stop(run, process, signal.SIGKILL, step, draw.uniform(0, 0.03))
        assert process.returncode == -signal.SIGKILL
        assert step <= last_step(run) < STEPS
        assert first_step(out) == saves[-1] + 1
        saves.append(max(checkpoints(run), default=0))
    assert saves == sorted(saves) and saves[-1] > 0
    run, process = begin("killed")
    out, err = process.communicate(timeout=200)
    assert (process.returncode, err) == (0, "")
    assert first_step(out) == saves[-1] + 1
    assert_same(run, whole)


def test_sigterm_saves_and_says_where(begin, whole):
    run, process = begin("terminated")
    out, err = stop(run, process, signal.SIGTERM, 22, 0.0)
    assert (process.returncode, err) == (128 + signal.SIGTERM, "")
    step = int(re.search(r"stopped by signal 15 at step (\d+)", out)[1])
    assert str(run) in out and "the same command goes on" in out
    assert 22 <= step < STEPS
    assert Checkpoints(run / "checkpoints", read_only=True).latest == step
    assert json.loads((run / "config.json").read_text())["config"]["steps"] == STEPS
    run, process = begin("terminated")
    out, err = process.communicate(timeout=200)
    assert (process.returncode, err) == (0, "")
    assert first_step(out) == step + 1
    assert_same(run, whole)
