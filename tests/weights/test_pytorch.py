"""Official names and layouts: what a checkpoint holds is found, and nothing else."""

import jax
import numpy as np
import pytest
from golden import param, qaconv_variables
from selection import deep

from jaxreid.models.model import make_model
from jaxreid.weights.conversion import fitting
from jaxreid.weights.layouts.qaconv import QACONV as QACONV_LAYOUT
from jaxreid.weights.layouts.resnet import IMAGENET_RESNET
from jaxreid.weights.pytorch import convert
from jaxreid.weights.state_dict import foreign, unwrapped

QACONV = {
    "backbone": {"name": "resnet18_ibn_b", "cut": "layer2"},
    "neck": {"name": "map", "channels": 16, "norm": "none"},
    "matcher": {"name": "qaconv", "head": "v2.1"},
    "height": 64,
    "width": 32,
}
PLAIN = {
    "backbone": {"name": "resnet18"},
    "neck": {"name": "pooled", "bn": False},
    "matcher": {"name": "embedding"},
    "height": 64,
    "width": 32,
}


def checkpoint(card, layout):
    """What the original would have saved, with weights by the rule."""
    shapes = layout.shapes(make_model(**card), card["backbone"]["name"])
    return {name: param(1, name.removeprefix("criterion."), x) for name, x in shapes.items()}


@pytest.fixture(scope="module")
def qaconv():
    return checkpoint(QACONV, QACONV_LAYOUT)


@pytest.fixture(scope="module")
def plain():
    return checkpoint(PLAIN, IMAGENET_RESNET)


@pytest.mark.parametrize("head", ["v2.1", "v1"])
def test_a_whole_qaconv_model(head):
    norm = "none" if head == "v2.1" else "batch"
    card = QACONV | {
        "neck": QACONV["neck"] | {"norm": norm},
        "matcher": {"name": "qaconv", "head": head},
    }
    held = checkpoint(card, QACONV_LAYOUT)
    converted = convert(held, "resnet18_ibn_b", input_size=(64, 32))
    assert converted.report.complete
    assert set(converted.report.loaded) == held.keys()
    assert {key: converted.card[key] for key in card} == card
    expected = qaconv_variables(1, head, 8, 4, np.float32)
    for collection, tree in expected.items():
        jax.tree.map(
            np.testing.assert_array_equal, converted.variables[collection]["matcher"], tree
        )
    kernel = converted.variables["params"]["backbone"]["layer1_0"]["conv1"]["kernel"]
    there = held["base.layer1.0.conv1.weight"]
    assert kernel[2, 0, 5, 7] == there[7, 5, 2, 0]


def test_the_size_of_the_images_is_checked_by_the_matcher(qaconv):
    report = convert(qaconv, "resnet18_ibn_b", input_size=(48, 32)).report
    assert report.mismatched == [("criterion.fc.weight", (1, 32), (1, 24))]
    assert not report.complete


def test_what_is_not_needed_is_unused_and_what_is_not_known_unexpected(qaconv):
    more = {
        "base.fc.weight": np.zeros((1000, 512)),
        "base.layer4.0.conv1.weight": np.zeros((512, 256, 3, 3)),
        "base.bn1.num_batches_tracked": np.zeros(()),
    }
    report = convert(qaconv | more, "resnet18_ibn_b", input_size=(64, 32)).report
    assert report.complete
    assert set(report.unused) == more.keys()
    report = convert(qaconv | {"head.weight": np.zeros(3)}, "resnet18_ibn_b").report
    assert report.unexpected == ["head.weight"]


def test_a_missing_matcher_is_missing_unless_it_is_skipped(qaconv):
    alone = {name: x for name, x in qaconv.items() if not name.startswith("criterion.")}
    report = convert(alone, "resnet18_ibn_b", input_size=(64, 32)).report
    assert len(report.missing) == 10
    converted = convert(alone, "resnet18_ibn_b", input_size=(64, 32), skip=["criterion"])
    assert converted.report.complete
    assert "matcher" not in converted.variables["params"]


def test_a_skipped_part_is_left_out_although_it_is_there(qaconv):
    converted = convert(qaconv, "resnet18_ibn_b", input_size=(64, 32), skip=["neck_", "criterion"])
    assert converted.report.complete
    assert set(converted.variables["params"]) == {"backbone"}
    assert "neck_conv.weight" in converted.report.unused


@pytest.mark.parametrize(
    "wrong",
    deep("resnet34", "resnet18_ibn_a", "resnet18_ibn_b", "osnet_x0_25", but=["resnet18_ibn_a"]),
)
def test_another_architecture_does_not_fit(plain, wrong):
    assert not convert(plain, wrong).report.complete


def test_the_right_architecture_is_found(plain):
    assert fitting(plain) == ["resnet18"]


