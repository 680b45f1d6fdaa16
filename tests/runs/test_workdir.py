"""Work directories: what is refused at the start, one training at a time, what a run may change."""

import json

import pytest

from jaxreid.mesh import remember_compiled
from jaxreid.runs.record import note_not_finite
from jaxreid.runs.workdir import hold_workdir, open_workdir

CONFIG = {"seed": 0, "epochs": 6, "optim": {"name": "sgd", "lr": 0.1, "clip_norm": 0}}


@pytest.mark.parametrize(
    "name", ["a[1]", "a*b", "a?b", "a\\b", "gs:/b", "b.__lock", "b.__lock/c", "a\udcffb"]
)
def test_paths_that_the_storage_reads_as_patterns_are_refused(tmp_path, name):
    with (
        pytest.raises(ValueError, match=r"checkpoints cannot be stored below .*--workdir"),
        hold_workdir(f"{tmp_path}/{name}"),
    ):
        pass
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "name", ["a b", "100%", "a%20b", "a#b", "é日本", "a\nb", "a:b", "'\"{};|&$~"]
)
def test_other_paths_are_taken(tmp_path, name):
    with hold_workdir(f"{tmp_path}/{name}"):
        assert open_workdir(f"{tmp_path}/{name}", CONFIG, mode="train").is_dir()


def test_a_path_that_is_too_long_is_refused(tmp_path):
    path = str(tmp_path.joinpath(*["x" * 200] * 20))
    with pytest.raises(ValueError, match=r"bytes; expected at most [34],"), hold_workdir(path):
        pass


def test_a_second_training_is_refused_and_an_evaluation_is_not(tmp_path):
    workdir = str(tmp_path / "run")
    with hold_workdir(workdir):
        path = open_workdir(workdir, CONFIG, mode="train")
        (path / "checkpoints" / "7").mkdir(parents=True)
        record = (path / "config.json").read_text()
        with (
            pytest.raises(OSError, match=f"work directory {path} is in use by another process"),
            hold_workdir(workdir),
        ):
            pass
        assert (path / "config.json").read_text() == record
        open_workdir(workdir, CONFIG, mode="evaluate")
    with hold_workdir(workdir):
        open_workdir(workdir, CONFIG, mode="train")


def test_a_foreign_directory_gets_no_lock(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(ValueError, match="not a jaxreid run"), hold_workdir(str(tmp_path)):
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_files_left_by_a_kill_do_not_make_a_directory_foreign(tmp_path):
    (tmp_path / "config.json.0a1b2c3d.partial").write_text("{")
    (tmp_path / "config.json.partial").write_text("{")
    with hold_workdir(str(tmp_path)):
        open_workdir(str(tmp_path), CONFIG, mode="train")


def changed(**optim):
    return CONFIG | {"optim": CONFIG["optim"] | optim}


def test_a_run_may_lower_its_rate_only_after_values_that_are_not_finite(tmp_path):
    workdir = str(tmp_path / "run")
    path = open_workdir(workdir, CONFIG, mode="train")
    (path / "checkpoints" / "7").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"optim.lr: 0.1 in the run, 0.01 now"):
        open_workdir(workdir, changed(lr=0.01), mode="train")
    note_not_finite(path)
    open_workdir(workdir, CONFIG, mode="evaluate")  # does not count as a training
    with pytest.raises(ValueError, match=r"optim.name: 'sgd' in the run, 'adam' now"):
        open_workdir(workdir, changed(lr=0.01, name="adam"), mode="train")
    with pytest.raises(ValueError, match=r"optim.clip_norm: 0 in the run, 1 now"):
        open_workdir(workdir, changed(lr=0.01, clip_norm=1), mode="train")
    open_workdir(workdir, changed(lr=0.01), mode="train")
    record = json.loads((path / "config.json").read_text())
    assert record["config"]["optim"]["lr"] == 0.01
    assert record["runs"][-1]["changed"] == {"optim.lr": 0.01}
    open_workdir(workdir, changed(lr=0.01), mode="train")
    with pytest.raises(ValueError, match=r"optim.lr: 0.01 in the run, 0.001 now"):
        open_workdir(workdir, changed(lr=0.001), mode="train")


def test_training_images_may_move_but_not_become_others(tmp_path):
    workdir = str(tmp_path / "run")

    def opened(*train):
        return open_workdir(workdir, CONFIG | {"data": {"train": train}}, mode="train")

    path = opened("market1501:/a?combine_all=True", "people:strangers")
    (path / "checkpoints" / "7").mkdir(parents=True)
    moved = ("market1501:/b?combine_all=True", "people:strangers")
    opened(*moved)
    record = json.loads((path / "config.json").read_text())
    assert record["runs"][-1]["changed"] == {"data.train": list(moved)}
    for other in (("market1501:/a", "people:strangers"), ("market1501:/a?combine_all=True",)):
        with pytest.raises(ValueError, match="data.train: "):
            opened(*other)


def test_a_run_of_an_older_version_has_the_defaults_of_newer_settings(tmp_path):
    path = open_workdir(str(tmp_path), CONFIG, mode="train")
    (path / "checkpoints" / "7").mkdir(parents=True)
    assert "ema" not in json.loads((path / "config.json").read_text())["config"]
    open_workdir(str(tmp_path), CONFIG | {"ema": 0.0}, mode="train")
    with pytest.raises(ValueError, match=r"ema: 0.0 in the run, 0.99 now"):
        open_workdir(str(tmp_path), CONFIG | {"ema": 0.99}, mode="train")


def test_more_epochs_are_a_run_of_their_own(tmp_path):
    path = open_workdir(str(tmp_path), CONFIG, mode="train")
    (path / "checkpoints" / "7").mkdir(parents=True)
    with pytest.raises(ValueError, match=f"--workdir=ANOTHER --config.init_from={path}"):
        open_workdir(str(tmp_path), CONFIG | {"epochs": 8}, mode="train")


def test_a_place_without_access_is_named(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied", "runs/a/lock")

    monkeypatch.setattr("jaxreid.runs.workdir.hold", refuse)
    with (
        pytest.raises(OSError, match=r"cannot be used: Permission denied: runs/a/lock.*--workdir"),
        hold_workdir(str(tmp_path)),
    ):
        pass


def test_without_a_home_programs_are_not_remembered(tmp_path, monkeypatch):
    import jax

    before = jax.config.jax_compilation_cache_dir
    (tmp_path / "file").write_text("")
    try:
        jax.config.update("jax_compilation_cache_dir", None)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
        remember_compiled()
        assert jax.config.jax_compilation_cache_dir is None
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        remember_compiled()
        assert jax.config.jax_compilation_cache_dir == str(tmp_path / "jaxreid" / "compiled")
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
