"""Comparison of runs, from the files that runs leave: groups, means, words, refusals, tables."""

import csv
import json

import numpy as np
import pytest
from people import market_tree

from jaxreid import cli, configs
from jaxreid.evaluation.comparison import (
    differences_of,
    find_runs,
    group_runs,
    read_run,
    summary_of,
)
from jaxreid.evaluation.comparison_table import compute_cells
from jaxreid.runs.settings import resolved

SETS = ("mall", "campus")


def write_run(path, seed, lr, precision, row=(), sets=SETS, end=(("finished", True),)):
    """A finished run whose queries have these average precisions, [Q]; two of each person."""
    config = resolved(configs.get("qaconv"))
    config |= {"seed": seed, "optim": config["optim"] | {"lr": lr}}
    start = {"mode": "train"} | dict(end)
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps({"config": config, "seed": seed, "runs": [start]}))
    results, lines = [], []
    for name in sets:
        held = {"set": name, "variant": "plain", "model": "trained", "step": 9, "junk": "camera"}
        held |= {"mAP": float(np.mean(precision)), "average_precision": "standard"}
        results += [held | {"step": 0, "mAP": 0.1}, held | {"fingerprint": "0a"} | dict(row)]
        for q, value in enumerate(precision):
            line = {"set": name, "query": f"{q}.jpg", "pid": q // 2, "matches": 2, "AP": value}
            lines.append(line | {"first_match": 1 if value > 0.5 else 3})
        lines.append({"set": name, "query": "alone.jpg", "pid": 99, "matches": 0, "AP": None})
    (path / "results.json").write_text(json.dumps({"results": results}))
    (path / "queries.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def folder(tmp_path):
    """Three seeds of two settings, the second better by about 0.1."""
    generator = np.random.default_rng(0)
    hard = generator.uniform(0.2, 0.8, 80)
    for lr, gain in ((0.01, 0.0), (0.03, 0.1)):
        for seed in range(3):
            noise = generator.normal(gain, 0.02, 80)
            write_run(tmp_path / "s" / f"lr={lr},seed={seed}", seed, lr, (hard + noise).tolist())
    return tmp_path / "s"


def groups_of(folder):
    return group_runs([read_run(path) for path in find_runs([folder])])


def test_runs_that_differ_by_seed_are_one_group_with_mean_and_deviation(folder):
    groups = groups_of(folder)
    assert [(g.name, [r.seed for r in g.runs]) for g in groups] == [
        ("lr=0.01", [0, 1, 2]),
        ("lr=0.03", [0, 1, 2]),
    ]
    rows = summary_of(groups)
    assert [(row["set"], row["runs"]) for row in rows] == [
        (name, lr) for name in SETS for lr in ("lr=0.01", "lr=0.03")
    ]
    lines = [
        [json.loads(line) for line in (run / "queries.jsonl").read_text().splitlines()]
        for run in sorted(folder.glob("lr=0.01,*"))
    ]
    own = [[li for li in one if li["set"] == "mall" and li["matches"]] for one in lines]
    means = [np.mean([line["AP"] for line in one]) for one in own]
    assert rows[0]["mAP"] == pytest.approx(np.mean(means))
    assert rows[0]["mAP_std"] == pytest.approx(np.std(means, ddof=1))
    hits = [np.mean([line["first_match"] == 1 for line in one]) for one in own]
    assert rows[0]["rank1"] == pytest.approx(np.mean(hits))
    assert rows[0]["queries"] == 80


def test_differences_are_said_in_words(folder):
    groups = groups_of(folder)
    (first, _), (swapped, _) = differences_of(groups), differences_of(groups[::-1])
    low, high = (-100 * end for end in first.intervals["mAP"][::-1])
    assert 0 < low < -100 * first.means["mAP"] < high < 15
    sentence = (
        f"lr=0.03 is better than lr=0.01 on mall by {-100 * first.means['mAP']:.1f} mAP, 95% "
        f"interval {low:.1f} to {high:.1f}, over 3 seeds and 80 queries of 40 people."
    )
    assert first.sentence() == sentence
    assert swapped.sentence().startswith("lr=0.03 is better than lr=0.01 on mall by ")
    gain = first.precisions[0] - first.precisions[1]
    assert gain[first.most(4)] == pytest.approx(np.sort(gain)[[-1, -2, 1, 0]])


def test_a_difference_that_may_be_chance_is_not_called_better(tmp_path):
    generator = np.random.default_rng(1)
    for lr in (0.1, 0.2):
        write_run(tmp_path / f"a{lr}", 0, lr, generator.uniform(size=40).tolist(), sets=["mall"])
    (difference,) = differences_of(groups_of(tmp_path))
    assert difference.sentence().startswith(
        "No difference between lr=0.1 and lr=0.2 is shown on mall: "
    )
    assert "one seed each (what other seeds would give is not in it)" in difference.sentence()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"fingerprint": "0b"}, "with different images: 0a and 0b"),
        ({"junk": "same-image"}, "with different rules of what a query must not match"),
        ({"average_precision": "trapezoid"}, "with different definitions of average precision"),
        ({"variant": "flip"}, "with different ways of evaluating: plain and flip"),
    ],
)
def test_other_images_and_protocols_are_refused(tmp_path, row, message):
    write_run(tmp_path / "a", 0, 0.1, [0.5, 0.6])
    write_run(tmp_path / "b", 1, 0.1, [0.5, 0.6], row)
    with pytest.raises(ValueError, match=message):
        groups_of(tmp_path)


