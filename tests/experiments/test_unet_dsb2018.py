"""The experiment on touching nuclei: its targets, its objects, and a training from end to end."""

import dataclasses
import json

import compare_nuclei
import numpy as np
import pytest
import unet_dsb2018 as experiment
from command_line import Jaxseg

from jaxseg import data
from jaxseg.types import InputError

TINY = experiment.Config(width=2, depth=1, crop=(16, 16), batch_size=2, steps=2, warmup=1)
LABEL = np.zeros((14, 20), np.int32)
"""Three nuclei in a row that touch, one that touches the third at its corner alone, one apart."""
LABEL[1:6, 1:6] = 7
LABEL[1:6, 6:11] = 3
LABEL[2:7, 11:15] = 1
LABEL[7:12, 15:19] = 2
LABEL[9:14, 2:9] = 5


def neighbours(y, x, shape):
    steps = ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1))
    return [(i, j) for i, j in steps if 0 <= i < shape[0] and 0 <= j < shape[1]]


def nuclei(seed, size=(24, 28)):
    """Cells around random points, cut by a random distance: many touch."""
    rng = np.random.default_rng(seed)
    points = rng.uniform(0, size, (7, 2))
    distance = np.linalg.norm(np.moveaxis(np.indices(size), 0, -1)[..., None, :] - points, axis=-1)
    label = (distance.argmin(axis=-1) + 1) * (distance.min(axis=-1) < 6)
    return label.astype(np.int32)


@pytest.mark.parametrize("seed", range(3))
def test_the_seam_is_where_two_objects_meet(seed):
    label = nuclei(seed)
    expected = np.zeros(label.shape, bool)
    for y, x in np.ndindex(label.shape):
        around = {int(label[place]) for place in neighbours(y, x, label.shape)}
        expected[y, x] = label[y, x] > 0 and bool(around - {0, int(label[y, x])})
    np.testing.assert_array_equal(experiment.seam(label), expected)
    assert expected.any()


def test_perfect_foreground_gives_the_true_objects():
    target, _ = experiment.targets(
        LABEL, class_weights=(1.0, 1.0), border_weight=0.0, border_sigma=5.0
    )
    np.testing.assert_array_equal(target, (LABEL > 0) & ~experiment.seam(LABEL))
    found = experiment.components(target == 1, min_size=10)
    assert found.dtype == np.int32 and found.max() == 5
    for own in (1, 2, 3, 5, 7):
        (number,) = np.unique(found[own == LABEL])
        np.testing.assert_array_equal(found == number, own == LABEL)
    # Without the seam the three in a row are one object.
    assert experiment.components(LABEL > 0, min_size=10).max() == 3


def test_small_objects_are_dropped_before_gaps_are_closed():
    mask = np.zeros((8, 12), bool)
    mask[1:3, 1:4] = True
    mask[1:3, 5:8] = True
    mask[6, 1:6] = True
    found = experiment.components(mask, min_size=6)
    np.testing.assert_array_equal(np.unique(found), [0, 1, 2])
    assert not found[6].any() and (found[1:3, 4] > 0).all()
    assert (found > 0).sum() == 14
    assert experiment.components(mask, min_size=7).max() == 0


def test_weights_are_those_of_the_paper():
    options = {"class_weights": (0.5, 3.0), "border_sigma": 2.0}
    plain = experiment.targets(LABEL, border_weight=0.0, **options)
    weighted = experiment.targets(LABEL, border_weight=10.0, **options)
    np.testing.assert_array_equal(plain.label, weighted.label)
    np.testing.assert_array_equal(plain.pixel_weight, np.where(plain.label == 1, 3.0, 0.5))
    apart = np.where(experiment.seam(LABEL), 0, LABEL)
    for y, x in np.argwhere(apart == 0):
        nearest = sorted(
            np.hypot(*(np.argwhere(apart == number) - (y, x)).T).min()
            for number in np.unique(apart[apart > 0])
        )
        border = 10 * np.exp(-((nearest[0] + nearest[1]) ** 2) / 8)
        assert weighted.pixel_weight[y, x] == pytest.approx(0.5 + border, abs=1e-4)
    inside = apart > 0
    np.testing.assert_array_equal(weighted.pixel_weight[inside], plain.pixel_weight[inside])


