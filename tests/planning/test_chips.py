"""Topologies to plan for."""

import importlib.util

import pytest

from jaxreid.planning import chips
from jaxreid.planning.chips import Topology, devices_of, parse_topologies, prepare


def test_topologies_are_read_with_their_usual_shapes():
    assert list(map(str, parse_topologies("v5e:4x4, gpu:8"))) == ["v5e:4x4", "gpu:8"]
    shapes = ["v5e:1x1", "v5e:2x2", "v5e:2x4", "v5e:8x8", "v5e:16x16"]
    assert list(map(str, parse_topologies("v5e", (1, 4, 8, 64, 256)))) == shapes
    shapes = ["v5p:1x1x1", "v5p:2x2x1", "v5p:2x2x2", "v5p:2x2x4", "v5p:4x4x8"]
    assert list(map(str, parse_topologies("v5p:2x2x1", (1, 4, 8, 16, 128)))) == shapes
    assert parse_topologies("cpu:3")[0] == Topology("cpu", (3,))
    assert [topology.platform for topology in parse_topologies("v6e:4,gpu:4")] == ["tpu", "gpu"]


@pytest.mark.parametrize(
    ("text", "counts", "message"),
    [
        ("v5x:4x4", (), "valid: v5"),
        ("v5e", (), "expected v5e:SHAPE, as in v5e:4x4"),
        ("v5e:2x2x1", (), "3 dimensions; expected 2"),
        ("v5e:6", (), "expected a power of 2"),
        ("v5e:2x2,v5e:4x4", (1, 8), "give one kind"),
        ("gpu:0", (), "gpu:8"),
    ],
)
def test_a_wrong_topology_is_named_with_what_is_expected(text, counts, message):
    with pytest.raises(ValueError, match=message):
        parse_topologies(text, counts)


def test_without_the_compiler_of_tpus_the_package_to_install_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'jaxreid\[tpu\]'"):
        prepare(parse_topologies("v5e:2x2"))
    prepare(parse_topologies("gpu:8"))
    with pytest.raises(ValueError, match="JAX_NUM_CPU_DEVICES=16"):
        devices_of(parse_topologies("gpu:16")[0])


def test_every_chip_names_the_source_of_its_figures():
    for name, chip in chips.CHIPS.items():
        assert chip.source.endswith(f"/{name}")
        assert min(chip.tflops, chip.hbm_gib, chip.hbm_gbs, chip.ici_gbs) > 0
