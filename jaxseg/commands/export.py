"""`jaxseg export`: a trained run as one program, weights inside, for JAX and flatbuffers alone."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from jaxseg.commands.options import Run, parse
from jaxseg.data.files import write_file
from jaxseg.types import InputError

if TYPE_CHECKING:
    from jax.export import Exported

    from jaxseg.predictor import Predictor

_PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
_ANY_SIZE = {"b, h, w, 3": 2, "b, 32*h, 32*w, 3": 2, "b, 64*h, 64*w, 3": 3}
"""Any height and width, or multiples of what networks halve a map to, of which a trace knows more;
with the least h and w, for what convolutions without padding leave must be known not to be empty.
"""


@dataclasses.dataclass(frozen=True)
class Export:
    """Writes a trained run as one file for JAX and flatbuffers alone, without jaxseg.

    The file holds the prediction as a program, compiled where it is run, and its weights; what only
    training uses is left out. After `import jax.export` in Python,
    `jax.export.deserialize(bytearray(Path(FILE).read_bytes())).call(images)` takes uint8 images
    [B, H, W, 3] and gives the arrays of the prediction by name.
    """

    run: Run
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"], metavar="FILE")]
    """The file."""
    size: tuple[int, int] = (0, 0)
    """Height and width of the images; 0 0: any, if the network can be written so."""
    platforms: tuple[str, ...] = ("cpu", "cuda", "tpu")
    """What the file runs on, of cpu, cuda, rocm and tpu."""
    checkpoint: Literal["best", "latest"] = "best"
    """By the experiment's figure on its validation data, or the last."""


def run(argv: Sequence[str]) -> int:
    """Parses, traces, writes, and says what the file takes and gives."""
    from jaxseg.predictor import load

    options = parse(Export, argv, "export")
    platforms = _check(options)
    predictor = load(options.run, step=options.checkpoint)
    exported = _export(predictor, options, platforms)
    data = exported.serialize()
    write_file(options.out, lambda file: file.write(data))
    print(f"step {predictor.step} written to {options.out} ({len(data) / 1000:.0f} kB)")
    print(_describe(exported))
    if _is_unfinished(predictor):
        print("not in the file: what the method does last on the host, see `Method.finish`")
    return 0


def export_prediction(
    predictor: "Predictor", shape: str, platforms: Sequence[str], *, least: int = 1
) -> "Exported":
    """The prediction as a function of images, with its weights inside.

    Weights that the prediction does not depend on are left out.

    Args:
        predictor: its method must need no more than `image`.
        shape: of uint8 images, such as "b, 240, 320, 3" or "b, h, w, 3", as
            `jax.export.symbolic_shape` reads it.
        platforms: of `jax.export.export`.
        least: the smallest `h` and `w`, where these stand in `shape`.

    Raises:
        Exception: of many kinds, where the method cannot be traced at such a shape.
    """
    import jax
    import jax.numpy as jnp
    from jax import export

    from jaxseg.train.cost import live

    bounds = [f"{name} >= {least}" for name in "hw" if name in shape]
    sides = export.symbolic_shape(shape, constraints=bounds)
    images = jax.ShapeDtypeStruct(tuple(sides), jnp.uint8)
    method = predictor.experiment.method()
    variables = (predictor.params, predictor.model_state)

    def predict(variables: Any, images: Any) -> dict[str, Any]:
        params, model_state = variables
        return dict(method.predict(params, model_state, {"image": images}))

    kept = live(predict, variables, images)

    def prediction(images: Any) -> dict[str, Any]:
        weights = jax.tree.map(
            lambda x, keep: x if keep else jnp.zeros(x.shape, x.dtype), variables, kept
        )
        return predict(weights, images)

    return export.export(jax.jit(prediction), platforms=platforms)(images)


def _check(options: Export) -> tuple[str, ...]:
    """The platforms, which may stand with commas between them too."""
    platforms = tuple(dict.fromkeys(",".join(options.platforms).split(",")))
    unknown = [name for name in platforms if name not in _PLATFORMS]
    if unknown:
        raise InputError(f"--platforms {' '.join(unknown)}: choose of {', '.join(_PLATFORMS)}")
    if min(options.size) < 0 or (any(options.size) and not all(options.size)):
        raise InputError(f"--size {options.size}: give a height and a width")
    if options.out.exists():
        raise InputError(f"{options.out}: exists already; delete it or choose another -o")
    if not options.out.parent.is_dir():
        raise InputError(f"{options.out.parent}: no such folder; make it or choose another -o")
    return platforms


def _export(predictor: "Predictor", options: Export, platforms: Sequence[str]) -> "Exported":
    height, width = options.size
    fixed = any(options.size)
    own = {f"b, {height}, {width}, 3": 1, f"1, {height}, {width}, 3": 1}
    for shape, least in (own if fixed else _ANY_SIZE).items():
        try:
            return export_prediction(predictor, shape, platforms, least=least)
        except Exception as error:  # Whatever a method meets where it wants a number.
            reason = " ".join(str(error).split())[:200]
    if fixed:
        raise InputError(
            f"{options.run}: cannot be exported at --size {height} {width} ({reason}); "
            "choose another"
        )
    raise InputError(
        f"{options.run}: its prediction cannot be written for images of any size; "
        "give theirs, --size H W"
    )


def _is_unfinished(predictor: "Predictor") -> bool:
    from jaxseg.types import Method

    return predictor.experiment.method().finish is not Method._field_defaults["finish"]


def _describe(exported: "Exported") -> str:
    import jax

    outputs = jax.tree.unflatten(exported.out_tree, exported.out_avals)
    given = ", ".join(f"{name} {x.str_short()}" for name, x in outputs.items())
    taken = exported.in_avals[0].str_short()
    return f"images {taken} -> {given}, on {', '.join(exported.platforms)}"
