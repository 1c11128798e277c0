"""What the subcommands share: parsing, progress, and which images are meant."""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from jaxseg.types import InputError

T = TypeVar("T")

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp")


def parse(kind: type[T], argv: Sequence[str], name: str) -> T:
    """Parses a subcommand's options; tyro ends the program with status 2 if they are wrong."""
    import tyro

    return tyro.cli(kind, prog=f"jaxseg {name}", args=list(argv))


def progress(items: Iterable[T], name: str, *, unit: str = "it") -> Iterable[T]:
    """A progress bar with rate and time left, on a terminal."""
    from tqdm import tqdm

    return tqdm(items, desc=name, unit=unit, disable=not sys.stderr.isatty())


def find_images(paths: Sequence[Path]) -> list[Path]:
    """The images named, and all in the folders named.

    Raises:
        InputError: if one is missing, a folder has none, or two have the same stem, for which the
            results would overwrite each other.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
            if not inside:
                raise InputError(f"{path}: no image in this folder ({', '.join(IMAGE_SUFFIXES)})")
            found += inside
        elif path.exists():
            found.append(path)
        else:
            raise InputError(f"{path}: no such image; check the path")
    stems: dict[str, Path] = {}
    for path in found:
        if path.stem in stems:
            raise InputError(
                f"{path} and {stems[path.stem]} give results of the same name; use two -o"
            )
        stems[path.stem] = path
    return found


def for_each_image(images: Sequence[Path], work: Any) -> int:
    """Does the work for every image; one that cannot be used is told and passed over.

    Returns:
        The exit status: 2 if there was such an image.
    """
    status = 0
    for path in progress(images, "images", unit="image"):
        try:
            work(path)
        except InputError as error:
            print(f"jaxseg: {' '.join(str(error).split())}", file=sys.stderr)
            status = 2
    return status


def table(figures: dict[str, float]) -> str:
    """Figures called "row/figure" as a table."""
    rows: dict[str, dict[str, float]] = {}
    for name, value in figures.items():
        row, _, figure = name.rpartition("/")
        rows.setdefault(row, {})[figure] = value
    columns = list(dict.fromkeys(c for row in rows.values() for c in row))
    lines = [["", *columns]]
    for name, cells in rows.items():
        lines.append([name, *(f"{cells[c]:.4f}" if c in cells else "" for c in columns)])
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns) + 1)]
    return "\n".join(
        "  ".join(cell.rjust(w) for cell, w in zip(line, widths, strict=True)) for line in lines
    )
