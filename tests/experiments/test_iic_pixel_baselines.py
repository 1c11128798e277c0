"""Draws, columns and nearest centers beside plain loops, and the tables end to end."""

import json

import iic_pixel_baselines as baselines
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from skimage.color import rgb2lab

from jaxseg.data import write_image, write_labels
from jaxseg.methods.iic import network_inputs
from jaxseg.models.iic import net10a, upsample_probabilities

SIZE = (12, 16)
COLORS = np.array([[70, 130, 220], [150, 60, 20], [120, 120, 120]])
EXPERIMENT = """
import dataclasses
from jaxseg.recipes.iic_pixels import Config, build

TINY = Config(
    num_clusters=3, width=2, crop=(8, 8), displacement=1, eval_batch=3, train_split="train",
    groups=("up: a", "middle: b", "down: c, d"),
)
VARIANTS = {
    "tiny": TINY,
    "over": dataclasses.replace(TINY, predicts="over", over_clusters=5),
    "masked": dataclasses.replace(TINY, masked=True),
}
"""


def scene(seed):
    """Bands of three colours with noise, and their labels, 1 and up: the last of two classes."""
    rng = np.random.default_rng(seed)
    edges = np.sort(rng.choice(np.arange(2, SIZE[0] - 1), 2, replace=False))
    band = np.searchsorted(edges, np.arange(SIZE[0]), side="right")[:, None].repeat(SIZE[1], axis=1)
    image = COLORS[band] + rng.integers(-9, 10, (*SIZE, 3))
    label = band + 1 + (band == 2) * (np.arange(SIZE[1]) > 7)[None]
    label[0] = 0
    return image.astype(np.uint8), label.astype(np.int32)


def write(folder, splits):
    for split, seeds in splits.items():
        for seed in seeds:
            image, label = scene(seed)
            for kind, array in (("images", image), ("labels", label)):
                path = folder / kind / split / f"{seed}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                (write_image if kind == "images" else write_labels)(path, array)
    classes = {str(i + 1): name for i, name in enumerate("abcd")}
    record = {"kind": "classes", "classes": classes, "ignore": 0}
    (folder / "dataset.json").write_text(json.dumps(record))
    (folder / "experiment.py").write_text(EXPERIMENT)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    write(folder, {"train": range(4), "test": range(4, 9)})
    return folder


def options(folder, **changed):
    given = {"data": folder, "experiment": folder / "experiment.py"} | changed
    return baselines.Baselines(**given)


def test_every_row_is_drawn_as_often_as_any_other():
    blocks = [np.arange(7.0)[:, None], np.arange(7.0, 8.0)[:, None], np.arange(8.0, 60.0)[:, None]]
    counts = np.zeros(60)
    draws = 2000
    for seed in range(draws):
        drawn = baselines.sample(iter(blocks), 6, seed)[:, 0].astype(int)
        assert len(set(drawn)) == 6
        counts[drawn] += 1
    # Four and a half standard deviations of a binomial.
    assert np.all(np.abs(counts - draws / 10) < 4.5 * np.sqrt(draws * 0.1 * 0.9))
    np.testing.assert_array_equal(
        baselines.sample(blocks, 6, 3), baselines.sample(blocks, 6, 3), "the same seed"
    )


@pytest.mark.parametrize("number", [60, 100])
def test_where_there_are_fewer_all_are_drawn(number):
    blocks = np.split(np.arange(120.0).reshape(60, 2), [1, 31])
    drawn = baselines.sample(blocks, number, 0)
    np.testing.assert_array_equal(drawn[np.argsort(drawn[:, 0])], np.concatenate(blocks))


def batch_of(images, size, label=None):
    shape = images.shape[:3]
    return {
        "image": images,
        "size": np.array(size),
        "weight": np.array([1.0, 1.0, 0.0]),
        "label": np.zeros(shape, np.int32) if label is None else label,
    }


@pytest.mark.parametrize("channels", [3, 4])
def test_columns_are_lab_infrared_row_and_column(channels):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (3, 5, 4, channels)).astype(np.uint8)
    batch = batch_of(images, [[5, 4], [3, 2], [0, 0]])
    found = baselines.columns(batch, places=True)
    assert found.shape == (3, 5, 4, channels + 2)
    np.testing.assert_allclose(found[..., :3], rgb2lab(images[..., :3]), atol=2e-2)
    np.testing.assert_allclose(found[..., 3:-2], images[..., 3:] / 255, atol=1e-6)
    np.testing.assert_allclose(found[0, 4, 3, -2:], (4.5 / 5, 3.5 / 4), rtol=1e-6)
    np.testing.assert_allclose(found[1, 2, 0, -2:], (2.5 / 3, 0.5 / 2), rtol=1e-6)
    np.testing.assert_array_equal(baselines.columns(batch, places=False), found[..., :-2])


@pytest.mark.parametrize("masked", [False, True])
def test_what_counts(masked):
    rng = np.random.default_rng(0)
    label = rng.integers(-1, 2, (3, 5, 4)).astype(np.int32)
    batch = batch_of(np.zeros((3, 5, 4, 3), np.uint8), [[5, 4], [3, 2], [5, 4]], label)
    found = baselines.counted(batch, masked=masked)
    for i, row, col in np.ndindex(3, 5, 4):
        inside = i < 2 and row < batch["size"][i][0] and col < batch["size"][i][1]
        assert found[i, row, col] == (inside and not (masked and label[i, row, col] < 0))


