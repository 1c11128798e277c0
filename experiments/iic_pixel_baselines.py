"""What pixels come to without IIC: k-means of their colours and places, an untrained network.

    python experiments/iic_pixel_baselines.py --data CAMVID --experiment experiments/iic_camvid.py
    python experiments/iic_pixel_baselines.py --data AERIAL/loveda --split all --rows color random
        --experiment experiments/iic_loveda.py --variant small

Prints a table in Markdown, row by row, of as many clusters as the experiment's head "main" has.
Groups, tiles and the size of images are the experiment's, and so is the measure: one class to each
cluster, the Hungarian assignment over all pixels of the split. Labels serve for that and for
nothing else, but that an experiment which leaves out pixels without a label leaves them out here.

Centers are found on pixels drawn from all images that IIC is trained on, the best of ten starts by
inertia; then each pixel of the split goes to the nearest. CPU seconds are counted from where a
baseline begins: reading, compilation and measuring included.

- `place`: L*, a* and b*, and the row and the column of the pixel in its image, each brought to mean
  0 and deviation 1 over the drawn pixels. Of images with infrared this is a further column.
- `color`: the same without row and column, which say nothing in tiles.
- `random`: net10a of the experiment's width and inputs untrained, with the padding that keeps
  maps in place; its batch norm has the mean statistics of batches over all images. First its
  own answer, the largest output of its head; then k-means of the last map before the head, found on
  cells of the map. A pixel goes to the center that is nearest to the map interpolated there.
"""

import dataclasses
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from kmeans import kmeans

from jaxseg.methods.iic import network_inputs, standardised
from jaxseg.models.iic import NET10A, net10a, upsample_probabilities
from jaxseg.ops.color import rgb_to_lab, to_float
from jaxseg.recipes.iic_pixels import Config
from jaxseg.train import Evaluation
from jaxseg.train.run_folder import load_experiment
from jaxseg.types import Batch, InputError, PyTree

TOLERANCE = 1e-5
"""k-means stops when the inertia falls by a smaller part."""
STATISTICS = 50
"""Batches, spread over all, whose statistics the untrained network has the mean of."""

Predict = Callable[[Batch], np.ndarray]
"""Clusters `[B, H, W]` of a batch."""


@dataclasses.dataclass(frozen=True)
class Baselines:
    """Options."""

    data: Path
    """The folder of the data."""
    experiment: Path
    """A file such as experiments/iic_camvid.py."""
    variant: str = ""
    """Of the experiment; the first if it is not given."""
    split: str = "test"
    """Which part of the data is measured."""
    fit: str = ""
    """Which part centers are found on; that which IIC is trained on if it is not given."""
    rows: tuple[Literal["place", "color", "random"], ...] = ("place", "color", "random")
    """Which baselines."""
    sample: int = 200_000
    """Pixels, or cells of the map, that are drawn."""
    starts: int = 10
    """Of a k-means."""
    seed: int = 0


class Pixels(NamedTuple):
    """The data, as the experiment gives them."""

    config: Config
    fit: Evaluation
    """Of the images that centers are found on."""
    score: Evaluation
    """Of those that are measured."""


def open_pixels(options: Baselines) -> Pixels:
    """Opens the data as the experiment does.

    Raises:
        InputError: the experiment is none of pixels, has no such variant, or its data are missing.
    """
    file = load_experiment(options.experiment)
    variant = options.variant or next(iter(file.VARIANTS))
    if variant not in file.VARIANTS:
        raise InputError(
            f"--variant is {variant!r}; {options.experiment} has {', '.join(file.VARIANTS)}"
        )
    config = file.VARIANTS[variant]
    if not isinstance(config, Config):
        raise InputError(f"{options.experiment}: is no experiment of IIC on pixels; give one")
    # Measured one to one, whatever the variant predicts.
    config = dataclasses.replace(config, predicts="main")
    rows = file.build(config).evaluations
    fit = rows(options.data, options.fit or config.train_split)
    score = rows(options.data, options.split)
    return Pixels(config, fit["labelled"], score["labelled"])


