"""Runs with adaptive downsampling: what their folders hold, and which of them belong together.

For compare_adaptive.py.
"""

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxseg.recipes.adaptive import MODES, Config
from jaxseg.recipes.semantic_table import validation_curve
from jaxseg.types import InputError

_ASIDE = {"seed", "log_every", "save_every", "evaluate_every", "nodes", "mode"}
_OF_NODES = ("order", "antialias")
_OF_SAMPLING = ("sampler_grid", "smoothness", "fold_free")
_OF_SAMPLER = (
    *("sampler", "sampler_size", "sampler_features", "sampler_mean", "sampler_steps"),
    *("sampler_rate", "joint_steps", "joint_rate"),
)
FIELDS: Mapping[str, tuple[str, ...]] = {
    "learned": (*_OF_SAMPLING, *_OF_SAMPLER, *_OF_NODES),
    "fixed": (*_OF_SAMPLING, "sampler_steps", "sampler_rate", *_OF_NODES),
    "oracle": (*_OF_SAMPLING, *_OF_NODES),
    "uniform": (),
    "area": (),
}
"""The fields of a config that matter to each mode."""
_OF_MODES = {name for names in FIELDS.values() for name in names}
_BY_NODES = ("batch_size", "steps", "sampler_size")
"""What an experiment may choose by the number of nodes."""
_FOLLOWS = "by nodes"


class Run(NamedTuple):
    """A run that was evaluated."""

    folder: Path
    common: dict[str, Any]
    """The config but for the seed, the nodes and what is of the mode alone; by `read_runs`,
    "by nodes" stands for what follows from the nodes, likewise in `own`."""
    nodes: tuple[int, int]
    mode: str
    own: dict[str, Any]
    """The fields that matter to the mode."""
    seed: int
    figures: Mapping[str, float]
    """Without "full/"; mIoU, IoU, accuracy and recall in per cent, nodes' distances "sampler/"."""
    macs: int
    """Of the sampler and the network."""
    sampler_macs: int


