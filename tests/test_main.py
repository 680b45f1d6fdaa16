"""The program through its entry point: train, stop, resume, evaluate, refuse."""

import functools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import types

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from golden import REPOSITORY, checkpoint, find, seed_of
from people import market_tree
from PIL import Image
from program import program

import jaxreid
from jaxreid import cli, configs
from jaxreid.evaluation.run import digest_of
from jaxreid.mesh import check_devices
from jaxreid.models.backbones import make_backbone
from jaxreid.runs.log import Meter, read_events
from jaxreid.runs.signals import StopRequest
from jaxreid.runs.workdir import open_workdir
from jaxreid.weights.file import read_selection

pytestmark = [pytest.mark.end_to_end, pytest.mark.usefixtures("one_device")]
SETTINGS = [
    "--config=configs/qaconv.py:market1501,v1.1,debug",
    "--config.epochs=10",
    "--config.checkpoint.every_steps=7",
    "--config.log.every_steps=1",
    "--config.eval.batch_size=16",
    "--config.eval.gallery_tile=32",
    "--config.init_expects=ImageNet",
]
STEPS = 40  # 72 images in batches of 16, ten times


@pytest.fixture(scope="module")
def place(tmp_path_factory, one_device):
    root = tmp_path_factory.mktemp("main")
    market_tree(root / "market1501")
    market_tree(root / "strangers", world=8)
    return root


def command(place, workdir, *more):
    """The arguments of the program: the last of several recipes, as it may be given once only."""
    folders = [f"--workdir={workdir}", f"--config.data.dir={place}"]
    prepared = f"--config.data.prepared_dir={place / 'prepared'}"
    arguments = [*SETTINGS, *folders, prepared, *map(str, more)]
    config = [a for a in arguments if a.startswith("--config=")][-1]
    return [config, *(a for a in arguments if not a.startswith("--config="))]


def run(place, workdir, *more, expect=0):
    result = program(command(place, workdir, *more))
    assert result.returncode == expect, result.stdout + result.stderr
    return result


def start(words, variables=()):
    """A process of its own, of Python."""
    return subprocess.Popen(
        [sys.executable, *words],
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONWARNINGS": "default"} | dict(variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for_step(workdir, step, alive):
    deadline = time.monotonic() + 300
    while newest_step(workdir) < step and alive():
        assert time.monotonic() < deadline, "the run does not get going"
        time.sleep(0.05)


def kill(place, workdir, at_step, *more):
    """Starts a run that computes as one here does, and kills it once it has logged a step."""
    process = start(["tests/program.py", *command(place, workdir, *more)])
    wait_for_step(workdir, at_step, lambda: process.poll() is None)
    process.kill()
    output, _ = process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL, output


def run_and_signal(place, workdir, number, at_step, *more):
    """Runs in this process, which gets a signal once the run has logged a step."""
    ended = threading.Event()

    def send():
        wait_for_step(workdir, at_step, lambda: not ended.is_set())
        if not ended.is_set():
            os.kill(os.getpid(), number)

    sender = threading.Thread(target=send)
    sender.start()
    try:
        return program(command(place, workdir, *more))
    finally:
        ended.set()
        sender.join()


def newest_step(workdir):
    steps = [event["step"] for event in events(workdir)]
    return steps[-1] if steps else -1


def events(workdir):
    return read_events(workdir / "metrics.jsonl")


def final_state(workdir):
    step = max(int(p.name) for p in (workdir / "checkpoints").iterdir() if p.name.isdigit())
    path, reader = workdir.resolve() / "checkpoints" / str(step), ocp.PyTreeCheckpointer()

    def restore(folder):
        shapes = reader.metadata(folder).item_metadata.tree
        args = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), shapes)
        return reader.restore(folder, restore_args=args)

    return {part: restore(path / part) for part in ("variables", "training")}


def assert_same_bits(a, b):
    leaves = jax.tree_util.tree_leaves_with_path(a)
    for (path, x), y in zip(leaves, jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y), err_msg=str(path))


def untimed(workdir):
    """The rows of results, without the seconds and the memory that they took."""
    rows = json.loads((workdir / "results.json").read_text())["results"]
    cost = {"seconds", "peak_memory_gb"}
    return [{key: value for key, value in row.items() if key not in cost} for row in rows]


def losses(workdir):
    train = [e for e in events(workdir) if e["kind"] == "train"]
    return [(e["step"], e["loss"], e.get("accuracy")) for e in train]


@pytest.fixture(scope="module")
def finished(place):
    workdir = place / "finished"
    result = run(place, workdir)
    return workdir, result


