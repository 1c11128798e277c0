"""COCO's masks: run lengths, plain or as a text, and polygons (Lin et al., ECCV 2014; cocoapi).

Runs go down the columns, one column after the other, and begin with one of pixels outside. The text
writes each length in groups of five bits, low ones first: the first two as they are, then how much
each differs from the one before the last.
"""

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int64

_FINER = 5
"""The outline of a polygon is drawn on a grid so much finer, as cocoapi does."""


def decode_rle(counts: str | Sequence[Any], size: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    """The mask of run lengths.

    Args:
        counts: numbers, or the text that holds them.
        size: height and width.

    Raises:
        ValueError: the runs do not fill the mask, or the text is damaged.
    """
    numbers: Sequence[Any] = _from_text(counts) if isinstance(counts, str) else counts
    runs = [operator.index(n) for n in numbers]
    if min(runs, default=0) < 0 or sum(runs) != size[0] * size[1]:
        raise ValueError(f"runs of {sum(runs)} pixels in a mask of {size[0]}x{size[1]}")
    values = np.arange(len(runs)) % 2 == 1
    return np.repeat(values, runs).reshape(size, order="F")


def encode_rle(mask: Bool[np.ndarray, "h w"]) -> str:
    """The text of a mask's run lengths, as `decode_rle` and pycocotools read it."""
    flat = np.concatenate([[False], mask.ravel(order="F")])
    ends = np.flatnonzero(flat[1:] != flat[:-1])
    runs = np.diff(np.concatenate([[0], ends, [mask.size]])).tolist()
    text = []
    for i, run in enumerate(runs):
        left = run - runs[i - 2] if i > 2 else run
        more = True
        while more:
            bits = left & 31
            left >>= 5
            # The fifth bit of the last group is the sign.
            more = left != (-1 if bits & 16 else 0)
            text.append(chr(48 + (bits | 32 if more else bits)))
    return "".join(text)


def _from_text(text: str) -> list[int]:
    runs: list[int] = []
    value = shift = 0
    for letter in text:
        bits = ord(letter) - 48
        if not 0 <= bits < 64:
            raise ValueError(f"{letter!r} is no letter of run lengths")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value = shift = 0
    if shift:
        raise ValueError("the text of the run lengths ends within a number")
    return runs


def fill_polygons(
    polygons: Sequence[Sequence[Any]], size: tuple[int, int]
) -> Bool[np.ndarray, "h w"]:
    """The union of polygons, the pixels of each those that cocoapi gives it.

    Args:
        polygons: x0, y0, x1, y1, ... of each, in pixels; the first pixel covers 0 to 1.
        size: height and width.

    Raises:
        ValueError: a polygon has less than three corners, or numbers that are not finite.
    """
    mask = np.zeros(size, bool)
    for numbers in polygons:
        corners = np.array(numbers, np.float64)
        if corners.ndim != 1 or len(corners) < 6 or len(corners) % 2:
            raise ValueError(f"a polygon of {corners.size} numbers; expected 6, 8, ...")
        if not np.all(np.abs(corners) < 1e6):
            raise ValueError("a polygon has numbers that are not finite, or too large")
        mask |= _filled(corners.reshape(-1, 2), size)
    return mask


def _filled(corners: Float64[np.ndarray, "n 2"], size: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    """Each time the outline enters another column, the pixels from there on change sides."""
    height, width = size
    x, y = _outline(np.trunc(_FINER * corners + 0.5).astype(np.int64))
    moved = np.flatnonzero(x[1:] != x[:-1]) + 1
    column = (np.minimum(x[moved], x[moved - 1]) + 0.5) / _FINER - 0.5
    # Only steps over the middle of a pixel count.
    there = (np.floor(column) == column) & (column >= 0) & (column <= width - 1)
    row = (np.minimum(y[moved], y[moved - 1]) + 0.5) / _FINER - 0.5
    row = np.ceil(np.clip(row, 0, height))
    places = (column[there] * height + row[there]).astype(np.int64)
    changes = np.bincount(places, minlength=height * width + 1)[: height * width]
    return (np.cumsum(changes) % 2 == 1).reshape(size, order="F")


def _outline(corners: Int64[np.ndarray, "n 2"]) -> tuple[np.ndarray, np.ndarray]:
    """All points on the fine grid along the closed polygon, in order."""
    xs, ys = [], []
    for start, end in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        (x0, y0), (x1, y1) = start.tolist(), end.tolist()
        wide, high = abs(x1 - x0), abs(y1 - y0)
        # Always drawn towards rising numbers along the longer side, since rounding is not even.
        turned = (wide >= high and x0 > x1) or (wide < high and y0 > y1)
        if turned:
            x0, y0, x1, y1 = x1, y1, x0, y0
        steps = np.arange(max(wide, high) + 1)
        slope = (y1 - y0 if wide >= high else x1 - x0) / max(wide, high, 1)
        if wide >= high:
            x, y = x0 + steps, np.trunc(y0 + slope * steps + 0.5).astype(np.int64)
        else:
            x, y = np.trunc(x0 + slope * steps + 0.5).astype(np.int64), y0 + steps
        xs.append(x[::-1] if turned else x)
        ys.append(y[::-1] if turned else y)
    return np.concatenate(xs), np.concatenate(ys)
