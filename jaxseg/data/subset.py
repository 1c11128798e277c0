"""Some of the examples of a source."""

from collections.abc import Sequence
from typing import SupportsIndex

from jaxseg.data.info import DatasetInfo
from jaxseg.data.sources import Example, Extent, Source
from jaxseg.types import InputError


class SubsetSource:
    """The examples of a source whose numbers are given, in this order; see `sources.Source`."""

    def __init__(self, source: Source, numbers: Sequence[int]):
        self._source, self._numbers = source, tuple(numbers)
        self.ids = tuple(source.ids[i] for i in self._numbers)

    @property
    def info(self) -> DatasetInfo:
        """What the source says of itself."""
        return self._source.info  # type: ignore[attr-defined]

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: SupportsIndex) -> Example:
        """Reads an example."""
        return self._source[self._numbers[index]]

    def extent(self, index: SupportsIndex) -> Extent:
        """The size of an example."""
        return self._source.extent(self._numbers[index])


def hold_out(source: Source, every: int) -> tuple[SubsetSource, SubsetSource]:
    """The examples to train on, and every n-th, from the n-th on, which are held out.

    Raises:
      ValueError: `every` is below 2.
      InputError: there are fewer examples.
    """
    if every < 2:
        raise ValueError(f"every is {every}; expected 2 or more")
    if len(source) < every:
        raise InputError(f"{len(source)} examples, of which each {every}th is to be held out")
    numbers = range(len(source))
    held = set(numbers[every - 1 :: every])
    return SubsetSource(source, [i for i in numbers if i not in held]), SubsetSource(
        source, sorted(held)
    )
