"""Training that augments on the device: as on the host, resumable, on any number of devices."""

import io

import jax
import numpy as np
import pytest
import tensorflow as tf
from jax.sharding import PartitionSpec as P
from people import MODEL, draw, market_tree

import jaxreid
from jaxreid.data.feed import Feed, is_on_device
from jaxreid.data.images import decoding
from jaxreid.data.split import Split
from jaxreid.mesh import AXIS, make_mesh, sent_ahead
from jaxreid.runs.log import Meter, read_events
from jaxreid.runs.settings import resolved
from jaxreid.runs.workdir import open_workdir

STEPS = 8  # 72 images in batches of 16, twice


def settings(folder, on):
    config = jaxreid.configs.get("qaconv:market1501,debug").to_dict()
    config["model"] |= MODEL
    config["data"] |= {"dir": str(folder), "prepared_dir": str(folder / "prepared")}
    config["eval"] |= {"untrained": False, "batch_size": 16, "gallery_tile": 32, "pictures": 0}
    # The first epoch is far better than that, so that the second one alone is augmented.
    config["augment"] |= {"on": on, "after_accuracy": 0.01, "hue": (-0.1, 0.1)}
    config["augment"] |= {"contrast": (1.0, 1.0), "saturation": (1.0, 1.0)}
    config["checkpoint"]["every_steps"], config["log"]["every_steps"] = 3, 1
    return config | {"epochs": 2}


def losses(workdir):
    return [e["loss"] for e in read_events(workdir / "metrics.jsonl") if e["kind"] == "train"]


class Killed(BaseException):
    pass


@pytest.mark.end_to_end
@pytest.mark.usefixtures("one_device")
@pytest.mark.full
def test_a_training_is_the_hosts_and_goes_on_in_the_same_bits(tmp_path, monkeypatch):
    market_tree(tmp_path / "market1501")
    host, run = tmp_path / "host", tmp_path / "device"
    assert jaxreid.train(settings(tmp_path, "host"), host)

    def kill(self, metrics, images):
        add(self, metrics, images)
        if len(losses(run)) == STEPS - 2:
            raise Killed

    add = Meter.add
    monkeypatch.setattr(Meter, "add", kill)
    with pytest.raises(Killed):
        jaxreid.train(settings(tmp_path, "device"), run)
    monkeypatch.setattr(Meter, "add", add)
    before = losses(run)
    assert len(before) == STEPS - 2
    assert jaxreid.train(settings(tmp_path, "device"), run)  # from step 3 or 6
    assert losses(run)[: len(before)] == before
    # The images are the same to the bit; the step is another program and may round otherwise.
    np.testing.assert_allclose(losses(run), losses(host), rtol=1e-4)
    # So a run may go on in the other place.
    open_workdir(str(run), resolved(settings(tmp_path, "host")), mode="train")


@pytest.fixture(scope="module")
def images():
    def encoded(pid, shot):
        file = io.BytesIO()
        draw(pid, 0, shot, size=(8, 16)).save(file, "PNG")
        return file.getvalue()

    pid = np.repeat(np.arange(8, dtype=np.int32), 2)
    names, zeros = [f"{i}.png" for i in range(16)], np.zeros(16, np.int32)
    files = [encoded(p, i) for i, p in enumerate(pid)]
    return Split(image=files, name=names, pid=pid, camid=zeros, time=zeros.astype(float))


TORCHREID = {"flip": 0.5, "translation": 0.5, "patch": 0.5, "erasing": 0.5, "pad": 0}
TORCHREID |= {"rotation": 0.0, "brightness": (0.8, 1.2), "contrast": (0.85, 1.15)}
TORCHREID |= {"saturation": (1.0, 1.0), "hue": (0.0, 0.0), "occlusion": (0.0, 0.0)}


def feed(images, on, after=0.0):
    return Feed(
        images,
        sampler={"name": "random", "instances": 2, "quota": ()},
        augment=TORCHREID | {"after_accuracy": after, "on": on},
        batch_size=8,
        height=32,
        width=16,
        seed=0,
    )


def test_batches_are_the_hosts_to_the_bit_on_any_number_of_devices(images):
    host, on_device = feed(images, "host", after=0.5), feed(images, "device", after=0.5)
    assert host.augment is None
    for devices in (1, 8):
        mesh, changed = make_mesh(jax.devices()[:devices]), []
        specs = {"in_specs": P(AXIS), "out_specs": P(AXIS)}
        augment = jax.jit(jax.shard_map(on_device.augment, mesh=mesh, **specs))
        # The first epoch is not augmented, the second one is.
        for epoch in range(2):
            asked = {"epoch": epoch, "start": 0, "accuracy": [0.6, 0.0]}
            expected = list(host.batches(**asked))
            sent = list(sent_ahead(mesh, on_device.batches(**asked)))
            for batch, own in zip(sent, expected, strict=True):
                result = augment(batch["image"], batch["augmentation"])
                np.testing.assert_array_equal(result, own["image"])
                np.testing.assert_array_equal(batch["label"], own["label"])
                assert batch["image"].shape == (8, 16, 8, 3)  # resized by the device, too
                plain = decoding.resize(tf.constant(batch["image"][0]), 32, 16)
                changed.append((result[0] != plain.numpy()).any())
        assert changed == [False, False, True, True]
        assert augment._cache_size() == 1


def test_a_device_that_is_a_cpu_leaves_augmentation_to_the_host(monkeypatch):
    assert [is_on_device(where) for where in ("host", "device", "auto")] == [False, True, False]
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert [is_on_device(where) for where in ("host", "device", "auto")] == [False, True, True]


def test_batches_are_sent_ahead_in_order_until_they_end_fail_or_are_left():
    mesh, asked, closed = make_mesh(jax.devices()[:1]), [], []

    def batches(fail_at=None):
        try:
            for i in range(4):
                if i == fail_at:
                    raise ValueError("broken file")
                asked.append(i)
                yield {"image": np.full(2, i)}
        finally:
            closed.append(True)

    assert [int(batch["image"][0]) for batch in sent_ahead(mesh, batches())] == [0, 1, 2, 3]
    failing = sent_ahead(mesh, batches(fail_at=2))
    assert [int(next(failing)["image"][0]) for _ in range(2)] == [0, 1]
    with pytest.raises(ValueError, match="broken file"):
        next(failing)
    asked.clear()
    left = sent_ahead(mesh, batches())
    next(left)
    left.close()
    assert asked == [0, 1]  # one ahead
    assert closed == [True] * 3
