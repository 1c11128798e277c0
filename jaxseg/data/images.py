"""Image and label files, read and written with Pillow.

Images are uint8 `[H, W, C]`, labels int32 `[H, W]`. Whatever a file holds comes out in this form or
as an `InputError` of one line that names the file.
"""

import contextlib
import io
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Int32, Integer, UInt8

from jaxseg.data.files import write_file
from jaxseg.types import InputError

Channels = Literal["rgb", "grey", "raw"]
Path = str | os.PathLike[str]

IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
_GREY_16 = ("I;16", "I;16B", "I;16L", "I;16N")
_STEPS = {"L;2": 85, "L;4": 17}


@contextlib.contextmanager
def opened(file: Any, name: str) -> Iterator[Any]:
    """Pillow's image of a file, closed in the end.

    Raises:
        InputError: it cannot be read; the message begins with `name`.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(file) as image:
            yield image
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"{name}: no such file; check the path") from None
    except PermissionError:
        raise InputError(f"{name}: not readable; check its permissions") from None
    except IsADirectoryError:
        raise InputError(f"{name}: is a folder; give an image file") from None
    except UnidentifiedImageError:
        raise InputError(
            f"{name}: not an image that Pillow knows; save it as PNG or JPEG"
        ) from None
    except Image.DecompressionBombError:
        raise InputError(f"{name}: too large to read at once; cut it into tiles") from None
    # What Pillow's decoders raise for damaged data.
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{name}: damaged ({reason}); copy or export the file again") from None


def _name(file: Path | io.BufferedIOBase, name: str | None) -> str:
    return name or (str(os.fspath(file)) if isinstance(file, str | os.PathLike) else "image")


def _eight_bit(image: Any, name: str) -> Any:
    """Maps 16-bit grey onto 8 bit and undoes palettes; the other modes stay as they are."""
    from PIL import Image

    if image.mode in (*_GREY_16, "I"):
        values = np.asarray(image).astype(np.int64)
        if values.min(initial=0) < 0 or values.max(initial=0) > 65535:
            raise InputError(
                f"{name}: values from {values.min()} to {values.max()}; "
                "save the image with 8 or 16 bits a channel"
            )
        return Image.fromarray(((values + 128) // 257).astype(np.uint8))
    if image.mode == "F":
        raise InputError(f"{name}: floating-point pixels; save it with 8 or 16 bits a channel")
    if image.mode in ("P", "PA"):
        return image.convert("RGBA").convert("RGB")
    if image.mode == "1":
        return image.convert("L")
    return image


def read_image(
    path: Path | io.BufferedIOBase, *, channels: Channels = "rgb", name: str | None = None
) -> UInt8[np.ndarray, "h w c"]:
    """Reads an image.

    The orientation that a camera noted (EXIF) is applied. 16-bit channels are scaled to 8 bits
    (65535 becomes 255; a grey image with 12 significant bits stays dark). Transparency is dropped,
    never composited. Of an animation the first frame is read.

    Args:
      path: the file, or a binary stream of its bytes.
      channels: "rgb": 3 channels, grey is repeated, CMYK and palettes are converted; "grey": 1
        channel, the luma of ITU-R 601; "raw": as many as the file holds, so that a fourth band
        (near infrared) stays.
      name: what to call the file in an error; by default its path.

    Returns:
      `[H, W, C]`, 0..255, an array of its own.

    Raises:
      InputError: the file is missing, damaged, truncated, or no image.
      ValueError: `channels` is none of the three.
    """
    if channels not in ("rgb", "grey", "raw"):
        raise ValueError(f"channels is {channels!r}; expected 'rgb', 'grey' or 'raw'")
    from PIL import ImageOps

    name = _name(path, name)
    with opened(path, name) as image:
        image.load()
        image = _eight_bit(ImageOps.exif_transpose(image), name)
        if channels != "raw":
            image = image.convert("RGB") if channels == "rgb" else image.convert("L")
        array = np.array(image)
    return array[..., None] if array.ndim == 2 else array


def image_size(path: Path | io.BufferedIOBase, *, name: str | None = None) -> tuple[int, int]:
    """Height and width of an image as `read_image` returns it, from the header alone.

    Raises:
      InputError: the file is missing or no image.
    """
    from PIL import TiffImagePlugin

    with opened(path, _name(path, name)) as image:
        width, height = image.size
        if isinstance(image, TiffImagePlugin.TiffImageFile):
            # Some releases of Pillow have turned `size` already.
            width, height = image.tag_v2[256], image.tag_v2[257]
        turned = image.getexif().get(0x0112) in (5, 6, 7, 8)
    return (width, height) if turned else (height, width)


def read_labels(
    path: Path | io.BufferedIOBase,
    *,
    name: str | None = None,
    colors: Sequence[tuple[int, int, int]] = (),
) -> Int32[np.ndarray, "h w"]:
    """Reads a label map: the indices of a palette image, or grey values of 1 to 32 bits.

    Grey PNG of 2 or 4 bits gives its stored values (0..3, 0..15), 1 bit gives 0 and 1.

    Args:
      path: the file, or a binary stream of its bytes.
      name: what to call the file in an error; by default its path.
      colors: RGB 0..255 of the classes, so that the error of a colour picture can tell whether it
        is painted with them.

    Returns:
      `[H, W]`, an array of its own.

    Raises:
      InputError: the file is missing, damaged, or a colour picture.
    """
    name = _name(path, name)
    with opened(path, name) as image:
        mode, step = image.mode, 1
        if mode == "L" and image.format == "PNG" and image.tile:
            step = _STEPS.get(image.tile[0][3], 1)
        if mode not in ("1", "L", "P", "I", *_GREY_16):
            raise InputError(
                f"{name}: a label map needs one channel of integers, this is "
                f"{_describe(image, colors)}; save the class indices as a grey or palette PNG"
            )
        image.load()
        return (
            (np.asarray(image) // step).astype(np.int32)
            if step > 1
            else np.array(image, dtype=np.int32)
        )


def _describe(image: Any, colors: Sequence[tuple[int, int, int]]) -> str:
    """What a picture among the labels is: whether its colours mean classes, first of all."""
    if image.mode not in ("RGB", "RGBA"):
        return f"a picture of mode {image.mode}"
    red, green, blue = np.moveaxis(np.asarray(image)[..., :3].astype(np.int32), -1, 0)
    if (red == green).all() and (green == blue).all():
        return f"a grey picture of mode {image.mode}, whose channels are equal"
    found = np.unique((red << 16) + (green << 8) + blue)
    known = np.isin(found, [(r << 16) + (g << 8) + b for r, g, b in colors]).sum()
    what = f"a colour picture of mode {image.mode}"
    if not known:
        return what
    if known < len(found):
        return f"{what}, with {known} of its {len(found)} colours among those of the classes"
    return f"{what}, painted in the colours of the classes"


def _format(path: Path) -> str:
    from PIL import Image

    Image.init()
    suffix = pathlib.Path(path).suffix.lower()
    if suffix not in Image.EXTENSION or Image.EXTENSION[suffix] not in Image.SAVE:
        raise InputError(
            f"{os.fspath(path)}: cannot write {suffix or 'a file without suffix'}; use .png"
        )
    return Image.EXTENSION[suffix]


def write_image(path: Path, image: UInt8[np.ndarray, "h w c"]) -> None:
    """Writes an image of 1, 3 or 4 channels in the format of the suffix.

    The file appears whole or not at all: it is written beside its place and then moved.

    Raises:
      InputError: the suffix is unknown, or the folder is missing, closed, or full.
      ValueError: the number of channels is another.
    """
    from PIL import Image

    if image.shape[2] not in (1, 3, 4):
        raise ValueError(f"image has {image.shape[2]} channels; expected 1, 3 or 4")
    file_format = _format(path)
    picture = Image.fromarray(np.ascontiguousarray(image[..., 0] if image.shape[2] == 1 else image))
    write_file(path, lambda file: picture.save(file, format=file_format))


def write_labels(path: Path, labels: Integer[np.ndarray, "h w"]) -> None:
    """Writes a label map as 16-bit grey PNG, whole or not at all.

    Raises:
      InputError: a value is outside 0..65535 (map ignored pixels first), the suffix is not .png,
        or the folder is missing, closed, or full.
    """
    from PIL import Image

    if pathlib.Path(path).suffix.lower() != ".png":
        raise InputError(f"{os.fspath(path)}: label maps are written as .png; change the suffix")
    low, high = labels.min(initial=0), labels.max(initial=0)
    if low < 0 or high > 65535:
        raise InputError(
            f"{os.fspath(path)}: labels from {low} to {high} do not fit in 16 bits; "
            "renumber them to 0..65535"
        )
    picture = Image.fromarray(labels.astype(np.uint16))
    write_file(path, lambda file: picture.save(file, format="PNG"))
