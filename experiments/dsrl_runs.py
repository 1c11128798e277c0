"""Runs of DSRL and of its base: what their folders hold, and which of them belong together.

For compare_dsrl.py.
"""

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxseg.recipes import dsrl, semantic
from jaxseg.recipes.semantic_table import validation_curve
from jaxseg.types import InputError

_OF_BRANCH = ("residual", "tail_widths", "reconstruction_width", "image_weight")
_OF_AFFINITY = (*_OF_BRANCH, "affinity_stride", "subsample", "order", "affinity_weight")
STAGES = {
    "base": (),
    "sssr": ("residual", "tail_widths"),
    "sisr": _OF_BRANCH,
    "affinity": _OF_AFFINITY,
    "phases": _OF_AFFINITY,
}
"""The fields of a config that matter to each stage."""
_ASIDE = {"seed", "log_every", "save_every", "evaluate_every"}
_COMMON = [f.name for f in dataclasses.fields(semantic.Config) if f.name not in _ASIDE]


class Run(NamedTuple):
    """A run that was evaluated."""

    folder: Path
    common: dict[str, Any]
    """The config but for the seed and what is DSRL's own: that of a base and of its rivals.

    Of `initial` it says only whether there is a run, for each seed may go on from its own; of
    `encoder` the file's name."""
    stage: str
    row: str
    """The stage, and its fields that are not the default."""
    seed: int
    figures: Mapping[str, float]
    """Of the split at the labels' own size, without "full/"; mIoU and IoU in per cent."""
    macs: int
    parameters: int
    curve: tuple[list[int], list[float]]
    """Steps and mIoU, in per cent, on the validation data."""


def read_config(run: Path) -> dict[str, Any]:
    """The config of a run; a field that its jaxseg did not have yet is the present default.

    Raises:
        InputError: the folder is no run of DSRL.
    """
    config = _json(run / "config.json", f"train {run} first").get("config")
    told = config if isinstance(config, dict) else {}
    if told.get("stage") not in STAGES or not {"num_classes", "seed", "steps"} <= set(told):
        raise InputError(f"{run}: is no run of DSRL or of its base; give others")
    return json.loads(json.dumps(dataclasses.asdict(dsrl.Config()))) | told


def read_run(run: Path, split: str) -> Run:
    """Reads what training and evaluation left in a run's folder.

    Raises:
        InputError: the folder is no evaluated run of DSRL, or the run was not trained to its end.
    """
    config = read_config(run)
    path = run / f"evaluation_{split.replace('+', '_')}.json"
    record = _json(path, f"evaluate {run} first")
    try:
        costs = record["costs"]["full"]
        found = {
            name.removeprefix("full/"): float(value)
            for name, value in record["figures"].items()
            if name.startswith("full/")
        }
        found["miou"], found["pixels"]
        macs, parameters = int(costs["macs"]), int(costs["parameters"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path}: lacks {error}; evaluate {run} again") from error
    figures = {k: 100 * v if "iou" in k else v for k, v in found.items()}
    steps, values = validation_curve(run)
    if steps and steps[-1] < config["steps"]:
        raise InputError(f"{run}: is at step {steps[-1]} of {config['steps']}; train it to its end")
    fresh, stage = json.loads(json.dumps(dataclasses.asdict(dsrl.Config()))), config["stage"]
    own = [f"{f} {config[f]}" for f in STAGES[stage] if config[f] != fresh[f]]
    common = {name: config[name] for name in _COMMON}
    common["initial"] = "a run" if config["initial"] else "none"
    common["encoder"] = Path(config["encoder"]).name
    return Run(
        run,
        common,
        stage,
        ", ".join([stage, *own]),
        config["seed"],
        figures,
        macs,
        parameters,
        (steps, [100 * value for value in values]),
    )


def read_runs(folders: Sequence[Path], split: str) -> list[Run]:
    """All runs, each of another seed, stage or config, measured on the same pixels.

    Raises:
        InputError: as `read_run`; two runs are the same, or the data differ.
    """
    if not folders:
        raise InputError("--runs is empty; give one or more folders")
    seen: dict[tuple[str, str, int], Run] = {}
    for run in (read_run(folder, split) for folder in folders):
        first = next(iter(seen.values()), run)
        if run.figures["pixels"] != first.figures["pixels"]:
            raise InputError(
                f"{run.folder}: measured on other data than {first.folder}; evaluate on the same"
            )
        key = (key_of(run.common), run.row, run.seed)
        if key in seen:
            raise InputError(f"{run.folder}: the same training as {seen[key].folder}; give one")
        seen[key] = run
    return list(seen.values())


def key_of(fields: Mapping[str, Any]) -> str:
    """Fields of a config as a string."""
    return json.dumps(fields, sort_keys=True)


def without_size(common: Mapping[str, Any]) -> dict[str, Any]:
    """What the runs of one curve have in common."""
    return {k: v for k, v in common.items() if k not in ("size", "crop")}


def grouped(runs: Iterable[Run], key: Callable[[Run], str]) -> dict[str, list[Run]]:
    """The runs of each key, in their order."""
    found: dict[str, list[Run]] = {}
    for run in runs:
        found.setdefault(key(run), []).append(run)
    return found


def titles_of(keys: Iterable[str], *, with_size: bool) -> dict[str, str]:
    """A title for each config: the network, the size of its input, and what else differs."""
    configs = {key: json.loads(key) for key in keys}

    def plain(config: Mapping[str, Any]) -> str:
        if not with_size or not any(config["size"]):
            return config["network"]
        return f"{config['network']} {'×'.join(f'{n / 2:g}' for n in config['size'])}"

    titles = {}
    for key, config in configs.items():
        rivals = [other for other in configs.values() if plain(other) == plain(config)]
        values = {f: len({json.dumps(r[f]) for r in rivals}) for f in config}
        differs = [f for f in ("initial", "steps", *config) if values[f] > 1]
        enough = [f for f in differs if values[f] == len(rivals)]
        told = enough[:1] or dict.fromkeys(differs)
        titles[key] = ", ".join([plain(config), *(f"{f} {config[f]}" for f in told)])
    return titles


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
