"""A run's folder: its config, a copy of its experiment, and what training leaves there.

config.json      the experiment's name and config, the version of jaxseg
experiment.py    the copy, which is executed when the run is opened
checkpoints/  metrics.jsonl  events/  pictures/
"""

import dataclasses
import hashlib
import importlib.util
import json
import sys
import types
import typing
from pathlib import Path
from typing import Any

from jaxseg.data.files import write_text
from jaxseg.train.experiment import ExperimentFile
from jaxseg.types import InputError

RESUMABLE = ("steps", "log_every", "save_every", "evaluate_every")
"""Fields of a config that may change when a run goes on."""


def load_experiment(path: Path | str) -> ExperimentFile:
    """Executes an experiment file.

    Raises:
        InputError: if it is missing, fails, or lacks `Config`, `VARIANTS` or `build`.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such experiment file; check the path")
    name = f"jaxseg_experiment_{hashlib.sha1(str(path.absolute()).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise InputError(f"{path}: not a Python file; an experiment is a .py file")
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up by name while they are made.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise InputError(
            f"{path}: cannot be run ({type(error).__name__}: {error}); mend the file"
        ) from error
    missing = [n for n in ExperimentFile._fields if not hasattr(module, n)]
    if missing:
        raise InputError(
            f"{path}: not an experiment, it does not define {', '.join(missing)}; add them"
        )
    return ExperimentFile(*(getattr(module, n) for n in ExperimentFile._fields))


def create_run(folder: Path, experiment: Path, config: Any) -> None:
    """Writes config.json and the copy; of an existing run, checks that it is the same one.

    A run without a checkpoint has nothing to lose: it may begin again, differently.

    Raises:
        InputError: if the folder holds another run, or something else, or cannot be written.
    """
    record, copy = folder / "config.json", folder / "experiment.py"
    name = experiment.stem
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # A kill while config.json is written leaves a hidden file.
        others = [path for path in folder.iterdir() if not path.name.startswith(".")]
        if others and not record.exists():
            raise InputError(f"{folder}: holds files that are no run; choose an empty --workdir")
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be made ({error.strerror}); choose another --workdir"
        ) from error
    begun = _has_checkpoint(folder)
    if record.exists() and (begun or _same_file(experiment, copy)):
        name = _check_same(folder, experiment, config)
    from jaxseg import __version__

    written = {
        "experiment": name,
        "config": dataclasses.asdict(config),
        "jaxseg": __version__,
    }
    write_text(record, json.dumps(written, indent=2, default=str) + "\n")
    if not begun or not copy.exists():
        write_text(copy, experiment.read_text())


def open_run(folder: Path | str) -> tuple[ExperimentFile, Any]:
    """Opens a run's folder: its experiment and its config.

    Raises:
        InputError: if it is no run, or its files cannot be read.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such run folder; check the path")
    record = folder / "config.json"
    if not record.is_file() or not (folder / "experiment.py").is_file():
        raise InputError(
            f"{folder}: not a run folder, config.json and experiment.py are not in it; "
            "give the --workdir of a training"
        )
    values = _read(record)
    experiment = load_experiment(folder / "experiment.py")
    return experiment, config_from_dict(experiment.Config, values["config"], record)


def config_from_dict(kind: type, values: dict[str, Any], source: Path) -> Any:
    """Makes a config of JSON values: lists become tuples, strings become paths.

    Raises:
        InputError: if fields are unknown.
    """
    hints = typing.get_type_hints(kind)
    unknown = set(values) - set(hints)
    if unknown:
        raise InputError(f"{source}: unknown fields {sorted(unknown)} for this experiment")
    return kind(**{name: _convert(value, hints[name]) for name, value in values.items()})


def _convert(value: Any, hint: Any) -> Any:
    if isinstance(value, list):
        return tuple(_convert(item, None) for item in value)
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    return Path(value) if isinstance(value, str) and Path in options else value


def _has_checkpoint(folder: Path) -> bool:
    return any(path.name.isdigit() for path in (folder / "checkpoints").glob("*"))


def _same_file(one: Path, two: Path) -> bool:
    return one.resolve() == two.resolve()


def _check_same(folder: Path, experiment: Path, config: Any) -> str:
    before = _read(folder / "config.json")
    copy = folder / "experiment.py"
    if before["experiment"] != experiment.stem and not _same_file(experiment, copy):
        raise InputError(
            f"{folder}: is a run of {before['experiment']}, not of {experiment.stem}; "
            "choose another --workdir"
        )
    old = before["config"]
    new = json.loads(json.dumps(dataclasses.asdict(config), default=str))
    # A field that an older version did not have stood for what is now its default.
    fresh = json.loads(json.dumps(dataclasses.asdict(type(config)()), default=str))
    old = {k: old.get(k, fresh[k]) for k in new}
    changed = [k for k in new if new[k] != old[k] and k not in RESUMABLE]
    if changed:
        listed = ", ".join(f"{k} was {old[k]!r}, is {new[k]!r}" for k in changed)
        raise InputError(
            f"{folder}: the run was begun differently ({listed}); use another --workdir"
        )
    if copy.exists() and copy.read_text() != experiment.read_text():
        raise InputError(
            f"{folder}: {experiment} has changed since this run began; "
            f"use another --workdir, or give {copy} to go on as it was"
        )
    return before["experiment"]


def _read(record: Path) -> dict[str, Any]:
    try:
        values = json.loads(record.read_text())
        values["experiment"], values["config"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{record}: damaged; restore it or begin a new run") from error
    return values