def read_run(run: Path, split: str) -> Run:
    """Reads what training and evaluation left in a run's folder.

    Raises:
        InputError: the folder is no evaluated run, or the run was not trained to its end.
    """
    config = _config(run)
    path = run / f"evaluation_{split.replace('+', '_')}.json"
    record = _json(path, f"evaluate {run} first")
    try:
        costs = record["costs"]
        macs = int(costs["full"]["macs"])
        sampler = int(costs["sampler"]["macs"]) if "sampler" in costs else 0
        found = {
            name.removeprefix("full/"): _scaled(name, float(value))
            for name, value in record["figures"].items()
        }
        found["target_miou"], found["miou"], found["pixels"]
        step = int(record["step"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path}: lacks {error}; evaluate {run} again") from error
    learns = config["mode"] in ("learned", "fixed")
    end = config["steps"] + config["joint_steps"] + learns * config["sampler_steps"]
    if not config["validation_split"] and step < end:
        raise InputError(f"{run}: is at step {step} of {end}; train it to its end")
    if config["validation_split"]:
        steps, _ = validation_curve(run, "target_miou")
        if steps and steps[-1] < end:
            raise InputError(f"{run}: is at step {steps[-1]} of {end}; train it to its end")
    return _run(run, config)._replace(figures=found, macs=macs, sampler_macs=sampler)


def _config(run: Path) -> dict[str, Any]:
    """All fields of a run's config, its experiment's own too."""
    fresh = json.loads(json.dumps(dataclasses.asdict(Config())))
    told = _json(run / "config.json", f"train {run} first").get("config")
    if not isinstance(told, dict) or told.get("mode") not in MODES or "nodes" not in told:
        raise InputError(f"{run}: is no run with adaptive downsampling; give others")
    return fresh | told


def _run(run: Path, config: Mapping[str, Any]) -> Run:
    """A run without its figures."""
    common = {name: config[name] for name in config if name not in _ASIDE | _OF_MODES}
    common["encoder"] = Path(config["encoder"]).name
    nodes = (int(config["nodes"][0]), int(config["nodes"][1]))
    own = {name: config[name] for name in FIELDS[config["mode"]]}
    return Run(run, common, nodes, config["mode"], own, config["seed"], {}, 0, 0)


def names_of(folders: Sequence[Path]) -> list[str]:
    """A name for each run, from its config alone: as in the tables, and the seed if it differs.

    Raises:
        InputError: a folder is no run with adaptive downsampling.
    """
    runs = _followed([_run(folder, _config(folder)) for folder in folders])
    titles, rows = titles_of(runs), rows_of(runs)
    seeds = len({run.seed for run in runs}) > 1
    names = []
    for run in runs:
        row = next(name for name, mine in rows.items() if any(r is run for r in mine))
        seed = f", seed {run.seed}" if seeds else ""
        names.append(f"{titles[key_of(run.common)]}, {_plain(run.nodes)}, {row}{seed}")
    return names


def _followed(runs: Sequence[Run]) -> list[Run]:
    """The runs, where what follows from the number of nodes is the same for all of them.

    A field does so among runs that are alike but for such fields, nodes and seed, where all of the
    same nodes have the same value and others have another.
    """

    def rest(fields: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in fields.items() if name not in _BY_NODES}

    found = list(runs)
    # First what all modes share, then what is of one mode.
    for part, alike in (
        ("common", lambda run: key_of(rest(run.common))),
        ("own", lambda run: key_of([run.common, run.mode, rest(run.own)])),
    ):
        names = {key: _following(group, part) for key, group in grouped(found, alike).items()}
        told = [getattr(r, part) | dict.fromkeys(names[alike(r)], _FOLLOWS) for r in found]
        found = [r._replace(**{part: fields}) for r, fields in zip(found, told, strict=True)]
    return found


def _following(runs: Sequence[Run], part: str) -> list[str]:
    """The fields of "common" or "own" that follow from the nodes among these runs."""
    names = []
    for name in _BY_NODES:
        if name in getattr(runs[0], part):
            by_nodes = grouped(runs, lambda run: run.nodes).values()
            values = [{key_of(getattr(run, part)[name]) for run in mine} for mine in by_nodes]
            if all(len(v) == 1 for v in values) and len(set().union(*values)) > 1:
                names.append(name)
    return names


def _scaled(name: str, value: float) -> float:
    parts = ("iou", "accuracy", "recall")
    return 100 * value if name.startswith("full/") and any(p in name for p in parts) else value


def read_runs(folders: Sequence[Path], split: str) -> list[Run]:
    """All runs, each of another seed, mode or config, measured on the same pixels.

    Raises:
        InputError: as `read_run`; two runs are the same, or the data differ.
    """
    if not folders:
        raise InputError("--runs is empty; give one or more folders")
    seen: dict[str, Run] = {}
    for run in (read_run(folder, split) for folder in folders):
        first = next(iter(seen.values()), run)
        if run.figures["pixels"] != first.figures["pixels"]:
            raise InputError(
                f"{run.folder}: measured on other data than {first.folder}; evaluate on the same"
            )
        key = key_of([run.common, run.nodes, run.mode, run.own, run.seed])
        if key in seen:
            raise InputError(f"{run.folder}: the same training as {seen[key].folder}; give one")
        seen[key] = run
    return _followed(list(seen.values()))


def key_of(fields: Any) -> str:
    """Fields of a config as a string."""
    return json.dumps(fields, sort_keys=True)


def grouped(runs: Iterable[Run], key: Callable[[Run], Any]) -> dict[Any, list[Run]]:
    """The runs of each key, in their order."""
    found: dict[Any, list[Run]] = {}
    for run in runs:
        found.setdefault(key(run), []).append(run)
    return found


def rows_of(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """The runs by mode, in the order of `MODES`, and by those own fields that differ in a mode."""
    found: dict[str, list[Run]] = {}
    for mode in MODES:
        mine = [run for run in runs if run.mode == mode]
        differs = [
            name for name in FIELDS[mode] if len({key_of(run.own[name]) for run in mine}) > 1
        ]
        for run in mine:
            told = [f"{name} {_plain(run.own[name])}" for name in differs]
            found.setdefault(", ".join([mode, *told]), []).append(run)
    return {name: sorted(own, key=lambda run: run.seed) for name, own in found.items()}


def titles_of(runs: Sequence[Run]) -> dict[str, str]:
    """A title for each config that runs have in common: the network, and what else differs."""
    configs = {key_of(run.common): run.common for run in runs}
    titles = {}
    for key, config in configs.items():
        rivals = [c for c in configs.values() if c["network"] == config["network"]]
        # An experiment may have fields that another has not.
        names = dict.fromkeys(name for rival in rivals for name in rival)
        differs = [f for f in names if len({key_of(r.get(f)) for r in rivals}) > 1]
        told = [f"{f} {_plain(config[f])}" for f in differs if f in config]
        titles[key] = ", ".join([config["network"], *told])
    return titles


def _plain(value: Any) -> str:
    return "×".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _json(path: Path, mend: str) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError:
        raise InputError(f"{path}: missing; {mend}") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}); {mend}") from error
    if not isinstance(found, dict):
        raise InputError(f"{path}: damaged; {mend}")
    return found
