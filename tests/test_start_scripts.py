"""Scripts that start a run on a cluster, with stand-ins for the cluster's own commands."""

import os
import shlex
import subprocess
import sys
from unittest import mock

import pytest
from absl.testing import flagsaver
from golden import REPOSITORY

from jaxreid import main

SCRIPTS = REPOSITORY / "docs" / "scripts"
WORDS = ["qaconv:market1501->msmt17,small", "--workdir=/runs/a b", "--config.epochs=3"]


@pytest.fixture
def cluster(tmp_path):
    """Runs a script; srun and gcloud end with one status after the other, and all are noted."""
    log, statuses = tmp_path / "log", tmp_path / "statuses"
    for name in ("srun", "gcloud", "scontrol"):
        stand_in = tmp_path / name
        stand_in.write_text(
            f'#!/bin/bash\nprintf "%s\\0" {name} "$@" >> {log}; printf "\\n" >> {log}\n'
            f"[ {name} = scontrol ] && exit 0\nstatus=$(head -1 {statuses})\n"
            f"sed -i 1d {statuses}\nexit $status\n"
        )
        stand_in.chmod(0o755)

    def run(script, *words, ends):
        statuses.write_text("".join(f"{status}\n" for status in ends))
        log.write_text("")
        variables = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "17", "PAUSE": "0"}
        done = subprocess.run(
            ["bash", SCRIPTS / script, *words], env=variables | {"PYTHON": "python"}, check=False
        )
        return done.returncode, [line.split("\0")[:-1] for line in log.read_text().splitlines()]

    return run


def understood(words):
    argv = ["jaxreid.main", *words]
    with mock.patch.object(sys, "argv", argv), flagsaver.flagsaver():
        config = main.configuration(main.parse_flags(argv))
        return main.FLAGS.workdir, config["data"]["test"], config["epochs"], main.FLAGS.distributed


EXPECTED = ("/runs/a b", ("msmt17",), 3, True)


@pytest.mark.parametrize(("end", "commands"), [(0, 1), (1, 1), (75, 2)])
def test_slurm_requeues_a_job_that_was_stopped(cluster, end, commands):
    status, calls = cluster("slurm.sh", *WORDS, ends=[end])
    assert status == end
    assert len(calls) == commands
    assert calls[0][:4] == ["srun", "python", "-m", "jaxreid.main"]
    assert understood(calls[0][4:]) == EXPECTED
    assert calls[1:] == [["scontrol", "requeue", "17"]] * (commands - 1)


def test_a_pod_starts_all_hosts_again_until_the_run_ends(cluster):
    status, calls = cluster("tpu_pod.sh", "pod", "zone", *WORDS, ends=[75, 75, 1])
    assert (status, len(calls)) == (1, 3)
    assert calls[0][:6] == ["gcloud", "compute", "tpus", "tpu-vm", "ssh", "pod"]
    assert "--worker=all" in calls[0]
    line = next(word for word in calls[0] if word.startswith("--command="))
    words = shlex.split(line.removeprefix("--command="))
    assert words[:6] == ["cd", "jaxreid", "&&", ".venv/bin/python", "-m", "jaxreid.main"]
    assert understood(words[6:]) == EXPECTED


@pytest.mark.parametrize("script", ["slurm.sh", "tpu_pod.sh"])
def test_they_say_what_they_expect(cluster, script, capfd):
    assert cluster(script, "qaconv", ends=[]) == (2, [])
    assert "--workdir=DIR" in capfd.readouterr().err
