"""Where a run writes what it sees: metrics.jsonl, TensorBoard events, pictures, the terminal."""

import contextlib
import json
import os
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxseg.data.files import write_text
from jaxseg.data.images import write_image
from jaxseg.types import InputError

FLUSH_SECONDS = 10.0
"""How late TensorBoard may see an event."""


class Log:
    """The records of one run; a resumed run drops what came after its checkpoint."""

    def __init__(self, folder: Path, *, start: int, steps: int):
        """Opens the records.

        Args:
            folder: of the run.
            start: the step that the run goes on from; later lines are removed.
            steps: the last step, for the progress bar.

        Raises:
            InputError: if they cannot be written, as every method.
        """
        from tqdm import tqdm

        self._writes = jax.process_index() == 0
        self._folder = folder
        self._bar = tqdm(
            total=steps, initial=start, unit="step", disable=not sys.stderr.isatty(), smoothing=0.1
        )
        if not self._writes:
            return
        path = folder / "metrics.jsonl"
        with _telling(folder):
            _keep_until(path, start)
            self._lines = path.open("a")
            self._events = _Events(folder / "events", start)

    def scalars(self, step: int, figures: Mapping[str, float], *, show: str = "") -> None:
        """Records figures, and says `show` where there is no progress bar."""
        self._bar.update(max(0, step - self._bar.n))
        if self._bar.disable:
            if show:
                print(show, flush=True)
        elif "loss" in figures:
            self._bar.set_postfix(loss=f"{figures['loss']:.4g}", refresh=False)
        elif show:
            self._bar.write(show)
        if not self._writes:
            return
        with _telling(self._folder):
            self._lines.write(json.dumps({"step": step, **figures}) + "\n")
            self._lines.flush()
            self._events.scalars(step, figures)

    def picture(self, step: int, name: str, image: np.ndarray) -> None:
        """Records a picture, uint8 `[H, W, 3]`, as an event and as a file."""
        if not self._writes:
            return
        folder = self._folder / "pictures"
        with _telling(self._folder):
            self._events.picture(step, name, image)
            folder.mkdir(exist_ok=True)
        write_image(folder / f"{name.replace('/', '_')}_{step:07d}.png", image)

    def close(self) -> None:
        """Ends the records."""
        self._bar.close()
        if self._writes:
            with _telling(self._folder), contextlib.closing(self._lines):
                self._events.close()


class _Events:
    """TensorBoard's event file.

    Written in the caller's thread: the thread of tensorboardX's SummaryWriter dies of a full disk,
    after which its queue fills up and `add_scalar` never returns.
    """

    def __init__(self, folder: Path, start: int):
        from tensorboardX.proto.event_pb2 import SessionLog
        from tensorboardX.record_writer import RecordWriter

        folder.mkdir(exist_ok=True)
        # A run may be stopped and gone on within a second.
        suffix = f"{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
        self._writer = RecordWriter(str(folder / f"events.out.tfevents.{suffix}"))
        self._flushed = time.monotonic()
        self._add(0, file_version="brain.Event:2")
        if start:
            # TensorBoard forgets what earlier files say of this step and later ones.
            self._add(start + 1, session_log=SessionLog(status=SessionLog.START))

    def _add(self, step: int, **what: Any) -> None:
        from tensorboardX.proto.event_pb2 import Event

        event = Event(wall_time=time.time(), step=step, **what)
        self._writer.write(event.SerializeToString())

    def scalars(self, step: int, figures: Mapping[str, float]) -> None:
        from tensorboardX.summary import scalar

        for name, value in figures.items():
            self._add(step, summary=scalar(name, value))
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self._writer.flush()
            self._flushed = time.monotonic()

    def picture(self, step: int, name: str, image: np.ndarray) -> None:
        from tensorboardX.summary import image as summary

        self._add(step, summary=summary(name, image, dataformats="HWC"))

    def close(self) -> None:
        self._writer.close()


@contextlib.contextmanager
def _telling(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{error.filename or folder}: the records of the run could not be written "
            f"({error.strerror}); free space, and the same command goes on from the last checkpoint"
        ) from error


def _keep_until(path: Path, step: int) -> None:
    if not path.exists():
        return
    kept = [line for line in read_metrics(path.parent) if line["step"] <= step]
    write_text(path, "".join(json.dumps(line) + "\n" for line in kept))


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl, without one that a kill or a full disk cut off."""
    lines = []
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        with contextlib.suppress(ValueError):
            lines.append(json.loads(line))
    return lines
