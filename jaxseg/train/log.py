"""Where a run writes what it sees: metrics.jsonl, TensorBoard events, pictures, the terminal."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np


class Log:
    """The records of one run; a resumed run drops what came after its checkpoint."""

    def __init__(self, folder: Path, *, start: int, steps: int):
        """Opens the records.

        Args:
            folder: of the run.
            start: the step that the run goes on from; later lines are removed.
            steps: the last step, for the progress bar.
        """
        from tensorboardX import SummaryWriter
        from tqdm import tqdm

        self._writes = jax.process_index() == 0
        self._folder = folder
        self._bar = tqdm(
            total=steps, initial=start, unit="step", disable=not sys.stderr.isatty(), smoothing=0.1
        )
        if not self._writes:
            return
        path = folder / "metrics.jsonl"
        _keep_until(path, start)
        self._lines = path.open("a")
        self._events = SummaryWriter(
            str(folder / "events"), purge_step=start + 1 if start else None
        )

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
        self._lines.write(json.dumps({"step": step, **figures}) + "\n")
        self._lines.flush()
        for name, value in figures.items():
            self._events.add_scalar(name, value, step)

    def picture(self, step: int, name: str, image: np.ndarray) -> None:
        """Records a picture, uint8 `[H, W, 3]`, as an event and as a file."""
        if not self._writes:
            return
        from PIL import Image

        self._events.add_image(name, image, step, dataformats="HWC")
        folder = self._folder / "pictures"
        folder.mkdir(exist_ok=True)
        Image.fromarray(image).save(folder / f"{name.replace('/', '_')}_{step:07d}.png")

    def close(self) -> None:
        """Ends the records."""
        self._bar.close()
        if self._writes:
            self._lines.close()
            self._events.close()


def _keep_until(path: Path, step: int) -> None:
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except ValueError:  # The line that a kill cut off.
            continue
    path.write_text("".join(line + "\n" for line in kept))


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
