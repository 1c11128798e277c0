"""Checkpoints: what a run needs to go on, and what a user needs to predict.

A checkpoint has four items, so that each can be read without the others: `variables` (params and
model_state to predict with), `training` (the rest of the state), `data` (iterator states) and
`figures` (the evaluation that it was saved with).
"""

import logging
import math
import os
import re
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from jax.sharding import Sharding
from orbax.checkpoint.checkpoint_managers import preservation_policy as policy

from jaxseg.train.state import TrainState, evaluation_variables
from jaxseg.types import InputError, PyTree


class Restored(NamedTuple):
    """What a checkpoint held."""

    state: TrainState
    data: list[Any]
    """Iterator states, one for each distinct data source."""


class Checkpoints:
    """The checkpoints of one run: always the latest, and the best by a figure.

    Saving happens in the background; an interrupted save leaves the earlier checkpoints whole.
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        best: str = "",
        lowest: bool = False,
        read_only: bool = False,
    ):
        """Opens or makes the folder.

        Args:
            folder: of the checkpoints.
            best: the figure that decides which checkpoint is the best; "" keeps the latest alone.
            lowest: whether smaller is better.
            read_only: leave the folder as it is; another process may be writing to it.
        """
        self.folder = Path(folder).absolute()
        self._best = best
        self._failed = False
        _quiet_orbax()
        keep: policy.PreservationPolicy = policy.LatestN(1)
        best_fn = None
        if best:
            sign = -1.0 if lowest else 1.0

            def best_fn(figures: Mapping[str, float]) -> float:
                return sign * figures[best]

            # A best_fn with max_to_keep would delete the latest checkpoint.
            keep = policy.AnyPreservationPolicy([keep, policy.BestN(get_metric_fn=best_fn, n=1)])
        try:
            if not read_only:
                self._clear()
            self._manager = ocp.CheckpointManager(
                self.folder,
                options=ocp.CheckpointManagerOptions(
                    preservation_policy=keep,
                    best_fn=best_fn,
                    create=not read_only,
                    read_only=read_only,
                ),
            )
        except OSError as error:
            raise InputError(
                f"{self.folder}: cannot keep checkpoints here ({_reason(error)}); "
                "choose another --workdir"
            ) from error

    @property
    def latest(self) -> int | None:
        """The step of the newest whole checkpoint."""
        return self._manager.latest_step()

    @property
    def best(self) -> int | None:
        """The step of the best checkpoint; the latest where none has the figure."""
        step = self._manager.best_step() if self._best else None
        return self.latest if step is None else step

    def save(self, state: TrainState, data: list[Any], figures: Mapping[str, float]) -> None:
        """Begins to save; the state may be donated as soon as this returns.

        Raises:
            InputError: if this save, or the one before, could not be written.
        """
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        params, model_state = evaluation_variables(state)
        variables = {"step": state.step, "params": params, "model_state": model_state}
        # A NaN would break the order of the others.
        judged = self._best and math.isfinite(figures.get(self._best, math.nan))
        try:
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    variables=ocp.args.StandardSave(variables),
                    training=ocp.args.StandardSave(_training(state)),
                    data=ocp.args.JsonSave({"iterators": data}),
                    figures=ocp.args.JsonSave(dict(figures)),
                ),
                metrics=dict(figures) if judged else None,
            )
        except Exception as error:
            raise self._unwritten(error) from error

    def wait(self) -> None:
        """Waits for the save under way.

        Raises:
            InputError: if it could not be written; earlier checkpoints are whole.
        """
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            raise self._unwritten(error) from error

    def close(self) -> None:
        """Waits and lets go of the folder.

        Raises:
            InputError: as `wait`; what the failed save left over is deleted.
        """
        try:
            self.wait()
            self._manager.close()
        finally:
            if self._failed:
                self._clear(patience=2.0)

    def _clear(self, *, patience: float = 0.0) -> None:
        """Deletes what is no checkpoint; for `patience` seconds, if something still writes."""
        end = time.monotonic() + patience
        while left_over := list(self.folder.glob("*.orbax-checkpoint-tmp*")):
            for path in left_over:
                shutil.rmtree(path, ignore_errors=True)
            if time.monotonic() >= end:
                break
            time.sleep(0.1)

    def restore(self, like: TrainState, step: int | None = None) -> Restored:
        """Reads a whole checkpoint back, onto the shardings of `like`.

        Args:
            like: a state, or its `jax.ShapeDtypeStruct`s with shardings.
            step: None: the latest.

        Raises:
            InputError: if there is none, it is damaged, or it belongs to another network.
        """
        params, model_state = evaluation_variables(like)
        variables = {"step": like.step, "params": params, "model_state": model_state}
        items = self._restore(
            step,
            variables=ocp.args.StandardRestore(_abstract(variables)),
            training=ocp.args.StandardRestore(_abstract(_training(like))),
            data=ocp.args.JsonRestore(),
        )
        training = items.training
        variables = {k: items.variables[k] for k in ("params", "model_state")}
        averaged = like.ema is not None
        state = TrainState(
            step=training["step"],
            key=training["key"],
            params=training["params"] if averaged else variables["params"],
            model_state=training["model_state"] if averaged else variables["model_state"],
            opt_state=training["opt_state"],
            ema=variables if averaged else None,
        )
        return Restored(state, items.data["iterators"])

    def restore_variables(
        self, like: PyTree, sharding: Sharding, step: int | None = None
    ) -> tuple[PyTree, PyTree]:
        """Reads `(params, model_state)` alone, to predict with.

        Args:
            like: `(params, model_state)` of arrays or `jax.ShapeDtypeStruct`.
            sharding: where they are to lie.
            step: None: the latest.

        Raises:
            InputError: as `restore`.
        """
        target = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
            {
                "step": jax.ShapeDtypeStruct((), jnp.int32),
                "params": like[0],
                "model_state": like[1],
            },
        )
        items = self._restore(step, variables=ocp.args.StandardRestore(target))
        return items.variables["params"], items.variables["model_state"]

    def _restore(self, step: int | None, **items: Any) -> Any:
        step = self.latest if step is None else step
        if step is None:
            raise InputError(f"{self.folder}: there is no checkpoint; train first")
        try:
            return self._manager.restore(step, args=ocp.args.Composite(**items))
        except Exception as error:
            others = [s for s in self._manager.all_steps() if s != step]
            mend = (
                f"delete that folder to go on from step {max(others)}"
                if others
                else "delete that folder and train again"
            )
            raise InputError(
                f"{self.folder / str(step)}: this checkpoint is damaged or of another network "
                f"({_first_line(error)}); {mend}"
            ) from error

    def _unwritten(self, error: Exception) -> InputError:
        self._failed = True
        # The manager has forgotten already what it was to delete after this save.
        whole = self._manager.all_steps(read=True)
        kept = f"the checkpoint of step {max(whole)} is whole" if whole else "none is kept"
        return InputError(
            f"{self.folder}: a checkpoint could not be written ({_reason(error)}); "
            f"free space or choose another --workdir; {kept}"
        )


def _training(state: TrainState) -> dict[str, PyTree]:
    tree = {"step": state.step, "key": state.key, "opt_state": state.opt_state}
    if state.ema is not None:
        tree |= {"params": state.params, "model_state": state.model_state}
    return tree


def _abstract(tree: PyTree) -> PyTree:
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=getattr(x, "sharding", None)),
        tree,
    )


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


def _reason(error: BaseException) -> str:
    """What the system says, where the libraries between tell it at all."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    number = re.search(r"os_error_code='(\d+)'", str(error))
    return os.strerror(int(number[1])) if number else _first_line(error)


def _quiet_orbax() -> None:
    """Its advice is of no use to our users; its errors are raised besides being logged."""
    for name in ("absl", "asyncio"):
        logging.getLogger(name).addFilter(_not_of_orbax)


def _not_of_orbax(record: logging.LogRecord) -> bool:
    return "orbax" not in record.pathname and "orbax" not in record.getMessage()
