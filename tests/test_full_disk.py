"""A disk that fills up: real writes that fail, by RLIMIT_FSIZE."""

import contextlib
import os
import re
import resource
import subprocess
import sys

import pytest
from command_line import EXPERIMENT, TINY, assert_one_line, files, write_data

from jaxseg.train.log import Log, read_metrics
from jaxseg.types import InputError

SCRIPT = """
import resource, sys
from jaxseg.cli import main

run, data, out, *options = sys.argv[1:]
image = data + "/images/test/test0.png"
train = ["train", *options, "--data", data, "--workdir", run]
superpixels = ["superpixels", image, "-n", "12", "-o", out]
assert main(train) == 0 and main(superpixels) == 0
onwards = [*train, "--steps", "6", "--save-every", "2", "--log-every", "1"]
for limit, command in (
    (8000, onwards),
    (2000, onwards),
    (900, onwards),
    (300, onwards),
    (300, ["evaluate", run, "--data", data]),
    (100, superpixels),
    (100, ["predict", run, image, "-o", out]),
):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    print("=== limit", limit, "status", main(command), file=sys.stderr, flush=True)
"""


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """The folder of all, the environment, and what each command said."""
    root = tmp_path_factory.mktemp("full")
    # A cache of its own: what the limit cuts off there must not reach other tests.
    cache = {"JAX_COMPILATION_CACHE_DIR": str(root / "cache"), "JAX_NUM_CPU_DEVICES": "1"}
    environment = {**os.environ, **cache}
    command = [sys.executable, "-c", SCRIPT, root / "run", write_data(root / "set"), root / "out"]
    done = subprocess.run(
        [*map(str, command), str(EXPERIMENT), *TINY],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    *said, rest = re.split(r"=== limit \d+ status (\d+)\n", done.stderr)
    assert rest == "" and len(said) == 14, done.stderr
    return root, environment, list(zip(said[::2], said[1::2], strict=True))


def test_every_command_says_one_line(full):
    root, _, said = full
    unsaved = [root / "run/checkpoints", "File too large", "free space", "step 3 is whole"]
    expected = [
        unsaved,
        unsaved,
        unsaved,
        [root / "run/config.json", "not written", "its space"],
        [root / "run/evaluation_test.json", "not written", "its space"],
        [root / "out/test0.png", "not written", "its space"],
        [root / "out/test0_superpixels.png", "not written", "its space"],
    ]
    for (err, status), says in zip(said, expected, strict=True):
        assert status == "2"
        assert_one_line(err, says)


def test_nothing_is_lost_and_nothing_left_over(full):
    root, environment, _ = full
    run = root / "run"
    assert [p.name for p in (run / "checkpoints").iterdir()] == ["3"]
    names = {p.name for p in run.iterdir()}
    assert names == {"config.json", "experiment.py", "metrics.jsonl", "checkpoints", "events"}
    names = {str(p) for p in files(root / "out")}
    assert names == {"test0.png", "test0_overlay.png", "test0.json"}

    command = [sys.executable, "-m", "jaxseg", "train", EXPERIMENT, "--data", root / "set"]
    command += ["--workdir", run, *TINY, "--steps", 6, "--log-every", 1]
    done = subprocess.run(
        [str(a) for a in command], env=environment, capture_output=True, text=True, timeout=300
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert [line["step"] for line in read_metrics(run)] == [3, 4, 5, 6]
    assert [p.name for p in (run / "checkpoints").iterdir()] == ["6"]


@contextlib.contextmanager
def file_size_limit(size):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("figures", [1, 40])
def test_records_that_cannot_be_written_are_told_and_do_not_block(tmp_path, figures):
    """One figure fills metrics.jsonl first, many fill the events."""
    log = Log(tmp_path, start=0, steps=10_000)
    values = {f"figure_with_a_long_name_{i}": float(i) for i in range(figures)}
    with file_size_limit(20_000):
        with pytest.raises(InputError, match=r"records .* could not be written \(File too large"):
            for step in range(10_000):
                log.scalars(step, values)
        with contextlib.suppress(InputError):
            log.close()
    assert read_metrics(tmp_path)
    Log(tmp_path, start=3, steps=5).close()
    assert [line["step"] for line in read_metrics(tmp_path)] == [0, 1, 2, 3]
