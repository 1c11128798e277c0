"""Where an image is read, and what is said of it. For compare_adaptive.py."""

import functools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from adaptive_runs import names_of
from jaxtyping import Float, UInt8

import jaxseg
from jaxseg import metrics, viz
from jaxseg.ops import warp
from jaxseg.recipes.adaptive import Config
from jaxseg.train import Evaluation
from jaxseg.train.run_folder import open_run
from jaxseg.types import InputError

_CELL = 300
_INK = (255, 221, 0)


def draw_nodes(
    image: UInt8[np.ndarray, "h w 3"],
    coords: Float[np.ndarray, "rows cols 2"],
    *,
    lines: int = 33,
    scale: int = 2,
    color: tuple[int, int, int] = _INK,
) -> UInt8[np.ndarray, "sh sw 3"]:
    """Draws a sampling grid over an image, enlarged: lines along its rows and columns of nodes.

    Args:
        image: what is sampled.
        coords: (row, column) in [0, 1], align-corners.
        lines: the most to draw each way; of more the grid is thinned evenly.
        scale: how much larger the picture is.
        color: of the lines.
    """
    from PIL import Image, ImageDraw

    height, width = image.shape[:2]
    picture = Image.fromarray(image).resize((width * scale, height * scale))
    draw = ImageDraw.Draw(picture)
    size = np.array([height - 1, width - 1])
    points = (coords * size + 0.5) * scale
    for axis in (0, 1):
        count = points.shape[axis]
        for i in np.unique(np.linspace(0, count - 1, min(lines, count)).round().astype(int)):
            line = np.take(points, i, axis=axis)
            draw.line([(float(x), float(y)) for y, x in line], fill=color, width=1)
    return np.asarray(picture)


def _row(run: Path, folder: Path, split: str) -> tuple[Config, Evaluation]:
    """The run's config, and its evaluation of whole images; no checkpoint is read."""
    file, config = open_run(run)
    if not isinstance(config, Config):
        raise InputError(f"{run}: is no run with adaptive downsampling; give others")
    return config, file.build(config).evaluations(folder, split)["full"]


def _chosen(batches: Any, count: int) -> list[dict[str, Any]]:
    """Some batches of one image, spread evenly."""
    if count < 1:
        raise InputError(f"--images is {count}; give 1 or more")
    places = set(np.linspace(0, len(batches) - 1, count).round().astype(int).tolist())
    return [batch for i, batch in enumerate(batches) if i in places]


def draw_runs(runs: Sequence[Path], folder: Path, split: str, count: int) -> np.ndarray:
    """The sheet: a row for each image, with the nodes and the classes of each run.

    Args:
        runs: of one data set.
        folder: of the data.
        split: such as "test".
        count: of images, spread evenly over the split.

    Raises:
        InputError: an argument or a file cannot be used.
    """
    if not runs:
        raise InputError("--runs is empty; give one or more folders")
    opened = [_row(run, folder, split) for run in runs]
    models = [jaxseg.load(run) for run in runs]
    batches = _chosen(opened[0][1].data, count)
    colors = _colors(opened[0][0])
    told: list[list[Any]] = [[b["image"][0], _classes(b, b["label"][0], colors)] for b in batches]
    captions = [["", ""] for _ in batches]
    titles = ["photograph", "labels"]
    for name, model, (config, row) in zip(names_of(runs), models, opened, strict=True):
        titles += [name, ""]
        predict = jax.jit(row.method.predict)
        for batch, pictures, lines in zip(batches, told, captions, strict=True):
            inputs = {k: v for k, v in batch.items() if k in row.inputs}
            found = jax.device_get(predict(model.params, model.model_state, inputs))
            pictures.append(draw_nodes(batch["image"][0], found["coords"][0]))
            pictures.append(_classes(batch, found["classes"][0], colors))
            lines += ["", _target_miou(found["classes"][0], batch, config)]
    return viz.comparison_sheet(told, titles, captions=captions, cell_size=_CELL)


def draw_smoothness(
    runs: Sequence[Path], folder: Path, split: str, count: int, values: Sequence[float]
) -> np.ndarray:
    """The sheet: a row for each image, and for each smoothness the nodes that the labels ask for.

    Beside them stand the labels, read at these nodes and brought back to the pixels: what a network
    that makes no mistake would say.

    Args:
        runs: one, whose nodes, grid and targets are taken.
        folder: of the data.
        split: such as "test".
        count: of images, spread evenly over the split.
        values: of the smoothness.

    Raises:
        InputError: an argument or a file cannot be used.
    """
    if len(runs) != 1 or not values:
        raise InputError("--smoothness wants one run, and one value or more; give these")
    if not all(0 <= value < math.inf for value in values):
        raise InputError(f"--values is {' '.join(f'{v:g}' for v in values)}; give 0 or more each")
    config, row = _row(runs[0], folder, split)
    batches = _chosen(row.data, count)
    colors = _colors(config)
    rows, captions = [], []
    for batch in batches:
        pictures, lines = [_classes(batch, batch["label"][0], colors)], [""]
        for value in values:
            label = jnp.asarray(batch["label"][0])
            coords, classes = jax.device_get(round_trip(config, label, jnp.float32(value)))
            pictures += [
                draw_nodes(batch["image"][0], coords),
                _classes(batch, classes, colors),
            ]
            lines += ["", _target_miou(classes, batch, config)]
        rows.append(pictures)
        captions.append(lines)
    titles = ["labels", *(t for value in values for t in (f"smoothness {value:g}", ""))]
    return viz.comparison_sheet(rows, titles, captions=captions, cell_size=_CELL)


@functools.partial(jax.jit, static_argnums=0)
def round_trip(config: Config, label: Any, smoothness: Any) -> tuple[Any, Any]:
    """The nodes that a label map asks for, and the map that is left of it when it is read there."""
    asked = warp.sampling_targets(
        label,
        config.sampler_grid,
        smoothness=smoothness,
        target_classes=config.target_classes or None,
    )
    nodes = warp.project_covering(warp.resize_sampling(asked, config.nodes))
    nodes = warp.make_fold_free(nodes, per_region=True)
    read = jax.nn.one_hot(warp.sample(label, nodes, order=0), config.num_classes)
    return nodes, warp.unwarp(read, nodes, label.shape, argmax=True)


def _colors(config: Config) -> np.ndarray | None:
    return np.array(config.class_colors, np.uint8) if config.class_colors else None


def _classes(batch: Any, classes: np.ndarray, colors: np.ndarray | None) -> np.ndarray:
    return viz.overlay_classes(batch["image"][0], classes, colors=colors, alpha=0.6)


def _target_miou(classes: np.ndarray, batch: Any, config: Config) -> str:
    targets = config.target_classes or tuple(range(config.num_classes))
    metric = metrics.confusion(config.num_classes, target_classes=targets)
    found = metric.compute(metric.measure({"classes": np.asarray(classes)[None]}, batch))
    return f"target mIoU {100 * found['target_miou']:.1f}"
