"""The command `jaxseg`: finds the subcommand, and turns a user's error into one line."""

import sys
from collections.abc import Callable, Sequence
from typing import Any

COMMANDS = {
    "demo": "train on the bundled images for two minutes and draw what came of it",
    "superpixels": "cut images into superpixels",
    "train": "train an experiment, or go on with it",
    "evaluate": "measure a trained run on a split of its data",
    "predict": "apply a trained run to images",
    "export": "write a trained run as one file that JAX runs by itself",
    "weights": "list, show, pack or convert trained weights",
    "data": "convert the official release of a data set",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; returns its exit status.

    0 is success. 2 is an error that the user can mend, told in one line on stderr. 128 + n means
    that training was stopped by signal n, after it saved.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv and argv[0] in ("--version", "-V"):
        from jaxseg import __version__

        print(f"jaxseg {__version__}")
        return 0
    if not argv or argv[0] in ("--help", "-h", "help"):
        print(_help())
        return 0 if argv else 2
    name, *rest = argv
    if name not in COMMANDS:
        return _fail(f"no command {name!r}; there are {', '.join(COMMANDS)}")
    import importlib

    from jaxseg.types import InputError

    try:
        _set_up_jax()
        command = importlib.import_module(f"jaxseg.commands.{name}")
        return command.run(rest)
    except (InputError, ArithmeticError) as error:
        return _fail(str(error))
    except OSError as error:
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        return _fail(f"{what}; check the path, and the space on its disk")
    except SystemExit as error:  # tyro's, after it has said what is wrong.
        return error.code if isinstance(error.code, int) else 0 if error.code is None else 2
    except KeyboardInterrupt:
        print("jaxseg: stopped", file=sys.stderr)
        return 130


def _fail(message: str) -> int:
    print(f"jaxseg: {' '.join(message.split())}", file=sys.stderr)
    return 2


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {text}" for name, text in COMMANDS.items()]
    return "\n".join(
        [
            "usage: jaxseg COMMAND ...",
            "",
            "Learns to segment images, in JAX: superpixels, and classes of pixels.",
            "",
            *lines,
            "",
            "jaxseg COMMAND --help tells the options; jaxseg --version the version.",
        ]
    )


def _set_up_jax() -> None:
    """Keeps compiled programs from one command to the next, and JAX to what concerns a user."""
    import os
    import warnings
    from pathlib import Path

    import jax

    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "jaxseg"
        jax.config.update("jax_compilation_cache_dir", str(cache))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    # A program that cannot be kept, or whose file a kill cut off, is compiled again.
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache")
    # Of the writers of a checkpoint that failed, which is told.
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    if not isinstance(sys.unraisablehook, _Unraisable):
        sys.unraisablehook = _Unraisable(sys.unraisablehook)


class _Unraisable:
    """Passes over what the writers of a failed checkpoint, already told, leave behind them."""

    def __init__(self, otherwise: Callable[[Any], Any]):
        self._otherwise = otherwise

    def __call__(self, what: Any, /) -> None:
        if str(what.exc_value) != "Event loop is closed":
            self._otherwise(what)


if __name__ == "__main__":
    sys.exit(main())
