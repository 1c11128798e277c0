"""Batches: deterministic, sharded, resumable; one pass by shape."""

import functools
import json

import numpy as np
import pytest

from jaxseg.data import MemorySource, eval_batches, random_crop_flip_scale, train_batches
from jaxseg.types import InputError


def examples(shapes, maps=None):
    rng = np.random.default_rng(0)
    found = []
    for i, shape in enumerate(shapes):
        example = {
            "id": f"n{i}",
            "image": rng.integers(0, 256, (*shape, 3)).astype(np.uint8),
            "label": np.full(shape, i, np.int32),
        }
        if maps:
            example["labels"] = np.full((maps[i], *shape), i, np.int32)
            masks = np.zeros((maps[i], *shape), bool)
            for k in range(maps[i]):
                masks[k, : k + 1] = True
            example["masks"] = masks
        found.append(example)
    return found


SOURCE = MemorySource(examples([(20, 30)] * 7))
CROP = functools.partial(random_crop_flip_scale, crop_size=9)


def make(source=SOURCE, *, batch_size=4, seed=3, transform=CROP, **options):
    options = {"process_index": 0, "process_count": 1, "num_threads": 0, **options}
    return train_batches(source, batch_size=batch_size, seed=seed, transform=transform, **options)


def take(iterator, n):
    return [next(iterator) for _ in range(n)]


def assert_same(a, b):
    assert len(a) == len(b)
    for x, y in zip(a, b, strict=True):
        assert set(x) == set(y)
        for key in x:
            np.testing.assert_array_equal(x[key], y[key], err_msg=key)


def test_contents():
    batch = next(iter(make()))
    assert {k: (v.shape, v.dtype.name) for k, v in batch.items()} == {
        "image": ((4, 9, 9, 3), "uint8"),
        "label": ((4, 9, 9), "int32"),
        "size": ((4, 2), "int32"),
        "index": ((4,), "int32"),
        "weight": ((4,), "float32"),
    }
    np.testing.assert_array_equal(batch["index"], range(4))
    np.testing.assert_array_equal(batch["weight"], 1)
    np.testing.assert_array_equal(batch["size"], 9)


def test_epochs_are_whole_and_differ():
    seen = [b["label"][:, 0, 0] for b in take(iter(make(transform=None)), 7)]
    epochs = np.concatenate(seen).reshape(4, 7)
    np.testing.assert_array_equal(np.sort(epochs, axis=1), [range(7)] * 4)
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_seed_and_threads():
    first = take(iter(make()), 5)
    assert_same(first, take(iter(make()), 5))
    assert_same(first, take(iter(make(num_threads=3)), 5))
    other = take(iter(make(seed=4)), 5)
    assert any((a["image"] != b["image"]).any() for a, b in zip(first, other, strict=True))
    drawn = np.concatenate([b["image"].reshape(4, -1) for b in first])
    assert len(np.unique(drawn, axis=0)) == len(drawn)


@pytest.mark.parametrize("threads", [0, 2])
def test_resume(threads):
    whole = take(iter(make(num_threads=threads)), 9)
    for n in (0, 1, 4):
        iterator = iter(make(num_threads=threads))
        take(iterator, n)
        state = json.loads(json.dumps(iterator.get_state()))
        after = iter(make(num_threads=threads))
        take(after, 2)
        after.set_state(state)
        assert_same(take(after, 9 - n), whole[n:])
        iterator.set_state(state)
        assert_same(take(iterator, 2), whole[n : n + 2])


@pytest.mark.parametrize("count", [2, 4])
def test_processes_share_the_global_batch(count):
    whole = take(iter(make()), 4)
    shards = [take(iter(make(process_index=p, process_count=count)), 4) for p in range(count)]
    joined = [
        {key: np.concatenate([s[key] for s in parts]) for key in parts[0]}
        for parts in zip(*shards, strict=True)
    ]
    assert_same(joined, whole)


def test_resume_with_other_processes():
    iterator = iter(make(process_index=1, process_count=2))
    take(iterator, 3)
    after = iter(make())
    after.set_state(iterator.get_state())
    assert_same([next(after)], take(iter(make()), 4)[3:])


