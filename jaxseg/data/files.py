"""Files that appear whole or not at all."""

import contextlib
import os
import pathlib
import uuid
from collections.abc import Callable
from typing import Any, BinaryIO

from jaxseg.types import InputError


def write_file(path: str | os.PathLike[str], save: Callable[[BinaryIO], Any]) -> None:
    """Writes beside the place and moves there, so that a failure leaves what was there before.

    Args:
      path: the file.
      save: is given the open file.

    Raises:
      InputError: the folder is missing, closed, or full, or `save` raised ValueError or KeyError.
    """
    target = pathlib.Path(path)
    part = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        with open(part, "xb") as file:
            save(file)
        os.replace(part, target)
    except (OSError, ValueError, KeyError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise InputError(
            f"{target}: not written ({reason}); check the folder and its space"
        ) from None
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes a text in UTF-8 as `write_file` does.

    Raises:
      InputError: see `write_file`.
    """
    write_file(path, lambda file: file.write(text.encode()))
