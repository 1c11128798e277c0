"""What DSRL sees, image by image: its classes, its errors, both branches' features, and the image.

For compare_dsrl.py. Nothing is normalised by the batch that is drawn: what falls away after
training is computed with the running statistics too, so that the features belong to the very
prediction beside them (a run with `batch_norm="batch"` has each image's own, as when it predicts).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import jaxseg
from jaxseg import data, losses, viz
from jaxseg.methods import dsrl
from jaxseg.methods.tasks import Task, classes_at, resized
from jaxseg.models.dsrl import dsrl as dsrl_network
from jaxseg.models.layers import BatchNorm
from jaxseg.models.resize import resize_nearest
from jaxseg.models.trunk import TrunkOption
from jaxseg.recipes.dsrl import Config, build_network
from jaxseg.train.run_folder import open_run
from jaxseg.types import InputError, Method, Network

WRONG, RIGHT, IGNORED = (213, 94, 0), (232, 234, 237), (0, 0, 0)
_CELL = 260


def draw(stages: Mapping[Path, str], folder: Path, split: str, count: int) -> np.ndarray:
    """The sheet: a row for each image, and a legend below.

    Args:
        stages: of each run: one of "affinity" or "phases", and one of "base" if wanted.
        folder: of classes.
        split: such as "test".
        count: of images, spread evenly over the split.

    Raises:
        InputError: an argument or a file cannot be used.
    """
    whole = [run for run, stage in stages.items() if stage in ("affinity", "phases")]
    plain = [run for run, stage in stages.items() if stage == "base"]
    if len(whole) != 1 or len(plain) > 1 or len(stages) > len(whole + plain):
        given = ", ".join(stages.values()) or "none"
        raise InputError(f"--runs: of stages {given}; give one affinity, and one base or none")
    if count < 1:
        raise InputError(f"--images is {count}; give 1 or more")
    _, config = open_run(whole[0])
    source = data.open_data(folder, split, channels="rgb")
    info = source.info
    if info.kind != "classes" or info.num_classes != config.num_classes:
        raise InputError(f"{folder}: {whole[0]} was trained on other data; give its own")
    model = jaxseg.load(whole[0])
    base = jaxseg.load(plain[0]) if plain else None
    see = jax.jit(seeing(config).predict)
    chosen = np.unique(np.linspace(0, len(source) - 1, count).round().astype(int))
    examples = [source[int(i)] for i in chosen]
    seen = [
        jax.device_get(see(model.params, model.model_state, {"image": e["image"][None]}))
        for e in examples
    ]
    painted = paint_features([s["ours"][0] for s in seen], [s["theirs"][0] for s in seen])
    table = np.array(info.colors, np.uint8) if info.colors else None
    rows, captions = [], []
    for example, found, features in zip(examples, seen, zip(*painted, strict=True), strict=True):
        image, label = np.asarray(example["image"]), example["label"]
        maps = [found["classes"][0]]
        if base is not None:
            maps.insert(0, base(image)["classes"])
        row = [image, viz.overlay_classes(image, label, colors=table, alpha=0.6)]
        told = [str(example["id"]), ""]
        for classes in maps:
            row.append(viz.overlay_classes(image, classes, colors=table, alpha=0.6))
            row.append(errors(label, classes))
            told += [f"{100 * np.mean(classes[label >= 0] == label[label >= 0]):.2f} % right", ""]
        distance = losses.feature_affinity(*(jnp.asarray(found[n]) for n in ("ours", "theirs")))
        rows.append([*row, *features, found["image"][0]])
        captions.append([*told, f"affinity loss {float(distance[0]):.3f}", "", ""])
    titles = ["photograph", "labels"]
    for name in ["base", "DSRL"][base is None :]:
        titles += [name, f"errors of {name}"]
    titles += ["features, classes", "features, image", "reconstructed"]
    sheet = viz.comparison_sheet(rows, titles, captions=captions, cell_size=_CELL)
    key = viz.legend(info.classes, table, width=sheet.shape[1], text_size=16.0)
    return np.concatenate([sheet, key[:, : sheet.shape[1]]])


def seeing(config: Config) -> Method:
    """A method over the variables of a run that predicts what only training computes otherwise.

    The prediction is that of `classes_at`, and {"image" `[B, H, W, 3]`, the reconstructed image in
    [0, 1], "ours" and "theirs" `[B, h, w, width]`, the features of the main branch after its
    transform and those of the image's}.
    """
    kind: TrunkOption = "scored" if config.residual else True
    trunk, stride, _ = build_network(config, trunk=kind, auxiliary=False)
    width = config.reconstruction_width

    def evaluate(variables: Any, *inputs: Any, train: bool = False, **options: Any) -> Any:
        return trunk.apply(variables, *inputs, train=False, **options)

    networks = dsrl_network(
        Network(trunk.init, evaluate),
        config.num_classes,
        tail_widths=config.tail_widths or None,
        width=width,
        affinity_stride=config.affinity_stride,
        subsample=config.subsample,
        batch_norm=config.batch_norm,
        dtype=None if config.dtype == "float32" else config.dtype,
    )

    def still(following: Any, args: Any, kwargs: Any, context: Any) -> Any:
        if isinstance(context.module, BatchNorm):
            kwargs = {**kwargs, "train": config.batch_norm == "batch"}
        return following(*args, **kwargs)

    def apply(variables: Any, *inputs: Any, **options: Any) -> Any:
        with nn.intercept_methods(still):
            dual, _ = networks.affinity.apply(variables, *inputs, **{**options, "train": True})
        size = (dual.outputs.shape[1], dual.outputs.shape[2])
        features = [resize_nearest(f, size) for f in dual.features]
        parts = [x.astype(jnp.float32) for x in (dual.outputs, dual.image, *features)]
        return jnp.concatenate(parts, axis=-1), variables["batch_stats"]

    def predict(maps: Any, size: tuple[int, int]) -> dict[str, Any]:
        ends = np.cumsum([config.num_classes, 3, width]).tolist()
        outputs, image, ours, theirs = jnp.split(maps, ends, axis=-1)
        mean, std = (jnp.asarray(x)[None, None, None] for x in (config.mean, config.std))
        step = config.affinity_stride
        return {
            **classes_at(outputs, size),
            "image": jnp.clip(resized(image * std + mean, size), 0, 1),
            "ours": ours[:, ::step, ::step],
            "theirs": theirs[:, ::step, ::step],
        }

    def no_loss(outputs: Any, batch: Any) -> Any:
        raise NotImplementedError("for prediction alone")

    return dsrl.method(
        Network(networks.affinity.init, apply),
        Task(config.num_classes + 3 + 2 * width, no_loss, predict),
        stride=stride,
        mean=config.mean,
        std=config.std,
        size=config.size if any(config.size) else None,
    )


def paint_features(
    ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray]
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Red, green and blue by the first three principal components, over all images.

    Affinity compares directions, so that features are brought to length 1 before. It does not
    change when one branch's features are turned: the second branch's components are turned to lie
    closest to the first one's, and pixels that are alike in both have like colours in both.

    Args:
        ours: `[h, w, c]` of each image.
        theirs: `[h, w, k]` of the same.

    Returns:
        The pictures of each, float `[h, w, 3]` in [0, 1].
    """
    a, b = _components(ours), _components(theirs)
    u, _, vt = np.linalg.svd(b.T @ a)
    pictures = []
    for scores, maps in ((a, ours), (b @ u @ vt, theirs)):
        low, high = np.percentile(scores, (1, 99), axis=0)
        painted = np.clip((scores - low) / np.maximum(high - low, 1e-12), 0, 1)
        cuts = np.cumsum([m.shape[0] * m.shape[1] for m in maps])[:-1]
        parts = np.split(painted, cuts)
        pictures.append([p.reshape(*m.shape[:2], 3) for p, m in zip(parts, maps, strict=True)])
    return pictures[0], pictures[1]


def _components(maps: Sequence[np.ndarray]) -> np.ndarray:
    rows = np.concatenate([m.reshape(-1, m.shape[-1]) for m in maps]).astype(np.float64)
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    rows -= rows.mean(axis=0)
    _, axes = np.linalg.eigh(rows.T @ rows)
    found = rows @ axes[:, ::-1][:, :3]
    return np.pad(found, ((0, 0), (0, 3 - found.shape[1])))


def errors(label: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Where a map is wrong, uint8 `[H, W, 3]`; pixels of label -1 are black."""
    colors = np.array([RIGHT, WRONG, IGNORED], np.uint8)
    return colors[np.where(label < 0, 2, classes != label)]
