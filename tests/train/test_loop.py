"""The one loop: records, checkpoints, resuming, signals, failures."""

import itertools
import json
import os
import signal

import chex
import jax
import numpy as np
import optax
import pytest
import toys

from jaxseg.train import NotFiniteError, Phase, Schedule, fit
from jaxseg.train.checkpoint import Checkpoints
from jaxseg.train.log import read_metrics
from jaxseg.train.sharding import data_mesh
from jaxseg.types import InputError


class Stream:
    """Endless batches that differ; the iterator keeps its place if `stateful`."""

    def __init__(self, stateful=True, at=None, value=None):
        self.stateful, self.at, self.value = stateful, at, value

    def __iter__(self):
        return (_Stateful if self.stateful else _Stateless)(self)


class _Stateless:
    def __init__(self, stream):
        self.stream, self.count = stream, 0

    def __next__(self):
        self.count += 1
        batch = toys.batch(seed=self.count)
        if self.count == self.stream.at:
            self.stream.value(batch)
        return batch


class _Stateful(_Stateless):
    def get_state(self):
        return {"count": self.count}

    def set_state(self, state):
        self.count = state["count"]


def alternating(stateful=True, shared=True):
    one, two = toys.two_heads()
    data = Stream(stateful)
    other = data if shared else Stream(stateful)
    return [
        Phase("one", one, optax.adam(1e-2), 2, data),
        Phase("two", two, optax.sgd(1e-1, momentum=0.9), 3, other),
    ]


def assert_identical(one, two):
    chex.assert_trees_all_equal(
        jax.device_get(one._replace(key=None)), jax.device_get(two._replace(key=None))
    )


@pytest.mark.parametrize("stateful", [True, False])
@pytest.mark.parametrize("shared", [True, False])
def test_resuming_inside_a_phase_equals_no_interruption(tmp_path, stateful, shared):
    whole = fit(alternating(stateful, shared), Schedule(9, ema_decay=0.9), tmp_path / "whole")
    for stop in (3, 4, 9):
        parts = fit(
            alternating(stateful, shared), Schedule(stop, ema_decay=0.9), tmp_path / "parts"
        )
    assert_identical(whole.state, parts.state)
    steps = [line["step"] for line in read_metrics(tmp_path / "parts")]
    assert steps == sorted(steps)


def test_a_generator_goes_on_where_it_stood(tmp_path):
    def batches():
        return (toys.batch(seed=i) for i in itertools.count())

    def run(steps, folder):
        phase = Phase("", toys.two_heads()[0], optax.sgd(0.1), 1, batches())
        return fit([phase], Schedule(steps), folder)

    whole = run(5, tmp_path / "whole")
    run(2, tmp_path / "parts")
    assert_identical(whole.state, run(5, tmp_path / "parts").state)


def test_a_schedule_that_contradicts_itself(tmp_path):
    with pytest.raises(ValueError, match="log_every is 0"):
        fit(alternating(), Schedule(2, log_every=0), tmp_path)
    with pytest.raises(ValueError, match="best is 'row/asa'; there are"):
        fit(
            alternating(),
            Schedule(2, best="row/asa"),
            tmp_path,
            evaluate=lambda state, step, log: {"row/score": 1.0},
        )


def test_nothing_is_retraced_and_nothing_moves_implicitly(tmp_path):
    method = toys.two_networks()
    traced = method._replace(loss=chex.assert_max_traces(method.loss, n=1))
    result = fit([Phase("", traced, optax.sgd(0.1), 1, Stream())], Schedule(5), tmp_path)
    assert int(result.state.step) == 5


def test_records(tmp_path):
    seen = []

    def evaluate(state, step, log):
        seen.append(step)
        log.picture(step, "row/picture", np.zeros((4, 5, 3), np.uint8))
        return {"row/score": float(-step)}

    schedule = Schedule(6, log_every=2, save_every=2, evaluate_every=2, best="row/score")
    result = fit(alternating(), schedule, tmp_path, evaluate=evaluate)
    assert seen == [2, 4, 6]
    assert result.figures == {"row/score": -6.0}
    assert result.stopped_by is None
    lines = read_metrics(tmp_path)
    assert [line["step"] for line in lines if "row/score" in line] == seen
    trained = next(line for line in lines if line["step"] == 6 and "one/loss" in line)
    assert trained["steps_per_second"] > 0
    assert (tmp_path / "pictures" / "row_picture_0000004.png").exists()
    assert list((tmp_path / "events").iterdir())
    kept = Checkpoints(tmp_path / "checkpoints", best="row/score", read_only=True)
    assert (kept.latest, kept.best) == (6, 2)


def test_a_figure_that_is_not_a_number_is_never_the_best(tmp_path):
    scores = {2: 0.9, 4: float("nan"), 6: 0.5}
    schedule = Schedule(6, evaluate_every=2, best="score")
    fit(alternating(), schedule, tmp_path, evaluate=lambda _, step, log: {"score": scores[step]})
    kept = Checkpoints(tmp_path / "checkpoints", best="score", read_only=True)
    assert (kept.latest, kept.best) == (6, 2)


def test_the_best_checkpoint_holds_the_weights_that_were_judged(tmp_path):
    scores = {2: 0.3, 4: 0.9, 6: 0.5, 8: 0.4}
    judged = {}

    def evaluate(state, step, log):
        judged[step] = jax.device_get(state.params)
        return {"row/score": scores[step]}

    # A save between two evaluations has no figure of its own.
    schedule = Schedule(8, save_every=5, evaluate_every=2, best="row/score")
    fit(alternating(), schedule, tmp_path, evaluate=evaluate)
    kept = Checkpoints(tmp_path / "checkpoints", best="row/score", read_only=True)
    assert (kept.latest, kept.best) == (8, 4)
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    params, _ = kept.restore_variables((judged[4], {}), device, kept.best)
    chex.assert_trees_all_equal(jax.device_get(params), judged[4])


