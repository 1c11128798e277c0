"""Superpixels of files of many sizes: few programs, and the disk beside the computation."""

import functools
import itertools
from collections.abc import Callable, Generator, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxseg.commands.overlap import Workers, attempt
from jaxseg.commands.segmenter import Computed, Segmenter, batch_size
from jaxseg.data import image_size, read_image
from jaxseg.methods import ssn
from jaxseg.types import InputError

_HEADERS_AHEAD = 32


def segment_images(
    paths: Iterable[Path],
    segmenter: Segmenter,
    number: int,
    exact: bool,
    write: Callable[[Path, np.ndarray, np.ndarray], None],
) -> Generator[InputError | None, None, None]:
    """Segments files of many sizes with few programs; threads read ahead and write behind.

    A group is the images of one call; about two for each thread are held in memory, decoded.

    Args:
        paths: of images.
        segmenter: computes in the calling thread.
        number: of superpixels.
        exact: see `Segmenter`.
        write: `(path, image, labels)`, called from several threads.

    Yields:
        For each image, as it is done: None, or why it was passed over.
    """
    sizes: dict[Path, tuple[int, int]] = {}
    with Workers() as workers:
        measure = functools.partial(attempt, _size, number)
        for path, size in workers.ahead(measure, paths, most=_HEADERS_AHEAD):
            if isinstance(size, InputError):
                yield size
            else:
                sizes[path] = size
        found = list(sizes)
        groups = [
            (bucket, [found[i] for i in bucket.members[k : k + batch_size(bucket)]])
            for bucket in ssn.plan_buckets(list(sizes.values()), number)
            for k in range(0, len(bucket.members), batch_size(bucket))
        ]

        def load(group: tuple[ssn.Bucket, list[Path]]) -> _Loaded:
            return _load(*group, sizes, number)

        def finish(images: dict[Path, np.ndarray], computed: Computed) -> list[InputError | None]:
            labels = segmenter.finish(computed, number, exact)
            return [
                attempt(write, *image, one)
                for image, one in zip(images.items(), labels, strict=True)
            ]

        for _, loaded in workers.ahead(load, groups, most=workers.count):
            yield from loaded.errors
            for bucket, images in loaded.parts:
                computed = segmenter.compute(bucket, list(images.values()), number)
                work = functools.partial(finish, images, computed)
                yield from itertools.chain(*workers.behind(work, most=workers.count))
        yield from itertools.chain(*workers.rest())


class _Loaded(NamedTuple):
    """What the files of a group hold."""

    parts: list[tuple[ssn.Bucket, dict[Path, np.ndarray]]]
    errors: list[InputError]


def _load(
    bucket: ssn.Bucket, paths: list[Path], sizes: Mapping[Path, tuple[int, int]], number: int
) -> _Loaded:
    images: dict[Path, np.ndarray] = {}
    loaded = _Loaded([(bucket, images)], [])
    for path in paths:
        image = attempt(read_image, path)
        if isinstance(image, InputError):
            loaded.errors.append(image)
        elif image.shape[:2] == sizes[path]:
            images[path] = image
        else:  # Its header said something else, for which the bucket was planned.
            own = attempt(_plan_one, number, path, image.shape[:2])
            if isinstance(own, InputError):
                loaded.errors.append(own)
            else:
                loaded.parts.append((own, {path: image}))
    return loaded if images else loaded._replace(parts=loaded.parts[1:])


def _size(number: int, path: Path) -> tuple[int, int]:
    """The size that the header tells; InputError where the number does not fit it."""
    size = image_size(path)
    _plan_one(number, path, size)
    return size


def _plan_one(number: int, path: Path, size: tuple[int, int]) -> ssn.Bucket:
    try:
        return ssn.plan_buckets([size], number)[0]
    except ValueError as error:
        raise InputError(f"{path}: {error}; choose another -n") from error
