"""What digits come to without IIC: k-means, spectral clustering, an untrained network, a code.

    python experiments/iic_baselines.py --data MNIST
    python experiments/iic_baselines.py --data MNIST --rows kmeans autoencoder --seed 1

Prints a table in Markdown, row by row. As in table 1 of Ji et al., ICCV 2019, clusters are found
and measured on all images, training and test together; labels serve to name the clusters (one class
to each, the Hungarian assignment) and for nothing else. Each k-means is the best of ten starts by
inertia. CPU seconds are counted from where a baseline begins, compilation included. The last column
holds the paper's figures, of its own networks and budgets.

- `random`: a small net6c as it is initialised, of the middle 24×24 pixels, with the statistics of
  each 1,000 images, as the paper evaluates digits in batches. First its own answer, the largest
  output of one head; then k-means of its last map.
- `kmeans`: of the pixels in [0, 1].
- `spectral`: normalised spectral clustering (Ng, Jordan and Weiss, NeurIPS 2001) of a subset drawn
  by the seed. Images are joined where one is among the ten nearest of the other, by pixels.
- `autoencoder`: two convolutions of stride 2 and a dense layer to ten numbers, and the way back,
  trained on the mean squared error of pixels by Adam; k-means of the ten numbers.
"""

import dataclasses
import sys
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from kmeans import kmeans

from jaxseg import metrics, models, train
from jaxseg.models.convolution import ConvTranspose
from jaxseg.types import Batch, InputError, LossOutput, Method, PyTree

CLASSES = 10
WIDTHS = (16, 32, 64, 128)
"""Of the untrained network."""
KERNEL = 3
SIDE = 24
"""Of the images that it sees."""
NEIGHBORS = 10
CODE = 10
"""Numbers that the autoencoder has for an image."""
BATCH = 256
RATE = 2e-3
BLOCK = 1000
"""Images that go through a network at once."""
TOLERANCE = 1e-5
"""k-means stops when the inertia falls by a smaller part."""


@dataclasses.dataclass(frozen=True)
class Baselines:
    """Options."""

    data: Path
    """The folder of mnist.npz."""
    rows: tuple[Literal["random", "kmeans", "spectral", "autoencoder"], ...] = (
        "random",
        "kmeans",
        "spectral",
        "autoencoder",
    )
    """Which baselines."""
    seed: int = 0
    subset: int = 5000
    """Images of the spectral clustering."""
    steps: int = 1000
    """Of the autoencoder, with 256 images each."""


class Digits(NamedTuple):
    """All of a data set."""

    images: np.ndarray
    """uint8 `[N, 28, 28]`."""
    labels: np.ndarray
    """int32 `[N]`, 0 to 9."""


class Row(NamedTuple):
    """What a baseline says."""

    title: str
    clusters: np.ndarray
    """`[n]`, 0 to 9."""
    paper: str = "-"
    """Per cent."""
    chosen: np.ndarray | None = None
    """The places `[n]` of the images; None: all."""


def open_digits(folder: Path) -> Digits:
    """Reads mnist.npz, the training images before the test images.

    Raises:
        InputError: there is no such file, or it holds something else.
    """
    path = folder / "mnist.npz"
    if not path.is_file():
        raise InputError(f"{path}: is no file; give the folder of mnist.npz")
    try:
        with path.open("rb") as file, np.load(file) as arrays:
            images, labels = (
                np.concatenate([arrays[f"{split}_{kind}"] for split in ("train", "test")])
                for kind in ("images", "labels")
            )
    except (OSError, ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile) as error:
        reason = str(error).partition("\n")[0].strip("'")
        raise InputError(f"{path}: cannot be read ({reason}); fetch it again") from error
    right = images.dtype == np.uint8 and images.shape == (len(labels), 28, 28)
    if not (right and labels.ndim == 1 and len(labels) > NEIGHBORS):
        raise InputError(
            f"{path}: has images of {images.dtype} {images.shape} and labels {labels.shape}; "
            f"give uint8 [N, 28, 28] and [N], N more than {NEIGHBORS}"
        )
    if labels.min() < 0 or labels.max() >= CLASSES:
        raise InputError(f"{path}: labels are {labels.min()} to {labels.max()}; give 0 to 9")
    return Digits(images, labels.astype(np.int32))