def test_a_run_leaves_everything_a_user_needs(finished):
    workdir, result = finished
    assert "mAP" in result.stdout
    assert "epoch 10/10: 100%" in result.stderr
    assert "WARNING: this recipe starts from ImageNet weights of resnet18" in result.stdout
    record = json.loads((workdir / "config.json").read_text())
    assert record["config"]["model"]["backbone"]["name"] == "resnet18"
    assert record["seed"] == 0
    assert {"git_revision", "packages", "devices"} <= record["runs"][0].keys()
    assert record["runs"][0]["finished"]
    assert 0 < record["runs"][0]["seconds"] < 600
    assert 0 < record["runs"][0]["cpu_seconds"] < 1200
    results = json.loads((workdir / "results.json").read_text())["results"]
    assert [(row["set"], row["model"], row["step"]) for row in results] == [
        ("market1501", "untrained", 0),
        ("market1501", "trained", STEPS),
    ]
    assert results[0]["queries"] == 12
    assert all(0 <= row[key] <= 1 for row in results for key in ("rank1", "mAP", "mINP"))
    assert [step for step, *_ in losses(workdir)] == list(range(1, STEPS + 1))
    assert list((workdir / "tensorboard").glob("events.*"))
    with Image.open(workdir / "ranking.png") as picture:
        assert picture.width > 400
    kept = {p.name for p in (workdir / "checkpoints").iterdir() if p.name.isdigit()}
    assert kept == {"35", "40"}


def test_training_learns(finished):
    workdir, _ = finished
    untrained, trained = json.loads((workdir / "results.json").read_text())["results"]
    assert 0 < untrained["mAP"] < 1
    assert 0 < trained["mAP"] < 1  # what forty steps teach, the losses show better
    _, loss, accuracy = zip(*losses(workdir), strict=True)
    assert loss[0] == 0  # the class memory is empty
    assert np.mean(loss[-8:]) < np.mean(loss[1:9]) / 2
    assert np.mean(accuracy[-8:]) > 0.25  # chance is one in twelve


def test_a_run_killed_and_then_stopped_ends_in_the_bits_of_an_uninterrupted_one(place, finished):
    workdir = place / "stopped"
    kill(place, workdir, 17)
    stopped = run_and_signal(place, workdir, signal.SIGTERM, at_step=29)
    output = stopped.stdout + stopped.stderr
    assert int(output.split("resuming from step ")[1].split()[0]) in (7, 14)
    assert stopped.returncode == 75, output
    stopped_at = int(output.split("stopped by SIGTERM at step ")[1].split()[0])
    assert (workdir / "checkpoints" / str(stopped_at)).is_dir()
    result = run(place, workdir)
    assert f"resuming from step {stopped_at}\n" in result.stdout
    assert_same_bits(final_state(workdir), final_state(finished[0]))
    assert losses(workdir) == losses(finished[0])
    assert untimed(workdir) == untimed(finished[0])


KEPT = [
    "--config.epochs=2",
    "--config.ema=0.8",
    "--config.eval.every_epochs=1",
    "--config.eval.untrained=False",
    "--config.checkpoint.best=market1501:mAP",
]


def test_the_average_and_the_best_weights_are_kept_through_a_stop_and_can_be_used(place):
    whole = place / "kept"
    result = run_and_signal(place, whole, signal.SIGTERM, 5, *KEPT)
    if result.returncode:  # a fast run may have ended
        assert result.returncode == 75
        result = run(place, whole, *KEPT)
    assert "WARNING: best.safetensors is chosen by mAP of market1501: that is" in result.stdout
    found = {(e["step"], e.get("model", "")): e for e in events(whole) if e["kind"] == "eval"}
    assert list(found) == [(4, ""), (4, "averaged"), (8, ""), (8, "averaged")]
    assert len({e["model_digest"] for e in found.values()}) == 4
    rows = json.loads((whole / "results.json").read_text())["results"]
    assert [(row["model"], row["step"]) for row in rows] == [("trained", 8), ("averaged", 8)]
    held = read_selection(whole / "best.safetensors")
    assert (held.set, held.metric) == ("market1501", "mAP")
    assert held.value == max(e["mAP"] for e in found.values())
    assert held.step == next(step for (step, _), e in found.items() if e["mAP"] == held.value)
    digests = {name: load_digest(whole / f"{name}.safetensors") for name in ("averaged", "best")}
    assert digests["averaged"] == found[8, "averaged"]["model_digest"]
    chosen = next(e for e in found.values() if e["mAP"] == held.value)
    assert digests["best"] == chosen["model_digest"]
    warning = "was chosen by mAP of market1501, .* results on market1501 are optimistic"
    assert re.search(warning, " ".join(jaxreid.load(whole / "best.safetensors").messages))


def load_digest(path):
    return digest_of(jaxreid.load(path).variables)


# Graph sampling on two sets in turn, with 12 people each and equal names; the learning rate drops
# after the third epoch, and the fourth is then the last.
GRAPH = [
    "--config=configs/qaconv_gs.py:market1501,debug",
    "--config.data.train=('market1501', 'people:strangers')",
    "--config.sampler.alternate=True",
    "--config.epochs=6",
    "--config.schedule.threshold=5",
    "--config.sampler.save_graph=True",
]


