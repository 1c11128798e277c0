"""BSDS500: the official release as a TensorFlow data set, written and read without TensorFlow.

Arbelaez, Maire, Fowlkes, Malik, "Contour Detection and Hierarchical Image Segmentation",
TPAMI 2011.
The release holds `BSDS500/data/images/SPLIT/ID.jpg` and `.../groundTruth/SPLIT/ID.mat`, whose cell
array `groundTruth` has a `Segmentation` (1..S) and thin `Boundaries` (0, 1) for each person.
"""

import functools
import io
import os
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple, SupportsIndex

import numpy as np

from jaxseg.data import images, sources
from jaxseg.data.cache import DecodeCache, narrow
from jaxseg.data.info import DatasetInfo
from jaxseg.data.records import import_tfds, open_records, write_records
from jaxseg.types import InputError

SPLITS = ("train", "val", "test")


def read_groundtruth(path: str | os.PathLike[str]) -> tuple[np.ndarray, np.ndarray]:
    """Reads a `.mat` file of the release.

    Returns:
      Segmentations `[A, H, W]` uint16 and boundaries `[A, H, W]` uint8 0 or 1, one per person.

    Raises:
      InputError: the file is missing, damaged, or holds no `groundTruth`.
    """
    import scipy.io

    try:
        with open(path, "rb") as file:
            cells = scipy.io.loadmat(file)["groundTruth"].ravel()
        people = [(cell["Segmentation"][0, 0], cell["Boundaries"][0, 0]) for cell in cells]
        segments = np.stack([s for s, _ in people]).astype(np.uint16)
        boundaries = np.stack([b for _, b in people]).astype(np.uint8)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; take the whole official release") from None
    # What SciPy raises for a damaged file is not documented.
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"{path}: no ground truth of BSDS500 ({reason}); copy the release again"
        ) from None
    return segments, boundaries


def _data_folder(source_dir: str | os.PathLike[str]) -> pathlib.Path:
    root = pathlib.Path(source_dir)
    for folder in (root, root / "data", root / "BSDS500" / "data"):
        if (folder / "images").is_dir() and (folder / "groundTruth").is_dir():
            return folder
    raise InputError(
        f"{root}: no images/ and groundTruth/ of BSDS500; give the folder of the official release"
    )


@functools.cache
def _builder_class() -> Any:
    tfds = import_tfds()

    class Bsds500(tfds.core.GeneratorBasedBuilder):
        """One record per image: its JPEG bytes, all segmentations and all boundaries."""

        VERSION = tfds.core.Version("1.0.0")
        # Nothing is downloaded; to look for checksums TFDS would need importlib_resources.
        code_path = None

        def __init__(self, *, source_dir: pathlib.Path, **options: Any):
            self._folder = source_dir
            super().__init__(**options)

        def _info(self) -> Any:
            maps = functools.partial(
                tfds.features.Tensor, shape=(None, None, None), encoding="zlib"
            )
            return tfds.core.DatasetInfo(
                builder=self,
                description=__doc__,
                features=tfds.features.FeaturesDict(
                    {
                        "id": tfds.features.Text(),
                        "image": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
                        "annotators": tfds.features.Scalar(np.int32),
                        "labels": maps(dtype=np.uint16),
                        "boundaries": maps(dtype=np.uint8),
                    }
                ),
            )

        def _split_generators(self, download_manager: Any) -> dict[str, Any]:
            there = [split for split in SPLITS if (self._folder / "images" / split).is_dir()]
            return {split: self._generate_examples(split) for split in there}

        def _generate_examples(self, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
            for path in sorted((self._folder / "images" / split).glob("*.jpg")):
                truth = self._folder / "groundTruth" / split / f"{path.stem}.mat"
                labels, boundaries = read_groundtruth(truth)
                size = images.read_image(path).shape[:2]
                if labels.shape[1:] != size:
                    raise InputError(
                        f"{truth}: {labels.shape[1]}x{labels.shape[2]}, its image "
                        f"{size[0]}x{size[1]} (height x width); copy the release again"
                    )
                yield (
                    path.stem,
                    {
                        "id": path.stem,
                        "image": str(path),
                        "annotators": len(labels),
                        "labels": labels,
                        "boundaries": boundaries,
                    },
                )

    return Bsds500


def prepare_bsds500(
    source_dir: str | os.PathLike[str], data_dir: str | os.PathLike[str]
) -> pathlib.Path:
    """Converts the official release to ArrayRecord files under `data_dir`.

    Args:
      source_dir: the release, or its `BSDS500/data`.
      data_dir: where data sets are kept; `bsds500/1.0.0` is made in it. What is already there
        stays.

    Returns:
      The folder that was written, to be read by `Bsds500Source`.

    Raises:
      InputError: the release is not complete, or nothing can be written.
    """
    folder = _data_folder(source_dir)
    if not any((folder / "images" / split).is_dir() for split in SPLITS):
        raise InputError(f"{folder / 'images'}: no {', '.join(SPLITS)}; copy the release again")
    return write_records(_builder_class(), data_dir, source_dir=folder)


class _Record(NamedTuple):
    id: str
    records: Any
    place: int
    shape: tuple[int, int, int]


class Bsds500Source:
    """The converted release as a source of the examples that `folders.open_folder` gives.

    Args:
      path: the folder that `prepare_bsds500` returned, or one above it.
      split: "train", "val", "test", several joined by "+", or None for all.
      annotations: see `folders.open_folder`.
      cache_bytes: see `folders.open_folder`.

    Raises:
      InputError: nothing was converted there, or the split does not exist.
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
        self.info = DatasetInfo(name="BSDS500", kind="partition", layout="folders")
        self._records: list[_Record] = []
        for _, records in open_records(path, split, "bsds500"):
            listed = [
                _Record(r["id"].decode(), records, i, r["labels"].shape)
                for i, r in enumerate(records)
            ]
            self._records += sorted(listed, key=lambda record: record.id)
        self._all = annotations == "all"
        self._items = [
            (n, k)
            for n, record in enumerate(self._records)
            for k in range(record.shape[0] if annotations == "each" else 1)
        ]
        self.ids = tuple(self._records[n].id for n, _ in self._items)
        self._cache = DecodeCache(cache_bytes)

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: SupportsIndex) -> sources.Example:
        """Decodes an example."""
        n, k = self._items[index]
        name, records, i, _ = self._records[n]
        record = functools.cache(lambda: records[i])
        image = self._cache.get(
            (n, "image"), lambda: images.read_image(io.BytesIO(record()["image"]), name=name)
        )
        labels = self._cache.get((n, "labels"), lambda: narrow(record()["labels"]))
        example = {"image": image, "id": name}
        if self._all:
            return {**example, "labels": labels.astype(np.int32)}
        return {**example, "label": labels[k].astype(np.int32)}

    def extent(self, index: SupportsIndex) -> sources.Extent:
        """Size of an example."""
        people, height, width = self._records[self._items[index][0]].shape
        return sources.Extent(height, width, people if self._all else 0)