def random_network(digits: Digits, options: Baselines) -> Iterator[Row]:
    """The answer of an untrained network, and k-means of what its heads see."""
    start = (digits.images.shape[1] - SIDE) // 2
    middle = digits.images[:, start : start + SIDE, start : start + SIDE]
    size = WIDTHS[-1] * (SIDE // 8) ** 2
    heads = {"main": CLASSES, "features": size}
    network = models.iic.net6c(
        heads, sub_heads=1, widths=WIDTHS, kernel_size=KERNEL, batch_norm="batch"
    )
    variables = network.init(jax.random.key(options.seed), jnp.zeros((1, SIDE, SIDE, 1)))
    # A network gives logits alone: those of the identity are the features.
    identity = {"kernel": jnp.eye(size), "bias": jnp.zeros(size)}
    variables = {**variables, "params": {**variables["params"], "head_features": identity}}
    logits = through(lambda x: network.apply(variables, x)[0], middle)
    what = f"untrained net6c, widths {'-'.join(map(str, WIDTHS))}, kernel {KERNEL}"
    yield Row(f"{what}: its answer", logits["main"][:, 0].argmax(axis=1), "26.1")
    labels = k_means(logits["features"][:, 0], options.seed)
    yield Row(f"{what}: k-means of its {size} features", labels)


def pixels(digits: Digits, options: Baselines) -> Iterator[Row]:
    """k-means of the pixels."""
    flat = digits.images.reshape(len(digits.images), -1)
    yield Row("k-means of pixels", k_means(flat.astype(np.float32) / 255, options.seed), "57.2")


def spectral(digits: Digits, options: Baselines) -> Iterator[Row]:
    """Spectral clustering of a subset."""
    rng = np.random.default_rng(options.seed)
    total = len(digits.images)
    chosen = rng.choice(total, min(options.subset, total), replace=False)
    flat = digits.images[chosen].reshape(len(chosen), -1).astype(np.float32) / 255
    vectors = spectral_embedding(flat, CLASSES, neighbors=NEIGHBORS, seed=options.seed)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    labels = k_means(vectors / np.maximum(lengths, np.finfo(np.float64).tiny), options.seed)
    title = f"spectral clustering of a subset, {NEIGHBORS} nearest neighbours"
    yield Row(title, labels, "69.6", chosen)


def spectral_embedding(x: np.ndarray, size: int, *, neighbors: int, seed: int) -> np.ndarray:
    """Eigenvectors of the smallest eigenvalues of the normalised Laplacian, `[N, size]`.

    The graph joins two rows by an edge of weight 1 where either is among the other's nearest.

    Args:
        x: float32 `[N, D]`.
        size: how many eigenvectors, fewer than N.
        neighbors: how many are nearest, fewer than N.
        seed: of the vector that the iteration begins with.
    """
    from scipy.sparse import csr_array, eye_array
    from scipy.sparse.csgraph import connected_components, laplacian
    from scipy.sparse.linalg import eigsh

    number = len(x)
    x = x - x.mean(axis=0, keepdims=True)
    squares = np.einsum("nd,nd->n", x, x)
    nearest = []
    for first in range(0, number, BLOCK):
        rows = np.arange(first, min(first + BLOCK, number))
        distances = squares[None] - 2 * (x[rows] @ x.T)
        distances[np.arange(len(rows)), rows] = np.inf
        nearest.append(np.argpartition(distances, neighbors - 1, axis=1)[:, :neighbors])
    ends = np.arange(0, number * neighbors + 1, neighbors)
    edges = csr_array((np.ones(number * neighbors), np.concatenate(nearest).ravel(), ends))
    graph = edges.maximum(edges.T)
    # Lanczos finds the largest quickly, and the Laplacian's are at most 2.
    turned = (eye_array(number) * 2 - laplacian(graph, normed=True)).tocsr()
    rng = np.random.default_rng(seed)
    values, vectors = [], []
    # From one vector it finds one to an eigenvalue, but every component has its own 0.
    count, member = connected_components(graph, directed=False)
    for i in range(count):
        rows = np.flatnonzero(member == i)
        part = turned[rows][:, rows]
        if len(rows) <= 2 * size:
            own_values, own_vectors = np.linalg.eigh(part.toarray())
        else:
            own_values, own_vectors = eigsh(part, size, which="LA", v0=rng.normal(size=len(rows)))
        whole = np.zeros((number, len(own_values)))
        whole[rows] = own_vectors
        values.append(own_values)
        vectors.append(whole)
    order = np.argsort(-np.concatenate(values), kind="stable")[:size]
    return np.concatenate(vectors, axis=1)[:, order]


class Autoencoder(nn.Module):
    """Images `[B, 28, 28, 1]` -> their codes `[B, CODE]` and images made of these, unbounded."""

    @nn.compact
    def __call__(self, x, *, train=False, mask=None, axis_name=None):
        """Encodes and decodes."""
        for features in (16, 32):
            x = nn.relu(nn.Conv(features, (3, 3), strides=2)(x))
        code = nn.Dense(CODE)(x.reshape(x.shape[0], -1))
        y = nn.relu(nn.Dense(7 * 7 * 32)(code)).reshape(-1, 7, 7, 32)
        y = nn.relu(ConvTranspose(16, (4, 4), strides=2)(y))
        return code, ConvTranspose(1, (4, 4), strides=2)(y)


def autoencoder(digits: Digits, options: Baselines) -> Iterator[Row]:
    """k-means of an autoencoder's code."""
    codes, error = encode(digits.images, seed=options.seed, steps=options.steps)
    title = (
        f"autoencoder, {options.steps} steps of {BATCH}, mean squared error {error:.4f}: "
        f"k-means of {CODE} numbers"
    )
    yield Row(title, k_means(codes, options.seed), "81.2")


def encode(
    images: np.ndarray, *, seed: int, steps: int, batch_size: int = BATCH
) -> tuple[np.ndarray, float]:
    """Trains an autoencoder on images; their codes `[N, CODE]`, and the mean squared error."""
    network = models.network(Autoencoder())

    def init(key: jax.Array, batch: Batch) -> tuple[PyTree, PyTree]:
        return network.init(key, as_input(batch["image"]))["params"], {}

    def loss(
        params: PyTree, model_state: PyTree, batch: Batch, key: jax.Array, *, axis_name: Any = None
    ) -> tuple[jax.Array, LossOutput]:
        value = errors(params, as_input(batch["image"]))
        return value, LossOutput(model_state, batch["weight"], {})

    def errors(params: PyTree, x: jax.Array) -> jax.Array:
        return jnp.mean((apply(params, x)[1] - x) ** 2, axis=(1, 2, 3))

    def apply(params: PyTree, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        return network.apply({"params": params, "batch_stats": {}}, x)[0]

    optimizer = optax.adam(optax.cosine_decay_schedule(RATE, steps))
    step = jax.jit(train.make_train_step(loss, optimizer), donate_argnums=0)
    rng = np.random.default_rng(seed)
    weight = np.ones(batch_size, np.float32)
    method = Method(init, loss, lambda params, state, batch: {})
    state = train.init_state(jax.random.key(seed), method, {"image": images[:1]}, optimizer)
    for _ in range(steps):
        drawn = images[rng.integers(len(images), size=batch_size)]
        state, _ = step(state, {"image": drawn, "weight": weight})
    found = through(lambda x: (apply(state.params, x)[0], errors(state.params, x)), images)
    return found[0], float(found[1].mean(dtype=np.float64))


def as_input(images: jax.Array) -> jax.Array:
    """uint8 `[B, H, W]` to float32 `[B, H, W, 1]` in [0, 1]."""
    return images[..., None] / jnp.float32(255)


def through(function: Callable[[jax.Array], PyTree], images: np.ndarray) -> PyTree:
    """What a function of a network's input gives for images, in blocks; NumPy arrays."""
    compiled = jax.jit(lambda x: function(as_input(x)))
    found = [compiled(images[i : i + BLOCK]) for i in range(0, len(images), BLOCK)]
    return jax.tree.map(lambda *parts: np.concatenate(parts), *found)


def k_means(x: np.ndarray, seed: int) -> np.ndarray:
    """The clusters, as many as classes, of the best start."""
    return kmeans(x, CLASSES, seed=seed, tolerance=TOLERANCE).labels


BASELINES: dict[str, Callable[[Digits, Baselines], Iterator[Row]]] = {
    "random": random_network,
    "kmeans": pixels,
    "spectral": spectral,
    "autoencoder": autoencoder,
}


def run(options: Baselines) -> None:
    """Prints the table.

    Raises:
        InputError: an option or the data cannot be used.
    """
    if not options.rows:
        raise InputError(f"--rows is empty; choose of {', '.join(BASELINES)}")
    for name, least in (("seed", 0), ("subset", NEIGHBORS + 1), ("steps", 1)):
        if getattr(options, name) < least:
            raise InputError(f"--{name} is {getattr(options, name)}; give {least} or more")
    digits = open_digits(options.data)
    metric = metrics.clustering(CLASSES, CLASSES)
    print("| | images | accuracy | NMI | CPU seconds | accuracy in the paper |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |", flush=True)
    for name in dict.fromkeys(options.rows):
        begin = time.process_time()
        for row in BASELINES[name](digits, options):
            seconds = time.process_time() - begin
            labels = digits.labels if row.chosen is None else digits.labels[row.chosen]
            batch = {"label": labels, "weight": np.ones(len(labels))}
            figures = metric.compute(metric.measure({"clusters": row.clusters}, batch))
            cells = (
                row.title,
                str(len(labels)),
                f"{100 * figures['accuracy']:.2f}",
                f"{figures['nmi']:.4f}",
                f"{seconds:.0f}",
                row.paper,
            )
            print(f"| {' | '.join(cells)} |", flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    options = tyro.cli(Baselines, args=argv, description=__doc__)
    try:
        run(options)
    except InputError as error:
        print(f"iic_baselines: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
