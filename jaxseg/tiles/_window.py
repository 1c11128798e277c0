"""Prediction by sliding window, with flips and scales, in bounded memory.

An image is covered by overlapping tiles of one shape; the class probabilities of every tile are
averaged over its mirror image and over scales, and blended where tiles overlap. Tiles lie inside
the image: nothing is padded here, so that what is flipped is the image alone.

The blend. Along each axis a tile weighs 1 inside and falls linearly over the overlap towards those
of its borders that are not the image's, w = min(1, (d - m + 1) / (r + 1)) at d pixels from the
border, where m is a margin that is left out (w = 0) and r = overlap - 2m in pixels. A tile's
weight is the product of its two axes', and Σ w·p / Σ w is what is predicted.

Scales. A tile sees the pixels that it would see of the whole image resized to round(scale · size):
every tile has its own place in that grid, whatever the scale. Only what lies near a border of a
tile and was interpolated without what is beyond it would differ, and is within the margin. So a
network that looks at single pixels predicts exactly what it would for the whole image.
"""

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count, product
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, Int32, Shaped

from jaxseg.ops.color import to_float
from jaxseg.tiles._axis import Axis, Taps, axis_of, left_out

Probabilities = Callable[[Array], Array]
"""Images `[B, H, W, C]`, float32 -> probabilities of the classes `[B, H, W, N]`.

Called as it is: give a function that is compiled (`jax.jit`), the same one for all images. What
needs sides of certain multiples is padded, and cropped, inside of it.
"""
Progress = Callable[[Iterable, str], Iterable]
"""(items, name) -> the same items; such as `jaxseg.commands.options.progress`."""


class Band(NamedTuple):
    """Some rows of an image, complete."""

    top: int
    """The first row."""
    probabilities: Float32[np.ndarray, "h w n"]


class SlidingWindow(NamedTuple):
    """What is most probable at each pixel."""

    classes: Int32[np.ndarray, "h w"]
    confidence: Float32[np.ndarray, "h w"]
    """The blended probability of that class."""


def sliding_window(
    probabilities: Probabilities,
    image: Shaped[np.ndarray, "h w c"],
    *,
    tile: tuple[int, int] = (512, 512),
    overlap: float = 0.25,
    margin: int = 0,
    flips: bool = False,
    scales: Sequence[float] = (1.0,),
    batch_size: int = 1,
    progress: Progress | None = None,
) -> SlidingWindow:
    """Predicts the class of every pixel of an image of any size; see `predict_bands`."""
    bands = predict_bands(
        probabilities,
        image,
        tile=tile,
        overlap=overlap,
        margin=margin,
        flips=flips,
        scales=scales,
        batch_size=batch_size,
        progress=progress,
    )
    classes = np.empty(image.shape[:2], np.int32)
    confidence = np.empty(image.shape[:2], np.float32)
    for top, band in bands:
        rows = slice(top, top + len(band))
        classes[rows] = np.argmax(band, axis=-1)
        chosen = np.take_along_axis(band, classes[rows][..., None], axis=-1)
        confidence[rows] = chosen[..., 0]
    return SlidingWindow(classes, confidence)


