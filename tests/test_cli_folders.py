"""`jaxseg superpixels` on folders of many sizes: few programs, the same superpixels."""

import re
import time

import jax
import numpy as np
import pytest
from command_line import Jaxseg, files, picture
from PIL import Image

from jaxseg.commands import segment_files, segmenter
from jaxseg.commands.overlap import Workers, attempt
from jaxseg.commands.superpixels import make_segmenter
from jaxseg.types import InputError

SIZES = [
    *((36, 48), (48, 36), (35, 47), (30, 40), (40, 30), (48, 27), (27, 48), (33, 44), (24, 36)),
    *((36, 24), (48, 48), (20, 25), (45, 31), (29, 46), (12, 60), (31, 37)),
]


@pytest.fixture
def jaxseg(capsys):
    return Jaxseg(capsys)


@pytest.fixture
def folder(tmp_path):
    """Forty images of sixteen sizes."""
    path = tmp_path / "in"
    path.mkdir()
    for i in range(40):
        image = Image.fromarray(picture(i, SIZES[i % len(SIZES)]))
        image.save(path / f"image{i:02}.png")
    return path


@pytest.fixture
def few(folder):
    """Eight of them."""
    for path in sorted(folder.iterdir())[8:]:
        path.unlink()
    return folder


@pytest.fixture
def many_programs(monkeypatch):
    """Compiling costs nothing, so that there are as many programs as may be."""
    monkeypatch.setattr("jaxseg.methods._buckets.PROGRAM", 0)


@pytest.fixture
def compilations():
    """The programs that the backend is given, by name."""
    names = []

    def listen(event, duration, **about):
        if event == "/jax/core/compile/backend_compile_duration":
            names.append(about.get("fun_name"))

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield names
    jax.monitoring.unregister_event_duration_listener(listen)


def label_map(path):
    with Image.open(path) as file:
        return np.asarray(file).astype(np.int32)


def told(out):
    """Images, seconds, images per second, programs of the last line."""
    pattern = r"(\d+) images? in (\S+) s, (\S+) images/s, (\d+) programs? compiled"
    return [float(x) for x in re.fullmatch(pattern, out.splitlines()[-1]).groups()]


def test_a_folder_of_many_sizes_compiles_four_programs(
    jaxseg, folder, tmp_path, many_programs, compilations
):
    command = ("superpixels", folder, "-n", 14, "-o", tmp_path / "out", "--statistics", "csv")
    out = jaxseg.succeeds(*command, "--weights", "pix")
    images, seconds, rate, programs = told(out)
    assert out.startswith(f"written to {tmp_path / 'out'}\n")
    assert (images, programs) == (40, 4)
    assert rate == pytest.approx(images / seconds, rel=0.2)
    assert len(compilations) == 4, compilations
    assert len(files(tmp_path / "out")) == 3 * 40
    alone = make_segmenter("pix")
    for i in (0, 4, 11, 14):
        image = picture(i, SIZES[i])
        expected = alone(image, 14)
        np.testing.assert_array_equal(label_map(tmp_path / f"out/image{i:02}.png"), expected)


def test_batches_give_what_single_images_give(jaxseg, few, tmp_path, monkeypatch, compilations):
    jaxseg.succeeds("superpixels", few, "-n", 9, "-o", tmp_path / "one")
    compilations.clear()
    for module in (segment_files, segmenter):
        monkeypatch.setattr(module, "batch_size", lambda bucket: 3)
    jaxseg.succeeds("superpixels", few, "-n", 9, "-o", tmp_path / "three")
    assert len(compilations) == 1  # the last batch, of two images, with them
    assert files(tmp_path / "one") == files(tmp_path / "three")


def test_exact_number_in_a_folder(jaxseg, few, tmp_path):
    command = ("superpixels", few, "--exact", "-n", 9, "-o", tmp_path / "out")
    jaxseg.succeeds(*command, "--statistics", "none")
    assert {label_map(p).max() for p in (tmp_path / "out").glob("image??.png")} == {8}


def test_an_image_that_is_not_as_its_header_says(jaxseg, few, tmp_path, monkeypatch):
    """Its size is that of the pixels, and the others go on."""
    sizes = {"image03.png": (20, 30), "image04.png": (1, 1)}

    monkeypatch.setattr(
        segment_files, "image_size", lambda path: sizes.get(path.name, SIZES[int(path.stem[-2:])])
    )
    command = ("superpixels", few, "-n", 9, "-o", tmp_path / "out", "--weights", "pix")
    out = jaxseg.refuses(*command, says=["image04"])
    assert "7 of 8 images written" in out
    expected = make_segmenter("pix")(picture(3, SIZES[3]), 9)
    np.testing.assert_array_equal(label_map(tmp_path / "out/image03.png"), expected)


def test_interrupt_stops_soon_and_leaves_whole_files(jaxseg, folder, tmp_path, monkeypatch):
    read, written = [], []
    compute = segmenter.Segmenter.compute
    read_image = segment_files.read_image

    def stopped(self, *arguments):
        if len(written) >= 2:
            raise KeyboardInterrupt
        written.append(arguments)
        return compute(self, *arguments)

    monkeypatch.setattr(segmenter.Segmenter, "compute", stopped)
    monkeypatch.setattr(segment_files, "read_image", lambda p: read.append(p) or read_image(p))
    status, out, err = jaxseg("superpixels", folder, "-n", 14, "-o", tmp_path / "out")
    assert (status, out, err) == (130, "", "jaxseg: stopped\n")
    assert len(read) < 15
    assert not any(".part" in p.name for p in (tmp_path / "out").iterdir())


class TestWorkers:
    def test_in_order_and_not_too_far_ahead(self):
        begun, used = [], []

        def double(x):
            begun.append(x)
            time.sleep(0.001 * (x % 3))
            return 2 * x

        with Workers(3) as workers:
            for item, result in workers.ahead(double, range(20), most=4):
                used.append(item)
                assert result == 2 * item
                assert max(begun) <= item + 4
        assert used == list(range(20))

    def test_behind_is_bounded_and_keeps_the_order(self):
        busy, most = [], []

        def work(x):
            busy.append(x)
            time.sleep(0.002)
            most.append(len(busy))
            busy.remove(x)
            return x

        results = []
        with Workers(2) as workers:
            for x in range(12):
                results += workers.behind(lambda x=x: work(x), most=2)
                assert len(results) >= x - 1
            results += workers.rest()
        assert results == list(range(12)) and max(most) <= 2

    def test_an_error_drops_what_has_not_begun(self):
        begun = []

        def slow(x):
            begun.append(x)
            time.sleep(0.02)
            return x

        with pytest.raises(KeyboardInterrupt), Workers(1) as workers:
            for _ in workers.ahead(slow, range(50), most=20):
                raise KeyboardInterrupt
        assert len(begun) <= 3

    def test_errors_come_out(self):
        def fail(x=0):
            raise ZeroDivisionError

        with Workers(1) as workers, pytest.raises(ZeroDivisionError):
            list(workers.ahead(fail, [1], most=2))
        with Workers(1) as workers, pytest.raises(ZeroDivisionError):
            workers.behind(fail, most=2)
            workers.rest()

    def test_attempt_keeps_what_a_user_can_mend(self):
        def refuse(x):
            raise InputError("mend it") if x else KeyError

        assert str(attempt(refuse, 1)) == "mend it"
        with pytest.raises(KeyError):
            attempt(refuse, 0)
