"""Superpixels against the number of regions: rows measured once, curves and tables from them.

Shared by compare_superpixels.py and ssn_ablation.py. A row is one way to segment, asked for one
number of superpixels, over all pairs of an image and an annotation; a curve is the rows of one way.
"""

import dataclasses
import functools
import json
import math
import os
import statistics
import time
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxseg import __version__, data, metrics
from jaxseg.commands.options import check_data, progress
from jaxseg.predictor import Predictor
from jaxseg.types import Batch, InputError

FIGURES = {"asa": "ASA", "br": "BR", "bp": "BP", "ue_np": "UE", "co": "CO"}
"""Those of `metrics.superpixel` that are told, and their names in tables."""

Curve = Mapping[str, np.ndarray]
"""Figures of one way to segment, arrays of one length by rising "regions"."""


class Segmenter(NamedTuple):
    """A way to segment."""

    name: str
    version: str
    """What its figures depend on: a library's release and options, a checksum of weights."""
    segment: Callable[[np.ndarray, int], np.ndarray]
    """(uint8 `[H, W, 3]`, number asked for) -> regions `[H, W]`, 0 or more."""


def predicting(name: str, predictor: Predictor) -> Segmenter:
    """A trained network as a way to segment."""
    checksum = 0
    for leaf in jax.tree.leaves((predictor.params, predictor.model_state)):
        checksum = zlib.crc32(np.asarray(leaf).tobytes(), checksum)

    def segment(image: np.ndarray, requested: int) -> np.ndarray:
        return predictor(image, num_superpixels=requested)["superpixels"]

    return Segmenter(name, f"jaxseg {__version__}, weights {checksum:08x}", segment)


class Pairs(NamedTuple):
    """Images with all their annotations."""

    name: str
    split: str
    batches: Iterable[Batch]
    """Of one image each; may be iterated again."""
    images: int
    total: int
    """Images of the split, of which `images` are measured."""