@pytest.mark.full
def test_graph_sampling_killed_in_mid_epoch_ends_in_the_same_bits(place):
    whole, killed = place / "graph", place / "graph-killed"
    result = run(place, whole, *GRAPH)
    assert "graph scores" in result.stderr
    assert "epoch 4/4: 100%" in result.stderr
    rates = {e["step"]: e["lr"] for e in events(whole) if e["kind"] == "train"}
    assert len(rates) == 48  # one batch for each of 12 identities, four times
    np.testing.assert_allclose([rates[36], rates[37]], [0.005, 0.0005], rtol=1e-6)
    with np.load(whole / "graphs" / "epoch_2.npz") as graph:
        assert graph["neighbours"].shape == graph["scores"].shape == (12, 7)
    with Image.open(whole / "graphs" / "epoch_2.png") as picture:
        assert picture.width > 400

    kill(place, killed, 31, *GRAPH)
    result = run(place, killed, *GRAPH)
    assert int(result.stdout.split("resuming from step ")[1].split()[0]) in (21, 28)
    assert_same_bits(final_state(killed), final_state(whole))
    assert losses(killed) == losses(whole)
    assert untimed(killed) == untimed(whole)
    again = run(place, killed, *GRAPH)  # it ended before the sixth epoch, and knows
    assert "epoch" not in again.stderr
    assert losses(killed) == losses(whole)


# GMN on two sets with equal names and person ids.
PAIRS = [
    "--config=configs/gmn.py:market1501,debug",
    "--config.batch_size=16",
    "--config.data.train=('market1501', 'people:strangers')",
    "--config.sampler.quota=(8, 8)",
    "--config.augment.translation=0.5",
    "--config.augment.patch=0.5",
    "--config.augment.erasing=0.5",
    "--config.epochs=2",
]


@pytest.mark.full
def test_pairs_of_two_sets_are_learned_and_evaluated_without_the_classifier(place):
    whole = place / "pairs"
    result = run(place, whole, *PAIRS)
    assert "24 identities, 144 images; up to 2 epochs of 6 steps" in result.stdout
    state = final_state(whole)["variables"]
    assert state["params"]["classifier"]["kernel"].shape == (16, 24)
    before = json.loads((whole / "results.json").read_text())["results"][-1]
    logged = [e for e in events(whole) if e["kind"] == "train"]
    assert {"cross_entropy", "triplet", "gmn", "pair_accuracy", "pic"} <= logged[-1].keys()
    assert jaxreid.load(whole).model.classes == 24
    more = ["--config.eval.flip=True", "--config.eval.rerank=True", "--config.eval.tlift=True"]
    result = run(place, whole, *PAIRS, "--mode=evaluate", *more)
    assert "checkpoint of step 12" in result.stdout
    after = json.loads((whole / "results.json").read_text())["results"]
    assert {row["variant"] for row in after} >= {"plain", "flip", "flip+rerank+tlift"}
    assert before in after


@pytest.mark.full
def test_a_search_ends_with_an_architecture_that_can_be_trained(place):
    search = place / "search"
    few = ["--config.epochs=2", "--config.data.identities=6", "--config.checkpoint.every_steps=100"]
    result = run(place, search, "--config=configs/osnet_search.py:market1501,debug", *few)
    assert "candidates of each block, in percent, after epoch 2" in result.stdout
    assert [e["epoch"] for e in events(search) if e["kind"] == "search"] == [0, 1, 2]
    with Image.open(search / "architecture.png") as picture:
        assert picture.width > 400
    held = json.loads((search / "architecture.json").read_text())
    shares = np.array(held["probabilities"])
    assert shares.shape == (6, 4)
    assert (shares != 0.25).any(1).all()  # the weights of every block have learned
    found = make_backbone("osnet_x0_25", stem=held["stem"], blocks=held["blocks"])
    assert found.blocks == tuple(held["blocks"])


def test_a_finished_run_shows_its_results_again(place, finished):
    before = (finished[0] / "metrics.jsonl").read_text()
    result = run(place, finished[0])
    assert "mAP" in result.stdout
    assert "epoch" not in result.stderr
    assert (finished[0] / "metrics.jsonl").read_text() == before


def test_the_matches_of_a_run_can_be_drawn(finished, tmp_path, capsys, monkeypatch):
    monkeypatch.syspath_prepend(REPOSITORY / "tools")
    import visualize_matches

    out = tmp_path / "matches.png"
    options = ["--workdir", finished[0], "--top", "2", "--out", out]
    assert visualize_matches.main([*map(str, options)]) == 0
    assert "market1501: query 0 and the best 2 of 24 gallery images" in capsys.readouterr().out
    assert out.exists()


def test_evaluating_again_gives_the_same_numbers(place, finished):
    before = untimed(finished[0])
    (finished[0] / "ranking.png").unlink()
    result = run(place, finished[0], "--mode=evaluate", "--config.eval.query_tile=5")
    assert f"checkpoint of step {STEPS}" in result.stdout
    after = untimed(finished[0])
    for old, new in zip(before, after, strict=True):
        for key in [key for key in old if "threshold" in key or "calibrated" in key]:
            # Scores themselves, and what follows from them, are rounded as the shape of the tile
            # has it.
            assert new.pop(key) == pytest.approx(old.pop(key), abs=1e-5)
    assert after == before
    assert (finished[0] / "ranking.png").exists()


