"""`jaxseg train`: trains an experiment, or goes on with it."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from jaxseg.commands.options import check_data, parse, progress, table
from jaxseg.types import InputError

USAGE = "jaxseg train EXPERIMENT.py --data DIR --workdir DIR"


def run(argv: Sequence[str]) -> int:
    """Parses, trains, and says where the results are."""
    options, config = _parse(argv)
    return train(options.experiment, config, options.data, options.workdir)


def train(experiment_file: Path, config: Any, data: Path, workdir: Path) -> int:
    """Trains in `workdir`, or goes on there; returns the exit status.

    Raises:
        InputError: if the run, the data or the config cannot be used.
        NotFiniteError: if training diverged.
    """
    from jaxseg.train import fit
    from jaxseg.train.run_folder import create_run, load_experiment
    from jaxseg.train.sharding import data_mesh

    check_data(data)
    try:
        experiment = load_experiment(experiment_file).build(config)
        phases = experiment.phases(data)
        validation = experiment.validation(data) if experiment.validation else {}
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"{experiment_file}: {error}; change that option") from error
    mesh = data_mesh()
    create_run(workdir, experiment_file, config)
    evaluate = _evaluation(validation, experiment.picture, mesh) if validation else None
    result = fit(
        phases,
        experiment.schedule,
        workdir,
        evaluate=evaluate,
        initial=experiment.initial,
        mesh=mesh,
    )
    step = int(result.state.step)
    if result.stopped_by is not None:
        print(f"stopped by signal {result.stopped_by} at step {step} and saved in {workdir};")
        print("the same command goes on from there")
        return 128 + result.stopped_by
    print(f"{workdir}: trained to step {step}")
    if result.figures:
        print(table(result.figures))
    return 0


def _evaluation(rows: Mapping[str, Any], draw: Any, mesh: Any):
    from jaxseg.train import evaluation_variables
    from jaxseg.train.evaluate import evaluate, predict_batch

    compiled: dict[str, Any] = {}

    def run_evaluation(state: Any, step: int, log: Any) -> dict[str, float]:
        variables = evaluation_variables(state)
        figures = evaluate(rows, *variables, mesh, compiled=compiled, progress=progress)
        if draw is not None:
            name, row = next(iter(rows.items()))
            batch = next(iter(row.data))
            batch, prediction = predict_batch(compiled[name], row, *variables, batch, mesh)
            log.picture(step, name, draw(prediction, batch))
        return figures

    return run_evaluation


def _parse(argv: Sequence[str]) -> tuple[Any, Any]:
    """The experiment's own config is part of the command, so its file is loaded first."""
    import tyro

    from jaxseg.train.run_folder import load_experiment

    experiment = next((a for a in argv if a.endswith(".py")), None)
    wanted = bool({"-h", "--help"} & set(argv))
    if experiment is None and wanted:
        print(
            f"usage: {USAGE} [--variant NAME] [any field of its Config]\n"
            "jaxseg train EXPERIMENT.py --help tells its fields."
        )
        raise SystemExit(0)
    if experiment is None:
        raise InputError(f"no experiment file (.py) is named; give {USAGE}")
    file = load_experiment(experiment)
    variants = list(file.VARIANTS)
    variant = _variant(argv) or variants[0]
    if variant not in file.VARIANTS:
        raise InputError(f"{experiment}: no variant {variant!r}; there are {', '.join(variants)}")
    options = dataclasses.make_dataclass(
        "Train",
        [
            (
                "experiment",
                Annotated[
                    Path,
                    tyro.conf.arg(metavar="EXPERIMENT.py", help="the experiment file"),
                    tyro.conf.Positional,
                ],
            ),
            ("data", Annotated[Path, tyro.conf.arg(help="the folder of the data")]),
            (
                "workdir",
                Annotated[
                    Path, tyro.conf.arg(help="the run's folder; given again, the run goes on")
                ],
            ),
            ("config", Annotated[file.Config, tyro.conf.arg(name="")], file.VARIANTS[variant]),
            (
                "variant",
                Annotated[
                    str, tyro.conf.arg(help=f"the numbers to begin with: {', '.join(variants)}")
                ],
                variant,
            ),
        ],
    )
    # tyro's help leaves out what is given already.
    rest = [a for a in argv if not (wanted and a == experiment)]
    parsed: Any = parse(options, rest, "train")
    return parsed, parsed.config


def _variant(argv: Sequence[str]) -> str | None:
    for i, argument in enumerate(argv):
        if argument == "--variant" and i + 1 < len(argv):
            return argv[i + 1]
        if argument.startswith("--variant="):
            return argument.partition("=")[2]
    return None