def test_state_of_other_data():
    state = iter(make()).get_state()
    for other in (
        make(seed=5),
        make(batch_size=2),
        make(MemorySource(examples([(20, 30)] * 6))),
    ):
        with pytest.raises(InputError, match=r"the saved place in the data has .*; set it back"):
            iter(other).set_state(state)


def test_instances_and_annotators_are_padded():
    source = MemorySource(examples([(6, 5)] * 3, maps=[1, 2, 4]))
    batch = next(iter(make(source, batch_size=3, transform=None)))
    assert batch["masks"].shape == (3, 4, 6, 5) and batch["labels"].shape == (3, 4, 6, 5)
    for i in range(3):
        which = batch["label"][i, 0, 0]
        n = [1, 2, 4][which]
        np.testing.assert_array_equal(batch["valid"][i], np.arange(4) < n)
        np.testing.assert_array_equal(
            batch["masks"][i], source[which]["masks"].tolist() + [[[False] * 5] * 6] * (4 - n)
        )
        np.testing.assert_array_equal(batch["labels"][i, :, 0, 0], [which] * n + [-1] * (4 - n))


def test_largest_instances_stay():
    found = examples([(6, 5)], maps=[4])
    del found[0]["labels"]
    batch = next(iter(make(MemorySource(found), batch_size=1, transform=None, max_instances=2)))
    np.testing.assert_array_equal(batch["masks"][0], found[0]["masks"][2:])
    np.testing.assert_array_equal(batch["valid"], [[True, True]])


def test_errors_reach_the_loop():
    mixed = MemorySource(examples([(6, 5), (5, 6)]))
    for threads in (0, 2):
        iterator = iter(make(mixed, batch_size=2, transform=None, num_threads=threads))
        with pytest.raises(InputError, match=r"image of the examples n\d, .*; crop them"):
            next(iterator)
    with pytest.raises(InputError, match="training data is empty"):
        make(MemorySource([]))
    with pytest.raises(InputError, match="evaluation data is empty"):
        eval_batches(MemorySource([]), batch_size=1)


@pytest.mark.parametrize(
    "options",
    [
        {"batch_size": 3, "process_count": 2},
        {"batch_size": 0},
        {"seed": -1},
        {"num_threads": -1},
        {"process_index": 1},
    ],
)
def test_options_out_of_range(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        make(**options)


def test_evaluation_by_shape():
    shapes = [(6, 5), (5, 6), (6, 5), (6, 5), (5, 6)]
    source = MemorySource(examples(shapes, maps=[1, 3, 2, 1, 1]))
    batches = eval_batches(source, batch_size=2)
    assert batches.shapes == ((6, 5), (5, 6)) and len(batches) == 3
    found = list(batches)
    assert_same(found, list(batches))
    assert [b["image"].shape[:3] for b in found] == [(2, 6, 5), (2, 6, 5), (2, 5, 6)]
    assert [b["labels"].shape[1] for b in found] == [2, 2, 3]
    assert [batches.ids(b) for b in found] == [["n0", "n2"], ["n3"], ["n1", "n4"]]
    np.testing.assert_array_equal([b["weight"] for b in found], [[1, 1], [1, 0], [1, 1]])
    np.testing.assert_array_equal(found[1]["example"], [3, -1])
    padding = {key: value[1] for key, value in found[1].items()}
    assert not padding["image"].any() and (padding["label"] == -1).all()
    assert (padding["labels"] == -1).all() and not padding["valid"].any()
    for batch in found:
        np.testing.assert_array_equal(batch["index"], [0, 1])
        for i, n in enumerate(batch["example"]):
            if n >= 0:
                np.testing.assert_array_equal(batch["image"][i], source[n]["image"])
                np.testing.assert_array_equal(batch["size"][i], shapes[n])
    with pytest.raises(ValueError, match="batch_size is 0"):
        eval_batches(source, batch_size=0)


def test_labels_of_another_size():
    bad = {"image": np.zeros((4, 5, 3), np.uint8), "label": np.zeros((5, 4), np.int32)}
    with pytest.raises(InputError, match=r"0: the label is 5x4, the image 4x5"):
        MemorySource([bad])