def test_class_memory_is_taken_if_wanted(qaconv):
    maps = np.random.default_rng(0).standard_normal((5, 16, 8, 4)).astype(np.float32)
    more = {"criterion.class_memory": maps, "criterion.valid_class": np.array([1, 0, 1, 1, 0.0])}
    options = {"arch": "resnet18_ibn_b", "input_size": (64, 32)}
    assert "memory" not in convert(qaconv | more, **options).variables
    converted = convert(qaconv | more, memory=True, **options)
    assert converted.report.complete
    memory = converted.variables["memory"]
    np.testing.assert_array_equal(memory["feature"], maps.transpose(0, 2, 3, 1))
    np.testing.assert_array_equal(memory["valid"], [True, False, True, True, False])
    report = convert(qaconv, memory=True, **options).report
    assert report.missing == ["criterion.class_memory"]
    wide = {"criterion.class_memory": maps.transpose(0, 1, 3, 2)}
    report = convert(qaconv | wide, memory=True, **options).report
    assert report.mismatched == [("criterion.class_memory", (5, 16, 4, 8), (5, 16, 8, 4))]
    converted = convert(qaconv | more, memory=True, skip=["criterion"], **options)
    assert "memory" in converted.variables
    assert not set(converted.report.loaded) & set(converted.report.unused)
    del more["criterion.valid_class"]  # version 1.0 has no flags
    assert convert(qaconv | more, memory=True, **options).variables["memory"]["valid"].all()


def test_unknown_architectures_are_refused(plain):
    with pytest.raises(ValueError, match="unknown architecture 'resnet19'; valid: resnet18"):
        convert(plain, "resnet19")


@pytest.mark.parametrize(
    ("wrap", "said"),
    [
        ("module.{}", ["'module.'"]),
        ("module.module.{}", ["'module.'"]),
        ("_orig_mod.module.{}", ["'_orig_mod.'", "'module.'"]),
        ("model.{}", ["'model.'"]),
        ("_orig_mod.model.backbone.{}", ["'_orig_mod.'", "'model.backbone.'"]),
        ("model.backbone.module.{}", ["'module.'", "'model.backbone.'"]),
        ("base.{}", ["'base.'"]),
        ("any.other.name.{}", ["'any.other.name.'"]),
    ],
)
@pytest.mark.parametrize("inner", ["layer1.0.conv1.weight", "conv2.0.conv1.conv.weight"])
def test_prefixes_are_removed_and_said(wrap, said, inner):
    names = {wrap.format(inner): 1, wrap.format("conv1.weight"): 2, "heads.weight": 3}
    held, messages = unwrapped(names)
    assert held == {inner: 1, "conv1.weight": 2, "heads.weight": 3}
    assert len(messages) == len(said)
    assert all(word in message for word, message in zip(said, messages, strict=True))


def test_the_prefix_of_qaconv_stays(qaconv):
    held, messages = unwrapped({f"module.model.{name}": x for name, x in qaconv.items()})
    assert held.keys() == qaconv.keys()
    assert "'model.'" in messages[-1]
    alone = {name: x for name, x in qaconv.items() if name.startswith("base.")}
    assert unwrapped(alone) == (alone, [])


def test_several_networks_are_told_apart_by_what_is_left_out():
    names = {f"{who}.layer1.0.conv1.weight": who for who in ("student", "teacher")}
    with pytest.raises(ValueError, match=r"2 networks.*student\., teacher\..*--skip=teacher"):
        unwrapped(names)
    held, _ = unwrapped(names, skip=["teacher"])
    assert held["layer1.0.conv1.weight"] == "student"
    both = {"model.layer1.0.conv1.weight": 1, "model.fc.weight": 2, "fc.weight": 3}
    with pytest.raises(ValueError, match=r"both model\.fc\.weight and fc\.weight; leave one out"):
        unwrapped(both)
    assert unwrapped(both, skip=["model.fc"])[0]["fc.weight"] == 3


def test_parts_of_other_toolboxes_are_named(plain, qaconv):
    assert foreign(plain) == foreign(qaconv) == []
    assert foreign([*plain, "heads.weight", "heads.bnneck.bias", "pixel_mean"]) == [
        "heads",
        "pixel_mean",
    ]


@pytest.mark.parametrize(
    ("name", "arch", "title"),
    [
        ("scaleLayers.1.weight", "resnet18", "QAConv-MS"),
        ("fc.0.weight", "resnet18", "ResNets of torchreid"),
        ("register_tokens", "vit_small_patch16", "ViT"),
    ],
)
def test_names_whose_tensors_do_not_go_with_them_are_refused(name, arch, title):
    with pytest.raises(ValueError, match=f"those of {title}, but its tensors are damaged"):
        convert({name: np.zeros(())}, arch)
