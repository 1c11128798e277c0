import json
import math
import sys

import compare_superpixels
import numpy as np
import pytest
import superpixel_curves as curves
from skimage.segmentation import slic

from jaxseg import data, metrics, viz
from jaxseg.data import read_image, read_labels
from jaxseg.predictor import Predictor
from jaxseg.recipes.superpixels import Config, build

ASKED = (6, 24)


def run(folder, out, *options):
    arguments = ("--data", folder, "-o", out, "--requested", *ASKED, "--at", 12, 4000, *options)
    return compare_superpixels.main([str(a) for a in arguments])


def halves(image, number):
    """Cuts an image in columns."""
    height, width = image.shape[:2]
    return np.broadcast_to(np.arange(width) * number // width, (height, width)).astype(np.int32)


def row(regions, asa, **fields):
    known = {"data": "d", "split": "s", "images": 1, "method": "m", "version": "1", "requested": 1}
    figures = {"regions": regions, "asa": asa, "pairs": 1.0}
    return curves.Row(**known | fields, figures=figures, cpu_seconds=0.0)


@pytest.fixture(scope="module")
def compared(annotated, tmp_path_factory):
    pytest.importorskip("cv2.ximgproc")
    out = tmp_path_factory.mktemp("compared")
    assert run(annotated, out) == 0
    return out


def read_rows(out):
    return [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()]


def test_every_method_is_measured_and_drawn(compared):
    rows = read_rows(compared)
    names = list(dict.fromkeys(row["method"] for row in rows))
    assert len(names) == 6
    assert [(r["method"], r["requested"]) for r in rows] == [(n, k) for n in names for k in ASKED]
    assert {r["figures"]["pairs"] for r in rows} == {5.0}
    table = (compared / "table.md").read_text()
    assert "SUBSET" not in table and table.startswith("set, test: 5 pairs")
    for name in names:
        assert sum(line.startswith(f"| {name} | ") for line in table.splitlines()) == 5 + len(ASKED)
    for line in table.splitlines():
        if line.startswith("| SSN_pix | ") and line.count("|") == 4:
            assert line.endswith(" - |"), "4000 regions were not measured"
    assert read_image(compared / "curves.png").shape[1] == 3 * 750


def test_figures_are_means_over_pairs(compared, annotated):
    """Each annotation measured on its own, on superpixels computed anew."""
    metric = metrics.superpixel()
    each = []
    for path in sorted((annotated / "labels" / "test").iterdir()):
        image = read_image(annotated / "images" / "test" / f"{path.stem[:-2]}.png")
        regions = slic(image, n_segments=24, start_label=0)
        batch = {"label": read_labels(path)[None], "weight": np.ones(1)}
        batch["size"] = np.array([regions.shape])
        each.append(metric.compute(metric.measure({"superpixels": regions[None]}, batch)))
    [found] = [
        r["figures"]
        for r in read_rows(compared)
        if r["method"] == "scikit-image SLIC, own rule" and r["requested"] == 24
    ]
    for name in (*curves.FIGURES, "regions"):
        assert found[name] == pytest.approx(np.mean([one[name] for one in each])), name


def test_a_second_call_measures_what_is_missing(compared, annotated, tmp_path, monkeypatch):
    text = (compared / "rows.jsonl").read_text()
    # As a kill leaves it: half of the last line.
    (tmp_path / "rows.jsonl").write_text(text[: text.rindex("\n{") + 40])
    measured = []
    original = curves._measure

    def spy(pairs, segmenter, requested):
        measured.append((segmenter.name, requested))
        return original(pairs, segmenter, requested)

    monkeypatch.setattr(curves, "_measure", spy)
    assert run(annotated, tmp_path) == 0
    assert measured == [("LSC", 24)]
    whole = (tmp_path / "rows.jsonl").read_text().splitlines()
    assert (
        len(whole) == 13 and json.loads(whole[-1])["figures"] == read_rows(compared)[-1]["figures"]
    )
    assert run(annotated, tmp_path, "--methods", "slic") == 0
    assert len(measured) == 1


def test_an_image_is_segmented_once(annotated, tmp_path):
    pairs = curves.open_pairs(annotated, "test")
    sizes = []

    def segment(image, number):
        sizes.append(image.shape[:2])
        return halves(image, number)

    one = curves.Segmenter("columns", "1", segment)
    rows = curves.Rows(tmp_path / "rows.jsonl")
    first = rows.measured(pairs, one, 4)
    assert first.figures["pairs"] == 5 and first.figures["regions"] == 4
    assert sorted(sizes) == [(40, 56), (56, 40)]
    assert rows.measured(pairs, one, 4) == curves.Rows(rows.path).measured(pairs, one, 4) == first
    assert len(sizes) == 2
    # Another release, another number and a part of the images are other rows.
    rows.measured(pairs, one._replace(version="2"), 4)
    rows.measured(pairs, one, 5)
    rows.measured(curves.open_pairs(annotated, "test", 1), one, 4)
    assert len(sizes) == 7 and len(read_rows(tmp_path)) == 4


def test_other_weights_have_another_version():
    experiment = build(Config(network="pix", steps=0))

    def version(*weights):
        return curves.predicting("x", Predictor(experiment, dict(enumerate(weights)), {})).version

    a, b = np.arange(3.0), np.arange(3.0) + 1e-6
    assert version(a) == version(a.copy())
    assert len({version(a), version(b), version(a, b), version(b, a), version()}) == 5


def test_reading_a_curve():
    points = curves.curve([row(400.0, 0.9), row(100.0, 0.7), row(400.0, 0.8)])
    assert points["regions"].tolist() == [100.0, 400.0]
    assert points["asa"].tolist() == pytest.approx([0.7, 0.85])
    assert curves.read(points, "asa", 200) == pytest.approx((0.7 + 0.85) / 2)
    assert curves.read(points, "asa", 100) == 0.7
    for outside in (99, 401):
        assert math.isnan(curves.read(points, "asa", outside))


def test_numbers_in_tables():
    cells = [curves.cell(x) for x in (0.93485, 1.0, math.nan)]
    assert cells == [".9348", "1.0000", "-"]
    assert curves.cell(157.4, 0) == "157" and curves.cell(0.25, 2) == ".25"
    table = curves.markdown(["", "100"], [["a", ".9"]])
    assert table == "|  | 100 |\n| --- | ---: |\n| a | .9 |"


def test_peers_without_their_library_are_left_out(annotated, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    options = ("--methods", "skimage", "seeds", "lsc", "--limit", 1)
    assert run(annotated, tmp_path, *options) == 0
    out, err = capsys.readouterr()
    assert [line.partition(":")[0] for line in out.splitlines() if "skipped" in line] == [
        "seeds",
        "lsc",
    ]
    assert "A SUBSET of its 2" in out and err == ""
    assert {r["method"] for r in read_rows(tmp_path)} == {"scikit-image SLIC"}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--methods", "slick"), ("slick", "skimage-default")),
        (("--methods", "skimage", "skimage"), ("two methods", "scikit-image SLIC")),
        (("--methods", "skimage", "--at", 0), ("--at is 0",)),
        (("--methods", "skimage", "--limit", -1), ("--limit is -1",)),
        (("--methods", "skimage", "--split", "none"), ("none",)),
        (("--methods", "skimage", "--data", "/nowhere"), ("/nowhere",)),
    ],
)
def test_wrong_options_are_told_in_one_line(annotated, tmp_path, capsys, options, says):
    assert run(annotated, tmp_path / "out", *options) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and err.startswith("compare_superpixels: ")
    for text in says:
        assert text in err