def predict_bands(
    probabilities: Probabilities,
    image: Shaped[np.ndarray, "h w c"],
    *,
    tile: tuple[int, int] = (512, 512),
    overlap: float = 0.25,
    margin: int = 0,
    flips: bool = False,
    scales: Sequence[float] = (1.0,),
    batch_size: int = 1,
    progress: Progress | None = None,
) -> Iterator[Band]:
    """Predicts an image by overlapping tiles, from top to bottom.

    A band is given as soon as no later tile touches it. On the host there is never more than the
    bands that one row of tiles touches, less than twice tile height · W · N floats beside the band
    that is given; on the device a few batches of tiles.

    A tile that is as large as the image is the image: there is no window then, and `flips` and
    `scales` are those of a whole-image pass. Where the image is smaller than a tile along an axis,
    the tile takes the image's size.

    A network without strides that looks at no more than `margin` pixels around each (at a scale,
    margin · scale of the resized image's) predicts by tiles what it predicts for the whole image,
    its padding at the image's borders included. One that looks further does so where the inner
    borders of all tiles at a pixel are out of its sight. Strides start anew in every tile, and
    batch statistics, where a network evaluates with these, are those of the tiles of a batch.

    Args:
        probabilities: the network; see `Probabilities`.
        image: `[H, W, C]`, uint8 0..255 or float 0..1; only tiles of it are read at a time.
        tile: height and width of a tile.
        overlap: of neighbouring tiles, the part of a tile's side that they share at least, in
            [0, 1), rounded to pixels; more where `margin` and `scales` need it.
        margin: pixels along the inner borders of tiles that are left out, where a network sees too
            little; further 2 · max(1, 1 / scale) are for a scale other than 1.
        flips: whether to average with the prediction of the mirror image (left and right).
        scales: the prediction is the average of those for the image resized by each, bilinearly
            and averaging where it shrinks; the probabilities are resized back alike.
        batch_size: tiles that go through the network together.
        progress: wraps the list of tiles.

    Raises:
        ValueError: an option is out of range, the image is empty or no image; or the network's
            output is not of its input's size.
    """
    _check(image, tile, overlap, margin, scales, batch_size)
    axes = [
        axis_of(length, side, overlap, margin, scales)
        for length, side in zip(image.shape, tile, strict=False)
    ]
    tiles = list(product(range(len(axes[0].offsets)), range(len(axes[1].offsets))))
    batches = _batches(tiles, batch_size, progress)
    return _bands(_predictions(probabilities, image, axes, batches, flips), *axes)


def _check(image, tile, overlap, margin, scales, batch_size) -> None:
    if image.ndim != 3 or 0 in image.shape:
        raise ValueError(f"image of shape {image.shape}: expected [H, W, C] and no size of 0")
    if image.dtype != np.uint8 and not np.issubdtype(image.dtype, np.floating):
        raise ValueError(f"image of type {image.dtype}: expected uint8 or a float")
    if min(tile) < 1:
        raise ValueError(f"tile={tile}: expected 1 or more")
    if not 0 <= overlap < 1:
        raise ValueError(f"overlap={overlap}: expected at least 0 and less than 1")
    if margin < 0:
        raise ValueError(f"margin={margin}: expected 0 or more")
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}: expected 1 or more")
    if not scales or not all(0 < scale < math.inf for scale in scales):
        raise ValueError(f"scales={tuple(scales)}: expected positive finite numbers, at least one")

    def fits(side: int) -> bool:
        return side > 2 * left_out(side, margin, scales)

    # A tile as large as the image has no inner borders.
    cut = [side for length, side in zip(image.shape, tile, strict=False) if length > side]
    if cut and not fits(min(cut)):
        least = next(side for side in count(min(cut)) if fits(side))
        raise ValueError(
            f"tile={tile}: expected {least} or more for margin={margin}, scales={tuple(scales)}"
        )


def _batches(
    tiles: list[tuple[int, int]], size: int, progress: Progress | None
) -> Iterator[list[tuple[int, int]]]:
    batch: list[tuple[int, int]] = []
    for place in tiles if progress is None else progress(tiles, "tiles"):
        batch.append(place)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        # All batches of one size; what is repeated is dropped.
        yield batch + [batch[-1]] * (min(size, len(tiles)) - len(batch))


def _predictions(
    probabilities: Probabilities,
    image: np.ndarray,
    axes: list[Axis],
    batches: Iterator[list[tuple[int, int]]],
    flips: bool,
) -> Iterator[tuple[tuple[int, int], np.ndarray]]:
    """(row and column of a tile, its weighted probabilities `[h, w, n]`), in order."""
    last: tuple[list[tuple[int, int]], Array] | None = None
    for batch in batches:
        # The device is given its work before the host turns to what the device did before.
        running = batch, _predict(probabilities, image, axes, batch, flips)
        if last is not None:
            yield from _parts(*last)
        last = running
    if last is not None:
        yield from _parts(*last)


