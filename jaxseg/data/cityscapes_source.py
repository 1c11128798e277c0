"""Cityscapes as a source of examples."""

import functools
import os
import pathlib
from collections.abc import Sequence
from typing import SupportsIndex

import numpy as np

from jaxseg.data import images, sources
from jaxseg.data.cache import DecodeCache
from jaxseg.data.cityscapes import INFO, Download, is_download, read_label
from jaxseg.data.cityscapes_records import Records


class CityscapesSource:
    """Cityscapes as a source of the examples that `folders.open_folder` gives.

    The download comes by rising id, records as they are stored.

    Args:
      path: the folder of `leftImg8bit` and `gtFine`; or the one that `prepare_cityscapes` returned
        or TFDS wrote as `cityscapes/semantic_segmentation` in ArrayRecord files, or one above it.
      split: "train", "val", both joined by "+", or None for both; or "test", whose examples have
        no label and whose `info` says "unlabelled".
      annotations: see `folders.open_folder`; each image has one.
      cache_bytes: see `folders.open_folder`.

    Raises:
      InputError: there is no such data, the split does not exist, or an image has no labels; where
        an example is read: a file is damaged, of another size than its image, or of other ids.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        split: str | None = None,
        *,
        annotations: sources.Annotations = "each",
        cache_bytes: int = 0,
    ):
        if annotations not in ("each", "all", "first"):
            raise ValueError(f"annotations is {annotations!r}; expected 'each', 'all' or 'first'")
        self._store: Download | Records
        if is_download(path):
            self._store = Download(pathlib.Path(path), split)
        else:
            self._store = Records(path, split)
        self._labelled = "test" not in self._store.splits
        self.info = INFO
        if not self._labelled:
            self.info = INFO._replace(kind="unlabelled", classes=(), class_ids=(), colors=())
        self._all = self._labelled and annotations == "all"
        self.ids: Sequence[str] = self._store.ids
        self._cache = DecodeCache(cache_bytes)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: SupportsIndex) -> sources.Example:
        """Decodes an example."""
        i = range(len(self))[index]
        opened = functools.cache(lambda: self._store.files(i))
        image = self._cache.get(
            (i, "image"), lambda: images.read_image(opened().image, name=opened().name)
        )
        example = {"image": image, "id": self.ids[i]}
        if not self._labelled:
            return example
        # Counted from 1, so that an ignored pixel fits the narrow type.
        kept = self._cache.get(
            (i, "label"), lambda: (read_label(opened(), image.shape[:2]) + 1).astype(np.uint8)
        )
        label = kept.astype(np.int32) - 1
        return {**example, "labels": label[None]} if self._all else {**example, "label": label}

    def extent(self, index: SupportsIndex) -> sources.Extent:
        """Size of an example, without decoding it."""
        i = range(len(self))[index]
        return sources.Extent(*self._store.size(i), int(self._all))
