"""Every kind of image and label file, written here with Pillow or by hand."""

import inspect
import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from jaxseg.data import image_size, read_image, read_labels, write_image, write_labels
from jaxseg.types import InputError

RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (5, 7, 3)).astype(np.uint8)
GREY = RNG.integers(0, 256, (5, 7)).astype(np.uint8)


def save(path, picture, **options):
    picture.save(path, **options)
    return path


def raw_png(path, depth, rows, width):
    """A grey PNG with few bits a pixel, which Pillow cannot write."""

    def chunk(kind, data):
        crc = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + crc

    header = struct.pack(">IIBBBBB", width, len(rows), depth, 0, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row for row in rows))
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    )
    return path


def test_colour_and_grey(tmp_path):
    path = save(tmp_path / "a.png", Image.fromarray(COLOUR))
    np.testing.assert_array_equal(read_image(path), COLOUR)
    np.testing.assert_array_equal(read_image(io.BytesIO(path.read_bytes())), COLOUR)
    luma = read_image(path, channels="grey")
    assert luma.shape == (5, 7, 1)
    np.testing.assert_allclose(luma[..., 0], COLOUR @ [0.299, 0.587, 0.114], atol=1)
    path = save(tmp_path / "b.png", Image.fromarray(GREY))
    np.testing.assert_array_equal(read_image(path), np.repeat(GREY[..., None], 3, axis=2))
    np.testing.assert_array_equal(read_image(path, channels="raw"), GREY[..., None])
    assert read_image(path).flags.writeable


def test_palette(tmp_path):
    indices = RNG.integers(0, 4, (5, 7)).astype(np.uint8)
    colours = RNG.integers(0, 256, (4, 3)).astype(np.uint8)
    picture = Image.fromarray(indices)
    picture.putpalette(colours.tobytes())
    for options in ({}, {"transparency": bytes([0, 128, 255, 255])}):
        path = save(tmp_path / "a.png", picture, **options)
        np.testing.assert_array_equal(read_image(path), colours[indices])
        np.testing.assert_array_equal(read_image(path, channels="raw"), colours[indices])
        np.testing.assert_array_equal(read_labels(path), indices)


def test_transparency_is_dropped_and_fourth_band_kept(tmp_path):
    four = RNG.integers(0, 256, (5, 7, 4)).astype(np.uint8)
    path = save(tmp_path / "a.png", Image.fromarray(four))
    np.testing.assert_array_equal(read_image(path), four[..., :3])
    np.testing.assert_array_equal(read_image(path, channels="raw"), four)
    path = save(tmp_path / "b.png", Image.fromarray(four[..., :2]))
    np.testing.assert_array_equal(read_image(path), np.repeat(four[..., :1], 3, axis=2))


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bit_is_scaled(tmp_path, suffix):
    deep = np.array([[0, 128, 129, 257], [32768, 65278, 65407, 65535]], np.uint16)
    path = save(tmp_path / f"a{suffix}", Image.fromarray(deep))
    expected = np.floor(deep / 257 + 0.5).astype(np.uint8)
    np.testing.assert_array_equal(read_image(path)[..., 1], expected)
    np.testing.assert_array_equal(read_labels(path), deep)


def test_one_bit(tmp_path):
    bits = GREY > 100
    path = save(tmp_path / "a.png", Image.fromarray(bits))
    np.testing.assert_array_equal(read_image(path)[..., 0], bits * 255)
    np.testing.assert_array_equal(read_labels(path), bits)


def test_cmyk(tmp_path):
    path = save(tmp_path / "a.jpg", Image.new("CMYK", (8, 8), (0, 255, 255, 0)))
    np.testing.assert_allclose(read_image(path)[0, 0], [255, 0, 0], atol=2)


@pytest.mark.parametrize(
    ("orientation", "turn"),
    [
        (1, lambda a: a),
        (2, lambda a: a[:, ::-1]),
        (3, lambda a: a[::-1, ::-1]),
        (4, lambda a: a[::-1]),
        (5, lambda a: a.swapaxes(0, 1)),
        (6, lambda a: np.rot90(a, -1)),
        (7, lambda a: np.rot90(a, 2).swapaxes(0, 1)),
        (8, lambda a: np.rot90(a, 1)),
    ],
)
@pytest.mark.parametrize("ending", ["png", "tif"])
def test_exif_orientation(tmp_path, orientation, turn, ending):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / f"a.{ending}", Image.fromarray(COLOUR), exif=exif)
    expected = turn(COLOUR)
    np.testing.assert_array_equal(read_image(path), expected)
    assert image_size(path) == expected.shape[:2]


@pytest.mark.parametrize(("depth", "row"), [(4, bytes([0x12, 0x3F])), (2, bytes([0x1B]))])
def test_labels_of_few_bits_keep_their_values(tmp_path, depth, row):
    path = raw_png(tmp_path / "a.png", depth, [row] * 3, 4)
    expected = [1, 2, 3, 15] if depth == 4 else [0, 1, 2, 3]
    np.testing.assert_array_equal(read_labels(path), [expected] * 3)


def test_32_bit_labels(tmp_path):
    labels = np.array([[0, 70000, -1]], np.int32)
    path = save(tmp_path / "a.tif", Image.fromarray(labels))
    np.testing.assert_array_equal(read_labels(path), labels)
    with pytest.raises(InputError, match=r"a.tif: values from -1 to 70000; save .* 8 or 16 bits"):
        read_image(path)


