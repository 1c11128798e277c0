"""The one training loop."""

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxseg.train.checkpoint import Checkpoints
from jaxseg.train.experiment import Schedule
from jaxseg.train.log import Log
from jaxseg.train.phases import (
    Phase,
    batches_used,
    check_phases,
    distinct,
    locate,
    make_phase_steps,
    optimizers,
)
from jaxseg.train.sharding import compile_step, data_mesh, put_batch, replicated
from jaxseg.train.state import TrainState, init_state
from jaxseg.types import Batch, PyTree

_AGREE_EVERY = 10
"""Steps between which several processes ask each other whether to stop."""


class NotFiniteError(ArithmeticError):
    """The loss or its gradient is not finite; the message says where."""


class FitResult(NamedTuple):
    """How training ended."""

    state: TrainState
    figures: dict[str, float]
    """Of the last evaluation; empty if there was none."""
    stopped_by: int | None
    """The signal that ended it early, after a save; None at its proper end."""


Evaluate = Callable[[TrainState, int, Log], dict[str, float]]
"""(state, step, log) -> figures; may record pictures."""


Initial = Callable[[PyTree, PyTree], tuple[PyTree, PyTree]]
"""Random `(params, model_state)` on the host -> those to begin with, of the same shapes."""


def fit(
    phases: Sequence[Phase],
    schedule: Schedule,
    workdir: Path | str,
    *,
    evaluate: Evaluate | None = None,
    initial: Initial | None = None,
    mesh: Mesh | None = None,
) -> FitResult:
    """Trains, or goes on where the run in `workdir` stopped.

    The folder gets checkpoints/, metrics.jsonl, events/ and pictures/. On SIGTERM or SIGINT the
    step under way is finished and saved. A resumed run takes the same steps on the same data as
    one that was never stopped.

    Args:
        phases: in their turns.
        schedule: the numbers.
        workdir: the run's folder.
        evaluate: called every `schedule.evaluate_every` steps and after the last.
        initial: what a run begins with instead of random variables; a run that goes on does not
            call it.
        mesh: None: one over all devices.

    Raises:
        NotFiniteError: where a loss or gradient is not finite, with the step and the metric; the
            last good checkpoint is kept.
        InputError: if a checkpoint cannot be read or written, or a batch cannot be spread.
        ValueError: if the phases or the schedule contradict themselves.
    """
    check_phases(phases)
    if schedule.log_every < 1:
        raise ValueError(f"log_every is {schedule.log_every}; expected 1 or more")
    mesh = data_mesh() if mesh is None else mesh
    folder = Path(workdir)
    streams = [_Stream(source) for source in distinct([phase.data for phase in phases])[0]]
    slots = distinct([phase.data for phase in phases])[1]
    checkpoints = Checkpoints(folder / "checkpoints", best=schedule.best, lowest=schedule.lowest)
    state = _start(phases, schedule, mesh, streams[slots[0]].peek())
    if checkpoints.latest is not None:
        restored = checkpoints.restore(state)
        state = restored.state
        used = batches_used(phases, int(state.step))
        for stream, saved, count in zip(streams, restored.data, used, strict=True):
            stream.resume(saved, count)
    elif initial is not None:
        state = _begin_with(state, initial, mesh)

    steps = [
        compile_step(step, mesh)
        for step in make_phase_steps(
            phases, accumulate=schedule.accumulate, ema_decay=schedule.ema_decay
        )
    ]
    step = int(state.step)
    log = Log(folder, start=step, steps=schedule.steps)
    meter = _Meter(log, checkpoints, step)
    figures: dict[str, float] = {}
    evaluated = -1

    def save() -> None:
        meter.flush(step)
        # Figures of earlier weights would let these be taken for the best.
        mine = figures if evaluated == step else {}
        checkpoints.save(state, [stream.state() for stream in streams], mine)

    try:
        with _Signals() as signals:
            stop = None
            while step < schedule.steps and stop is None:
                place = locate(phases, step)
                batch = put_batch(next(streams[slots[place.phase]]), mesh)
                with jax.transfer_guard("disallow"):
                    state, metrics = steps[place.phase](state, batch)
                step += 1
                meter.add(metrics, phases[place.phase].name if len(phases) > 1 else "")
                last = step == schedule.steps
                if step % schedule.log_every == 0 or last:
                    meter.flush(step)
                if evaluate and (_due(step, schedule.evaluate_every) or last):
                    meter.flush(step)
                    figures, evaluated = evaluate(state, step, log), step
                    if schedule.best and schedule.best not in figures:
                        raise ValueError(f"best is {schedule.best!r}; there are {sorted(figures)}")
                    log.scalars(step, figures, show=_sentence(step, figures))
                    meter.restart()
                judged = evaluated == step and schedule.best
                if _due(step, schedule.save_every) or last or judged:
                    save()
                stop = signals.agreed(step)
            if checkpoints.latest is None or (stop is not None and step < schedule.steps):
                save()
    finally:
        try:
            log.close()
        finally:
            checkpoints.close()
    return FitResult(state, figures, stop if step < schedule.steps else None)


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _start(phases: Sequence[Phase], schedule: Schedule, mesh: Mesh, batch: Batch) -> TrainState:
    def init(key: jax.Array) -> TrainState:
        return init_state(
            key,
            phases[0].method,
            batch,
            optimizers(phases),
            ema=schedule.ema_decay is not None,
        )

    return jax.jit(init, out_shardings=replicated(mesh))(jax.random.key(schedule.seed))


