"""Runs and weights in object stores, with a Google Cloud Storage and an S3 of this process."""

import contextlib
import json
import socket

import jax
import little_s3
import numpy as np
import pytest
from one_layer import ONE_LAYER
from people import MODEL, market_tree

import jaxreid
from jaxreid import places
from jaxreid.cli import main
from jaxreid.data.sets import load
from jaxreid.places import STORES, place
from jaxreid.runs.files import append, replace_file
from jaxreid.runs.log import read_events
from jaxreid.runs.workdir import hold_workdir, holds_checkpoint
from jaxreid.weights.checkpoint import Checkpoints


@pytest.fixture(scope="module")
def bucket():
    """URL of an empty bucket, for gcsfs and for TensorStore, which Orbax writes with."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE_EMULATOR_HOST", address)
        patch.setenv("TENSORSTORE_GCS_HTTP_URL", address)
        patch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")  # asks Google itself
        pytest.importorskip("gcsfs")
        server = pytest.importorskip("gcp_storage_emulator.server")
        say_generations(patch)
        emulator = server.create_server("127.0.0.1", port, in_memory=True, default_bucket="bucket")
        emulator.start()
        yield "gs://bucket"
        emulator.stop()


def say_generations(patch):
    """Let the emulator say which version of an object it sends, as Google does.

    Without it, TensorStore fails where it reads an object again that it holds already.
    """
    from gcp_storage_emulator.exceptions import NotFound
    from gcp_storage_emulator.handlers import objects

    def download(request, response, storage, *more, original=objects.download):
        with contextlib.suppress(NotFound):
            held = storage.get_file_obj(request.params["bucket_name"], request.params["object_id"])
            response["x-goog-generation"] = held["generation"]
        original(request, response, storage, *more)

    patch.setattr(objects, "download", download)


@pytest.fixture(scope="module")
def s3_bucket():
    """URL of an empty bucket of an S3 in this process, for s3fs."""
    pytest.importorskip("s3fs")
    with pytest.MonkeyPatch.context() as patch, little_s3.serve() as address:
        patch.setenv("AWS_ENDPOINT_URL", address)
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "any")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        yield "s3://bucket"


def settings(root):
    config = jaxreid.configs.get("qaconv:market1501,v1.1,debug").to_dict()
    config["model"] |= MODEL | {"backbone": ONE_LAYER}
    config["data"] |= {"dir": str(root), "prepared_dir": str(root / "prepared")}
    config["eval"] |= {"batch_size": 16, "gallery_tile": 32, "pictures": 1, "untrained": False}
    config["checkpoint"]["every_steps"] = 3
    return config | {"epochs": 1}


@pytest.fixture(scope="module")
def root(tmp_path_factory, one_device):
    root = tmp_path_factory.mktemp("stores")
    market_tree(root / "market1501")
    return root


def test_a_run_in_a_store_is_resumed_and_is_that_of_a_disk(bucket, root, monkeypatch):
    on_disk, run = root / "run", f"{bucket}/runs/a"
    assert jaxreid.train(settings(root), on_disk)
    saved = []

    def stop_at_the_second_save(self, parts, step):
        saved.append(step)
        if len(saved) == 2:
            raise KeyboardInterrupt
        save(self, parts, step)

    save = Checkpoints.save
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", stop_at_the_second_save)
        with pytest.raises(KeyboardInterrupt):
            jaxreid.train(settings(root), run)
    assert jaxreid.train(settings(root), run)
    where = place(run)
    assert not (where / "lock.held").exists()
    assert holds_checkpoint(run)
    results = [json.loads((at / "results.json").read_text())["results"] for at in (on_disk, where)]
    assert [row["mAP"] for row in results[0]] == [row["mAP"] for row in results[1]]
    steps = [[e["step"] for e in read_events(at / "metrics.jsonl")] for at in (on_disk, where)]
    assert set(steps[0]) <= set(steps[1])
    assert (where / "ranking.png").read_bytes().startswith(b"\x89PNG")

    reid, same = jaxreid.load(run), jaxreid.load(on_disk)
    for got, expected in zip(*map(jax.tree.leaves, (reid.variables, same.variables)), strict=True):
        np.testing.assert_array_equal(got, expected)
    reid.save(f"{bucket}/weights/a.safetensors")
    again = jaxreid.load(f"{bucket}/weights/a.safetensors")
    jax.tree.map(np.testing.assert_array_equal, again.variables, reid.variables)
    found = jaxreid.evaluate(run, prepared_dir=str(root / "prepared"), dir=str(root))
    assert found["market1501"].metrics["mAP"] == results[0][-1]["mAP"]


def test_weights_are_saved_to_s3_and_loaded_from_there(s3_bucket):
    reid, path = jaxreid.load("drawn"), f"{s3_bucket}/weights/a.safetensors"
    assert main(["weights", "drawn", path]) == 0
    again = jaxreid.load(path)
    assert again.card == reid.card
    jax.tree.map(np.testing.assert_array_equal, again.variables, reid.variables)
    with pytest.raises(FileNotFoundError, match=r"no model in s3://bucket/weights/b\.safetensors"):
        jaxreid.load(f"{s3_bucket}/weights/b.safetensors")
    replaced = place(f"{s3_bucket}/file.txt")
    replace_file(replaced, b"one\n")
    append(replaced, b"two\n")
    assert replaced.read_text() == "one\ntwo\n"


def test_a_second_training_in_a_store_is_refused(bucket):
    with (
        hold_workdir(f"{bucket}/runs/held"),
        pytest.raises(OSError, match=r"in use by another process .*delete gs://bucket/runs/held"),
        hold_workdir(f"{bucket}/runs/held"),
    ):
        pass
    assert not place(f"{bucket}/runs/held/lock.held").exists()


def test_objects_are_replaced_and_grow(bucket):
    path = place(f"{bucket}/file.txt")
    replace_file(path, b"one\n")
    append(path, b"two\n")
    assert path.read_text() == "one\ntwo\n"


def test_a_store_that_does_not_answer_is_named():
    class Silent:
        def __str__(self):
            return "gs://bucket/a"

        def exists(self):
            raise TimeoutError("no answer\nmore")

    with pytest.raises(ValueError, match=r"gs://bucket/a cannot be reached: no answer\. .*gcsfs"):
        places._reach(Silent(), "gcsfs")


def test_what_no_store_can_hold_is_refused(monkeypatch):
    with pytest.raises(ValueError, match=r"memory://.*begins with gs://, s3://, az:// or file://"):
        place("memory://a")
    monkeypatch.setitem(STORES, "s3", "no_such_package")
    with pytest.raises(ValueError, match="s3:// needs a package: pip install no_such_package"):
        place("s3://bucket/a")
    with (
        pytest.raises(ValueError, match=r"on gs:// and on .* alone.*weights RUN s3://BUCKET/NAME"),
        hold_workdir("s3://b/a"),
    ):
        pass


@pytest.mark.parametrize("url", ["gs://bucket/data", "s3://bucket/data"])
@pytest.mark.parametrize("name", ["market1501", "folder", "table", "msmt17"])
def test_data_in_a_store_are_refused_with_what_works(url, name):
    with pytest.raises(ValueError, match=rf"{url}.* is in an object store.*Mount the store"):
        load(f"{name}:{url}")
    with pytest.raises(ValueError, match=rf"prepared_dir is '{url}'.*mount the store"):
        load("synthetic_people/plaza", prepared_dir=url)


def test_a_file_url_is_a_path(tmp_path):
    assert place(f"file://{tmp_path}/a") == tmp_path / "a"
