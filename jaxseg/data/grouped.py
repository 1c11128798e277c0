"""A source whose classes are put together in fewer groups."""

from collections.abc import Mapping, Sequence
from typing import SupportsIndex

import numpy as np

from jaxseg.data.info import DatasetInfo
from jaxseg.data.sources import Example, Extent, Source
from jaxseg.types import InputError


class GroupedSource:
    """The examples of a source with coarser classes; see `sources.Source`.

    `label` and `labels`, of pixels or of whole images, hold the number of the group, -1 for the
    classes that are in none. `info` says the groups' names, each with its first class's colour; it
    describes the examples, not the files.
    """

    def __init__(self, source: Source, groups: Mapping[str, Sequence[str | int]]):
        """Wraps a source of examples with classes.

        Args:
          source: with an `info`, unless classes are given by number.
          groups: the name of each group, in order, and its classes: names, or numbers as in
            `label`.

        Raises:
          InputError: there is no group, one has no class, or a class is not known or in two groups.
        """
        info: DatasetInfo | None = getattr(source, "info", None)
        self._table = _table(info, groups)
        first = [int(np.flatnonzero(self._table == k)[0]) for k in range(len(groups))]
        colors = info.colors if info else ()
        self.info = DatasetInfo(
            name=info.name if info else "grouped",
            kind=info.kind if info else "classes",
            channels=info.channels if info else "rgb",
            classes=tuple(groups),
            class_ids=tuple(range(len(groups))),
            colors=tuple(colors[k] for k in first) if colors else (),
        )
        self.ids = source.ids
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: SupportsIndex) -> Example:
        """Groups the classes of an example."""
        example = dict(self._source[index])
        for key in ("label", "labels"):
            if key in example:
                label = np.asarray(example[key])
                # The last entry is that of -1, and the one before it that of all beyond.
                last = len(self._table) - 1
                example[key] = self._table[np.where(label < 0, last, np.minimum(label, last - 1))]
        return example

    def extent(self, index: SupportsIndex) -> Extent:
        """The size of the image."""
        return self._source.extent(index)


def _table(info: DatasetInfo | None, groups: Mapping[str, Sequence[str | int]]) -> np.ndarray:
    """The group of each class, then -1 for the classes that follow, then that of -1."""
    names = info.classes if info else ()
    found: dict[int, int] = {}
    if not groups:
        raise InputError("no groups; name one at least, with its classes")
    for k, (group, members) in enumerate(groups.items()):
        if not members or isinstance(members, str):
            raise InputError(f"group {group!r}: no list of classes; name one at least")
        for member in members:
            known = member in names if isinstance(member, str) else _is_class(int(member), names)
            if not known:
                listed = ", ".join(names) or "not named: give numbers from 0"
                raise InputError(f"group {group!r}: no class {member!r}; the classes are {listed}")
            number = names.index(member) if isinstance(member, str) else int(member)
            if number in found:
                raise InputError(
                    f"class {member!r} is in {list(groups)[found[number]]!r} and {group!r}; "
                    "strike one"
                )
            found[number] = k
    table = np.full(max(found) + 3, -1, np.int32)
    table[list(found)] = list(found.values())
    return table


def _is_class(number: int, names: Sequence[str]) -> bool:
    return 0 <= number < len(names) if names else number >= 0
