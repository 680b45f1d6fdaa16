"""Sweeps: their runs are those trained by hand, share programs, go on, and fail one by one."""

import json
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
from absl.testing import flagsaver
from one_layer import ONE_LAYER
from people import market_tree

import jaxreid
import jaxreid.main  # its flags are defined now, before any are saved
from jaxreid import cli, configs
from jaxreid.cli.arguments import make_parser
from jaxreid.models.model import make_model
from jaxreid.programs import LARGEST, shared, sharing
from jaxreid.runs.settings import resolved
from jaxreid.training import step, sweep, sweep_devices
from jaxreid.training.sweep import End, make_runs, parse_values

pytestmark = pytest.mark.usefixtures("one_device")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("sweep")
    market_tree(root / "market1501", train=4, test=2)
    return root


def recipe():
    return "qaconv:market1501,v1.1,debug"


def settings(place):
    return {
        "data.dir": str(place),
        "data.prepared_dir": str(place / "prepared"),
        "model.backbone": ONE_LAYER,
        "epochs": 2,
        "eval.untrained": False,
        "eval.batch_size": 16,
        "eval.gallery_tile": 16,
        "batch_size": 8,
    }


def by_hand(place, **more):
    config = configs.get(recipe()).to_dict()
    for path, value in (settings(place) | more).items():
        section, _, name = path.rpartition(".")
        (config[section] if section else config)[name] = value
    return resolved(config)


def command(place, *more):
    words = [f"--config.{path}={value}" for path, value in settings(place).items()]
    words += ["--at-once=1", *more]
    return ["sweep", f"--config={recipe()}", f"--workdir={place}/s", *words]


def said(words):
    """The exit status of the command, whose flags leave no trace."""
    with flagsaver.flagsaver():
        try:
            return cli.main(words)
        except SystemExit as end:
            return end.code


def outcome(workdir):
    """Weights, and the results but for what they cost."""
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(jaxreid.load(workdir).variables)]
    rows = json.loads((workdir / "results.json").read_text())["results"]
    cost = {"seconds", "peak_memory_gb"}
    return leaves, [{key: row[key] for key in row if key not in cost} for row in rows]


def test_runs_of_a_sweep_are_those_by_hand_in_all_bits_and_share_one_program(
    place, capsys, monkeypatch
):
    traced, train_step = [], step.train_step

    def counted(*arguments, **parts):
        traced.append(arguments)
        return train_step(*arguments, **parts)

    words = command(place, "--seeds=1-2", "--set", "init_from=None,nowhere.safetensors")
    with monkeypatch.context() as patched:
        patched.setattr(step, "train_step", counted)
        assert said([*words, "--json"]) == 1
    output = capsys.readouterr()
    assert len(traced) == 1
    runs = json.loads(output.out)["runs"]
    assert [(run["name"], run["state"]) for run in runs] == [
        ("init_from=None,seed=1", "finished"),
        ("init_from=None,seed=2", "finished"),
        ("init_from=nowhere.safetensors,seed=1", "failed"),
        ("init_from=nowhere.safetensors,seed=2", "failed"),
    ]
    assert "nowhere.safetensors" in runs[2]["error"]
    assert "run 2 of 4: init_from=None,seed=2, about " in output.err
    assert "2 of 4 runs failed; the same command tries them again" in output.err
    jaxreid.train(by_hand(place, seed=2), place / "hand")
    ours, theirs = outcome(place / "s" / "init_from=None,seed=2"), outcome(place / "hand")
    assert all(map(np.array_equal, ours[0], theirs[0]))
    assert ours[1] == theirs[1]
    other, _ = outcome(place / "s" / "init_from=None,seed=1")
    assert not all(map(np.array_equal, ours[0], other))
    # Finished runs are skipped; others are tried.
    tried = []
    monkeypatch.setattr(sweep, "train", lambda config, workdir: bool(tried.append(workdir)) or True)
    assert said(words) == 0
    assert tried == [f"{place}/s/init_from=nowhere.safetensors,seed={seed}" for seed in (1, 2)]
    assert "compare them: jaxreid compare" in capsys.readouterr().out


def test_a_signal_ends_the_sweep_and_an_error_does_not(place, capsys, monkeypatch):
    ends = iter([True, RuntimeError("out of memory\nand more"), False])

    def train(config, workdir):
        end = next(ends)
        if isinstance(end, Exception):
            raise end
        return end

    monkeypatch.setattr(sweep, "train", train)
    assert said(command(place, "--seeds=5,6,7,8", "--json")) == 75
    output = capsys.readouterr()
    states = [(run["state"], run["error"]) for run in json.loads(output.out)["runs"]]
    assert states == [
        ("finished", ""),
        ("failed", "RuntimeError: out of memory"),
        ("stopped", ""),
        ("not started", ""),
    ]
    assert "Traceback" in output.err
    assert "stopped; the same command resumes" in output.err


