"""Recipes compiled for devices that you do not have."""

import copy
import json

import pytest
from one_layer import ONE_LAYER

from jaxreid import cli, configs
from jaxreid.planning import compilation
from jaxreid.planning.chips import CHIPS, parse_topologies, prepare
from jaxreid.planning.compilation import out_of_memory, plan_recipe, roofline
from jaxreid.planning.report import plan_text
from jaxreid.runs.settings import resolved

IDENTITIES = 1000  # 1024 with the padding


def plan(text, **changes):
    config = configs.get("qaconv:market1501,debug").to_dict()
    config["model"] |= {"backbone": ONE_LAYER, "height": 32, "width": 16}
    config |= {"batch_size": 8} | changes
    (topology,) = parse_topologies(text)
    prepare([topology])
    sizes = {"identities": IDENTITIES, "images": 5000}
    return plan_recipe(resolved(config), topology, **sizes)


@pytest.fixture(scope="module")
def plans():
    return {text: plan(text) for text in ("cpu:1", "cpu:8")}


def test_the_class_memory_is_divided_over_the_devices_and_never_whole(plans):
    one, eight = (plans[name]["programs"]["train"]["memory"] for name in ("cpu:1", "cpu:8"))
    row = 8 * 4 * 16 * 4 + 1
    assert one["class memory"] == 1024 * row
    assert eight["class memory"] == 128 * row
    assert eight["batch"] * 8 == one["batch"]
    assert eight["parameters"] == one["parameters"]
    assert eight["total"] < one["total"]
    assert plans["cpu:8"]["arrays_of_the_whole_memory"] == []


def test_every_argument_of_the_step_is_where_it_belongs(plans):
    arguments = plans["cpu:8"]["arguments"]
    sharded = [name for name, held in arguments.items() if held["placement"] == "sharded"]
    assert sharded == ["class memory", "batch"]
    for name, held in arguments.items():
        share = 8 if name in sharded else 1
        assert held["bytes_per_device"] * share == held["bytes"]


def test_the_collectives_of_the_step_are_the_expected_ones(plans):
    train, encode, score = plans["cpu:8"]["programs"].values()
    assert set(train["collectives"]) == {"all-gather", "all-reduce", "reduce-scatter"}
    # Features of the batch forward, and their gradients backward.
    batch = 8 * 8 * 4 * 16 * 4
    assert train["collectives"]["reduce-scatter"] == {"count": 1, "bytes": batch * 7 // 8}
    gathered = train["collectives"]["all-gather"]["bytes"]
    # Labels, and the best class of every image and its score, as well.
    assert batch * 7 // 8 < gathered < batch * 7 // 8 + 8 * 8 * 16
    assert encode["collectives"] == {}
    assert set(score["collectives"]) == {"all-gather"}


def test_sizes_that_do_not_divide_are_rounded_up_and_noted():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compilation, "_compile", lambda *_: (None, {"fits": False, "message": "M"}))
        odd = plan("cpu:8", batch_size=12)
        assert odd["batch_size"] == 16
        assert odd["notes"] == ["batch_size=12 does not divide over 8 devices: 16 instead"]
        assert "train does not fit: M" in plan_text("a recipe", [odd])


def test_the_compilers_words_about_memory_are_read():
    message = (
        "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space "
        "hbm. Used 20.5G of 15.75G hbm. Exceeded hbm capacity by 4.75G.\n\nTotal hbm usage"
    )
    cost = out_of_memory(message)
    assert cost["memory"] == {"total": int(20.5 * 2**30), "available": int(15.75 * 2**30)}
    assert cost["message"].endswith("Exceeded hbm capacity by 4.75G.")
    cost = out_of_memory(
        "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO "
        "temporaries (512.00M) exceeds available HBM (15.75G)."
    )
    assert cost["memory"]["total"] == 2**29


def test_times_are_those_of_the_slower_of_products_and_memory_and_of_all_collectives():
    cost = {
        "flops_by_type": {"bf16": 197e9, "f32 highest": 197e9},
        "hbm_bytes": 819e6,
        "collectives": {"all-reduce": {"count": 2, "bytes": 200e6}},
    }
    seconds = roofline(cost, CHIPS["v5e"])
    expected = {"products": 7e-3, "hbm": 1e-3, "interconnect": 1e-3, "total": 8e-3}
    assert seconds == pytest.approx(expected)


def test_the_verb_passes_settings_on_and_prints_a_table_or_json(plans, monkeypatch, capsys):
    asked = {}

    def planned(config, topology, **sizes):
        asked.update(config=config, sizes=sizes)
        return copy.deepcopy(plans[str(topology)])

    monkeypatch.setattr(compilation, "plan_recipe", planned)
    words = ["plan", "qaconv:market1501,debug", "--topology=cpu", "--chips=1,8"]
    assert cli.main([*words, "--config.batch_size=24", "--identities=9", "--programs=train"]) == 0
    assert asked["config"]["batch_size"] == 24
    assert asked["sizes"] == {
        "identities": 9,
        "images": 12936,
        "batch_per_chip": None,
        "effort": "low",
        "programs": ("train",),
    }
    out = capsys.readouterr().out
    assert "class memory: 2 arrays, 2.1 MB, sharded, 0.3 MB on each device" in out
    assert "XLA:CPU's" in out
    assert cli.main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [one["topology"] for one in found["plans"]] == ["cpu:1", "cpu:8"]


@pytest.mark.parametrize("topology", ["v5e:1x1", "v5e:2x2"])
def test_the_compiler_of_tpus_takes_the_recipe(topology):
    pytest.importorskip("libtpu")
    found = plan(topology)
    programs = found["programs"]
    assert all(programs[name]["fits"] for name in ("train", "encode", "score"))
    assert programs["train"]["per_second"] > 0
    if topology == "v5e:2x2":
        assert found["arrays_of_the_whole_memory"] == []
        assert found["arguments"]["class memory"]["placement"] == "sharded"
        assert {"all-gather", "all-reduce"} <= set(programs["train"]["collectives"])