def _begin_with(state: TrainState, initial: Initial, mesh: Mesh) -> TrainState:
    """The state with given variables; optimizers begin with moments of 0 whatever these are."""
    params, model_state = initial(*jax.device_get((state.params, state.model_state)))
    params, model_state = jax.device_put((params, model_state), replicated(mesh))
    ema = None
    if state.ema is not None:
        ema = jax.tree.map(jnp.copy, {"params": params, "model_state": model_state})
    return state._replace(params=params, model_state=model_state, ema=ema)


class _Stream:
    """An iterator of batches that knows its place."""

    def __init__(self, source: Any):
        self._source = source
        self._iterator: Iterator[Batch] = iter(source)
        self._peeked: tuple[Any, Batch] | None = None

    def peek(self) -> Batch:
        """The next batch, left in its place."""
        self._peeked = (self.state(), next(self._iterator))
        return self._peeked[1]

    def __next__(self) -> Batch:
        if self._peeked is not None:
            batch, self._peeked = self._peeked[1], None
            return batch
        return next(self._iterator)

    def state(self) -> Any:
        """The place, of JSON values; None where the iterator cannot tell."""
        if self._peeked is not None:
            return self._peeked[0]
        return self._iterator.get_state() if hasattr(self._iterator, "get_state") else None

    def resume(self, state: Any, used: int) -> None:
        """Goes to a saved place, or, where there is none, past the batches that were used."""
        if state is not None:
            self._peeked = None
            self._iterator = iter(self._source)
            self._iterator.set_state(state)  # type: ignore[attr-defined]
            return
        for _ in range(used):
            next(self)


class _Signals:
    """Remembers SIGTERM or SIGINT; a second one acts at once."""

    def __init__(self) -> None:
        self.caught: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "_Signals":
        for number in (signal.SIGTERM, signal.SIGINT):
            try:
                self._before[number] = signal.signal(number, self._remember)
            except ValueError:  # Not the main thread: signals are not ours to catch.
                break
        return self

    def _remember(self, number: int, frame: Any) -> None:
        self.caught = number
        self._restore()

    def agreed(self, step: int) -> int | None:
        """The signal that any process caught; asked for after the same steps by all of them."""
        if jax.process_count() == 1:
            return self.caught
        if step % _AGREE_EVERY:
            return None
        from jax.experimental import multihost_utils

        caught = multihost_utils.process_allgather(np.array(self.caught or 0, np.int32))
        return int(caught.max()) or None

    def _restore(self) -> None:
        while self._before:
            signal.signal(*self._before.popitem())

    def __exit__(self, *_: object) -> None:
        self._restore()


class _Meter:
    """Collects metrics on the device and fetches them together."""

    def __init__(self, log: Log, checkpoints: Checkpoints, step: int):
        self._log, self._checkpoints = log, checkpoints
        self._pending: list[tuple[str, Any]] = []
        self._since = time.perf_counter()
        self._step = step

    def add(self, metrics: Any, prefix: str) -> None:
        """Notes a step, and waits for the one before the last.

        Two steps queued keep the devices busy; more would only delay a stop that a signal asks for.
        """
        self._pending.append((prefix, metrics))
        if len(self._pending) > 2:
            jax.block_until_ready(self._pending[-3][1])

    def restart(self) -> None:
        """Leaves out of the rate what was not training."""
        self._since = time.perf_counter()

    def flush(self, step: int) -> None:
        """Fetches, checks and records what has come since the last time."""
        if not self._pending:
            return
        names = [name for name, _ in self._pending]
        fetched = jax.device_get([metrics for _, metrics in self._pending])
        self._pending = []
        first = step - len(fetched) + 1
        for i, (name, metrics) in enumerate(zip(names, fetched, strict=True)):
            if not metrics["ok"]:
                raise NotFiniteError(self._complaint(first + i, name, metrics))
        figures: dict[str, float] = {}
        for name in dict.fromkeys(names):
            mine = [m for n, m in zip(names, fetched, strict=True) if n == name]
            for metric in mine[0]:
                if metric != "ok":
                    label = f"{name}/{metric}" if name else metric
                    figures[label] = float(np.mean([m[metric] for m in mine]))
        now = time.perf_counter()
        figures["steps_per_second"] = len(fetched) / max(now - self._since, 1e-9)
        self._since = now
        self._log.scalars(step, figures, show=_sentence(step, figures))

    def _complaint(self, step: int, phase: str, metrics: Any) -> str:
        bad = [f"{k} is {v}" for k, v in metrics.items() if not np.all(np.isfinite(v))]
        where = f"step {step}" + (f" of phase {phase!r}" if phase else "")
        kept = self._checkpoints.latest
        good = f"the checkpoint of step {kept} is kept" if kept else "no checkpoint was saved yet"
        return f"{where}: {', '.join(bad)}; {good}; try a lower learning rate"


def _sentence(step: int, figures: dict[str, float]) -> str:
    return f"step {step}: " + ", ".join(f"{k} {v:.4g}" for k, v in figures.items())