def place(pixels: Pixels, options: Baselines) -> Iterator[tuple[str, Predict]]:
    """k-means of colours and places."""
    title = f"k-means of {_colors(pixels.config)}, row and column"
    yield title, _by_columns(pixels, options, places=True)
    if pixels.config.standardise:
        found = _by_columns(pixels, options, places=True, standardise=True)
        yield f"{title}, one exposure", found


def color(pixels: Pixels, options: Baselines) -> Iterator[tuple[str, Predict]]:
    """k-means of colours."""
    title = f"k-means of {_colors(pixels.config)}"
    yield title, _by_columns(pixels, options, places=False)
    if pixels.config.standardise:
        found = _by_columns(pixels, options, places=False, standardise=True)
        yield f"{title}, one exposure", found


def _colors(config: Config) -> str:
    return "Lab" if config.channels == 3 else "Lab, infrared"


def _by_columns(
    pixels: Pixels, options: Baselines, *, places: bool, standardise: bool = False
) -> Predict:
    drawn = sample(
        (
            columns(batch, places=places, standardise=standardise)[
                counted(batch, masked=pixels.config.masked)
            ]
            for batch in pixels.fit.data
        ),
        options.sample,
        options.seed,
    )
    mean = drawn.mean(axis=0, dtype=np.float64)
    spread = drawn.std(axis=0, dtype=np.float64)
    spread[spread == 0] = 1
    scale = np.stack([mean, spread]).astype(np.float32)

    def standard(x: np.ndarray) -> np.ndarray:
        return (x - scale[:1]) / scale[1:]

    centers = _centers(standard(drawn), pixels.config.num_clusters, options)

    def predict(batch: Batch) -> np.ndarray:
        x = columns(batch, places=places, standardise=standardise)
        scores = distances(standard(x.reshape(-1, x.shape[-1])), centers)
        return scores.argmin(axis=-1).reshape(x.shape[:3])

    return predict


def columns(batch: Batch, *, places: bool, standardise: bool = False) -> np.ndarray:
    """L*, a*, b*, infrared if there is, and, as parts of the sides, row and column, `[B, H, W, D]`.

    Row and column are those of the pixel's centre in its image, without padding. With `standardise`
    colours are those of the image brought to one exposure, as `iic.segmentation` does it.
    """
    found = [
        np.asarray(_lab(batch["image"], counted(batch, masked=False) if standardise else None))
    ]
    if places:
        shape, size = batch["image"].shape[:3], np.maximum(np.asarray(batch["size"]), 1)
        for axis, number in enumerate(shape[1:]):
            centre = (np.arange(number) + 0.5)[None] / size[:, axis, None]
            wide = np.expand_dims(centre, 2 - axis)[..., None]
            found.append(np.broadcast_to(wide, (*shape, 1)).astype(np.float32))
    return np.concatenate(found, axis=-1)


@jax.jit
def _lab(images: jax.Array, pixels: jax.Array | None = None) -> jax.Array:
    values = jax.vmap(to_float)(images)
    if pixels is not None:
        values = jnp.clip(standardised(values, pixels), 0, 1)
    return jnp.concatenate([jax.vmap(rgb_to_lab)(values[..., :3]), values[..., 3:]], axis=-1)