def open_pairs(folder: Path, split: str, limit: int = 0) -> Pairs:
    """Opens a split of a folder of segmentations.

    Args:
        folder: see `data.open_data`.
        split: such as "test".
        limit: the first images alone; 0: all.

    Raises:
        InputError: there is no such folder or split, or it has no label maps.
    """
    check_data(folder)
    if limit < 0:
        raise InputError(f"--limit is {limit}; give 0 for all images, or a positive number")
    source: Any = data.open_data(
        folder, split, annotations="all", as_partition=True, channels="rgb", cache_bytes=1 << 30
    )
    if source.info.kind not in ("partition", "classes"):
        raise InputError(f"{folder}: has no label maps; give data with labels, see dataset.json")
    total = len(source)
    if limit and limit < total:
        source = data.MemorySource([source[i] for i in range(limit)])
    batches = data.eval_batches(source, batch_size=1)
    return Pairs(folder.resolve().name, split, batches, len(source), total)


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the file."""

    data: str
    split: str
    images: int
    method: str
    version: str
    requested: int
    figures: Mapping[str, float]
    """Of `metrics.superpixel`."""
    cpu_seconds: float
    """For segmenting an image, the median; all cores together, compilation and measuring left out.
    """


class Rows:
    """What was measured, in a file of a JSON object a line.

    A line is written at once and only added, so that a killed program loses no more than the row it
    was at, and two programs may share the file. Half a line is passed over.
    """

    def __init__(self, path: Path):
        """Reads the file if it exists.

        Raises:
            InputError: it holds something else, or the folder cannot be made.
        """
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            text = path.read_text() if path.exists() else ""
        except OSError as error:
            raise InputError(f"{path}: {error.strerror}; choose another -o") from error
        self._torn = bool(text) and not text.endswith("\n")
        self._rows: dict[tuple, Row] = {}
        for number, line in enumerate(text.split("\n"), 1):
            try:
                found = json.loads(line)
            except ValueError:  # Half a line.
                continue
            try:
                self._keep(Row(**found))
            except TypeError as error:
                raise InputError(
                    f"{path}: line {number} is no row of figures; remove it"
                ) from error

    def measured(
        self, pairs: Pairs, segmenter: Segmenter, requested: int, *, quiet: bool = False
    ) -> Row:
        """The row of the file, or else measures it, adds it, and says so in a line.

        Raises:
            InputError: the file cannot be written, or the images hold no such number.
        """
        key = (pairs.name, pairs.split, pairs.images, *segmenter[:2], requested)
        if key not in self._rows:
            figures, seconds = _measure(pairs, segmenter, requested)
            row = Row(*key, figures=figures, cpu_seconds=seconds)
            self._add(row)
            if not quiet:
                print(
                    f"{row.method}, {requested} asked: {figures['regions']:.0f} regions, "
                    f"ASA {figures['asa']:.4f}, {seconds:.3f} CPU-s an image",
                    flush=True,
                )
        return self._rows[key]

    def _keep(self, row: Row) -> None:
        key = (row.data, row.split, row.images, row.method, row.version, row.requested)
        self._rows[key] = row

    def _add(self, row: Row) -> None:
        line = json.dumps(dataclasses.asdict(row)) + "\n"
        try:
            file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
            with os.fdopen(file, "wb", buffering=0) as out:
                out.write(("\n" * self._torn + line).encode())
        except OSError as error:
            raise InputError(f"{self.path}: not written ({error.strerror})") from error
        self._torn = False
        self._keep(row)


def _measure(pairs: Pairs, segmenter: Segmenter, requested: int) -> tuple[dict[str, float], float]:
    metric = metrics.superpixel()
    all_sums, seconds = [], []
    for batch in progress(pairs.batches, f"{segmenter.name}, {requested}", unit="image"):
        start = time.process_time()
        try:
            labels = segmenter.segment(np.asarray(batch["image"][0]), requested)
        except ValueError as error:
            raise InputError(f"--requested {requested}: {error}; ask for another") from error
        seconds.append(time.process_time() - start)
        all_sums.append(metric.measure({"superpixels": labels[None]}, batch))
    figures = metric.compute(functools.reduce(metric.merge, all_sums))
    # The median: the first image of a shape compiles.
    return figures, statistics.median_low(seconds)


def curve(rows: Sequence[Row]) -> Curve:
    """The rows by rising number of regions; those of equal number are averaged."""
    table: dict[float, list[Mapping[str, float]]] = {}
    for row in rows:
        table.setdefault(row.figures["regions"], []).append(row.figures)
    return {
        name: np.array([np.mean([f[name] for f in table[n]]) for n in sorted(table)])
        for name in rows[0].figures
    }


def read(points: Curve, figure: str, regions: float) -> float:
    """A figure at a number of regions, linear in its logarithm between rows; NaN beyond them."""
    x = points["regions"]
    if not x[0] <= regions <= x[-1]:
        return math.nan
    return float(np.interp(math.log(regions), np.log(x), points[figure]))


def cell(value: float, digits: int = 4) -> str:
    """A number for a table: "-" for NaN, no zero before the point."""
    if math.isnan(value):
        return "-"
    text = f"{value:.{digits}f}"
    return text.removeprefix("0") if digits else text


def markdown(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table; columns but the first are set to the right."""
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *lines))


def check_counts(name: str, counts: Sequence[int]) -> None:
    """Raises `InputError` unless there are numbers, all positive."""
    if not counts or min(counts) < 1:
        raise InputError(f"{name} is {' '.join(map(str, counts)) or 'empty'}; give 1 or more")


def about(pairs: Pairs, row: Row) -> str:
    """What was measured, in a line; says so where it is a subset."""
    subset = f", A SUBSET of its {pairs.total}" if pairs.images < pairs.total else ""
    return (
        f"{pairs.name}, {pairs.split}: {row.figures['pairs']:.0f} pairs of an annotation and one "
        f"of {pairs.images} images{subset}."
    )
