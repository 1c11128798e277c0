"""Tables, curves and pictures of DSRL, on folders that the test writes and one tiny run."""

import dataclasses
import json
import math
import statistics

import compare_dsrl
import dsrl_camvid
import dsrl_pictures
import dsrl_runs
import jax
import numpy as np
import pytest

import jaxseg
from jaxseg import data
from jaxseg.cli import main
from jaxseg.predictor import Predictor
from jaxseg.recipes.dsrl import Config, build

CURVE = {180: 0.2, 360: 0.30, 540: 0.4, 720: 0.39, 900: 0.404}


def write_run(folder, config, miou, *, macs=2e9, pixels=100.0, curve=None, more=None):
    """A run's folder as training and evaluation leave it."""
    folder.mkdir(parents=True)
    told = {"experiment": "dsrl_camvid", "config": dataclasses.asdict(config), "jaxseg": "0"}
    (folder / "config.json").write_text(json.dumps(told))
    small = {"180x240/miou": 0.9, "180x240/iou_Sky": 0.9}
    full = {"full/miou": miou, "full/iou_Sky": miou / 2, "full/iou_Car": math.nan}
    full |= {f"full/{name}": value for name, value in (more or {}).items()}
    record = {
        "figures": {**small, **full, "full/pixels": pixels},
        "costs": {
            "180x240": {"parameters": 1, "macs": 1},
            "full": {"parameters": 1_500_000, "macs": int(macs)},
        },
    }
    (folder / "evaluation_test.json").write_text(json.dumps(record))
    points = CURVE if curve is None else curve
    lines = [{"step": 50, "loss": 1.0}, *({"step": s, "full/miou": v} for s, v in points.items())]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    return folder


def variant(stage, seed=0, **changes):
    own = {"seed": seed, "size": (360, 480), "steps": 900, "learning_rate": 3e-3, **changes}
    return dataclasses.replace(dsrl_camvid.VARIANTS[f"espnetv2_{stage}"], **own)


def cells(table):
    return [[c.strip() for c in line.strip("|").split("|")] for line in table.splitlines()]


def test_the_ablation(tmp_path, capsys):
    base, whole = {0: 0.40, 1: 0.42, 2: 0.41}, {0: 0.42, 1: 0.43, 2: 0.45, 3: 0.9}
    runs = [
        *(write_run(tmp_path / f"a{s}", variant("affinity", s), v) for s, v in whole.items()),
        *(write_run(tmp_path / f"b{s}", variant("base", s), v) for s, v in base.items()),
        write_run(tmp_path / "w", variant("affinity", 1, image_weight=0.5), 0.41, macs=3e9),
        write_run(tmp_path / "s", variant("sssr", 5, image_weight=0.5), 0.44),
    ]
    assert compare_dsrl.main(["--runs", *map(str, runs)]) == 0
    ablation, by_class, notes = capsys.readouterr().out.strip().split("\n\n")
    rows = {row[1]: row for row in cells(ablation)[2:]}
    # An option of the image's branch is none of sssr's.
    assert list(rows) == ["base", "sssr", "affinity", "affinity, image_weight 0.5"]
    assert {row[0] for row in rows.values()} == {"espnetv2 180×240"}
    values = [100 * v for v in whole.values()]
    gains = [100 * (whole[s] - base[s]) for s in base]
    expected = f"{statistics.mean(gains):+.2f} ± {statistics.stdev(gains):.2f} (3)"
    assert expected == "+2.33 ± 1.53 (3)"
    assert rows["affinity"][2:] == [
        "0, 1, 2, 3",
        f"{np.mean(values):.2f} ± {np.std(values, ddof=1):.2f}",
        expected,
        "2",
        "1.5",
    ]
    assert rows["base"][2:5] == ["0, 1, 2", "41.00 ± 1.00", "-"]
    assert rows["affinity, image_weight 0.5"][2:6] == ["1", "41.00", "-1.00 (1)", "3"]
    assert rows["sssr"][2:5] == ["5", "44.00", "-"]
    assert cells(by_class)[0] == ["network", "stage", "Sky", "Car"]
    assert cells(by_class)[2] == ["espnetv2 180×240", "base", "20.50", "-"]
    assert len(notes.splitlines()) == 3
    assert notes.splitlines()[0] == (
        "espnetv2 180×240, base, seed 0: +0.40 validation mIoU in the last fifth of its steps, "
        "converged"
    )