def test_the_best_is_the_latest_where_nothing_was_judged(tmp_path):
    fit(alternating(), Schedule(6, save_every=2, best="row/score"), tmp_path)
    kept = Checkpoints(tmp_path / "checkpoints", best="row/score", read_only=True)
    assert (kept.latest, kept.best) == (6, 6)


def test_lines_after_the_checkpoint_are_dropped_on_resume(tmp_path):
    fit(alternating(), Schedule(4, log_every=1), tmp_path)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 5, "one/loss": 1.0}) + '\n{"step": 6, "on')
    fit(alternating(), Schedule(6, log_every=1), tmp_path)
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_stops(tmp_path, number):
    phases = [
        Phase(
            "",
            toys.two_heads()[0],
            optax.sgd(0.1),
            1,
            Stream(at=4, value=lambda batch: os.kill(os.getpid(), number)),
        )
    ]
    result = fit(phases, Schedule(20), tmp_path)
    assert result.stopped_by == number
    stopped = int(result.state.step)
    assert stopped < 20
    assert Checkpoints(tmp_path / "checkpoints", read_only=True).latest == stopped
    resumed = fit(phases[:1], Schedule(20), tmp_path)
    whole = fit([phases[0]._replace(data=Stream())], Schedule(20), tmp_path / "whole")
    assert_identical(resumed.state, whole.state)


def test_a_loss_that_is_not_finite_stops_with_step_and_metric(tmp_path):
    def spoil(batch):
        batch["image"][:] = np.inf

    phases = [Phase("", toys.two_heads()[0], optax.sgd(0.1), 1, Stream(at=7, value=spoil))]
    with pytest.raises(NotFiniteError, match=r"step 7: .*(ce|loss) is nan.* step 4 is kept"):
        fit(phases, Schedule(20, save_every=4), tmp_path)
    kept = Checkpoints(tmp_path / "checkpoints", read_only=True)
    assert kept.latest == 4


def test_a_batch_that_cannot_be_spread_is_refused(tmp_path):
    class Odd(Stream):
        def __iter__(self):
            yield from (toys.batch(6) for _ in range(3))

    phases = [Phase("", toys.two_heads()[0], optax.sgd(0.1), 1, Odd())]
    with pytest.raises(InputError, match="multiple of 8"):
        fit(phases, Schedule(2), tmp_path)
    fit(phases, Schedule(2), tmp_path, mesh=data_mesh(jax.devices()[:2]))


class TestCheckpoints:
    def run(self, folder, steps=4):
        return fit(alternating(), Schedule(steps, save_every=2, best="x", log_every=100), folder)

    def test_a_damaged_checkpoint_is_named_with_its_mend(self, tmp_path):
        self.run(tmp_path)
        folder = tmp_path / "checkpoints" / "4"
        for path in (folder / "variables").rglob("*"):
            if path.is_file():
                path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(InputError, match=r"checkpoints/4: .*damaged.*delete that folder"):
            self.run(tmp_path, 6)

    def test_weights_of_another_network_are_refused(self, tmp_path):
        self.run(tmp_path)
        phases = [Phase("", toys.instances(), optax.sgd(0.1), 1, Stream())]
        with pytest.raises(InputError, match="another network"):
            fit(phases, Schedule(6), tmp_path)

    def test_no_checkpoint(self, tmp_path):
        state = self.run(tmp_path).state
        empty = Checkpoints(tmp_path / "other")
        with pytest.raises(InputError, match="no checkpoint"):
            empty.restore(state)

    def test_what_a_kill_left_over_is_cleared(self, tmp_path):
        self.run(tmp_path)
        rest = tmp_path / "checkpoints" / "5.orbax-checkpoint-tmp"
        rest.mkdir()
        Checkpoints(tmp_path / "checkpoints", read_only=True)
        assert rest.exists()
        self.run(tmp_path, 5)
        assert not rest.exists()

    def test_restore_onto_fewer_devices(self, tmp_path):
        state = self.run(tmp_path).state
        kept = Checkpoints(tmp_path / "checkpoints", read_only=True)
        one = jax.sharding.SingleDeviceSharding(jax.devices()[3])
        params, _ = kept.restore_variables((state.params, state.model_state), one)
        chex.assert_trees_all_equal(jax.device_get(params), jax.device_get(state.params))
        assert {d for x in jax.tree.leaves(params) for d in x.devices()} == {jax.devices()[3]}


@pytest.mark.parametrize("ema_decay", [None, 0.9])
def test_a_run_begins_with_given_variables_and_goes_on_without_them(tmp_path, ema_decay):
    seen = []

    def initial(params, model_state):
        seen.append(params)
        return jax.tree.map(lambda x: x + 1, params), model_state

    def run(steps, folder, initial):
        schedule = Schedule(steps=steps, seed=3, log_every=1, save_every=1, ema_decay=ema_decay)
        return fit(alternating(), schedule, folder, initial=initial).state

    begun = run(0, tmp_path / "a", initial)
    (random,) = seen
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(random))
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b + 1), begun.params, random)
    if ema_decay:
        jax.tree.map(np.testing.assert_array_equal, begun.ema["params"], begun.params)
    resumed = run(3, tmp_path / "a", lambda *variables: pytest.fail("called again"))
    whole = run(3, tmp_path / "b", initial)
    jax.tree.map(np.testing.assert_array_equal, resumed.params, whole.params)
