import math

import pytest
import ssn_ablation
import superpixel_curves as curves
from command_line import write_data
from ssn_ablation import Ablation, Setting, verdict, verdicts

from jaxseg.recipes.superpixels import Config
from jaxseg.train.run_folder import open_run
from jaxseg.types import InputError

BASE = Config(
    width=4, crop_size=32, batch_size=8, train_superpixels=(16,), train_iters=2, learning_rate=1e-3
)


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ablation")
    return Ablation(
        data=write_data(folder / "set", (("train", 8), ("val", 2))),
        out=folder / "out",
        steps=2,
        features=(8,),
        iterations=(3, 2),
        requested=(24, 6),
        at=(30, 4000),
    )


def replace(options, **changes):
    return Ablation(**vars(options) | changes)


def test_one_command_trains_measures_and_tells(options, capsys, monkeypatch):
    assert ssn_ablation.ablate(options, BASE) == 0
    report = (options.out / "ablation.md").read_text()
    assert report.rstrip() in capsys.readouterr().out
    table = [line.split(" | ") for line in report.splitlines() if line.startswith("| SSN")]
    assert [" ".join(cells[:3]).strip("| ") for cells in table] == [
        *("SSN_pix - 2", "SSN_pix - 3"),
        *("SSN_linear 8 2", "SSN_linear 8 3", "SSN_deep 8 2", "SSN_deep 8 3"),
    ]
    assert all(cells[3].startswith(".") and cells[4] == "- |" for cells in table)
    assert "- Depth, SSN_pix to SSN_linear: " in report and " of 2 comparisons" in report
    assert "- v, 2 to 3: " in report and " of 3 comparisons" in report
    for network in ("linear", "deep"):
        _, config = open_run(options.out / f"{network}_k8")
        assert (config.network, config.num_features, config.train_split) == (network, 8, "train")
    before = (options.out / "rows.jsonl").read_text()
    assert before.count("\n") == 12

    monkeypatch.setattr(curves, "_measure", None)
    assert ssn_ablation.ablate(options, BASE) == 0
    assert (options.out / "rows.jsonl").read_text() == before
    assert (options.out / "ablation.md").read_text() == report
    with pytest.raises(InputError, match="at step 2, not 1"):
        ssn_ablation.ablate(replace(options, steps=1), BASE)
    with pytest.raises(InputError, match="--iterations is empty"):
        ssn_ablation.ablate(replace(options, iterations=()), BASE)


def scores(**changes):
    """Accuracy that rises by .01 with depth, .02 with k and .03 with v."""
    found = {}
    for v in (5, 10):
        found[Setting("pix", 0, v)] = 0.5 + 0.03 * (v == 10)
        for depth, network in enumerate(("linear", "deep"), 1):
            for k in (10, 20):
                gain = 0.01 * depth + 0.02 * (k == 20) + 0.03 * (v == 10)
                found[Setting(network, k, v)] = 0.5 + gain
    return {setting: [value, math.nan] for setting, value in found.items()}


def test_each_step_is_counted_over_what_differs_in_it_alone():
    assert verdicts(scores()) == [
        "Depth, SSN_pix to SSN_linear: rises (4 of 4 comparisons; "
        "mean +.0200, least +.0100, most +.0300).",
        "Depth, SSN_linear to SSN_deep: rises (4 of 4 comparisons; "
        "mean +.0100, least +.0100, most +.0100).",
        "k, 10 to 20: rises (4 of 4 comparisons; mean +.0200, least +.0200, most +.0200).",
        "v, 5 to 10: rises (5 of 5 comparisons; mean +.0300, least +.0300, most +.0300).",
    ]


def test_what_does_not_rise_is_said():
    assert "rises in the mean, not everywhere (1 of 2 " in verdict("k", [0.03, -0.01])
    assert "does not rise (1 of 2 " in verdict("k", [0.01, -0.03])
    assert "does not rise (0 of 1 " in verdict("k", [0.0])
    assert verdict("k", []) == "k: nothing to compare."


def test_wrong_options_are_told_in_one_line(options, capsys, tmp_path):
    arguments = ["--data", str(tmp_path / "none"), "-o", str(tmp_path / "out")]
    assert ssn_ablation.main(arguments) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and err.startswith("ssn_ablation: ") and "none" in err