def test_runs_are_all_combinations_with_safe_names(place):
    config = by_hand(place)
    values = {"optim.lr": [1, 2], "eval.rerank": [True], "data.train": ["a/b"]}
    runs = make_runs(config, (0, 1), values)
    assert [run.name for run in runs[:2]] == [
        f"lr=1.0,rerank=True,train=a_b,seed={seed}-{run.name[-8:]}"
        for seed, run in enumerate(runs[:2])
    ]
    assert [run.config["optim"]["lr"] for run in runs] == [1.0, 1.0, 2.0, 2.0]
    assert [run.config["seed"] for run in runs] == [0, 1, 0, 1]
    assert config["optim"]["lr"] == by_hand(place)["optim"]["lr"]
    alike = make_runs(config, [0], {"optim.name": ["sgd"], "schedule.name": ["step"]})
    assert alike[0].name == "optim.name=sgd,schedule.name=step,seed=0"
    with pytest.raises(ValueError, match=r"twice, such as lr=0.1,seed=0"):
        make_runs(config, [0], {"optim.lr": [0.1, 1e-1]})
    with pytest.raises(ValueError, match=r"optim.lr is -1.0; expected"):
        make_runs(config, [0], {"optim.lr": [-1]})


def test_values_are_divided_at_commas_outside_of_brackets():
    assert parse_values("1e-3, 3e-3") == [1e-3, 3e-3]
    assert parse_values("True,step,(1, 2)") == [True, "step", (1, 2)]
    assert parse_values("{'name': 'sgd', 'k': [1, 2]},'x'") == [{"name": "sgd", "k": [1, 2]}, "x"]


@pytest.mark.parametrize(
    ("more", "status", "message"),
    [
        (["--set", "optim.lr"], 1, "expected PATH=VALUE,VALUE"),
        (["--set", "seed=1,2"], 1, "seeds are given by --seeds=0-4"),
        (["--set", "optim.rate=1"], 1, "unknown setting 'optim.rate'"),
        (
            ["--mode=evaluate", "--distributed"],
            1,
            "--mode=evaluate --distributed: a sweep starts its",
        ),
        (["--seeds=4-0"], 2, "expected numbers that rise"),
        (["--seeds=a"], 2, "expected numbers such as 0-4"),
    ],
)
def test_mistakes_are_explained(place, capsys, more, status, message):
    assert said(command(place, *more)) == status
    assert message in capsys.readouterr().err


def test_the_command_divides_its_runs_among_the_devices(place, capsys, monkeypatch):
    monkeypatch.setattr(sweep_devices, "visible_devices", lambda: ("gpu", 4))
    given, enough = [], [9]

    def run(runs, folder, words, environments):
        given.append((words, [one["CUDA_VISIBLE_DEVICES"] for one in environments]))
        return [End(run, "finished") for run in runs[: enough[0]]]

    monkeypatch.setattr(sweep_devices, "run_all_at_once", run)
    asked = command(place, "--seeds=1-2", "--set", "optim.lr=1,2,3")
    asked.remove("--at-once=1")
    assert said(asked) == 0
    assert said([*asked, "--at-once=2"]) == 0
    assert said([*asked, "--at-once=5"]) == 1
    assert "at most the number of devices, which is 4" in capsys.readouterr().err
    in_a_store = [word for word in asked if "--workdir" not in word] + ["--workdir=gs://a/b"]
    assert said(in_a_store) == 1
    assert "the output of several processes is written to a folder" in capsys.readouterr().err
    assert [devices for _, devices in given] == [list("0123"), list("01")]
    # As many as there are runs, and a signal that came while the last ones ended.
    enough[0] = 2
    assert said([*asked[:-2], "--seeds=1-3"]) == 75
    assert given[2][1] == list("012")
    # Read again, it is the same sweep.
    args, rest = make_parser().parse_known_args(given[0][0][3:])
    assert (args.worker, args.seeds, args.sets) == (True, (1, 2), ["optim.lr=1,2,3"])
    assert f"--config.data.dir={place}" in rest


@pytest.mark.full
def test_runs_on_devices_of_their_own_are_those_by_hand_in_all_bits(place, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=2")
    monkeypatch.setenv("PYTHONPATH", str(pathlib.Path(__file__).parents[1]))
    words = command(place, "--seeds=1-2", "--at-once=2", f"--workdir={place}/d")
    assert said(words) == 0
    # By hand in a process of one device: another number of threads gives sums another order.
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=1")
    words = [word for word in words[2:] if word.startswith("--config.")]
    alone = ["--config.seed=2", f"--workdir={place}/alone", f"--config={recipe()}", *words]
    subprocess.run([sys.executable, "-m", "jaxreid.main", *alone], check=True)
    ours, theirs = outcome(place / "d" / "seed=2"), outcome(place / "alone")
    assert all(map(np.array_equal, ours[0], theirs[0]))
    assert ours[1] == theirs[1]
    logs = [(place / "d" / f"device{device}.log").read_text() for device in range(2)]
    assert all("on 1 device(s)" in text for text in logs)


def test_equal_arguments_share_a_result_within_the_context_alone():
    made = []

    @shared
    def make(*arguments, **keywords):
        made.append(arguments)
        return object()

    cards = [by_hand_card() for _ in range(2)]
    with sharing():
        assert make(make_model(**cards[0]), k=[1]) is make(make_model(**cards[1]), k=[1])
        assert make(1) is not make(1.0)
        assert make(1.0) is not make(True)
        assert make(np.zeros(2)) is not make(np.zeros(2))
        first = make("first")
        for i in range(LARGEST):
            make(i, "more")
        assert make("first") is not first
    assert make(1) is not make(1)


def by_hand_card():
    card = dict(configs.get("qaconv_ms").to_dict()["model"])
    return {name: dict(value) if isinstance(value, dict) else value for name, value in card.items()}
