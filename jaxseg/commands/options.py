"""What the subcommands share: parsing, progress, and which images are meant."""

import contextlib
import io
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, TypeVar

import tyro

from jaxseg.types import InputError

T = TypeVar("T")

Images = Annotated[
    tuple[Path, ...],
    tyro.conf.Positional,
    tyro.conf.arg(metavar="IMAGE ...", help="Images, or folders of images.", help_behavior_hint=""),
]
Run = Annotated[
    Path,
    tyro.conf.Positional,
    tyro.conf.arg(metavar="RUN", help="The run's folder; or weights by file or name."),
]


def parse(kind: type[T], argv: Sequence[str], name: str) -> T:
    """Parses a subcommand's options; `--help` ends the program.

    Raises:
        InputError: if they are wrong, with what tyro says of it in one line.
    """
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(kind, prog=f"jaxseg {name}", args=list(argv))
    except SystemExit as stop:
        if not stop.code:
            raise
        words = re.sub(r"[╭╮╰╯│─]+|Parsing error|Required options", " ", said.getvalue()).split()
        raise InputError(" ".join(words)) from None


def progress(items: Iterable[T], name: str, *, unit: str = "it") -> Iterable[T]:
    """A progress bar with rate and time left, on a terminal."""
    from tqdm import tqdm

    return tqdm(items, desc=name, unit=unit, disable=not sys.stderr.isatty())


def find_images(paths: Sequence[Path]) -> list[Path]:
    """The images named, and all in the folders named; each once.

    Raises:
        InputError: if none is named, one is missing, a folder has none, or two have the same stem,
            for which the results would overwrite each other.
    """
    if not paths:
        raise InputError("no image is named; give images, or folders of images")
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if _is_image(p))
            if not inside:
                raise InputError(f"{path}: no image in this folder; give one with .jpg, .png, ...")
            found += inside
        elif path.exists():
            found.append(path)
        else:
            raise InputError(f"{path}: no such image; check the path")
    stems: dict[str, Path] = {}
    for path in dict.fromkeys(found):
        if path.stem in stems:
            raise InputError(
                f"{path}: would give results of the same name as {stems[path.stem]}; rename one"
            )
        stems[path.stem] = path
    return list(stems.values())


def _is_image(path: Path) -> bool:
    from jaxseg.data.images import IMAGE_SUFFIXES

    known = path.suffix.lower() in IMAGE_SUFFIXES
    return known and not path.name.startswith(".") and path.is_file()


def check_data(folder: Path) -> None:
    """Raises `InputError` unless the folder of data exists and holds something."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such data folder; check --data")
    if not any(folder.iterdir()):
        raise InputError(f"{folder}: this data folder is empty; check --data")


class Results:
    """The files that a command writes: never over an image that is read, nor over each other."""

    def __init__(self, folder: Path, images: Sequence[Path]):
        """Makes the folder.

        Raises:
            InputError: if it cannot be made.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"{folder}: cannot be made ({error.strerror}); choose another -o"
            ) from error
        self.folder = folder
        self._images = {path.resolve() for path in images}
        self._results: dict[Path, Path] = {}

    def claim(self, image: Path, *endings: str) -> list[Path]:
        """The files of an image, its stem with each ending.

        Raises:
            InputError: if one is an image to be read, or was claimed before.
        """
        paths = [self.folder / f"{image.stem}{ending}" for ending in endings]
        for path in paths:
            place = path.resolve()
            if place in self._images:
                raise InputError(
                    f"{image}: its result {path} would overwrite an image; choose another -o"
                )
            if place in self._results:
                raise InputError(
                    f"{image}: its result {path} would overwrite that of {self._results[place]}; "
                    "rename one of the two"
                )
        self._results |= {path.resolve(): image for path in paths}
        return paths


class Tally:
    """Counts the images that are done, with a bar on a terminal; tells of those passed over.

    Attributes:
        done: images so far.
        total: images in all.
    """

    def __init__(self, total: int):
        self.done, self.total = 0, total

    def __enter__(self) -> "Tally":
        from tqdm import tqdm

        self._bar = tqdm(
            total=self.total, desc="images", unit="image", disable=not sys.stderr.isatty()
        )
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()

    def add(self, error: InputError | None = None) -> None:
        """Counts an image, or tells in one line why it was passed over."""
        if error is None:
            self.done += 1
        else:
            self._bar.clear()
            print(f"jaxseg: {' '.join(str(error).split())}", file=sys.stderr)
        self._bar.update()

    def tell(self, folder: Path) -> int:
        """Prints where the results are; returns the exit status, 2 if an image was passed over."""
        if self.done == self.total:
            print(f"written to {folder}")
            return 0
        if self.done:
            print(f"{self.done} of {self.total} images written to {folder}")
        return 2


def for_each_image(images: Sequence[Path], folder: Path, work: Callable[[Path], None]) -> int:
    """Does the work for every image; one that cannot be used is told and passed over.

    Returns:
        The exit status: 2 if there was such an image.
    """
    with Tally(len(images)) as tally:
        for path in images:
            try:
                work(path)
                tally.add()
            except InputError as error:
                tally.add(error)
    return tally.tell(folder)


def _number(value: float) -> str:
    if float(value).is_integer():
        return f"{value:.0f}"
    return f"{value:.4f}" if abs(value) < 10 else f"{value:.1f}"


def table(figures: dict[str, float]) -> str:
    """Figures called "row/figure" as a table."""
    rows: dict[str, dict[str, float]] = {}
    for name, value in figures.items():
        row, _, figure = name.rpartition("/")
        rows.setdefault(row, {})[figure] = value
    columns = list(dict.fromkeys(c for row in rows.values() for c in row))
    lines = [["", *columns]]
    for name, cells in rows.items():
        lines.append([name, *(_number(cells[c]) if c in cells else "" for c in columns)])
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns) + 1)]
    return "\n".join(
        "  ".join(cell.rjust(w) for cell, w in zip(line, widths, strict=True)) for line in lines
    )
