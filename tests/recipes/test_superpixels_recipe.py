import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from jaxseg.data import samples_path
from jaxseg.recipes.superpixels import Config, build, compact_labels
from jaxseg.types import InputError

SMALL = Config(width=4, num_features=8, crop_size=33, batch_size=2, train_superpixels=(4, 9))


@given(hnp.arrays(np.int32, (5, 4), elements=st.integers(-1, 300)))
def test_labels_are_numbered_without_gaps(label):
    compact = compact_labels(label)
    np.testing.assert_array_equal(compact < 0, label < 0)
    kept = np.unique(compact[compact >= 0])
    np.testing.assert_array_equal(kept, np.arange(len(kept)))
    same = label.ravel()[:, None] == label.ravel()[None]
    np.testing.assert_array_equal(same, compact.ravel()[:, None] == compact.ravel()[None])


def test_phases_take_turns_over_one_stream_and_one_optimizer():
    phases = build(dataclasses.replace(SMALL, train_split="train")).phases(samples_path())
    assert [phase.name for phase in phases] == ["k4", "k9"]
    assert phases[0].data is phases[1].data
    assert phases[0].optimizer is phases[1].optimizer
    batch = next(iter(phases[0].data))
    assert batch["image"].shape == (2, 33, 33, 3)
    assert batch["image"].dtype == np.uint8
    for label in batch["label"]:
        ids = np.unique(label[label >= 0])
        np.testing.assert_array_equal(ids, np.arange(len(ids)))


def test_numbers_that_no_image_holds_are_left_out():
    config = dataclasses.replace(SMALL, evaluation_superpixels=(10, 256 * 256 // 4, 99999))
    rows = build(config).evaluations(samples_path(), "test")
    assert list(rows) == ["10", "16384"]
    with pytest.raises(InputError, match=r"256x256.*too small for 99999"):
        build(dataclasses.replace(config, evaluation_superpixels=(99999,))).evaluations(
            samples_path(), "test"
        )


def test_the_number_that_chooses_the_best_must_fit():
    config = dataclasses.replace(SMALL, validation_split="test", validation_superpixels=(99999, 10))
    with pytest.raises(InputError, match=r"cannot hold 99999.*validation_superpixels"):
        build(config).validation(samples_path())


@pytest.mark.parametrize(
    "change",
    [
        {"train_superpixels": ()},
        {"crop_size": 0},
        {"steps": -1},
        {"num_features": 5},
        {"train_superpixels": (500,)},
        {"evaluation_superpixels": (0,)},
    ],
)
def test_numbers_that_cannot_be_used(change):
    with pytest.raises(InputError, match=next(iter(change)).split("_")[0]):
        build(dataclasses.replace(SMALL, **change))


@pytest.mark.parametrize("field", ["network", "decay"])
def test_a_word_that_a_config_file_misspells(field):
    config = dataclasses.replace(SMALL)
    object.__setattr__(config, field, "wide")  # past the annotation, as JSON is
    with pytest.raises(InputError, match=f"{field} is 'wide'"):
        build(config)


def test_the_papers_numbers():
    config = Config()
    assert (config.batch_size, config.crop_size, config.steps) == (8, 201, 500_000)
    assert (config.learning_rate, config.decay) == (1e-4, "constant")
    assert (config.num_features, config.train_iters, config.num_iters) == (20, 5, 10)
    assert (config.train_superpixels, config.train_split) == ((100,), "train+val")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("scale_mean", float("nan")),
        ("ema_decay", 2.0),
        ("learning_rate", -1.0),
        ("position_scale", 0.0),
        ("save_every", 0),
        ("evaluate_every", -1),
        ("compactness", float("inf")),
        ("seed", -1),
    ],
)
def test_numbers_out_of_range(field, value):
    with pytest.raises(InputError, match=f"{field} is"):
        build(dataclasses.replace(SMALL, **{field: value}))
