"""What a source of examples is, and one of arrays in memory."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol, SupportsIndex, runtime_checkable

import numpy as np
from jaxtyping import Bool, Integer

from jaxseg.types import InputError

Example = Mapping[str, Any]
"""One image as NumPy arrays, not batched:

    `image`  `[H, W, C]` uint8;
    `id`     str;
and by kind of data `label` `[H, W]` int32, `labels` `[A, H, W]` int32 (one map per annotator), or
`masks` `[N, H, W]` bool, with `kinds` `[N]` int32 where they are of several classes and `crowd`
`[N]` bool where some stand for many; or `label` int32 `[]`, the class of the whole image. Labels of
-1 are ignored. `pixel_weight` `[H, W]` float32 may say how much each pixel counts in a loss. The
arrays may be read-only.
"""

MASK_FIELDS = {"kinds": -1, "crowd": False}
"""What may be said of each mask, and what stands where there is none."""

Annotations = Literal["each", "all", "first"]


class Extent(NamedTuple):
    """The size of an example, known without decoding it where that is possible."""

    height: int
    width: int
    maps: int
    """Maps in `labels` or masks in `masks`; 0 if it has neither."""


@runtime_checkable
class Source(Protocol):
    """Examples by number, the same at every call; called from several threads."""

    @property
    def ids(self) -> Sequence[str]:
        """The name of each example; several may share one (annotations of an image)."""
        ...

    def __len__(self) -> int:
        """How many examples there are."""
        ...

    def __getitem__(self, index: SupportsIndex, /) -> Example:
        """Reads an example."""
        ...

    def extent(self, index: SupportsIndex, /) -> Extent:
        """Its size."""
        ...


class MemorySource:
    """Examples that are in memory; an `id` is made of the number where it is absent.

    Raises:
      InputError: labels of another size than their image.
    """

    def __init__(self, examples: Sequence[Example]):
        self._examples = [{"id": str(i), **example} for i, example in enumerate(examples)]
        self.ids = tuple(str(example["id"]) for example in self._examples)
        for example in self._examples:
            check_sizes(example)

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: SupportsIndex) -> Example:
        return self._examples[index]

    def extent(self, index: SupportsIndex) -> Extent:
        """Size of an example."""
        example = self._examples[index]
        height, width = example["image"].shape[:2]
        maps = example.get("labels", example.get("masks", ()))
        return Extent(height, width, len(maps))


def check_sizes(example: Example) -> None:
    """Raises `InputError` if labels, masks or weights have another size than the image.

    One `label` of the whole image has none.
    """
    height, width = example["image"].shape[:2]
    for key in ("label", "labels", "masks", "pixel_weight"):
        if key not in example or (key == "label" and np.ndim(example[key]) == 0):
            continue
        if (found := example[key].shape[-2:]) != (height, width):
            what = "weight map" if key == "pixel_weight" else "label"
            raise InputError(
                f"{example['id']}: the {what} is {found[0]}x{found[1]}, the image {height}x{width} "
                f"(height x width); export the {what} at the size of its image"
            )


def instance_masks(
    labels: Integer[np.ndarray, "h w"], *, background: int | None, ignore: int | None = None
) -> Bool[np.ndarray, "n h w"]:
    """One mask for each value, by rising value; none for -1, `background` and `ignore`."""
    values = np.unique(labels)
    values = values[
        (values != -1) & ~np.isin(values, [v for v in (background, ignore) if v is not None])
    ]
    return labels[None] == values[:, None, None]


def flatten_masks(masks: Bool[np.ndarray, "n h w"]) -> Integer[np.ndarray, "h w"]:
    """A label map of masks: 0 where there is none, i + 1 for mask i; the first one wins."""
    covered = np.concatenate([masks, np.ones((1, *masks.shape[1:]), bool)])
    first = covered.argmax(axis=0).astype(np.int32)
    return np.where(first == len(masks), 0, first + 1).astype(np.int32)