def random_network(pixels: Pixels, options: Baselines) -> Iterator[tuple[str, Predict]]:
    """The answer of an untrained network, and k-means of what its head sees."""
    config, clusters = pixels.config, pixels.config.num_clusters
    size = config.width * max(step[0] for step in NET10A if step)
    drawn_from = _network(config, {"main": clusters, "features": size})
    images = jnp.zeros((1, *config.crop, config.channels))
    given = network_inputs(images, config.inputs)
    variables = jax.jit(drawn_from.init)(jax.random.key(options.seed), given)
    variables = {**variables, "batch_stats": _statistics(pixels, variables)}
    # A network gives logits alone: those of the identity are the features.
    identity = _with_head(variables, "features", np.eye(size, dtype=np.float32))
    features = _logits(config, drawn_from, identity, "features")
    what = f"untrained net10a, width {config.width}"
    answer = _logits(config, drawn_from, identity, "main")
    yield f"{what}: its answer", _largest(lambda x: jax.nn.softmax(answer(x), axis=-1))
    compiled = jax.jit(features)
    drawn = sample(
        (
            np.asarray(compiled(batch["image"]))[:, :, :, 0][
                counted(batch, masked=config.masked)[:, ::2, ::2]
            ]
            for batch in pixels.fit.data
        ),
        options.sample,
        options.seed,
    )
    centers = _centers(drawn, clusters, options)
    assigned = _network(config, {"main": clusters, "centers": clusters})
    variables = _with_head(variables, "features", None)
    products = _logits(config, assigned, _with_head(variables, "centers", centers.T), "centers")
    norms = jnp.asarray(np.einsum("kd,kd->k", centers, centers))[None, None, None, None]
    # |f - c|² without |f|² is linear in f: what is interpolated is the distance of the
    # interpolated map.
    yield f"{what}: k-means of its {size} features", _largest(lambda x: 2 * products(x) - norms)


def _network(config: Config, heads: dict[str, int], **options: Any) -> Any:
    return net10a(heads, sub_heads=1, width=config.width, **options)


def _given(config: Config, images: jax.Array) -> jax.Array:
    """What the network of the experiment sees."""
    values = jax.vmap(to_float)(images)
    if config.standardise:
        values = standardised(values)
    return network_inputs(values, config.inputs)


def _with_head(variables: PyTree, name: str, kernel: np.ndarray | None) -> PyTree:
    """Variables with another kernel of a head, or without that head."""
    params = {k: v for k, v in variables["params"].items() if k != f"head_{name}"}
    if kernel is not None:
        params[f"head_{name}"] = {"kernel": jnp.asarray(kernel)}
    return {**variables, "params": params}


def _logits(
    config: Config, network: Any, variables: PyTree, head: str
) -> Callable[[jax.Array], jax.Array]:
    def logits(images: jax.Array) -> jax.Array:
        return network.apply(variables, _given(config, images))[0][head]

    return logits


def _largest(maps: Callable[[jax.Array], jax.Array]) -> Predict:
    """The number of the map `[B, h, w, 1, K]` that is largest at each pixel of the image."""

    @jax.jit
    def found(images: jax.Array) -> jax.Array:
        whole = upsample_probabilities(maps(images), (images.shape[1], images.shape[2]))
        return jnp.argmax(whole[:, :, :, 0], axis=-1)

    return lambda batch: np.asarray(found(batch["image"]))


def _statistics(pixels: Pixels, variables: PyTree) -> PyTree:
    """The mean over batches, spread over all images, of the statistics of batch norm."""
    config = pixels.config
    heads = {
        name.removeprefix("head_"): head["kernel"].shape[1]
        for name, head in variables["params"].items()
        if name.startswith("head_")
    }
    network = _network(config, heads, momentum=0.0)

    @jax.jit
    def of(images: jax.Array, weight: jax.Array) -> PyTree:
        given = _given(config, images)
        return network.apply(variables, given, train=True, mask=weight > 0)[1]

    batches: Any = pixels.fit.data
    chosen = set(np.linspace(0, len(batches) - 1, STATISTICS).round().astype(int).tolist())
    found = [
        jax.device_get(of(batch["image"], batch["weight"]))
        for i, batch in enumerate(batches)
        if i in chosen
    ]
    return jax.tree.map(lambda *values: np.mean(values, axis=0, dtype=np.float32), *found)