def test_a_file_of_something_else_is_refused(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n')
    with pytest.raises(ValueError, match=r"rows\.jsonl: line 1"):
        curves.Rows(path)


def test_panels_give_a_name_one_colour():
    x = np.array([50.0, 100.0, 1000.0])
    both, one = {"a": (x, x), "b": (x, -x)}, {"b": (x, x)}
    image = viz.curve_panels([viz.Panel(both, "x", "y"), viz.Panel(one, "x", "y", log_x=True)])
    assert image.shape == (870, 1500, 3)
    second = image[:700, 760:].reshape(-1, 3)

    def painted(color):
        return (second == [int(color[i : i + 2], 16) for i in (1, 3, 5)]).all(axis=1).any()

    assert painted(viz._CURVES[1]) and not painted(viz._CURVES[0])
    gap = np.array([np.nan, 100.0, 1000.0])
    viz.curve_panels([viz.Panel({"a": (gap, x)}, "x", "y", log_x=True), viz.Panel({}, "x", "y")])
    with pytest.raises(ValueError, match="panels is empty"):
        viz.curve_panels([])


def test_data_without_labels_is_refused(tmp_path):
    data.write_image(tmp_path / "a.png", np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(ValueError, match="no label maps"):
        curves.open_pairs(tmp_path, "all")