def one_line(error):
    text = str(error.value)
    assert "\n" not in text and ";" in text
    return text


@pytest.mark.parametrize("read", [read_image, read_labels, image_size])
def test_files_that_cannot_be_used(tmp_path, read):
    with pytest.raises(InputError, match=r"missing.png: no such file; check") as error:
        read(tmp_path / "missing.png")
    one_line(error)
    with pytest.raises(InputError, match="is a folder") as error:
        read(tmp_path)
    one_line(error)
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(InputError, match=r"text.png: not an image") as error:
        read(tmp_path / "text.png")
    one_line(error)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "gif", "webp", "bmp"])
def test_truncated_files(tmp_path, suffix):
    big = Image.fromarray(RNG.integers(0, 256, (60, 70)).astype(np.uint8))
    path = save(tmp_path / f"a.{suffix}", big if suffix != "webp" else big.convert("RGB"))
    whole = path.read_bytes()
    for kept in (0.9, 0.5, 0.02):
        path.write_bytes(whole[: int(kept * len(whole))])
        with pytest.raises(InputError, match=rf"a.{suffix}: (damaged|not an image)") as error:
            read_image(path)
        one_line(error)


def test_any_damage_is_an_input_error(tmp_path):
    path = save(tmp_path / "a.png", Image.fromarray(COLOUR))
    whole = bytearray(path.read_bytes())
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            assert read_image(path).ndim == 3
        except InputError as error:
            assert "\n" not in str(error)


def test_wrong_kinds(tmp_path):
    path = save(tmp_path / "a.png", Image.fromarray(COLOUR))
    with pytest.raises(
        InputError,
        match=r"a.png: a label map needs one channel .* colour picture of mode RGB; save",
    ) as error:
        read_labels(path)
    one_line(error)
    path = save(tmp_path / "a.tif", Image.fromarray(GREY.astype(np.float32)))
    with pytest.raises(InputError, match="floating-point"):
        read_image(path)
    with pytest.raises(ValueError, match="channels is 'bgr'"):
        # Without the check of annotations.
        inspect.unwrap(read_image)(path, channels="bgr")


@pytest.mark.parametrize(
    ("painted", "words"),
    [
        ([0, 1, 1, 2], "colour picture of mode RGB, painted in the colours of the classes; save"),
        ([0, 1, 1, 3], "mode RGB, with 2 of its 3 colours among those of the classes; save"),
        ([3, 3, 4, 4], "a colour picture of mode RGB; save"),
        ([4, 4, 4, 4], "a grey picture of mode RGB, whose channels are equal; save"),
    ],
)
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_label_saved_in_colours(tmp_path, painted, words, mode):
    colors = ((128, 64, 128), (0, 128, 192), (64, 0, 1), (64, 1, 0), (9, 9, 9))
    indices = np.array([painted, painted[::-1]], np.uint8)
    picture = Image.fromarray(indices)
    picture.putpalette(np.array(colors, np.uint8).tobytes())
    np.testing.assert_array_equal(read_labels(save(tmp_path / "a.png", picture)), indices)
    path = save(tmp_path / "b.png", picture.convert("RGB").convert(mode))
    with pytest.raises(InputError, match=words.replace("RGB", mode)) as error:
        read_labels(path, colors=colors[:3])
    assert str(path) in one_line(error)


def test_written_files_read_back(tmp_path):
    labels = np.array([[0, 65535], [300, 7]])
    write_labels(tmp_path / "a.png", labels)
    np.testing.assert_array_equal(read_labels(tmp_path / "a.png"), labels)
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.mode == "I;16"
    for channels in (1, 3, 4):
        image = RNG.integers(0, 256, (5, 7, channels)).astype(np.uint8)
        write_image(tmp_path / "b.png", image)
        np.testing.assert_array_equal(read_image(tmp_path / "b.png", channels="raw"), image)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "b.png"]


@pytest.mark.parametrize("bad", [-1, 65536])
def test_labels_that_do_not_fit(tmp_path, bad):
    with pytest.raises(InputError, match="do not fit in 16 bits"):
        write_labels(tmp_path / "a.png", np.array([[0, bad]]))
    assert not list(tmp_path.iterdir())


def test_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    write_image(tmp_path / "a.png", COLOUR)

    def full(self, file, **options):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    for write, array in ((write_image, COLOUR[::-1]), (write_labels, np.zeros((2, 2), np.int32))):
        with pytest.raises(InputError, match=r"a.png: not written \(No space left") as error:
            write(tmp_path / "a.png", array)
        one_line(error)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), COLOUR)
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_places_that_cannot_be_written(tmp_path):
    with pytest.raises(InputError, match=r"a.png: not written \(No such file"):
        write_image(tmp_path / "missing" / "a.png", COLOUR)
    with pytest.raises(InputError, match=r"cannot write .xyz; use .png"):
        write_image(tmp_path / "a.xyz", COLOUR)
    with pytest.raises(InputError, match=r"written as .png"):
        write_labels(tmp_path / "a.jpg", np.zeros((2, 2), np.int32))
    with pytest.raises(ValueError, match="2 channels"):
        write_image(tmp_path / "a.png", COLOUR[..., :2])