def counted(batch: Batch, *, masked: bool) -> np.ndarray:
    """Which pixels are of an image, and if `masked` have a label, bool `[B, H, W]`."""
    shape, size = batch["image"].shape[:3], np.asarray(batch["size"])[:, :, None, None]
    rows, cols = np.ogrid[: shape[1], : shape[2]]
    inside = (rows[None] < size[:, 0]) & (cols[None] < size[:, 1])
    inside &= (np.asarray(batch["weight"]) > 0)[:, None, None]
    return inside & (np.asarray(batch["label"]) >= 0) if masked else inside


def sample(blocks: Iterable[np.ndarray], number: int, seed: int) -> np.ndarray:
    """Draws rows of all blocks together, each as likely as any other; all where there are fewer.

    Args:
        blocks: `[n, D]` each; they are read once.
        number: how many are drawn.
        seed: of the draw.
    """
    rng = np.random.default_rng(seed)
    keys: list[np.ndarray] = []
    rows: list[np.ndarray] = []

    def smallest() -> float:
        """Leaves the rows of smallest keys; returns a bound that others must be below."""
        key, row = np.concatenate(keys), np.concatenate(rows)
        if len(key) <= number:
            return np.inf
        kept = np.argpartition(key, number - 1)[:number]
        keys[:], rows[:] = [key[kept]], [row[kept]]
        return float(key[kept].max())

    bound = np.inf
    for block in blocks:
        key = rng.random(len(block))
        near = key < bound
        keys.append(key[near])
        rows.append(block[near])
        if sum(map(len, keys)) > 2 * number:
            bound = smallest()
    smallest()
    return np.concatenate(rows)


def _centers(x: np.ndarray, clusters: int, options: Baselines) -> np.ndarray:
    if len(x) < clusters:
        raise InputError(f"--data: {len(x)} pixels for {clusters} clusters; give more")
    found = kmeans(x, clusters, starts=options.starts, seed=options.seed, tolerance=TOLERANCE)
    return found.centers


def distances(x: np.ndarray, centers: np.ndarray) -> np.ndarray:
    """Squared distances of rows `[N, D]` to centers `[K, D]`, less what is the same for all K."""
    return np.einsum("kd,kd->k", centers, centers)[None] - 2 * (x @ centers.T)


BASELINES: dict[str, Callable[[Pixels, Baselines], Iterator[tuple[str, Predict]]]] = {
    "place": place,
    "color": color,
    "random": random_network,
}


def figures_of(predict: Predict, score: Evaluation) -> dict[str, float]:
    """What the experiment measures, of other clusters."""
    sums: Any = None
    for batch in score.data:
        clusters = predict(batch)
        new = score.metric.measure({"clusters": clusters, "sub_heads": clusters[:, None]}, batch)
        sums = new if sums is None else score.metric.merge(sums, new)
    return score.metric.compute(sums)


def run(options: Baselines) -> None:
    """Prints the table.

    Raises:
        InputError: an option or the data cannot be used.
    """
    if not options.rows:
        raise InputError(f"--rows is empty; choose of {', '.join(BASELINES)}")
    for name, least in (("seed", 0), ("sample", 1), ("starts", 1)):
        if getattr(options, name) < least:
            raise InputError(f"--{name} is {getattr(options, name)}; give {least} or more")
    pixels = open_pixels(options)
    print("| | pixels | accuracy | mIoU | NMI | CPU seconds |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |", flush=True)
    for name in dict.fromkeys(options.rows):
        begin = time.process_time()
        for title, predict in BASELINES[name](pixels, options):
            figures = figures_of(predict, pixels.score)
            cells = (
                title,
                f"{figures['counted']:.0f}",
                f"{100 * figures['accuracy']:.2f}",
                f"{100 * figures['miou']:.2f}",
                f"{figures['nmi']:.4f}",
                f"{time.process_time() - begin:.0f}",
            )
            print(f"| {' | '.join(cells)} |", flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    options = tyro.cli(Baselines, args=argv, description=__doc__)
    try:
        run(options)
    except InputError as error:
        print(f"iic_pixel_baselines: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
