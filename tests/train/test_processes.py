"""Two processes, each with its part of the batch, train as one does."""

import pathlib
import socket
import subprocess
import sys

import jax
import numpy as np
import optax
import pytest
import toys

from jaxseg.train import Phase, Schedule, fit
from jaxseg.train.log import read_metrics

PROGRAM = """
import sys
import jax
jax.config.update("jax_num_cpu_devices", 2)
index, port, folder = int(sys.argv[1]), sys.argv[2], sys.argv[3]
jax.distributed.initialize(f"localhost:{port}", num_processes=2, process_id=index)
import numpy as np
from test_processes import train
result = train(folder, rows=slice(8 * index, 8 * index + 8))
assert jax.device_count() == 4 and jax.process_count() == 2
leaves = jax.tree.leaves((result.state.params, result.state.model_state))
np.savez(f"{folder}/process{index}.npz", *map(np.asarray, leaves))
"""


class Part:
    def __init__(self, rows):
        self.rows = rows

    def __iter__(self):
        for seed in range(100):
            yield {name: x[self.rows] for name, x in toys.batch(seed=seed).items()}


def train(folder, rows=slice(None), mesh=None):
    phase = Phase("", toys.two_networks(), optax.sgd(0.1), 1, Part(rows))
    return fit([phase], Schedule(5, save_every=2, log_every=2), folder, mesh=mesh)


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
    steps = [line["step"] for line in read_metrics(shared)]
    assert steps == [2, 4, 5]
