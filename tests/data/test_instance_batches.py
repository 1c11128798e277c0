"""What is said of masks follows them: crops, turns, padding, overflow, binary input."""

import functools

import numpy as np
import pytest

from jaxseg import data
from jaxseg.data.binary_input import BinaryInputSource
from jaxseg.data.padded import PaddedSource
from jaxseg.data.subset import SubsetSource, hold_out
from jaxseg.data.turned import in_turn, random_turn, turn
from jaxseg.types import InputError


def example(count, name="a", size=(20, 26)):
    """Object k is a row of k + 1 pixels of colour k + 1, alone in its place."""
    masks = np.zeros((count, *size), bool)
    image = np.zeros((*size, 3), np.uint8)
    for k in range(count):
        masks[k, 2 * k + 1, 3 : 3 + k + 1] = True
        image[masks[k]] = k + 1
    return {
        "id": name,
        "image": image,
        "masks": masks,
        "kinds": np.arange(count, dtype=np.int32),
        "crowd": np.arange(count) % 2 == 1,
        "label": np.where(masks.any(axis=0), 1, 0).astype(np.int32),
    }


def check(found):
    """Kind and crowd are those of the object that the image shows under each mask."""
    for mask, kind, crowd in zip(found["masks"], found["kinds"], found["crowd"], strict=True):
        assert mask.any()
        np.testing.assert_array_equal(found["image"][mask], kind + 1)
        assert crowd == (kind % 2 == 1)


def test_objects_that_leave_the_crop_go_with_what_is_said_of_them():
    crop = functools.partial(
        data.random_crop_flip_scale, crop_size=12, scale_std=0.0, scale_range=(1.0, 1.0)
    )
    counts = set()
    for seed in range(20):
        found = crop(example(9), np.random.default_rng(seed))
        check(found)
        counts.add(len(found["masks"]))
        whole = crop({**example(9), "label": example(9)["masks"][4]}, np.random.default_rng(seed))
        there = 4 in found["kinds"]
        assert bool(whole["label"].any()) == there
    assert len(counts) > 1 and max(counts) < 9


def test_turns_are_the_eight_of_the_square():
    image = np.arange(12).reshape(3, 4)
    made = {turn(image, k, axes=(0, 1)).tobytes() + bytes([k % 2]) for k in range(8)}
    assert len(made) == 8
    np.testing.assert_array_equal(turn(image, 1, axes=(0, 1)), np.rot90(image))
    np.testing.assert_array_equal(turn(image, 4, axes=(0, 1)), image[:, ::-1])
    shapes = set()
    for seed in range(16):
        found = random_turn(example(5), np.random.default_rng(seed))
        check(found)
        np.testing.assert_array_equal(found["label"] == 1, found["masks"].any(axis=0))
        shapes.add(found["image"].shape[:2])
    assert shapes == {(20, 26), (26, 20)}
    first_then = in_turn(random_turn, functools.partial(data.random_crop_flip_scale, crop_size=8))
    assert first_then(example(5), np.random.default_rng(0))["image"].shape == (8, 8, 3)
    with pytest.raises(ValueError, match="points"):
        random_turn({**example(1), "points": np.zeros((1, 2))}, np.random.default_rng(0))
    with pytest.raises(ValueError, match="before they are padded"):
        random_turn({**example(1), "size": np.array([3, 4])}, np.random.default_rng(0))


def test_padding_and_overflow():
    three, one = example(3, "many"), example(1, "one")
    batch = data.stack_examples([three, one], num_rows=3, count=4)
    np.testing.assert_array_equal(batch["kinds"], [[0, 1, 2, -1], [0, -1, -1, -1], [-1] * 4])
    np.testing.assert_array_equal(batch["crowd"].sum(axis=1), [1, 0, 0])
    np.testing.assert_array_equal(batch["valid"].sum(axis=1), [3, 1, 0])
    largest = data.stack_examples([three], num_rows=1, count=2)
    np.testing.assert_array_equal(largest["kinds"], [[1, 2]])
    np.testing.assert_array_equal(largest["crowd"], [[True, False]])
    np.testing.assert_array_equal(largest["masks"][0], three["masks"][1:])
    with pytest.raises(InputError, match="many: 3 instances; give max_instances=3 or more"):
        data.stack_examples([three], num_rows=1, count=2, overflow="error")