def test_each_way_of_evaluating_is_a_row_of_its_own(place, finished, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(finished[0], workdir)
    plain = json.loads((workdir / "results.json").read_text())["results"][-1]
    options = ["--config.eval.rerank=True", "--config.eval.rerank_options={'k1': 5}"]
    options += ["--config.eval.tlift=True", "--config.eval.average_precision=trapezoid"]
    options += ["--config.eval.shortlist=12", "--config.eval.dtype=bfloat16"]
    result = run(place, workdir, "--mode=evaluate", "--config.eval.flip=True", *options)
    rows = {r["variant"]: r for r in json.loads((workdir / "results.json").read_text())["results"]}
    flip = "flip+bfloat16"
    ways = ["rerank", "rerank+tlift", "shortlist"]
    assert list(rows) == ["plain", flip, *(f"{flip}+{way}" for way in ways)]
    assert rows["plain"] == plain
    assert rows[f"{flip}+rerank"]["rerank_options"] == {"k1": 5}
    assert 0 < rows[f"{flip}+shortlist"]["top10_recall"] <= 1
    assert "shortlists took" in result.stdout
    assert {rows[name]["average_precision"] for name in list(rows)[1:]} == {"trapezoid"}
    assert len({rows[name]["mAP"] for name in ("plain", flip, f"{flip}+rerank")}) == 3
    for name, row in rows.items():
        told = "market1501" + (name != "plain") * f" {name}"
        lines = [t for t in result.stdout.splitlines() if t.split("  ")[0] == told]
        line = next(t for t in lines if " trained" in t)
        assert f"{100 * row['mAP']:.1f}" in line


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


SEVERAL = [
    "--config.epochs=1",
    "--config.sampler.name=graph",
    "--config.data.identities=8",
    "--config.batch_size=8",
    "--config.eval.rerank=True",
    "--config.eval.tlift=True",
    "--config.eval.untrained=False",
    "--config.eval.pictures=0",
    "--config.eval.shortlist=9",
    "--config.eval.shortlist_window=(2, 2)",
    # Batch normalisation over few values makes 5 % of a gradient of float32 rounding.
    "--config.model.dtype=float64",
]


def start_several(count, place, workdir, *more, double=False):
    cluster = [f"--coordinator=127.0.0.1:{free_port()}", f"--num_processes={count}"]
    variables = {
        "JAX_ENABLE_X64": str(int(double)),
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": "2",
        "PYTHONPATH": str(REPOSITORY / "tests"),  # of the data set people:strangers
    }
    words = ["-m", "jaxreid.main", *command(place, workdir, *more, *cluster)]
    return [start([*words, f"--process_id={i}"], variables) for i in range(count)]


start_two = functools.partial(start_several, 2)


def outputs_of(processes, status=0):
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    assert {process.returncode for process in processes} == {status}, "\n".join(outputs)
    return outputs


def conversion(place, out):
    """The arguments that convert a checkpoint as QAConv 2.1 writes them, of weights by the rule."""
    torch = pytest.importorskip("torch")
    names = json.loads((find() / "backbone_names.json").read_text())["resnet18_none"]
    statistics = ("weight", "bias", "running_mean", "running_var")
    norms = [[f"{bn}.{leaf}", [1]] for bn in ("bn", "logit_bn") for leaf in statistics]
    matcher = [["fc.weight", [1, 32]], ["fc.bias", [1]], *norms]
    parts = {"model": names["layer2_neck64"], "criterion": matcher}
    arrays = {part: checkpoint(seed_of(find()), held) for part, held in parts.items()}
    path = place / "checkpoint.pth.tar"
    torch.save(jax.tree.map(torch.from_numpy, arrays), path)
    return ["convert", str(path), "--arch=resnet18", f"--out={out}", "--input-size=64x32"]


@pytest.fixture(scope="module")
def converted(place):
    out = place / "qaconv.safetensors"
    assert cli.main(conversion(place, out)) == 0
    return out


# The model of that file.
CONVERTED = [
    "--config.model.backbone.width=64",
    "--config.model.neck.channels=64",
    "--config.model.neck.norm=none",
    "--config.model.matcher.head=v2.1",
]


def assert_nearly_equal(one, other):
    """Equal work directories of a training in float64, up to the order of sums."""
    assert [step for step, *_ in losses(other)] == [step for step, *_ in losses(one)]
    expected, got = final_state(one), final_state(other)
    leaves = jax.tree_util.tree_leaves_with_path(expected)
    for (path, a), b in zip(leaves, jax.tree.leaves(got), strict=True):
        # The class memory is float32; batch normalisation amplifies its rounding with every step.
        tolerance = 1e-5 if np.asarray(a).dtype == np.float32 else 1e-6
        np.testing.assert_allclose(b, a, rtol=tolerance, atol=tolerance, err_msg=str(path))
    results = [json.loads((w / "results.json").read_text())["results"] for w in (one, other)]
    for a, b in zip(*results, strict=True):
        assert b["variant"] == a["variant"]
        assert b["rank1"] == pytest.approx(a["rank1"], abs=1 / 12)
        assert b["mAP"] == pytest.approx(a["mAP"], abs=0.02)


@pytest.mark.multiprocess
def test_two_processes_stop_together_go_on_and_equal_one(place, finished):
    one, two, start = place / "one", place / "two", place / "finished.safetensors"
    jaxreid.load(finished[0]).save(start)
    short = [f"--config.init_from={start}"]
    short += SEVERAL
    with jax.enable_x64(True):
        run(place, one, *short)

    processes = start_two(place, two, *short, double=True)
    wait_for_step(two, 2, lambda: processes[0].poll() is None)
    processes[1].send_signal(signal.SIGINT)  # becomes SIGTERM, which jax.distributed passes on
    outputs = outputs_of(processes, status=75)
    assert "matcher (10 tensors) loaded" in outputs[0]
    stopped_at = int(outputs[0].split("stopped by preemption at step ")[1].split()[0])
    assert (two / "checkpoints" / str(stopped_at)).is_dir()

    outputs = outputs_of(start_two(place, two, *short, double=True))
    assert f"resuming from step {stopped_at}\n" in outputs[0]
    assert "cancelled" not in outputs[0]  # TensorFlow's word for a pipeline that was waiting
    assert "mAP" in outputs[0]
    assert "mAP" not in outputs[1]  # one of them speaks
    assert json.loads((two / "config.json").read_text())["runs"][0]["processes"] == 2
    assert_nearly_equal(one, two)


def test_a_file_of_weights_is_evaluated_and_trained_from(place, converted, tmp_path):
    start, file = f"--config.init_from={converted}", tmp_path / "moved.safetensors"

    # Alone: the model is that of the file, whatever the configuration says.
    other = ["--config.model.height=96", "--config.model.neck.channels=24"]
    alone = run(place, tmp_path / "alone", start, "--mode=evaluate", *other)
    assert "matcher (10 tensors) loaded" in alone.stdout
    (row,) = json.loads((tmp_path / "alone" / "results.json").read_text())["results"]
    assert row["model"] == "loaded"
    record = json.loads((tmp_path / "alone" / "config.json").read_text())
    assert record["config"]["model"]["height"] == 64

    model = [*CONVERTED, "--config.epochs=2"]
    again = run(place, tmp_path / "trained", start, *model)
    assert "backbone (" in again.stdout
    first, last = json.loads((tmp_path / "trained" / "results.json").read_text())["results"]
    assert {k: first[k] for k in ("model", "mAP", "rank1")} == {
        k: row[k] for k in ("model", "mAP", "rank1")
    }
    assert last["model"] == "trained"
    # Now there is a checkpoint, and it is what is evaluated.
    evaluated = run(place, tmp_path / "trained", start, *model, "--mode=evaluate")
    assert "the checkpoint of step 8" in evaluated.stdout
    # To continue, the file is not needed any more.
    converted.rename(file)
    run(place, tmp_path / "trained", start, *model)
    file.rename(converted)

    wrong = run(place, tmp_path / "wrong", start, *model, *other, expect=1)
    assert "model.neck.channels is 64 in the file, expected 24" in wrong.stderr


def test_a_training_without_a_checkpoint_is_left_alone_by_an_evaluation(place, converted, tmp_path):
    workdir = tmp_path / "early"
    workdir.mkdir()
    config = {"config": {}, "seed": 0, "runs": [{"mode": "train"}]}
    (workdir / "config.json").write_text(json.dumps(config))
    (workdir / "metrics.jsonl").write_text("{}\n")
    early = run(place, workdir, f"--config.init_from={converted}", "--mode=evaluate", expect=1)
    assert "holds a training that has no checkpoint yet" in early.stderr
    assert json.loads((workdir / "config.json").read_text()) == config
    assert (workdir / "metrics.jsonl").exists()


# Mistakes that are found before JAX or TensorFlow are imported.
MISTAKES = [
    (["--config.epochs=-1"], "epochs is -1; expected a whole number of at least 1."),
    (["--config.epochs=3.5"], "epochs is '3.5'; expected a whole number of at least 1."),
    (["--config.epochs=1e3"], "epochs is '1e3'; expected a whole number"),
    (["-config.epochs=0"], "epochs is 0; expected"),
    (["--config.epochs=5", "--config.epochs=0"], "epochs is 0; expected"),
    (["--epochs=3"], "unknown flag --epochs; settings are given by their path: --config.epochs=3"),
    (["--lr=0.1"], "--config.optim.lr=0.1"),
    (["--config.lr=0.1"], "unknown setting lr; did you mean --config.optim.lr?"),
    (["--config.optim.lrr=1"], "unknown setting 'optim.lrr'; valid: optim.lr"),
    (["--config.optim.lr"], "write --config.optim.lr=VALUE"),
    (["--config.optim.lr=0"], "optim.lr is 0.0; expected a number above 0."),
    (["--config.optim.lr=nan"], "optim.lr is nan"),
    (["--config.optim.lr=inf"], "optim.lr is inf"),
    (["--config.optim.lr=fast"], "optim.lr is 'fast'; expected a number above 0."),
    (["--config.optim=3"], "optim is '3'; expected a dictionary of settings."),
    (["--config.optim={'lr': 3}"], "the configuration has no optim.name"),
    (["--config.optim.weight_decay=-1"], "expected a number of at least 0"),
    (["--config.optim.clip_norm=-1"], "optim.clip_norm is -1.0"),
    (["--config.optim.betas=0.9"], "2 numbers from 0 to less than 1, as in (0.9, 0.999)"),
    (["--config.batch_size=0"], "batch_size is 0; expected a whole number of at least 1."),
    (["--config.seed=-1"], "seed is -1; expected a whole number from 0 to 2147483647."),
    (["--config.precision=float16"], "expected one of default, high, highest"),
    (["--config.freeze_epochs=99"], "freeze_epochs is 99 of 10 epochs"),
    (["--config.objective.margin=3"], "objective is 'class_memory' and has name, valid_flags"),
    (["--config.objective=triplet"], "expected a dictionary with a name"),
    (["--config.objective.valid_flags=3"], "objective.valid_flags is '3'; expected True or False."),
    (["--config.data.root=/data"], "unknown setting 'data.root'; valid: data.dir"),
    (["--config.data.dir="], "data.dir is ''; expected a string or None"),
    (["--config.data.test=()"], "data.test is (); expected a tuple of names"),
    (["--config.data.identities=-1"], "data.identities is -1"),
    (["--test="], "data.test is ()"),
    (["--config.model.height=0"], "model.height is 0"),
    (["--config.model.mean=(0.5,)"], "expected a tuple of 3 numbers"),
    (["--config.model.std=(0, 1, 1)"], "expected a tuple of 3 numbers above 0"),
    (["--config.model.freeze_stats=no"], "expected True or False"),
    (["--config.model.neck=map"], "as in {'name': 'map'}"),
    (["--config.model.matcher.initial_logit=nan"], "model.matcher.initial_logit is nan"),
    (["--config.sampler.instances=0"], "sampler.instances is 0"),
    (["--config.sampler.quota=('a',)"], "expected a tuple of whole numbers of at least 1"),
    (["--config.schedule.factor=-0.1"], "expected a number above 0, at most 1"),
    (["--config.schedule.drop_epochs=(5, 3)"], "expected a tuple of ascending whole numbers"),
    (["--config.schedule.warmup_steps=-5"], "schedule.warmup_steps is -5"),
    (["--config.augment.pad=-1"], "augment.pad is -1"),
    (["--config.augment.flip=2"], "augment.flip is 2.0; expected a number from 0 to 1."),
    (["--config.augment.brightness=1.5"], "expected a tuple of 2 ascending numbers of at least 0"),
    (["--config.augment.hue=(-1, 1)"], "from -0.5 to 0.5, as in (-0.1, 0.1)"),
    (["--config.augment.occlusion=(0.5,)"], "augment.occlusion is (0.5,)"),
    (["--config.eval.query_tile=0"], "eval.query_tile is 0"),
    (["--config.eval.rerank=maybe"], "eval.rerank is 'maybe'; expected True or False."),
    (["--config.eval.rerank_options.k1=-1"], "eval.rerank_options.k1 is -1"),
    (["--config.eval.tlift_options={'tau': 0}"], "eval.tlift_options.tau is 0"),
    (["--config.eval.shortlist_window=2"], "as in (2, 4)"),
    (["--config.checkpoint.keep=0"], "checkpoint.keep is 0"),
    (["--config.checkpoint.every=5"], "unknown setting 'checkpoint.every'"),
    (["--config.checkpoint.every_steps=0"], "checkpoint.every_steps is 0"),
    (["--config.log.every_steps=0"], "log.every_steps is 0"),
    (["--wrkdir=/tmp/x"], "unknown flag --wrkdir; valid: --workdir, "),
    (["--workdir="], "--workdir is missing"),
    (["--mode=eval"], "value should be one of <train|evaluate>"),
    (["--num_processes=2"], "require --coordinator=HOST:PORT"),
    (["--coordinator=there", "--num_processes=2", "--process_id=0"], "expected HOST:PORT"),
    (["train"], "unknown arguments: train; expected --FLAG=VALUE"),
    (["--config=qaconf"], "unknown recipe 'qaconf'; valid: qaconv"),
    (["--config=qaconv:markt"], "unknown data set 'markt' in the recipe's argument"),
    (["--config=qaconv:small"], "which is dataset[,option...]; valid: "),
    (["--config=qaconv:market1501,smal"], "unknown option 'smal' in the recipe's argument"),
    (["--config=qaconv:market1501,v1.1,v1.2"], "v1.1 and v1.2 are mutually exclusive"),
    (["--config=configs/nothing.py"], "no file configs/nothing.py; expected a recipe (drawn"),
    (["--config=README.md"], "unknown recipe 'README.md'"),
    (["--config=tools/build_dataset.py"], "is not a recipe: expected a function get_config"),
    (["--config=osnet:market1501,architecture=README.md"], "expected an architecture.json"),
    (["--config=gmn:synthetic,target=moon"], "unknown domain 'moon'"),
]  # fmt: skip


REFUSALS = [
    (["--config.init_from=/nowhere.safetensors"], "/nowhere.safetensors"),
    (["--config.init_from=README.md"], "README.md is text"),
    (["--config.init_from=README.md", "--mode=evaluate"], "README.md is text"),
    (["--config.data.dir=/nowhere/at/all"], "/nowhere/at/all"),
    (["--config.data.prepared_dir=README.md"], "README.md, a file; expected a folder"),
    (["--workdir=README.md"], "README.md exists and is not a jaxreid run"),
    (["--workdir=README.md/run"], "work directory README.md/run cannot be created"),
    (["--workdir=memory://run"], "memory://run: expected a path, or a URL that begins with gs://"),
    (["--config.data.train=market1510"], "unknown data set 'market1510'; valid: market1501"),
    (["--test=market1510"], "unknown data set 'market1510'; valid: market1501"),
    (["--config.model.backbone.name=resnet19"], "unknown backbone 'resnet19'; valid: resnet18"),
    (["--config.model.backbone.width=0"], "backbone.width is 0"),
    (
        ["--config.model.neck={'name': 'map', 'channels': 'many'}"],
        "neck.channels is 'many'; expected a whole number",
    ),
    (["--config.model.dtype=half"], "unknown model.dtype 'half'"),
    (["--config.batch_size=1000"], "do not fill one batch of 1000"),
    (["--config.data.test=('market1501', 'synthetic_people/plazza')"], "synthetic_people/plaza"),
    (["--config.sampler.name=rand"], "random"),
    (["--config.eval.rerank_options={'k': 5}"], "unknown option in eval.rerank_options 'k'"),
    (
        ["--config.eval.shortlist=5", "--config.eval.shortlist_window=(3, 4)"],
        "8x4 cannot be pooled",
    ),
    (["--config.objective.name=triplets"], "valid: triplet, circle, centre"),
    (["--config.objective.name=triplet"], "objective 'triplet' has no option valid_flags"),
    (
        [
            "--config=configs/qaconv_gs.py:market1501,debug",
            "--config.model.matcher.statistics_chunk=4",
        ],
        "statistics_chunk=4 divides a class memory, but this objective has none",
    ),
    (["--config.schedule.name=adapt"], "unknown schedule 'adapt'; valid: adaptive"),
    (
        [
            "--config=configs/qaconv_gs.py:market1501,debug",
            "--config.sampler.graph_window=(3, 4)",
        ],
        "8x4 cannot be pooled by sampler.graph_window",
    ),
    (
        ["--config=configs/qaconv_gs.py:market1501,debug", "--config.batch_size=48"],
        "there are 12 identities, but a batch of 48 with 2 images each needs 24",
    ),
    (["--config.sampler.alternate=True"], "there is only one data set: give several in data.train"),
    (["--config.model.matcher.name=qaconv_ms"], "use neck 'multi_scale'"),
    (["--config.model.matcher.patch=2"], "matcher.patch is 2; expected an odd number"),
    (
        ["--config=configs/qaconv_ms.py:market1501,debug", "--config.eval.shortlist=5"],
        "this model has another matcher: set eval.shortlist=0",
    ),
    (["--config.freeze_epochs=1"], "nothing would learn in the first phase"),
    (["--config.data.train=('market1501', 'market1501')"], "names 'market1501' more than once"),
    (["--config.sampler.quota=(8, 8)"], "sampler.quota"),
    (["--config.model.interpolation=cubic"], "unknown model.interpolation 'cubic'; valid: bicubic"),
    (
        ["--config=configs/osnet.py:market1501,debug", "--config.objective.metric=cosin"],
        "unknown objective.metric 'cosin'; valid: cosine",
    ),
]


def assert_refused(table, results):
    wrong = [
        (arguments, result.returncode, result.stdout + result.stderr)
        for (arguments, message), result in zip(table, results, strict=True)
        if result.returncode != 1
        or message not in result.stderr
        or "Traceback" in result.stdout + result.stderr
    ]
    assert not wrong


# The entry point for one list of arguments after the other, without JAX and TensorFlow.
WITHOUT_JAX = """
import json, sys
sys.modules["jax"] = sys.modules["tensorflow"] = None
from program import program
for arguments in json.load(sys.stdin):
    print(json.dumps(vars(program(arguments))), flush=True)
"""


def test_mistakes_are_refused_in_words_before_jax_is_imported(place, tmp_path):
    cases = [command(place, tmp_path / "refused", *arguments) for arguments, _ in MISTAKES]
    result = subprocess.run(
        [sys.executable, "-c", WITHOUT_JAX],
        input=json.dumps(cases),
        cwd=REPOSITORY / "tests",
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert_refused(MISTAKES, [types.SimpleNamespace(**line) for line in lines])


def test_what_cannot_work_is_refused_in_words(place, tmp_path):
    results = [
        program(command(place, tmp_path / "refused", *arguments)) for arguments, _ in REFUSALS
    ]
    assert_refused(REFUSALS, results)


@pytest.mark.parametrize(
    "error", [RuntimeError("Unable to initialize backend 'cuda'.\nMore"), AssertionError()]
)
def test_a_device_that_is_not_there_is_named(monkeypatch, error):
    def devices():
        raise error

    monkeypatch.setattr(jax, "devices", devices)
    reason = r".* \(Unable to initialize backend 'cuda'\)" if str(error) else ""
    with pytest.raises(ValueError, match=f"no device of JAX_PLATFORMS=cpu{reason}: set it to cpu"):
        check_devices()


def test_an_evaluation_takes_the_settings_of_its_run(tmp_path):
    recorded = configs.get("gmn:market1501,debug")
    record = {"config": json.loads(recorded.to_json()), "seed": 0, "runs": []}
    (tmp_path / "config.json").write_text(json.dumps(record))
    arguments = ["--mode", "evaluate", "--workdir", str(tmp_path), "--config.eval.flip=True"]
    result = program([*arguments, "--test=a,b", "--print_config"])
    for line in ("eval.flip = True ", "data.test = ('a', 'b') ", "objective.name = 'gmn' "):
        assert line in result.stdout, result.stderr


@pytest.mark.full
def test_a_run_that_diverged_goes_on_with_a_lower_rate(place, monkeypatch):
    workdir, read, few = place / "diverged", Meter.read, "--config.epochs=3"

    def diverge(meter, step):
        if step == 9:
            raise FloatingPointError("metrics are not finite between steps 9 and 9.")
        return read(meter, step)

    with monkeypatch.context() as patch:
        patch.setattr(Meter, "read", diverge)
        result = run(place, workdir, few, expect=1)
    assert "it resumes from step 7, the last checkpoint before" in result.stderr
    advice = result.stderr.split("as in ")[1].split(";")[0].split()
    assert advice == ["--config.optim.lr=0.0005", "--config.optim.backbone_lr=5e-05"]
    result = run(place, workdir, few, *advice)
    assert "resuming from step 7" in result.stdout
    rates = [round(e["lr"], 6) for e in events(workdir) if e["kind"] == "train"]
    assert rates == [0.005] * 7 + [0.0005] * 5
    # Its weights start another run, on other people.
    mine = [few, "--config.data.identities=6", f"--config.init_from={workdir / 'checkpoints'}"]
    result = run(place, place / "started", *mine)
    assert "backbone (" in result.stdout


def test_another_configuration_is_refused(place, finished):
    result = run(place, finished[0], "--config.optim.lr=0.5", expect=1)
    assert "optim.lr: 0.005 in the run, 0.5 now" in result.stderr
    assert "another --workdir" in result.stderr


@pytest.mark.parametrize("name", ["thesis.tex", "config.json"])
@pytest.mark.parametrize("mode", ["train", "evaluate"])
def test_a_foreign_directory_is_left_alone(tmp_path, name, mode):
    (tmp_path / name).write_text("{}")
    with pytest.raises((ValueError, FileNotFoundError), match=r"not a jaxreid run|holds no run"):
        open_workdir(str(tmp_path), {"seed": 0}, mode=mode)
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [(name, "{}")]


def test_a_run_that_has_learned_nothing_may_change_its_settings(tmp_path):
    workdir = open_workdir(str(tmp_path / "run"), {"seed": 0}, mode="train")
    (workdir / "metrics.jsonl").write_text("")
    (workdir / "checkpoints").mkdir()
    open_workdir(str(workdir), {"seed": 1}, mode="train")
    assert json.loads((workdir / "config.json").read_text())["config"] == {"seed": 1}
    assert not (workdir / "metrics.jsonl").exists()
    (workdir / "checkpoints" / "7").mkdir()
    with pytest.raises(ValueError, match="seed: 1 in the run, 2 now"):
        open_workdir(str(workdir), {"seed": 2}, mode="train")


def test_an_evaluation_elsewhere_keeps_the_trainings_settings(tmp_path):
    settings = {"seed": 0, "data": {"test": ["a"]}}
    workdir = open_workdir(str(tmp_path / "run"), settings, mode="train")
    (workdir / "checkpoints" / "7").mkdir(parents=True)
    open_workdir(str(workdir), {"seed": 0, "data": {"test": ("b",)}}, mode="evaluate")
    record = json.loads((workdir / "config.json").read_text())
    assert record["config"] == settings
    assert record["runs"][1]["changed"] == {"data.test": ["b"]}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks_and_the_second_one_acts(number, capfd):
    with StopRequest() as stop:
        assert stop.name is None
        before = signal.getsignal(number)
        os.kill(os.getpid(), number)
        assert stop.name == number.name
        assert signal.getsignal(number) != before
    assert "send it again" in capfd.readouterr().err


def test_evaluation_needs_a_run(place, tmp_path):
    result = run(place, tmp_path / "none", "--mode=evaluate", expect=1)
    assert "holds no run" in result.stderr
    assert not (tmp_path / "none").exists()


def test_help_explains():
    result = subprocess.run(
        [sys.executable, "-m", "jaxreid.main", "--help"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0
    for word in ("--config", "--workdir", "--mode", "qaconv:market1501"):
        assert word in result.stdout
