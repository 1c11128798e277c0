"""Where tiles lie along an axis of an image, what each weighs, and how it is resized."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Int32


def left_out(side: int, margin: int, scales: Sequence[float]) -> int:
    """Pixels at a tile's inner borders that have no weight: `margin`, and what resizing spoils.

    Resizing there and back, each with a triangle of radius max(1, 1 / scale), reads so far. The
    scale that makes the image's size whole is smaller than the one asked for by 0.5 / size at most.
    """
    resized = 0
    for scale in scales:
        least = scale - 0.5 / side
        if scale != 1:
            resized = max(resized, math.ceil(2 * max(1, 1 / least)) if least > 0 else side)
    return margin + resized


class Taps(NamedTuple):
    """A resized axis: each new pixel is the weighted sum of these old ones.

    From the host, in float32 at last: on the device it holds too few digits of a far coordinate.
    """

    source: Int32[np.ndarray, "tiles after taps"]
    weight: Float32[np.ndarray, "tiles after taps"]

    def of(self, tiles: list[int]) -> "Taps":
        """Those of some tiles."""
        return Taps(self.source[tiles], self.weight[tiles])


class Axis(NamedTuple):
    """The tiles along one axis."""

    length: int
    """Of the image."""
    side: int
    """Of a tile."""
    offsets: list[int]
    window: Float32[np.ndarray, "tiles side"]
    """The weights, which sum to 1 over the tiles at each pixel."""
    scaled: list[tuple[Taps, Taps] | None]
    """For each scale: tile to network, and back; None: as it is."""


def axis_of(length: int, side: int, overlap: float, margin: int, scales: Sequence[float]) -> Axis:
    """Spreads tiles along an axis; see `predict_bands` for the options.

    Args:
        length: of the image.
        side: of a tile.
        overlap: part of a tile's side.
        margin: pixels along inner borders.
        scales: positive.
    """
    if length <= side:
        side, offsets = length, [0]
        window = np.ones((1, side))
    else:
        out = left_out(side, margin, scales)
        step = max(min(side - 2 * out, side - round(overlap * side)), 1)
        ramp = side - 2 * out - step
        # Spread evenly: no two of them lie closer than they must.
        last = -(-(length - side) // step)
        offsets = [i * (length - side) // last for i in range(last + 1)]
        rise = np.clip((np.arange(side) + 1 - out) / (ramp + 1), 0, 1)
        window = np.ones((len(offsets), side))
        window[1:] = np.minimum(window[1:], rise)
        window[:-1] = np.minimum(window[:-1], rise[::-1])
    total = np.zeros(length)
    for offset, weights in zip(offsets, window, strict=True):
        total[offset : offset + side] += weights
    for offset, weights in zip(offsets, window, strict=True):
        weights /= total[offset : offset + side]
    scaled = [None if s == 1 else _scaled(length, side, offsets, s) for s in scales]
    return Axis(length, side, offsets, window.astype(np.float32), scaled)


def _scaled(length: int, side: int, offsets: list[int], scale: float) -> tuple[Taps, Taps]:
    """What each tile contributes to the whole image resized to round(scale · length), and back."""
    whole = max(round(scale * length), 1)
    ratio = low = high = whole / length
    part, first = whole, [0]
    if side < length:
        # By the scale that was asked for, so that images of all sizes share a program.
        low, high, part = scale - 0.5 / side, scale + 0.5 / side, math.floor(scale * side)
        first = [round(ratio * (offset + side / 2) - part / 2) for offset in offsets]
        first[0], first[-1] = 0, whole - part
    start, begin = np.array(offsets)[:, None], np.array(first)[:, None]
    forth = (begin + np.arange(part) + 0.5) / ratio - 0.5 - start
    back = (start + np.arange(side) + 0.5) * ratio - 0.5 - begin
    return _taps(forth, side, 1 / ratio, 1 / low), _taps(back, part, ratio, high)


def _taps(
    position: Float[np.ndarray, "tiles after"], before: int, step: float, largest_step: float
) -> Taps:
    """The triangle of radius max(1, step) about each position, of weights that sum to 1."""
    radius = max(1.0, step)
    # At the image's borders this changes nothing.
    position = np.clip(position, 0, before - 1)[..., None]
    index = np.floor(position - radius) + 1 + np.arange(math.ceil(2 * max(1.0, largest_step)))
    weight = np.maximum(1 - np.abs(index - position) / radius, 0)
    weight *= (index >= 0) & (index < before)
    weight /= weight.sum(axis=-1, keepdims=True)
    return Taps(np.clip(index, 0, before - 1).astype(np.int32), weight.astype(np.float32))
