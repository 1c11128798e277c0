"""`jaxseg data prepare`: converts the official release of a data set."""

import contextlib
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro

from jaxseg.commands.options import parse


@dataclasses.dataclass(frozen=True)
class Data:
    """Converts the official release of a data set into files that `--data` understands."""

    action: Annotated[Literal["prepare"], tyro.conf.Positional]
    """What to do."""
    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")]
    """The data set: bsds500, camvid, or cityscapes."""
    source: Path
    """The folder of the release, unpacked."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("data")
    """Where converted data sets are kept."""


def run(argv: Sequence[str]) -> int:
    """Parses, converts, and says what to give as `--data`."""
    from jaxseg import data

    options = parse(Data, argv, "data")
    if not sys.stderr.isatty():
        with contextlib.suppress(ModuleNotFoundError):  # What is missing is told by prepare.
            import tensorflow_datasets

            tensorflow_datasets.disable_progress_bar()
    folder = data.prepare(options.name, options.source, options.out)
    print(f"written; use --data {folder}")
    return 0
