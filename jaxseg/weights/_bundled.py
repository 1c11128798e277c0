"""The weights that come with jaxseg: the files beside this one are the table of their names."""

import importlib.resources
from pathlib import Path

from jaxseg.types import InputError

SUFFIX = ".safetensors"
FOLDER = Path(str(importlib.resources.files("jaxseg.weights")))


def bundled() -> dict[str, Path]:
    """The files of the weights that come with jaxseg, by name, in the order of the names."""
    return {path.stem: path for path in sorted(FOLDER.glob(f"*{SUFFIX}"))}


def find(path_or_name: Path | str) -> Path | None:
    """The file of weights that is meant; None: a run's folder is.

    A string that is the name of bundled weights means these, whatever lies in the working folder: a
    default must not execute what it finds there. A `Path` of that name, or "./NAME", means the run
    if the folder is one (it holds config.json).

    Raises:
        InputError: if there is neither a file nor a folder, nor bundled weights of that name.
    """
    path, name, known = Path(path_or_name), str(path_or_name), bundled()
    if (path / "config.json").is_file() and (name not in known or isinstance(path_or_name, Path)):
        return None
    if name in known:
        return known[name]
    if path.is_file():
        return path
    if path.suffix == SUFFIX and not path.exists():
        raise InputError(f"{path}: no such file of weights; check the path")
    if path.exists() or path.name != name:
        return None  # `open_run` says what is wrong with that folder.
    raise InputError(
        f"{name}: neither a run's folder nor weights that come with jaxseg; "
        f"there are {', '.join(known) or 'none'}"
    )
