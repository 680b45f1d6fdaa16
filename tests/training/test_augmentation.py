"""Training that augments on the device: as on the host, resumable, on any number of devices."""

import functools
import io

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from people import MODEL, draw, market_tree

import jaxreid
from jaxreid.data.feed import Feed, is_on_device
from jaxreid.data.split import Split
from jaxreid.mesh import AXIS, make_mesh, sent_ahead, to_devices
from jaxreid.runs.log import Meter, read_events

STEPS = 8  # 72 images in batches of 16, twice


def settings(folder, on):
    config = jaxreid.configs.get("qaconv:market1501,debug").to_dict()
    config["model"] |= MODEL
    config["data"] |= {"dir": str(folder), "prepared_dir": str(folder / "prepared")}
    config["eval"] |= {"untrained": False, "batch_size": 16, "gallery_tile": 32, "pictures": 0}
    # The first epoch is far better than that, so that the second one alone is augmented.
    config["augment"] |= {"on": on, "after_accuracy": 0.01, "hue": (-0.1, 0.1)}
    config["checkpoint"]["every_steps"], config["log"]["every_steps"] = 3, 1
    return config | {"epochs": 2}


def losses(workdir):
    return [e["loss"] for e in read_events(workdir / "metrics.jsonl") if e["kind"] == "train"]


@pytest.mark.end_to_end
@pytest.mark.usefixtures("one_device")
def test_a_training_is_the_hosts_and_goes_on_in_the_same_bits(tmp_path, monkeypatch):
    market_tree(tmp_path / "market1501")
    runs = {name: tmp_path / name for name in ("host", "device", "killed")}
    for on in ("host", "device"):
        assert jaxreid.train(settings(tmp_path, on), runs[on])
    expected = losses(runs["host"])
    assert len(expected) == STEPS
    # The same images to the bit, but another program, which may round otherwise.
    np.testing.assert_allclose(losses(runs["device"]), expected, rtol=1e-4)

    class Killed(BaseException):
        pass

    def kill(self, metrics, images):
        add(self, metrics, images)
        if len(losses(runs["killed"])) == 4:
            raise Killed

    add = Meter.add
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Meter, "add", kill)
        jaxreid.train(settings(tmp_path, "device"), runs["killed"])
    assert jaxreid.train(settings(tmp_path, "device"), runs["killed"])
    assert losses(runs["killed"]) == losses(runs["device"])