def test_touching_pairs_and_joined_ones():
    np.testing.assert_array_equal(compare_nuclei.touching(LABEL), [[1, 3], [3, 7]])
    told = np.zeros_like(LABEL)
    told[1:6, 1:8] = 4
    told[1:6, 8:15] = 9
    assert compare_nuclei.count_joined(LABEL, told) == 1
    assert compare_nuclei.count_joined(LABEL, (LABEL > 0).astype(np.int32)) == 2
    assert compare_nuclei.count_joined(LABEL, LABEL) == 0
    assert compare_nuclei.count_joined(LABEL, np.zeros_like(LABEL)) == 0


def test_variants_differ_in_the_border_term_alone():
    for ending in ("", "_balanced"):
        weighted, plain = (experiment.VARIANTS[f"{n}{ending}"] for n in ("weighted", "plain"))
        assert dataclasses.replace(weighted, border_weight=0.0) == plain != weighted


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Nuclei of grey images, bright on dark."""
    root = tmp_path_factory.mktemp("nuclei")
    (root / "dataset.json").write_text('{"kind": "instances", "channels": "grey"}')
    for split, seeds in {"train": (0, 1, 2), "test": (3, 4)}.items():
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True)
        for seed in seeds:
            label = nuclei(seed)
            image = np.where(label > 0, 150, 20).astype(np.uint8)[..., None]
            data.write_image(root / "images" / split / f"{seed}.png", image)
            data.write_labels(root / "labels" / split / f"{seed}.png", label)
    return root


def test_batches_hold_weights_that_balance_the_classes(folder):
    config = dataclasses.replace(TINY, border_weight=0.0, class_weights="median")
    (phase,) = experiment.build(config).phases(folder)
    batch = next(iter(phase.data))
    assert batch["pixel_weight"].shape == batch["label"].shape == (2, 16, 16)
    labels = [nuclei(seed) for seed in range(3)]
    part = np.mean([(label > 0) & ~experiment.seam(label) for label in labels])
    # The median of two frequencies is their mean, a half.
    expected = np.where(batch["label"] == 1, 0.5 / part, 0.5 / (1 - part))
    expected[batch["label"] == -1] = 0
    np.testing.assert_allclose(batch["pixel_weight"], expected, rtol=1e-5)


def test_from_training_to_the_table(folder, tmp_path, capsys):
    jaxseg = Jaxseg(capsys)
    run, picture = tmp_path / "run", tmp_path / "nuclei.png"
    options = {"width": 2, "depth": 1, "batch-size": 8, "steps": 2, "warmup": 1, "min-size": 1}
    numbers = [str(text) for name, value in options.items() for text in (f"--{name}", value)]
    file = experiment.__file__
    status, _, err = jaxseg(
        "train", file, "--data", folder, "--workdir", run, *numbers, "--crop", 16, 16
    )
    assert status == 0, err
    jaxseg.succeeds("evaluate", run, "--data", folder, "--split", "test")
    figures = json.loads((run / "evaluation_test.json").read_text())["figures"]
    assert figures["components/images"] == 2 and 0 <= figures["components/ap_dsb"] <= 1
    source = experiment.open_instances(folder, "test")
    measured = compare_nuclei.measure(run, source)
    assert {f"components/{k}": v for k, v in measured.figures.items()} == figures
    assert (measured.variant, measured.seed) == ("weighted", 0)
    other = measured._replace(seed=1, figures={**measured.figures, "ap_dsb": 1.0})
    row = compare_nuclei.table([other, measured], 9).splitlines()[2]
    ap = figures["components/ap_dsb"]
    assert row.startswith(f"| weighted | 0, 1 | {(1 + ap) / 2:.4f} | {ap:.4f} - 1.0000 |")
    data.write_image(picture, compare_nuclei.draw(source, [measured], 2))
    assert data.image_size(picture)[1] > 3 * 320


def test_data_that_do_not_fit(folder, tmp_path):
    (tmp_path / "dataset.json").write_text('{"kind": "partition"}')
    with pytest.raises(InputError, match="holds partition, background 0; give instances"):
        experiment.open_instances(tmp_path, "train")


@pytest.mark.parametrize(
    "change",
    [
        {"border_weight": -1.0},
        {"border_sigma": 0.0},
        {"crop": (0, 8)},
        {"scale_range": (2.0, 1.0)},
        {"ema_decay": 1.0},
        {"seed": 2**31},
    ],
)
def test_numbers_that_cannot_be_used(change):
    with pytest.raises(InputError, match=next(iter(change))):
        experiment.build(dataclasses.replace(TINY, **change))
