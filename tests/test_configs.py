"""Every config with every argument builds a model and the shapes of its state."""

import importlib.util
import pathlib

import jax
import numpy as np
import pytest

from jaxreid.data import samplers
from jaxreid.model import make_model
from jaxreid.objectives import make_objective
from jaxreid.optim import make_optimizer, make_schedule
from jaxreid.state import abstract_state

CONFIGS = pathlib.Path(__file__).resolve().parent.parent / "configs"


def load(name):
    spec = importlib.util.spec_from_file_location(name, CONFIGS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


ARGUMENTS = [
    "",
    "synthetic",
    "market1501",
    "market1501,small",
    "synthetic,debug",
    "market1501,debug",
    "market1501,resnet50_ibn_b",
    "market1501,v1.1",
    "market1501,v1.2",
    "market1501,v1.1,small",
    "synthetic,osnet_ain_x0_25",
]


@pytest.mark.parametrize("argument", ARGUMENTS)
def test_qaconv(argument):
    config = load("qaconv").get_config(argument).to_dict()
    model = make_model(**config["model"])
    tx = make_optimizer(**config["optim"])
    schedule = make_schedule(**config["schedule"], epochs=10, steps_per_epoch=10)
    objective = make_objective(**config["objective"], num_classes=751)
    state = abstract_state(model, tx, num_classes=751)
    grid = {384: (24, 8), 128: (8, 4), 64: (8, 4)}[config["model"]["height"]]
    neck = config["model"]["neck"]["channels"]
    assert state.memory.feature.shape == (768, *grid, neck)
    assert objective.uses_memory
    make_sampler(config, classes=20)
    assert 0 < schedule.share(60, np.zeros(10)) <= 1
    assert all(leaf.size for leaf in jax.tree.leaves(state.params))


def test_the_papers_recipe_is_resnet50():
    config = load("qaconv").get_config("market1501").to_dict()
    shapes = abstract_state(
        make_model(**config["model"]),
        make_optimizer(**config["optim"]),
        num_classes=None,
    )
    count = {
        part: sum(x.size for x in jax.tree.leaves(tree)) for part, tree in shapes.params.items()
    }
    assert count["backbone"] == 8_543_296  # torchvision's resnet50 without layer4 and classifier
    assert count["neck"] == 1024 * 128 * 9 + 2 * 128


@pytest.mark.parametrize(
    "argument", ["", "market1501", "market1501,small", "synthetic,debug", "market1501,resnet18"]
)
def test_qaconv_gs(argument):
    config = load("qaconv_gs").get_config(argument).to_dict()
    state = abstract_state(
        make_model(**config["model"]), make_optimizer(**config["optim"]), num_classes=None
    )
    assert state.memory is None
    assert not make_objective(**config["objective"], num_classes=751).uses_memory
    schedule = make_schedule(**config["schedule"], epochs=10, steps_per_epoch=10)
    assert schedule.last_epoch(0, np.zeros(10)) == 10
    assert make_sampler(config, classes=40).steps_per_epoch == 40


def make_sampler(config, classes):
    options = {key: config["sampler"][key] for key in ("name", "instances")}
    labels = np.repeat(np.arange(classes), 4)
    return samplers.make_sampler(labels=labels, batch_size=config["batch_size"], seed=0, **options)


@pytest.mark.parametrize("argument", ["market", "synthetic,debag", "market1501,vgg16"])
def test_unknown_arguments_list_the_valid_ones(argument):
    with pytest.raises(ValueError, match="valid: "):
        load("qaconv").get_config(argument)