def _parts(batch: list[tuple[int, int]], weighted: Array) -> Iterator:
    distinct = list(dict.fromkeys(batch))
    return zip(distinct, jax.device_get(weighted)[: len(distinct)], strict=True)


def _predict(probabilities, image, axes, batch, flips) -> Array:
    places = [list(axis) for axis in zip(*batch, strict=True)]
    cuts = []
    for place in batch:
        rows, cols = (
            slice(axis.offsets[i], axis.offsets[i] + axis.side)
            for axis, i in zip(axes, place, strict=True)
        )
        cut = image[rows, cols]
        cuts.append(cut if cut.dtype == np.uint8 else cut.astype(np.float32))
    tiles = jax.device_put(np.stack(cuts))
    parts = len(axes[0].scaled) * (1 + flips)
    windows = [axis.window[i] for axis, i in zip(axes, places, strict=True)]
    windows = jax.device_put([windows[0] / np.float32(parts), windows[1]])
    total: Any = None
    for down, across in zip(axes[0].scaled, axes[1].scaled, strict=True):
        forth = back = None
        if down is not None and across is not None:
            forth, back = ([down[i].of(places[0]), across[i].of(places[1])] for i in (0, 1))
        forth, back = jax.device_put((forth, back))
        for flip in (False, True)[: 1 + flips]:
            flip = jax.device_put(np.bool_(flip))
            x = _to_network(tiles, forth, flip)
            y = probabilities(x)
            if y.ndim != 4 or y.shape[:3] != x.shape[:3]:
                raise ValueError(
                    f"probabilities of shape {y.shape}: expected {x.shape[:3]} and the classes"
                )
            total = _add(total, y, back, flip, windows)
    return total


@jax.jit
def _to_network(tiles: Array, taps: list[Taps] | None, flip: Array) -> Array:
    x = _resize(jax.vmap(to_float)(tiles), taps)
    return jnp.where(flip, x[:, :, ::-1], x)


@functools.partial(jax.jit, donate_argnums=0)
def _add(
    total: Array | None, y: Array, taps: list[Taps] | None, flip: Array, windows: list[Array]
) -> Array:
    y = y.astype(jnp.float32)
    y = _resize(jnp.where(flip, y[:, :, ::-1], y), taps)
    y = y * windows[0][:, :, None, None] * windows[1][:, None, :, None]
    return y if total is None else total + y


def _resize(x: Array, taps: list[Taps] | None) -> Array:
    for axis, (source, weight) in enumerate(taps or [], 1):
        # Gathered, not multiplied with a matrix: several times as fast on a CPU.
        take = jax.vmap(functools.partial(jnp.take, axis=axis - 1, mode="clip"))
        weights = jnp.expand_dims(weight, (3 - axis, 3))
        terms = [take(x, source[..., k]) * weights[..., k] for k in range(source.shape[-1])]
        x = functools.reduce(jnp.add, terms)
    return x


def _bands(
    predictions: Iterator[tuple[tuple[int, int], np.ndarray]], rows: Axis, cols: Axis
) -> Iterator[Band]:
    """Sums the tiles in bands between the upper borders of successive rows of tiles."""
    edges = [*rows.offsets, rows.length]
    live: dict[int, np.ndarray] = {}
    done = 0
    for (row, col), part in predictions:
        while done < row:
            yield Band(edges[done], live.pop(done))
            done += 1
        left = cols.offsets[col]
        for band in range(row, len(rows.offsets)):
            start = edges[band] - edges[row]
            if start >= rows.side:
                break
            if band not in live:
                shape = edges[band + 1] - edges[band], cols.length, part.shape[-1]
                live[band] = np.zeros(shape, np.float32)
            piece = part[start : edges[band + 1] - edges[row]]
            live[band][: len(piece), left : left + cols.side] += piece
    for band in sorted(live):
        yield Band(edges[band], live.pop(band))
