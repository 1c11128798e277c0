"""Batches of NumPy arrays from a source: endless for training (Grain), one pass for evaluation."""

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np

from jaxseg.data.augment import Transform
from jaxseg.data.sources import MASK_FIELDS, Example, Extent, Source
from jaxseg.types import Batch, InputError

Overflow = Literal["largest", "error"]
"""What becomes of more masks than there are places: the largest stay, or it is an `InputError`."""


def stack_examples(
    examples: Sequence[Example],
    *,
    num_rows: int,
    first_index: int = 0,
    count: int = 0,
    overflow: Overflow = "largest",
) -> dict[str, np.ndarray]:
    """Makes a batch: the arrays of the examples stacked, padded to `num_rows` with weight 0.

    Args:
      examples: one at least, images of one shape. Text is left out.
      num_rows: B; rows beyond the examples hold zeros, labels and kinds -1.
      first_index: place of the first row in the global batch.
      count: maps in `labels` or masks in `masks` after padding with -1 or False; at least as many
        as the largest example has. `kinds` and `crowd` of masks follow them, with -1 or False.
      overflow: of more masks than `count`: "largest": those of the largest area stay; "error".

    Returns:
      See `types.Batch`.

    Raises:
      InputError: arrays of different shapes, or more masks than `count` where that is an error.
    """
    columns: dict[str, list[np.ndarray]] = {}
    for example in examples:
        for key, value in _padded(example, count, overflow).items():
            columns.setdefault(key, []).append(value)
    batch = {}
    for key, values in columns.items():
        shapes = {value.shape for value in values}
        if len(shapes) > 1 or len(values) != len(examples):
            raise InputError(
                f"{key} of the examples {examples[0]['id']}, ... of one batch has shapes "
                f"{', '.join(map(str, sorted(shapes)))}; crop them to one size"
            )
        fill = -1 if key in ("label", "labels", "kinds") else 0
        batch[key] = np.full((num_rows, *values[0].shape), fill, values[0].dtype)
        np.stack(values, out=batch[key][: len(values)])
    batch["index"] = np.arange(first_index, first_index + num_rows, dtype=np.int32)
    batch["weight"] = (np.arange(num_rows) < len(examples)).astype(np.float32)
    return batch


def _padded(example: Example, count: int, overflow: Overflow) -> dict[str, np.ndarray]:
    arrays = {key: np.asarray(v) for key, v in example.items() if not isinstance(v, str)}
    arrays.setdefault("size", np.array(arrays["image"].shape[:2], np.int32))
    if "labels" in arrays:
        missing = max(count - len(arrays["labels"]), 0)
        arrays["labels"] = np.pad(
            arrays["labels"], ((0, missing), (0, 0), (0, 0)), constant_values=-1
        )
    if "masks" in arrays:
        kept = _kept_masks(arrays["masks"], str(example["id"]), count, overflow)
        missing = count - len(kept)
        arrays["masks"] = np.pad(arrays["masks"][kept], ((0, missing), (0, 0), (0, 0)))
        arrays["valid"] = np.arange(count) < len(kept)
        for key, fill in MASK_FIELDS.items():
            # Of an example with points `kinds` are theirs.
            if key in arrays and not (key == "kinds" and "points" in arrays):
                arrays[key] = np.pad(arrays[key][kept], (0, missing), constant_values=fill)
    return arrays


def _kept_masks(masks: np.ndarray, name: str, count: int, overflow: Overflow) -> np.ndarray:
    if len(masks) <= count:
        return np.arange(len(masks))
    if overflow == "error":
        raise InputError(f"{name}: {len(masks)} instances; give max_instances={len(masks)} or more")
    return np.sort(np.argsort(-masks.sum(axis=(1, 2)), kind="stable")[:count])


class BatchIterator:
    """Endless batches whose place can be saved; made by iterating over `TrainBatches`."""

    def __init__(self, iterator: Any, belongs: dict[str, int]):
        self._iterator = iterator
        self._belongs = belongs

    def __iter__(self) -> "BatchIterator":
        return self

    def __next__(self) -> Batch:
        """The next batch."""
        return next(self._iterator)

    def get_state(self) -> dict[str, int]:
        """The place after the last batch that was given out, of values that JSON can hold."""
        return {**self._belongs, "batches": int(self._iterator.get_state()["next_index"])}

    def set_state(self, state: Mapping[str, int]) -> None:
        """Goes to a place that `get_state` gave.

        Raises:
          InputError: the state is one of other data, another batch size, or another seed.
        """
        for key, value in self._belongs.items():
            if state.get(key) != value:
                raise InputError(
                    f"the saved place in the data has {key} {state.get(key)}, now it is {value}; "
                    "set it back or start a new run"
                )
        self._iterator.set_state({"next_index": int(state["batches"])})


class TrainBatches:
    """Endless shuffled batches; made by `train_batches`."""

    def __init__(self, dataset: Any, belongs: dict[str, int]):
        self._dataset = dataset
        self._belongs = belongs

    def __iter__(self) -> BatchIterator:
        """A new iterator that begins with the first batch."""
        return BatchIterator(iter(self._dataset), self._belongs)