def test_near_the_borders(tmp_path):
    def measured(near, far):
        """Of 100 pixels 10 lie within 1, 40 within 4."""
        return {
            "pixel_accuracy": (40 * near + 60 * far) / 100,
            **{"trimap_miou_4": near / 2, "trimap_accuracy_4": near, "trimap_pixels_4": 40.0},
            **{"trimap_miou_1": near / 4, "trimap_accuracy_1": 0.5, "trimap_pixels_1": 10.0},
        }

    runs = [
        write_run(tmp_path / "b0", variant("base", 0), 0.4, more=measured(0.4, 0.9)),
        write_run(tmp_path / "b1", variant("base", 1), 0.4, more=measured(0.6, 0.8)),
        write_run(tmp_path / "s", variant("sssr", 0), 0.4, more=measured(0.8, 0.7)),
    ]
    _, _, title, near, _ = compare_dsrl.tables(dsrl_runs.read_runs(runs, "test")).split("\n\n")
    assert title == "mIoU within R pixels of a border of the labels, and pixel accuracy beyond"
    assert cells(near)[0][2:] == ["R = 1", "R = 4", "accuracy beyond 4"]
    assert [row[1:] for row in cells(near)[2:]] == [
        ["base", "12.50", "25.00", "85.00"],
        ["sssr", "20.00", "40.00", "70.00"],
    ]
    # One evaluated without them leaves the table out.
    runs.append(write_run(tmp_path / "old", variant("base", 2), 0.4))
    assert "border" not in compare_dsrl.tables(dsrl_runs.read_runs(runs, "test"))


def test_networks_and_configs_are_kept_apart(tmp_path):
    other = variant("base", network="deeplab_mobilenetv2", scale=1.0, size=(0, 0))
    runs = [
        write_run(tmp_path / "a", variant("base"), 0.4),
        write_run(tmp_path / "b", variant("base", learning_rate=0.1), 0.5),
        write_run(tmp_path / "c", variant("affinity", learning_rate=0.1), 0.6),
        write_run(tmp_path / "d", variant("base", size=(180, 240)), 0.3),
        write_run(tmp_path / "e", other, 0.2, curve={900: 0.1}),
    ]
    text = compare_dsrl.tables(dsrl_runs.read_runs(runs, "test"))
    found = {(row[0], row[1]): row[3:5] for row in cells(text.split("\n\n")[0])[2:]}
    assert found == {
        ("espnetv2 180×240, learning_rate 0.003", "base"): ["40.00", "-"],
        ("espnetv2 180×240, learning_rate 0.1", "base"): ["50.00", "-"],
        ("espnetv2 180×240, learning_rate 0.1", "affinity"): ["60.00", "+10.00 (1)"],
        ("espnetv2 90×120", "base"): ["30.00", "-"],
        ("deeplab_mobilenetv2", "base"): ["20.00", "-"],
    }
    assert text.splitlines()[-1].startswith("deeplab_mobilenetv2, base, seed 0: no validation")


def test_each_seed_goes_on_from_its_own_run(tmp_path):
    runs = [write_run(tmp_path / "begun", variant("base"), 0.3)]
    for stage, gain in (("base", 0.0), ("affinity", 0.02)):
        for seed in (0, 1):
            config = variant(stage, seed, initial=f"runs/base-{seed}", steps=160, warmup=20)
            curve = {128: 0.3, 160: 0.31}
            folder = tmp_path / f"{stage}{seed}"
            runs.append(write_run(folder, config, 0.4 + seed / 100 + gain, curve=curve))
    text = compare_dsrl.tables(dsrl_runs.read_runs(runs, "test"))
    rows = cells(text.split("\n\n")[0])[2:]
    assert [row[:5] for row in rows] == [
        ["espnetv2 180×240, initial none", "base", "0", "30.00", "-"],
        ["espnetv2 180×240, initial a run", "base", "0, 1", "40.50 ± 0.71", "-"],
        [
            "espnetv2 180×240, initial a run",
            "affinity",
            "0, 1",
            "42.50 ± 0.71",
            "+2.00 ± 0.00 (2)",
        ],
    ]


@pytest.mark.parametrize(("last", "gain"), [(0.404, 0.4), (0.406, 0.6), (0.3, 0.0)])
def test_what_the_last_fifth_brings(tmp_path, last, gain):
    run = write_run(tmp_path / "r", variant("base"), 0.4, curve={**CURVE, 900: last})
    [found] = dsrl_runs.read_runs([run], "test")
    assert compare_dsrl.late_gain(found) == pytest.approx(gain)
    text = compare_dsrl.tables([found])
    assert text.endswith("not converged" if gain >= 0.5 else ", converged")
    assert text.endswith("not converged") == (gain >= 0.5)