def test_what_cannot_be_compared_is_said(tmp_path, capsys):
    a = write_run(tmp_path / "a", 0, 0.1, [0.5, 0.6], sets=["mall"])
    b = write_run(tmp_path / "b", 0, 0.1, [0.5, 0.6], sets=["mall"])
    c = write_run(tmp_path / "c", 0, 0.2, [0.5, 0.6], sets=["campus"])
    (tmp_path / "empty").mkdir()
    (tmp_path / "image.jpg").touch()
    assert find_runs([tmp_path, a]) == [a, b, c]
    for runs, message in [
        ([a, b], "have the same settings and seed 0"),
        ([a, c], "no test set in common"),
        ([a, tmp_path / "empty"], "is not a run, and"),
        ([a, tmp_path / "image.jpg"], "is not a run, and"),
        ([a, "--out=table.txt"], "must end in .html, .tex, .csv, .md or .json"),
    ]:
        assert cli.main(["compare", *map(str, runs)]) == 1
        assert message in capsys.readouterr().err
    (a / "queries.jsonl").write_text((a / "queries.jsonl").read_text().replace("0.5", "0.7"))
    with pytest.raises(ValueError, match="are of two evaluations of mall.*jaxreid evaluate"):
        read_run(a)
    (a / "queries.jsonl").unlink()
    with pytest.raises(FileNotFoundError, match="has no queries.jsonl: it is not finished"):
        read_run(a)


def test_runs_that_are_not_finished_are_noticed(tmp_path, capsys):
    a = write_run(tmp_path / "a", 0, 0.1, [0.5, 0.6], end=())
    assert cli.main(["compare", str(a)]) == 0
    assert f"WARNING: the end of their training is not recorded: {a}" in capsys.readouterr().out
    b = write_run(tmp_path / "b", 0, 0.1, [0.5, 0.6], {"step": 0}, end=())
    with pytest.raises(ValueError, match="are of the model before its training, which is not fin"):
        read_run(b)


def test_tables_are_written_in_every_form(folder, capsys):
    for suffix, part in [
        ("tex", r"runs & seeds & mall rank-1 & mall mAP & campus rank-1 & "),
        ("md", "| runs | seeds | mall rank-1 | mall mAP | campus rank-1 | "),
        ("html", "<td>lr=0.01</td><td>3</td>"),
    ]:
        out = folder.parent / f"table.{suffix}"
        assert cli.main(["compare", str(folder), f"--out={out}"]) == 0
        assert part in out.read_text()
    text = (folder.parent / "table.md").read_text()
    assert "\n*: the difference from lr=0.01 is shown (95% interval; of twenty" in text
    marked = text.splitlines()[3].split(" | ")
    assert [cell.endswith("*") for cell in marked] == [False, False, *[True] * 4, *[False] * 4]
    said = capsys.readouterr().out
    assert "lr=0.03 is better than lr=0.01 on campus by" in said
    comment = (folder.parent / "table.tex").read_text().splitlines()[-1]
    assert comment.startswith("% lr=0.03 is better")
    assert comment[2:] in said
    assert "mall: lr=0.01 has the higher average precision in 0 of 80 queries" in said
    out = folder.parent / "table.csv"
    assert cli.main(["compare", *map(str, folder.iterdir()), f"--out={out}", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert len(result["differences"]) == 2
    with out.open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["mAP"]) for row in rows] == [row["mAP"] for row in result["results"]]


def test_what_runs_took_is_a_median_over_seeds_or_unknown(tmp_path):
    for seed, seconds in enumerate((90, 60, 61)):
        spent = {"finished": True, "seconds": seconds, "cpu_seconds": 2 * seconds}
        write_run(
            tmp_path / f"seed={seed}", seed, 0.1, [0.5], {"parameters": 7000}, end=spent.items()
        )
    (group,) = groups_of(tmp_path)
    compute = group.compute()
    images = 9 * group.runs[0].config["batch_size"]
    assert compute == {"parameters": 7000, "images": images, "seconds": 61, "cpu_seconds": 122}
    assert compute_cells(compute) == ["7,000", f"{images:,}", "1.0", "2.0"]
    record = json.loads((tmp_path / "seed=0" / "config.json").read_text())
    # The first of two starts was killed.
    record["runs"].insert(0, {"mode": "train"})
    (tmp_path / "seed=0" / "config.json").write_text(json.dumps(record))
    (group,) = groups_of(tmp_path)
    assert compute_cells(group.compute())[2:] == ["-", "-"]


def test_a_model_and_two_images_are_still_a_pair(folder, tmp_path, capsys):
    market_tree(tmp_path / "people", train=1, test=1)
    run, *_ = folder.iterdir()
    images = sorted((tmp_path / "people").rglob("*.jpg"))[:2]
    # The stand-in of a run has no checkpoint: the error is that of a model.
    assert cli.main(["compare", str(run), *map(str, images)]) == 1
    assert "checkpoint" in capsys.readouterr().err