def train_batches(
    source: Source,
    *,
    batch_size: int,
    seed: int,
    transform: Transform | None = None,
    max_instances: int | None = None,
    overflow: Overflow = "largest",
    num_threads: int = 2,
    process_index: int | None = None,
    process_count: int | None = None,
) -> TrainBatches:
    """Endless batches for training, the same for the same seed.

    Every epoch has its own order; batches run across the end of an epoch, so that all are full.
    What an example is and how it is transformed depends on its place in the stream alone, not on
    the number of threads or processes: process p of P gives rows p·B/P ... (p+1)·B/P - 1 of the
    global batch, and a saved state may be continued with another number of processes.

    Args:
      source: the examples.
      batch_size: B, of the global batch; a multiple of the number of processes.
      seed: 0 or more.
      transform: (example, generator) -> example, such as `random_crop_flip_scale`; it must bring
        the images to one shape if they are not.
      max_instances: N of the masks; None: the most that an example of the source has (which reads
        all labels once).
      overflow: of more masks than that: "largest": those of the largest area are kept; "error".
      num_threads: that read and transform ahead of the loop; 0: none.
      process_index: None: that of JAX.
      process_count: None: that of JAX.

    Returns:
      An iterable; its iterators have `get_state()` and `set_state(state)`. The batches are those of
      `types.Batch`, with `index` 0..B-1 over all processes. An iterator raises `InputError` for a
      file that cannot be used, images of several shapes, more instances than there are places where
      that is an error, or the state of other data.

    Raises:
      InputError: the source is empty.
      ValueError: a number is out of range.
    """
    import grain
    import jax

    shard = jax.process_index() if process_index is None else process_index
    shards = jax.process_count() if process_count is None else process_count
    if batch_size < 1 or batch_size % shards:
        raise ValueError(f"batch_size is {batch_size}; expected a multiple of {shards} processes")
    if not 0 <= shard < shards:
        raise ValueError(f"process_index is {shard}; expected 0..{shards - 1}")
    if not 0 <= seed < 2**31:
        raise ValueError(f"seed is {seed}; expected 0..2^31 - 1")
    if overflow not in get_args(Overflow):
        raise ValueError(f"overflow is {overflow!r}; expected 'largest' or 'error'")
    if num_threads < 0:
        raise ValueError(f"num_threads is {num_threads}; expected 0 or more")
    if len(source) == 0:
        raise InputError("the training data is empty; choose another split or folder")
    if max_instances is None:
        max_instances = max_count(source)

    stream = grain.MapDataset.source(source).seed(seed).shuffle().repeat(None)
    if transform is not None:
        stream = stream.random_map(transform)
    rows = batch_size // shards
    # Sliced after the random map: each row would otherwise draw the same numbers.
    end = len(stream) // batch_size * batch_size
    places = range(shard * rows, (shard + 1) * rows)
    lanes = grain.experimental.ZipMapDataset([stream[j:end:batch_size] for j in places])
    stack = functools.partial(
        stack_examples,
        num_rows=rows,
        first_index=shard * rows,
        count=max_instances,
        overflow=overflow,
    )
    options = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=2 * num_threads)
    belongs = {"examples": len(source), "batch_size": batch_size, "seed": seed}
    return TrainBatches(lanes.map(stack).to_iter_dataset(options), belongs)


def max_count(source: Source) -> int:
    """The most annotators or instances that an example of the source has."""
    return max((source.extent(i).maps for i in range(len(source))), default=0)


class EvalBatches:
    """Batches of one pass over a source, in which examples of one shape stand together."""

    def __init__(self, source: Source, *, batch_size: int):
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; expected 1 or more")
        if len(source) == 0:
            raise InputError("the evaluation data is empty; choose another split or folder")
        self._source = source
        self._batch_size = batch_size
        self._groups: dict[tuple[int, int], list[tuple[int, Extent]]] = {}
        for i in range(len(source)):
            extent = source.extent(i)
            self._groups.setdefault(extent[:2], []).append((i, extent))

    @property
    def shapes(self) -> tuple[tuple[int, int], ...]:
        """Height and width of the images of each group, in the order in which they come."""
        return tuple(self._groups)

    def __len__(self) -> int:
        """How many batches one pass has."""
        return sum(-(-len(group) // self._batch_size) for group in self._groups.values())

    def __iter__(self) -> Iterator[Batch]:
        """Starts a pass."""
        for group in self._groups.values():
            count = max(extent.maps for _, extent in group)
            for start in range(0, len(group), self._batch_size):
                numbers = [i for i, _ in group[start : start + self._batch_size]]
                batch = stack_examples(
                    [self._source[i] for i in numbers], num_rows=self._batch_size, count=count
                )
                padding = [-1] * (self._batch_size - len(numbers))
                yield {**batch, "example": np.array(numbers + padding, np.int32)}

    def ids(self, batch: Batch) -> list[str]:
        """Names of the examples of a batch, without its padding."""
        return [self._source.ids[i] for i in np.asarray(batch["example"]) if i >= 0]


def eval_batches(source: Source, *, batch_size: int) -> EvalBatches:
    """Batches for one pass over a source, as often as it is iterated.

    The images keep their size: each shape forms a group of its own, so that a compiled function
    sees as many shapes as `shapes` lists. The last batch of a group is filled with zeros
    of weight 0.
    Annotators and instances are padded to the most in the group, so that their number is fixed too.

    Args:
      source: the examples.
      batch_size: B.

    Returns:
      An iterable of `types.Batch` with a further entry `example` `[B]` int32, the number in the
      source, -1 for padding. Names are no arrays: `.ids(batch)` gives them.

    Raises:
      InputError: the source is empty, or an image's header cannot be read.
      ValueError: `batch_size` is below 1.
    """
    return EvalBatches(source, batch_size=batch_size)
