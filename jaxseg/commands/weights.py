"""`jaxseg weights`: those that come with jaxseg, those of a run, those that others published."""

import dataclasses
import json
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from jaxseg.commands.options import Run, parse, table
from jaxseg.data.files import write_file, write_text
from jaxseg.types import InputError


@dataclasses.dataclass(frozen=True)
class List:
    """Lists the weights that come with jaxseg."""


@dataclasses.dataclass(frozen=True)
class Show:
    """Shows the model card of weights."""

    weights: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME|FILE")]
    """Weights that come with jaxseg, or a file of them."""


@dataclasses.dataclass(frozen=True)
class Pack:
    """Packs what a run predicts with into one file, with a model card beside it."""

    run: Run
    name: str
    """Of the weights, such as ssn-bsds500."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"], metavar="FILE.safetensors")]
    """The file; its card gets the ending .md."""
    step: Literal["best", "latest"] = "best"
    """Which checkpoint: the best by the experiment's figure, or the last."""
    what: str = ""
    """The network in a few words."""
    data: str = ""
    """What it was trained on."""
    terms: str = ""
    """The terms of use."""


@dataclasses.dataclass(frozen=True)
class Convert:
    """Makes a file of weights for jaxseg of weights that others published."""

    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    """What was published: .safetensors, or .pth where torch is installed."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"], metavar="FILE.safetensors")]
    """The file; its card gets the ending .md."""
    release: str = ""
    """What FILE is of, such as espnetv2-2-cityscapes. Without it the same tensors are written under
    their own names, for machines without torch."""
    size: tuple[int, int] = (0, 0)
    """Height and width that the network works at; 0 0 for those of the release."""


@dataclasses.dataclass(frozen=True)
class Weights:
    """Trained weights: those that come with jaxseg, those of a run, those that others published."""

    action: Annotated[
        Annotated[List, tyro.conf.subcommand("list")]
        | Annotated[Show, tyro.conf.subcommand("show")]
        | Annotated[Pack, tyro.conf.subcommand("pack")]
        | Annotated[Convert, tyro.conf.subcommand("convert")],
        tyro.conf.arg(name=""),
    ]
    """What to do."""


def run(argv: Sequence[str]) -> int:
    """Parses, and lists, shows, packs or converts."""
    action = parse(Weights, argv, "weights").action
    if isinstance(action, List):
        print(_list())
    elif isinstance(action, Show):
        print(_show(action.weights), end="")
    elif isinstance(action, Convert):
        _convert(action)
    else:
        _pack(action)
    return 0


def _list() -> str:
    from jaxseg.weights import bundled, read_card

    rows = [("name", "what", "size", "data", "terms")]
    for name, path in bundled().items():
        card = read_card(path)
        rows.append((name, card.what, _size(path), card.data, card.licence))
    if len(rows) == 1:
        return "no weights come with this jaxseg; pack a run with `jaxseg weights pack`"
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def _size(path: Path) -> str:
    return f"{path.stat().st_size / 1000:.0f} kB"


def _show(weights: str) -> str:
    from jaxseg.weights import find, read_card

    path = find(weights)
    if path is None:
        raise InputError(f"{weights}: is a folder; give a name or a file, or pack it first")
    card = read_card(path)
    if path.with_suffix(".md").is_file():
        return path.with_suffix(".md").read_text()
    facts = {**card._asdict(), "config": json.dumps(card.config), "size": _size(path)}
    return "".join(f"{key}: {value}\n" for key, value in facts.items())


def _pack(options: Pack) -> None:
    import jax

    from jaxseg import __version__, weights
    from jaxseg.predictor import load
    from jaxseg.train.run_folder import open_run

    text = options.out.with_suffix(".md")
    _check_names(options.name, options.out)
    file, config = open_run(options.run)
    constructor = weights.constructor_of(file)
    if constructor is None:
        raise InputError(
            f"{options.run}: its experiment builds a network of its own; only those of "
            f"jaxseg.recipes can be packed ({', '.join(weights.CONSTRUCTORS)})"
        )
    predictor = load(options.run, step=options.step)
    card = weights.Card(
        name=options.name,
        what=options.what,
        constructor=constructor,
        config=json.loads(json.dumps(dataclasses.asdict(config), default=str)),
        step=predictor.step,
        jaxseg=__version__,
        data=options.data,
        licence=options.terms,
    )
    tensors = weights.name_tensors(*jax.device_get((predictor.params, predictor.model_state)))
    weights.check_finite(tensors, options.run)
    evaluations = _evaluations(options.run, predictor.step)
    command = _training_command(options.run, file.VARIANTS, config)
    described = weights.model_card(card, tensors, command=command, evaluations=evaluations)
    _write(options.out, card, tensors, described)
    print(f"step {predictor.step} written to {options.out} ({_size(options.out)})")
    print(f"its card: {text}; say there what is still {weights.TO_FILL_IN}")


def _convert(options: Convert) -> None:
    from jaxseg import __version__, weights
    from jaxseg.models.weights import read_tensors

    _check_files(options.out)
    if any(options.size) and not options.release:
        raise InputError(f"--size {options.size}: is of a release; name it with --release")
    if not options.release:
        from safetensors.numpy import save

        data = save(read_tensors(options.source))
        write_file(options.out, lambda file: file.write(data))
        print(f"written to {options.out} ({_size(options.out)})")
        return
    release = weights.RELEASES.get(options.release)
    if release is None:
        raise InputError(
            f"--release {options.release}: is not known; choose {', '.join(weights.RELEASES)}"
        )
    if any(options.size):
        release = release._replace(config=dataclasses.replace(release.config, size=options.size))
    card = weights.Card(
        name=options.release,
        what=release.what,
        constructor=release.constructor,
        config=json.loads(json.dumps(dataclasses.asdict(release.config))),
        step=0,
        jaxseg=__version__,
        data=release.data,
        licence=release.terms,
    )
    tensors = weights.convert(release, options.source)
    words = ["jaxseg", "weights", "convert", options.source.name, "--release", options.release]
    if any(options.size):
        words += ["--size", *map(str, options.size)]
    command = shlex.join([*words, "-o", options.out.name])
    described = weights.model_card(card, tensors, command=command)
    _write(options.out, card, tensors, described)
    print(f"written to {options.out} ({_size(options.out)}), its card beside it")


def _write(file: Path, card: Any, tensors: Any, described: str) -> None:
    from jaxseg import weights

    weights.write_weights(file, card, tensors)
    try:
        write_text(file.with_suffix(".md"), described)
    except BaseException:
        file.unlink(missing_ok=True)  # or the repeated command would find it there
        raise


def _check_names(name: str, file: Path) -> None:
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]*", name):
        raise InputError(f"--name {name!r}: use small letters, digits, '-', '.' and '_'")
    _check_files(file)


def _check_files(file: Path) -> None:
    if file.suffix != ".safetensors":
        raise InputError(f"-o {file}: give a name that ends in .safetensors")
    for path in (file, file.with_suffix(".md")):
        if path.exists():
            raise InputError(f"{path}: exists already; delete it or choose another -o")


def _evaluations(run: Path, step: int) -> list[tuple[str, str]]:
    """Command and table of each `evaluation_*.json` of that step; others are of other weights."""
    found = []
    for path in sorted(run.glob("evaluation_*.json")):
        try:
            record = json.loads(path.read_text())
            if record["step"] == step:
                command = f"jaxseg evaluate RUN --data DIR --split {record['split']}"
                found.append((command, table(record["figures"])))
            else:
                print(f"{path}: left out, it is of step {record['step']}, not {step}")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{path}: damaged; delete it or evaluate again") from error
    return found


def _training_command(run: Path, variants: Any, config: Any) -> str:
    """The command that begins such a run, from the variant that is nearest."""
    experiment = json.loads((run / "config.json").read_text())["experiment"]
    changes = {name: _changes(variant, config) for name, variant in variants.items()}
    nearest = min(changes, key=lambda name: len(changes[name]))
    words = ["jaxseg", "train", f"experiments/{experiment}.py", "--data", "DIR"]
    words += ["--workdir", "RUN", "--variant", nearest]
    for name, value in changes[nearest].items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            words += [f"--{flag}", *map(str, value if isinstance(value, tuple) else (value,))]
    return shlex.join(words)


def _changes(variant: Any, config: Any) -> dict[str, Any]:
    names = [field.name for field in dataclasses.fields(config)]
    return {
        name: getattr(config, name)
        for name in names
        if getattr(config, name) != getattr(variant, name)
    }