def test_overflow_in_training():
    source = data.MemorySource([example(3, "many"), example(1, "one")])
    options = {"batch_size": 2, "seed": 0, "num_threads": 0}
    batches = data.train_batches(source, **options, max_instances=2, overflow="error")
    with pytest.raises(InputError, match="many: 3 instances"):
        next(iter(batches))
    batch = next(iter(data.train_batches(source, **options, max_instances=2)))
    assert batch["masks"].shape[1] == 2
    # Without a number there is room for the most.
    batch = next(iter(data.train_batches(source, **options, overflow="error")))
    assert batch["masks"].shape[1] == 3


def test_points_keep_their_kinds():
    both = {**example(2), "points": np.zeros((5, 2), np.float32)}
    both["kinds"] = np.array([0, 1, -1, 2, 0], np.int32)
    cropped = data.random_crop_flip_scale(both, np.random.default_rng(0), crop_size=(40, 40))
    assert cropped["kinds"].shape == (5,)
    batch = data.stack_examples([both], num_rows=1, count=3)
    np.testing.assert_array_equal(batch["kinds"], [both["kinds"]])


def test_binary_input_is_the_union_of_the_masks():
    source = data.MemorySource([example(4), example(0, "none")])
    for channels in (1, 3):
        binary = BinaryInputSource(source, channels=channels)
        assert isinstance(binary, data.Source)
        for i in range(2):
            union = source[i]["masks"].any(axis=0)
            expected = np.where(union, 255, 0)[..., None].repeat(channels, axis=-1)
            np.testing.assert_array_equal(binary[i]["image"], expected)
            np.testing.assert_array_equal(binary[i]["masks"], source[i]["masks"])
            assert binary[i]["image"].dtype == np.uint8
    plain = {k: v for k, v in example(2).items() if k != "masks"}
    with pytest.raises(InputError, match="has no instances"):
        BinaryInputSource(data.MemorySource([plain]))[0]


def test_padded_sources_make_few_sizes():
    sizes = [(20, 26), (17, 30), (32, 32), (20, 33)]
    source = data.MemorySource([example(2, f"n{i}", size) for i, size in enumerate(sizes)])
    padded = PaddedSource(source, 16)
    assert isinstance(padded, data.Source)
    batches = data.eval_batches(padded, batch_size=3)
    assert batches.shapes == ((32, 32), (32, 48))
    found = padded[1]
    assert found["image"].shape == (32, 32, 3) and found["size"].tolist() == [17, 30]
    np.testing.assert_array_equal(found["image"][:17, :30], source[1]["image"])
    np.testing.assert_array_equal(found["masks"][:, :17, :30], source[1]["masks"])
    assert not found["masks"][:, 17:].any() and not found["image"][:, 30:].any()
    assert (found["label"] >= 0).sum() == 17 * 30
    check(found)
    assert PaddedSource(padded, 64)[1]["size"].tolist() == [17, 30]


def test_what_is_held_out_is_not_trained_on():
    source = data.MemorySource([example(1, f"n{i}") for i in range(23)])
    kept, held = hold_out(source, 10)
    assert isinstance(kept, SubsetSource) and held.ids == ("n9", "n19")
    assert len(kept) == 21 and not set(kept.ids) & set(held.ids)
    assert [held[i]["id"] for i in range(2)] == list(held.ids)
    assert held.extent(1) == source.extent(19)
    with pytest.raises(ValueError, match="every is 1"):
        hold_out(source, 1)
    with pytest.raises(InputError, match="23 examples"):
        hold_out(source, 24)