def test_savings_where_they_are_known():
    """Two straight lines in log MACs, the second one at 0.7 times the cost."""
    macs = np.array([1e9, 2e9, 8e9])
    base = compare_dsrl.Curve(macs, 30 + 5 * np.log2(macs / 1e9))
    other = compare_dsrl.Curve(0.7 * macs, base.miou)
    mean, levels = compare_dsrl.savings(base, other)
    assert mean == pytest.approx(0.3)
    assert {y: b / 1e9 for y, (b, _) in levels.items()} == pytest.approx({30: 1, 35: 2, 45: 8})
    assert all(theirs == pytest.approx(0.7 * ours) for ours, theirs in levels.values())
    assert compare_dsrl.macs_at(base, 40) == pytest.approx(4e9)
    above = compare_dsrl.Curve(macs, base.miou + 15.1)
    assert compare_dsrl.savings(base, above) is None
    # Half of the range is shared; what falls again does not count.
    falling = compare_dsrl.Curve(np.append(macs, 16e9), np.append(base.miou + 5, 20))
    mean, levels = compare_dsrl.savings(base, falling)
    assert mean == pytest.approx(0.5) and (min(levels), max(levels)) == (35, 45)


def test_curves(tmp_path, capsys):
    runs = []
    for side, gain in ((90, 0.0), (180, 0.1), (360, 0.2)):
        for seed, off in ((0, 0.01), (1, -0.01)):
            size = (side, side * 4 // 3)
            changes = {"size": size, "crop": size}
            for stage, factor in (("base", 1.0), ("affinity", 0.7)):
                config = variant(stage, seed, **changes)
                folder = tmp_path / f"{stage}{side}{seed}"
                macs = factor * 1e9 * (side / 90) ** 2
                runs.append(write_run(folder, config, 0.3 + gain + off, macs=macs))
    out = tmp_path / "curves.png"
    assert compare_dsrl.main(["--runs", *map(str, runs), "--curves", str(out)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == (
        "espnetv2, affinity: 30.0 % of multiply-accumulates saved at equal mIoU, "
        "the mean over 30.00 to 50.00 (Wang et al. say 30 %)"
    )
    assert lines[2] == "  at mIoU 40.00: 2.8 G in place of 4 G, 30.0 %"
    assert data.read_image(out).std() > 0
    alone = [run for run in runs if "affinity" in run.name]
    assert compare_dsrl.main(["--runs", *map(str, alone), "--curves", str(out)]) == 0
    assert "no run of stage base" in capsys.readouterr().out
    apart = [tmp_path / "base900", tmp_path / "affinity3600"]
    assert compare_dsrl.main(["--runs", *map(str, apart), "--curves", str(out)]) == 0
    assert "the curves do not overlap" in capsys.readouterr().out


def test_what_cannot_be_compared(tmp_path, capsys):
    good = write_run(tmp_path / "good", variant("base"), 0.4)
    twin = write_run(tmp_path / "twin", variant("base"), 0.5)
    short = write_run(tmp_path / "short", variant("base", 1), 0.5, curve={720: 0.4})
    other = write_run(tmp_path / "other", variant("base", 2), 0.5, pixels=50.0)
    bare = write_run(tmp_path / "bare", variant("base", 3), 0.5)
    (bare / "evaluation_test.json").write_text('{"figures": {"full/miou": 1}}')
    late = write_run(tmp_path / "late", variant("base", 4), 0.5)
    (late / "evaluation_test.json").unlink()
    alien = write_run(tmp_path / "alien", variant("base", 5), 0.5)
    (alien / "config.json").write_text('{"config": {"network": "unet"}}')
    sheet = ["--pictures", str(tmp_path / "p.png")]
    for arguments, words in (
        ([good, twin], f"{twin}: the same training as {good}"),
        ([short], f"{short}: is at step 720 of 900"),
        ([good, other], f"{other}: measured on other data than {good}"),
        ([bare], "lacks 'costs'"),
        ([late], "evaluation_test.json: missing; evaluate"),
        ([alien], f"{alien}: is no run of DSRL"),
        ([tmp_path / "none"], "config.json: missing; train"),
        ([good, *sheet], "--pictures wants --data"),
        ([good, *sheet, "--data", tmp_path], "of stages base; give one affinity"),
    ):
        assert compare_dsrl.main(["--runs", *map(str, arguments)]) == 2, words
        err = capsys.readouterr().err
        assert err.startswith("compare_dsrl: ") and err.count("\n") == 1
        assert words in err, err


SMALL = Config(
    num_classes=3,
    width=2,
    depth=1,
    reconstruction_width=4,
    affinity_stride=4,
    crop=(32, 48),
    batch_size=8,
    steps=0,
)
EXPERIMENT = """
from jaxseg.recipes.dsrl import Config, build

VARIANTS = {"small": Config(**%r)}
"""


@pytest.fixture(scope="module")
def classes(tmp_path_factory):
    """Images of 32×48 pixels, the first row ignored."""
    folder = tmp_path_factory.mktemp("classes")
    info = {"kind": "classes", "layout": "folders", "classes": list("abc"), "ignore": 9}
    (folder / "dataset.json").write_text(json.dumps(info))
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("test", 3)):
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True)
        for i in range(count):
            image = rng.integers(0, 256, (32, 48, 3)).astype(np.uint8)
            label = np.kron(rng.integers(0, 3, (4, 6)), np.ones((8, 8), int)).astype(np.int32)
            data.write_image(folder / "images" / split / f"{i}.png", image)
            label[0] = 9
            data.write_labels(folder / "labels" / split / f"{i}.png", label)
    return folder


@pytest.fixture(scope="module")
def runs(classes, tmp_path_factory):
    """A run of the whole method and one of its base, saved before their first step."""
    folder = tmp_path_factory.mktemp("trained")
    file = folder / "small.py"
    file.write_text(EXPERIMENT % dataclasses.asdict(SMALL))
    for stage in ("affinity", "base"):
        options = [file, "--data", classes, "--workdir", folder / stage, "--stage", stage]
        assert main(["train", *map(str, options)]) == 0
    return [folder / "affinity", folder / "base"]


def test_pictures(runs, classes, tmp_path, capsys):
    out = tmp_path / "sheet.png"
    arguments = ["--runs", *runs, "--data", classes, "--pictures", out, "--images", 2]
    assert compare_dsrl.main([str(a) for a in arguments]) == 0
    assert capsys.readouterr().out == f"written to {out}\n"
    sheet = data.read_image(out)
    assert sheet.shape[1] == 9 * (260 + 260 // 24) + 260 // 24
    wrong = (sheet == dsrl_pictures.WRONG).all(axis=-1)
    assert wrong.mean() > 0.02


def drawn(tree, low, high):
    """Values that make every layer matter, as few initial ones do."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: rng.uniform(low, high, x.shape).astype(x.dtype), tree)


@pytest.mark.parametrize(("size", "batch_norm"), [((24, 36), "running"), ((0, 0), "batch")])
def test_what_is_drawn_is_what_predicts(runs, classes, size, batch_norm):
    """The branches that fall away are computed in the state in which the run predicts."""
    crop = size if any(size) else SMALL.crop
    config = dataclasses.replace(SMALL, size=size, crop=crop, batch_norm=batch_norm)
    trained = jaxseg.load(runs[0])
    params, model_state = drawn(trained.params, -0.8, 1.0), drawn(trained.model_state, 0.1, 1.0)
    model = Predictor(build(config), params, model_state)
    source = data.open_data(classes, "test", channels="rgb")
    images = np.stack([source[i]["image"] for i in range(3)])
    see = jax.jit(dsrl_pictures.seeing(config).predict)
    seen, beside_another = (
        see(model.params, model.model_state, {"image": images[[0, i]]}) for i in (1, 2)
    )
    predicted = model.predict({"image": images[:2]})
    np.testing.assert_array_equal(seen["classes"], predicted["classes"])
    np.testing.assert_allclose(seen["confidence"], predicted["confidence"], rtol=1e-5)
    assert np.std(seen["confidence"]) > 1e-3
    assert seen["image"].shape == (2, *images.shape[1:])
    for name in ("image", "ours", "theirs"):
        assert np.std(seen[name]) > 1e-3
        off = np.abs(seen[name][0] - beside_another[name][0]).max()
        assert off < 1e-5 if batch_norm == "running" else off > 1e-3
    height, width = size if any(size) else (32, 48)
    for name in ("ours", "theirs"):
        assert seen[name].shape == (2, height // 4, width // 4, 4)


def test_turning_features_changes_no_colour():
    """The second branch holds the first one's features, turned, of other lengths."""
    rng = np.random.default_rng(0)
    ours = [rng.normal(size=shape) for shape in ((5, 6, 4), (3, 7, 4))]
    turn, _ = np.linalg.qr(rng.normal(size=(6, 4)))
    theirs = [x @ turn.T * rng.uniform(1, 9, (*x.shape[:2], 1)) for x in ours]
    left, right = dsrl_pictures.paint_features(ours, theirs)
    for a, b, x in zip(left, right, ours, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
        assert a.shape == (*x.shape[:2], 3) and a.std() > 0.1
    narrow, _ = dsrl_pictures.paint_features([x[..., :2] for x in ours], theirs)
    assert np.isfinite(narrow[0]).all()


def test_errors_of_a_map():
    label = np.array([[0, 1, -1]])
    found = dsrl_pictures.errors(label, np.array([[0, 2, 0]]))
    assert found.tolist() == [[[232, 234, 237], [213, 94, 0], [0, 0, 0]]]
