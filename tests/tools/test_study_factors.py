"""The study of factors: levels differ in one property, rates are those of plain loops."""

import dataclasses
import json
import pathlib

import numpy as np
import pytest
from people import save_model
from PIL import Image

TOOLS = pathlib.Path(__file__).resolve().parents[2] / "tools"

pytestmark = pytest.mark.usefixtures("one_device")


@pytest.fixture(autouse=True)
def tools(monkeypatch):
    monkeypatch.syspath_prepend(TOOLS)


def flat(value, path=""):
    """The leaves of nested dataclasses, by path."""
    if not dataclasses.is_dataclass(value):
        return {path: value}
    parts = (flat(getattr(value, f.name), f"{path}.{f.name}") for f in dataclasses.fields(value))
    return {key: leaf for part in parts for key, leaf in part.items()}


def test_levels_of_a_factor_differ_in_what_it_names_alone():
    from study_levels import FACTORS, subjects

    people = subjects(13, 2)
    assert people[:5] == subjects(5, 2)
    assert len({one.domain for one in people}) == 2
    assert len({(one.domain, one.index) for one in people}) == 13
    changed = {}
    for factor in FACTORS:
        levels = [level.change(people) for level in factor.levels]
        assert len({level.name for level in factor.levels}) == len(levels)
        assert all(levels[0] != level for level in levels[1:])
        changed[factor.name] = {
            key
            for level in levels[1:]
            for a, b in zip(map(flat, levels[0]), map(flat, level), strict=True)
            for key in a
            if a[key] != b[key]
        }
    assert changed.pop("lookalikes") >= {".look.upper_colour", ".look.bag", ".look.details.print"}
    assert changed == {
        "skin": {".look.skin"},
        "girth": {".look.girth"},
        "colour": {".look.upper_colour", ".look.lower_colour"},  # a dress is both
        "pattern": {".look.pattern"},
        "light": {".query.camera.gain", ".gallery.camera.gain"},
        "exposure": {".gallery.camera.gain"},
        "cast": {".gallery.camera.gain"},
        "resolution": {".gallery.camera.lines"},
        "blur": {".gallery.camera.blur"},
        "noise": {".gallery.camera.noise"},
        "viewpoint": {".gallery.yaw"},
        "occlusion": {".gallery.covered"},
        "occluder": {".gallery.camera.hidden", ".gallery.camera.occluders"},
        "box": {".gallery.camera.slop"},
    }


def test_lookalikes_share_clothes_and_nothing_of_the_body():
    from study_levels import FACTORS, subjects

    people = subjects(6, 2)
    (factor,) = (factor for factor in FACTORS if factor.name == "lookalikes")
    (one_stranger,) = (level for level in factor.levels if level.name == "1")
    looks = [one.look for one in one_stranger.change(people)]
    assert looks[0] == people[0].look
    clothes = [(x.upper_colour, x.lower, x.shoe_colour, x.bag, x.details.print) for x in looks]
    assert clothes[::2] == clothes[1::2]
    assert len(set(clothes)) == 3
    for one, look in zip(people, looks, strict=True):
        assert (look.girth, look.skin, look.hair) == (one.look.girth, one.look.skin, one.look.hair)


def test_rates_and_changes_are_those_of_plain_loops():
    from study_factors import Outcome, measure, rates

    n, r = 7, np.random.default_rng(0)
    others = ~np.eye(n, dtype=bool)
    outcomes = [
        Outcome(
            r.random(n) < 0.5, r.random(n), (r.random((n, n)) < 0.4) & others, r.random(n) < 0.5,
            (np.arange(n)[:, None] // 2 == np.arange(n) // 2) & others,
        )
        for _ in range(2)
    ]  # fmt: skip
    drawn = r.integers(0, n, (40, n))
    weights = np.stack([np.bincount(row, minlength=n) for row in drawn]).astype(float)
    found = [rates(outcome, weights) for outcome in outcomes]
    for outcome, values in zip(outcomes, found, strict=True):
        for row, drawn_people in enumerate(drawn):
            pairs = [(a, b) for a in drawn_people for b in drawn_people if a != b]
            alike = [pair for pair in pairs if outcome.alike[pair]]
            assert values["rank1"][row] == pytest.approx(outcome.first[drawn_people].mean())
            assert values["miss_rate"][row] == pytest.approx(outcome.missed[drawn_people].mean())
            for name, chosen in (("false_match_rate", pairs), ("false_match_rate_alike", alike)):
                expected = np.mean([outcome.false[pair] for pair in chosen]) if chosen else 0
                assert values[name][row] == pytest.approx(expected)
    measured = measure(*outcomes, weights)
    change = found[0]["mAP"] - found[1]["mAP"]
    value, low, high = measured["mAP_change"]
    assert value == pytest.approx((outcomes[0].precision - outcomes[1].precision).mean(), abs=1e-6)
    assert (low, high) == pytest.approx(np.percentile(change, (2.5, 97.5)), abs=1e-6)


def test_the_study_writes_numbers_plots_and_tables(tmp_path, capsys):
    import study_factors

    model = save_model(tmp_path / "model.safetensors")
    words = [str(model), f"--out={tmp_path / 'study'}", "--people=4", "--factors"]
    assert study_factors.main([*words, "lookalikes", "occlusion"]) == 0
    result = json.loads((tmp_path / "study" / "factors.json").read_text())
    assert [factor["name"] for factor in result["factors"]] == ["occlusion", "lookalikes"]
    reference = result["reference"]
    assert reference["false_match_rate"][0] == 0  # less than one of the 12 pairs may pass
    assert reference["rank1_change"] == [0, 0, 0]
    for factor in result["factors"]:
        for level in factor["levels"]:
            value, low, high = level["rank1"]
            assert 0 <= low <= value <= high <= 1
    alone, *alike = result["factors"][1]["levels"]
    assert "false_match_rate_alike" not in alone
    assert all("false_match_rate_alike" in level for level in alike)
    # As drawn, nobody is covered either.
    assert result["factors"][0]["levels"][0]["rank1"] == reference["rank1"]
    table = (tmp_path / "study" / "factors.md").read_text()
    assert table.strip() in capsys.readouterr().out
    assert table.count("\n| ") == (1 + 2) + (1 + 5) + (1 + 4)
    with Image.open(tmp_path / "study" / "factors.png") as drawn:
        assert drawn.width > 1000
    assert study_factors.main([*words, "skinn"]) == 2
    assert "unknown factor 'skinn'; valid: skin" in capsys.readouterr().err
    assert study_factors.main(["none.safetensors", *words[1:3]]) == 2
    assert "none.safetensors" in capsys.readouterr().err
