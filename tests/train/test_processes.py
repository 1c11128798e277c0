"""Two processes, each with its part of the batch, train, stop and go on as one does."""

import os
import pathlib
import signal
import socket
import subprocess
import sys

import jax
import numpy as np
import optax
import pytest
import toys

from jaxseg.train import Evaluation, Phase, Schedule, fit
from jaxseg.train.evaluate import evaluate
from jaxseg.train.log import read_metrics
from jaxseg.train.sharding import data_mesh
from jaxseg.types import Metric

PROGRAM = """
import sys
import jax
jax.config.update("jax_num_cpu_devices", 2)
index, port, folder = int(sys.argv[1]), sys.argv[2], sys.argv[3]
jax.distributed.initialize(f"localhost:{port}", num_processes=2, process_id=index)
import numpy as np
from test_processes import train
result = train(folder, rows=slice(8 * index, 8 * index + 8), kill=index == 1)
if result.stopped_by is not None:
    assert int(result.state.step) == 10, int(result.state.step)
    result = train(folder, rows=slice(8 * index, 8 * index + 8))
assert jax.device_count() == 4 and jax.process_count() == 2
leaves = jax.tree.leaves((result.state.params, result.state.model_state))
np.savez(f"{folder}/process{index}.npz", *map(np.asarray, leaves))
"""


class Part:
    def __init__(self, rows, kill):
        self.rows, self.kill = rows, kill

    def __iter__(self):
        for seed in range(100):
            if self.kill and seed == 4:
                os.kill(os.getpid(), signal.SIGTERM)
            yield {name: x[self.rows] for name, x in toys.batch(seed=seed).items()}


def correct():
    """How many pixels are right, and how many there are."""

    def measure(prediction, batch):
        counted = (batch["label"] >= 0) & (batch["weight"] > 0)[:, None, None]
        right = prediction["classes"] == batch["label"]
        return np.array([np.sum(right & counted), np.sum(counted)], np.int64)

    return Metric(measure, np.add, lambda sums: {"accuracy": sums[0] / sums[1], "n": sums[1]})


def train(folder, rows=slice(None), kill=False):
    """Twelve steps; the loop stops all processes after the tenth if one is killed before."""
    method, mesh = toys.two_networks(), data_mesh()
    row = Evaluation(method, correct(), [toys.batch(3, seed=1000), toys.batch(3, seed=1001)])

    def judge(state, step, log):
        return evaluate({"toy": row}, state.params, state.model_state, mesh)

    phase = Phase("", method, optax.sgd(0.1), 1, Part(rows, kill))
    schedule = Schedule(12, save_every=5, log_every=4, evaluate_every=4)
    return fit([phase], schedule, folder, evaluate=judge, mesh=mesh)


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path):
    whole = train(tmp_path / "one")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    shared = tmp_path / "two"
    shared.mkdir()
    here = pathlib.Path(__file__).parent
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(i), port, str(shared)],
            cwd=here,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for i in range(2)
    ]
    outputs = [process.communicate(timeout=240)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(outputs)
    expected = jax.device_get(jax.tree.leaves((whole.state.params, whole.state.model_state)))
    for i in range(2):
        with np.load(shared / f"process{i}.npz") as got:
            for name, leaf in zip(got.files, expected, strict=True):
                np.testing.assert_allclose(got[name], leaf, rtol=1e-4, atol=1e-6)
    lines, alone = read_metrics(shared), read_metrics(tmp_path / "one")
    judged = [(line["step"], line["toy/accuracy"]) for line in lines if "toy/n" in line]
    assert judged == [(line["step"], line["toy/accuracy"]) for line in alone if "toy/n" in line]
    assert [step for step, _ in judged] == [4, 8, 12]
