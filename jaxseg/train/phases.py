"""Training in turns: which method, optimizer and data serve a given step.

Everything follows from the step number alone, so that a run resumed inside a phase goes on
exactly as it would have.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import optax

from jaxseg.train.state import TrainState
from jaxseg.train.step import TrainStep, make_train_step
from jaxseg.types import Batch, Method

DataSource = Iterable[Batch]
"""Gives an endless iterator of host batches. Where that iterator has `get_state()`, of JSON values,
and `set_state(state)`, a checkpoint keeps the state; otherwise a resumed run draws and drops the
batches that were used."""


class Phase(NamedTuple):
    """A stretch of training; the loop cycles a list of them."""

    name: str
    method: Method
    optimizer: optax.GradientTransformation
    """Phases that hold the same object share its state."""
    steps: int
    """In a row, before the next phase has its turn."""
    data: DataSource
    """Phases that hold the same object share its iterator."""


class Place(NamedTuple):
    """Where a step lies."""

    phase: int
    inner: int
    """Steps that this phase has taken in this turn."""


def check_phases(phases: Sequence[Phase]) -> None:
    """Raises ValueError unless there is a phase, each has steps, and names differ."""
    if not phases:
        raise ValueError("no phase to train")
    for phase in phases:
        if phase.steps < 1:
            raise ValueError(f"phase {phase.name!r} needs at least 1 step, got {phase.steps}")
    names = [phase.name for phase in phases]
    if len(set(names)) < len(names):
        raise ValueError(f"phases need names that differ, got {names}")


def locate(phases: Sequence[Phase], step: int) -> Place:
    """The place of step number `step`, counted from 0."""
    inner = step % sum(phase.steps for phase in phases)
    for i, phase in enumerate(phases):
        if inner < phase.steps:
            return Place(i, inner)
        inner -= phase.steps
    raise ValueError("unreachable: inner is below the sum of the steps")


def distinct(items: Sequence[object]) -> tuple[list, list[int]]:
    """The objects without repetition, by identity, and the slot of each item among them."""
    found: list = []
    slots = []
    for item in items:
        slot = next((i for i, other in enumerate(found) if other is item), len(found))
        if slot == len(found):
            found.append(item)
        slots.append(slot)
    return found, slots


def optimizers(phases: Sequence[Phase]) -> tuple[optax.GradientTransformation, ...]:
    """The distinct optimizers; `TrainState.opt_state` of the loop is the tuple of their states."""
    return tuple(distinct([phase.optimizer for phase in phases])[0])


def batches_used(phases: Sequence[Phase], step: int) -> list[int]:
    """How many batches each distinct data source has given before `step`."""
    sources, slots = distinct([phase.data for phase in phases])
    cycles, rest = divmod(step, sum(phase.steps for phase in phases))
    used = [0] * len(sources)
    for phase, slot in zip(phases, slots, strict=True):
        used[slot] += cycles * phase.steps + min(rest, phase.steps)
        rest = max(0, rest - phase.steps)
    return used


def make_phase_steps(
    phases: Sequence[Phase],
    *,
    accumulate: int = 1,
    ema_decay: float | None = None,
    axis_name: str | None = None,
) -> list[TrainStep]:
    """One train step per phase, over a state whose `opt_state` is that of all `optimizers`."""
    _, slots = distinct([phase.optimizer for phase in phases])

    def make(phase: Phase, slot: int) -> TrainStep:
        inner = make_train_step(
            phase.method.loss,
            phase.optimizer,
            accumulate=accumulate,
            ema_decay=ema_decay,
            axis_name=axis_name,
        )

        def step(state: TrainState, batch: Batch):
            states = list(state.opt_state)
            new, metrics = inner(state._replace(opt_state=states[slot]), batch)
            states[slot] = new.opt_state
            return new._replace(opt_state=tuple(states)), metrics

        return step

    return [make(phase, slot) for phase, slot in zip(phases, slots, strict=True)]
