"""Flow files byte by byte, and synthetic flow against its equation."""

import functools
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from jaxseg.data import MemorySource, eval_batches
from jaxseg.data.flow import flow_size, read_flow, rescale_flow, write_flow
from jaxseg.data.synthetic_flow import SyntheticFlowSource, synthetic_flow
from jaxseg.types import InputError


def flo_bytes(flow):
    """The format by its description, one value at a time."""
    height, width = flow.shape[:2]
    data = struct.pack("<fii", 202021.25, width, height)
    for y in range(height):
        for x in range(width):
            data += struct.pack("<ff", *flow[y, x])
    return data


def test_the_format(tmp_path):
    flow = np.random.default_rng(0).normal(size=(3, 5, 2)).astype(np.float32)
    path = tmp_path / "a.flo"
    write_flow(path, flow)
    assert path.read_bytes() == flo_bytes(flow)
    assert path.read_bytes()[:4] == b"PIEH"
    assert flow_size(path) == (3, 5)
    found = read_flow(path)
    np.testing.assert_array_equal(found, flow)
    found[:] = 0  # an array of its own


def test_unknown_flow(tmp_path):
    flow = np.ones((2, 4, 2), np.float32)
    flow[0, 1] = 1.7e9, 3
    flow[1, 0] = 3, -np.inf
    flow[1, 3] = 1e9
    path = tmp_path / "a.flo"
    path.write_bytes(flo_bytes(flow))
    found = read_flow(path)
    unknown = np.isnan(found)
    np.testing.assert_array_equal(np.argwhere(unknown.all(axis=-1)), [[0, 1], [1, 0]])
    assert unknown.sum() == 4
    write_flow(path, found)
    assert np.frombuffer(path.read_bytes()[12:], "<f4").reshape(flow.shape)[0, 1, 1] == 1e10
    np.testing.assert_array_equal(read_flow(path), found)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "begin with 202021.25"),
        (b"\x89PNG\r\n\x1a\n" * 4, "begin with 202021.25"),
        (struct.pack("<fii", 202021.25, 4, 4) + bytes(100), "100 bytes of flow.* 4x4.* 128 bytes"),
        (struct.pack("<fii", 202021.25, -4, 4), "4x-4"),
        (struct.pack("<fii", 202021.25, 1 << 20, 1 << 20), "1048576x1048576"),
        (struct.pack("<fii", 202021.25, 2, 1) + bytes(15), "15 bytes of flow"),
    ],
)
def test_files_that_are_no_flow(tmp_path, content, says):
    path = tmp_path / "a.flo"
    path.write_bytes(content)
    with pytest.raises(InputError, match=says) as caught:
        read_flow(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_paths_that_cannot_be_used(tmp_path):
    with pytest.raises(InputError, match=r"no\.flo: not readable"):
        flow_size(tmp_path / "no.flo")
    with pytest.raises(InputError, match=r"a\.png: flow is written as \.flo"):
        write_flow(tmp_path / "a.png", np.zeros((2, 2, 2), np.float32))


@given(
    hnp.arrays(np.float32, (2, 3, 2), elements=st.floats(-50, 50, width=32)),
    st.floats(0.5, 3),
    st.booleans(),
)
def test_where_content_goes(flow, scale, flipped):
    """A pixel and its target are moved by the same map of the plane."""
    width = 40.0

    def moved(point):
        x, y = point * scale
        return np.array([width * scale - x if flipped else x, y])

    start = np.array([7.0, 5.0])
    new = rescale_flow(flow, scale, flipped)
    for y, x in np.ndindex(2, 3):
        expected = moved(start + flow[y, x]) - moved(start)
        np.testing.assert_allclose(new[y, x], expected, atol=1e-3)


def segments(shape=(24, 30)):
    label = np.zeros(shape, np.int32)
    label[:, 9:] = 1
    label[12:, 20:] = 2
    label[4:8, 2:6] = 7
    label[:2, :2] = -1
    return label


def test_each_segment_moves_affinely():
    label = segments()
    flow = synthetic_flow(label, np.random.default_rng(3), still=0.0)
    np.testing.assert_array_equal(np.isnan(flow).all(axis=-1), label < 0)
    fitted = {}
    for name in (0, 1, 2, 7):
        y, x = np.nonzero(label == name)
        design = np.stack([np.ones(len(x)), x, y], axis=-1)
        fitted[name], *_ = np.linalg.lstsq(design, flow[label == name], rcond=None)
        np.testing.assert_allclose(design @ fitted[name], flow[label == name], atol=1e-4)
    # and each by a motion of its own: flow jumps at borders
    for a, b in [(0, 1), (1, 2), (0, 7)]:
        assert np.abs(fitted[a] - fitted[b])[0].max() > 0.5


def test_what_stands_still_moves_with_the_camera():
    label = segments()
    flow = synthetic_flow(label, np.random.default_rng(0), still=1.0)
    y, x = np.nonzero(label >= 0)
    design = np.stack([np.ones(len(x)), x, y], axis=-1)
    known = flow[label >= 0]
    fitted, *_ = np.linalg.lstsq(design, known, rcond=None)
    np.testing.assert_allclose(design @ fitted, known, atol=1e-4)
    assert np.abs(known).max() > 0.1
    none = synthetic_flow(label, np.random.default_rng(0), camera=0.0, objects=0.0)
    np.testing.assert_array_equal(none[label >= 0], 0)


def test_shifts_have_the_deviations_asked_for():
    label = np.arange(4000, dtype=np.int32).reshape(50, 80)  # segments of one pixel: t_j alone
    flow = synthetic_flow(label, np.random.default_rng(1), camera=0.0, objects=6.0, still=0.25)
    rest = np.all(flow == 0, axis=-1)
    assert np.mean(rest) == pytest.approx(0.25, abs=0.03)
    assert np.std(flow[~rest]) == pytest.approx(6.0, rel=0.05)


@pytest.mark.parametrize("options", [{"camera": -1.0}, {"objects": -1.0}, {"still": 1.5}])
def test_numbers_that_make_no_flow(options):
    with pytest.raises(ValueError, match=f"{next(iter(options))} is"):
        synthetic_flow(segments(), np.random.default_rng(0), **options)


def test_a_source_of_synthetic_flow():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (24, 30, 3)).astype(np.uint8)
    labelled = MemorySource([{"image": image, "label": segments()}] * 3)
    make = functools.partial(SyntheticFlowSource, labelled)
    source = make(seed=5)
    assert source.ids == labelled.ids and source.extent(0) == (24, 30, 0)
    np.testing.assert_array_equal(source[1]["target"], make(seed=5)[1]["target"])
    assert (source[1]["target"] != source[2]["target"]).mean() > 0.5
    assert (source[1]["target"] != make(seed=6)[1]["target"]).mean() > 0.5
    batches = list(eval_batches(source, batch_size=2))
    assert [set(batch) for batch in batches] == [
        {"image", "target", "size", "index", "weight", "example"}
    ] * 2
    np.testing.assert_array_equal(batches[1]["target"][0], source[2]["target"])
    assert batches[0]["target"].dtype == np.float32
    with pytest.raises(InputError, match="0: has no label map"):
        SyntheticFlowSource(MemorySource([{"image": image}]))[0]