@pytest.mark.parametrize("variant", ["tiny", "masked"])
def test_pixels_go_to_the_center_nearest_to_the_interpolated_map(folder, monkeypatch, variant):
    """With one batch the mean statistics are those of the batch, which a network computes too."""
    drawn = []

    def spy(x, clusters, options):
        drawn.append(x)
        return x[:: len(x) // clusters][:clusters]

    monkeypatch.setattr(baselines, "_centers", spy)
    given = options(folder, variant=variant, seed=3, fit="test", split="test", sample=500)
    pixels = baselines.open_pixels(given)
    [first, *_] = batches = list(pixels.fit.data)
    only = pixels._replace(fit=pixels.fit._replace(data=[first]))
    (_, answer), (_, nearest) = baselines.random_network(only, given)
    network = net10a({"main": 3, "features": 16}, width=2, batch_norm="batch")
    x = network_inputs(jnp.asarray(first["image"] / np.float32(255)), "image+sobel")
    variables = jax.jit(network.init)(jax.random.key(3), x[:1])
    variables["params"]["head_features"]["kernel"] = np.eye(16, dtype=np.float32)
    logits, _ = jax.jit(network.apply)(variables, x)
    own = jax.nn.softmax(logits["main"], axis=-1)
    own = np.asarray(upsample_probabilities(own, SIZE))[:, :, :, 0]
    np.testing.assert_array_equal(answer(first), own.argmax(axis=-1))
    features = np.asarray(logits["features"])[:, :, :, 0]
    counted = first["label"][:, ::2, ::2] >= (0 if variant == "masked" else -1)
    [rows] = drawn
    np.testing.assert_allclose(np.sort(rows, axis=0), np.sort(features[counted], axis=0), atol=1e-4)
    assert len(rows) == 3 * 6 * (8 if variant == "tiny" else 8 * 5 / 6)
    centers = rows[:: len(rows) // 3][:3]
    maps = np.asarray(upsample_probabilities(logits["features"], SIZE))[:, :, :, 0]
    squares = np.sum((maps[..., None, :] - centers) ** 2, axis=-1)
    found = nearest(first)
    assert found.shape == (3, *SIZE) and len(np.unique(found)) == 3
    taken = np.take_along_axis(squares, found[..., None], axis=-1)[..., 0]
    np.testing.assert_allclose(taken, squares.min(axis=-1), atol=1e-3)
    assert nearest(batches[1]).shape == (3, *SIZE)


def rows_of(out):
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in out.splitlines()]
    assert {len(row) for row in lines} == {6}
    return lines[2:]


def test_the_table_end_to_end(folder, capsys):
    told = ("--data", str(folder), "--experiment", str(folder / "experiment.py"))
    assert baselines.main((*told, "--sample", "300", "--starts", "3")) == 0
    place, color, answer, network = rows_of(capsys.readouterr().out)
    # Of the 12 rows the first has no label.
    assert {row[1] for row in (place, color, answer, network)} == {str(5 * 11 * 16)}
    assert color[0] == "k-means of Lab" and color[2:5] == ["100.00", "100.00", "1.0000"]
    assert place[0] == "k-means of Lab, row and column" and float(place[2]) > 60
    assert answer[0] == "untrained net10a, width 2: its answer"
    assert network[0] == "untrained net10a, width 2: k-means of its 16 features"
    assert all(33.3 < float(row[2]) < 100 for row in (answer, network))
    assert baselines.main((*told, "--variant", "over", "--rows", "color")) == 0
    [again] = rows_of(capsys.readouterr().out)
    assert again[:5] == color[:5], "one to one, whatever the variant predicts"


def test_the_same_seed_gives_the_same_row(folder, capsys):
    told = ("--data", str(folder), "--experiment", str(folder / "experiment.py"))
    told = (*told, "--rows", "place", "place", "--sample", "50")
    assert baselines.main(told) == 0 == baselines.main(told)
    [once], [again] = (rows_of(part) for part in _halves(capsys.readouterr().out))
    assert once[:5] == again[:5]


def _halves(text):
    lines = text.splitlines()
    return "\n".join(lines[: len(lines) // 2]), "\n".join(lines[len(lines) // 2 :])


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (("--seed", "-1"), "--seed is -1; give 0 or more"),
        (("--sample", "0"), "--sample is 0; give 1 or more"),
        (("--starts", "0"), "--starts is 0; give 1 or more"),
        (("--rows",), "--rows is empty; choose of place, color, random"),
        (("--variant", "large"), "has tiny, over, masked"),
        (("--split", "nowhere"), "nowhere"),
        (("--sample", "2", "--rows", "color"), "2 pixels for 3 clusters"),
        (("--experiment", "/nowhere.py"), "no such experiment file"),
    ],
)
def test_wrong_options_are_told_in_one_line(folder, capsys, given, says):
    told = ("--data", str(folder), "--experiment", str(folder / "experiment.py"))
    assert baselines.main((*told, *given)) == 2
    _, err = capsys.readouterr()
    assert err.count("\n") == 1
    assert err.startswith("iic_pixel_baselines: ") and says in err


def test_an_experiment_on_images_is_refused(folder, capsys, tmp_path):
    path = tmp_path / "images.py"
    path.write_text(
        "from jaxseg.recipes.iic_images import Config, build\nVARIANTS = {'x': Config()}\n"
    )
    assert baselines.main(("--data", str(folder), "--experiment", str(path))) == 2
    assert "is no experiment of IIC on pixels" in capsys.readouterr().err
