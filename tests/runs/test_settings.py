"""Rules of settings, and the configuration that is checked by them."""

import json

import numpy as np
import pytest

from jaxreid import configs
from jaxreid.runs.settings import resolved


def config(**changes):
    held = configs.get("qaconv:market1501,debug").to_dict()
    for path, value in changes.items():
        section, _, name = path.rpartition("__")
        (held[section] if section else held)[name] = value
    return held


def test_a_configuration_comes_back_as_plain_data():
    expected = config()
    for given in (
        configs.get("qaconv:market1501,debug"),
        expected,
        json.loads(json.dumps(expected)),
    ):
        assert resolved(given) == expected  # lists of JSON stand for tuples
    assert resolved(config(epochs=np.int64(4)))["epochs"] == 4
    del expected["init_expects"], expected["eval"]["untrained"]  # as older ones
    assert resolved(expected) == config()


WRONG = [
    ({"epochs": -1}, "epochs is -1; expected a whole number of at least 1"),
    ({"epochs": "3"}, "epochs is '3'"),
    ({"epochs": 3.0}, "epochs is 3.0"),
    ({"epochs": True}, "epochs is True"),
    ({"epochs": None}, "epochs is None"),
    ({"optim__lr": "0.1"}, "optim.lr is '0.1'; expected a number above 0"),
    ({"optim__lr": float("nan")}, "optim.lr is nan"),
    ({"optim__betas": (0.9,)}, r"a tuple of 2 numbers from 0 to less than 1, as in \(0.9"),
    (
        {"optim__betas": (0.9, 1)},
        r"optim.betas is \(0.9, 1\); expected a tuple of 2 numbers from 0",
    ),
    ({"optim__momentum": 1.0}, "optim.momentum is 1.0; expected a number from 0 to less than 1"),
    ({"optim__momentum": -0.1}, "optim.momentum is -0.1; expected a number from 0 to less than 1"),
    (
        {"optim__weight_decay": -1e-4},
        "optim.weight_decay is -0.0001; expected a number of at least",
    ),
    ({"optim__clip_norm": -1}, "optim.clip_norm is -1; expected a number of at least 0"),
    ({"optim__backbone_lr": -1}, "optim.backbone_lr is -1; expected a number of at least 0"),
    ({"schedule__factor": 2.0}, "schedule.factor is 2.0; expected a number above 0, at most 1"),
    ({"augment__rotation": 190}, "augment.rotation is 190; expected a number from 0 to 180"),
    ({"augment__flip": 1.5}, "augment.flip is 1.5; expected a number from 0 to 1"),
    ({"augment__contrast": (-1, 1)}, "augment.contrast is .*ascending numbers of at least 0"),
    # Of pixels up to 255.
    (
        {"model__mean": (123.7, 116.3, 103.5)},
        "model.mean is .* expected a tuple of 3 numbers from 0",
    ),
    ({"model__std": (58.4, 57.1, 57.4)}, "model.std is .* 3 numbers above 0, at most 1, as in"),
    ({"model__std": (0, 1, 1)}, "model.std is .* 3 numbers above 0, at most 1, as in"),
    ({"eval__memory": -1}, "eval.memory is -1; expected a number of at least 0"),
    (
        {"eval__rerank_options": {"weight": 1.5}},
        "rerank_options.weight is 1.5; expected a number fr",
    ),
    (
        {"eval__tlift_options": {"alpha": -1}},
        "tlift_options.alpha is -1; expected a number of at l",
    ),
    ({"checkpoint__keep": 0}, "checkpoint.keep is 0; expected a whole number of at least 1"),
    ({"optim__nesterov": 1}, "optim.nesterov is 1; expected True or False"),
    ({"augment__hue": (0.1, -0.1)}, "augment.hue is .*; expected a tuple of 2 ascending numbers"),
    ({"data__test": "market1501"}, r"data.test is 'market1501'; expected a tuple of names, as in"),
    ({"data__train": (1,)}, r"data.train is \(1,\)"),
    ({"data__root": "/data"}, "unknown setting 'data.root'; valid: data.dir"),
    ({"model__neck": "map"}, "model.neck is 'map'; expected a dictionary with a name, as in"),
    ({"objective": {"margin": 1.0}}, "expected a dictionary with a name"),
    ({"optim": 3}, "optim is 3; expected a dictionary of settings"),
    ({"freeze_epochs": 9}, "freeze_epochs is 9 of 3 epochs"),
    ({"precision": "float16"}, "precision is 'float16'; expected one of default, high, highest"),
    ({"eval__rerank_options": {"k1": "a"}}, "eval.rerank_options.k1 is 'a'"),
    ({"eval__tlift_options": {"tau": 0}}, "eval.tlift_options.tau is 0; expected a number above 0"),
    ({"epochs": 10**7}, "epochs is 10000000; expected at most 1,000,000"),
    ({"batch_size": 2**31}, "batch_size is 2147483648; expected at most 2,147,483,647"),
    ({"model__height": 10**5}, "model.height is 100000; expected at most 4,096"),
    ({"optim__lr": 10**40}, "optim.lr is a number of more than 20 digits"),
    ({"optim__lr": 1e39}, r"optim.lr is 1e\+39; expected 0 or a size from .* 32 bits can hold"),
    ({"optim__eps": 1e-60}, "optim.eps is 1e-60; expected 0 or a size from"),
    ({"sampler__quota": (2**40, 1)}, "sampler.quota is 1099511627776; expected at most"),
    ({"model__matcher": {"name": "qaconv", "patch": 2**40}}, "model.matcher.patch is 1099511"),
    ({"epoch": 3}, "unknown setting 'epoch'; valid: epochs"),
    ({"model__matcher": {"name": "qaconv", "initial_logit": float("inf")}}, "initial_logit is inf"),
]


@pytest.mark.parametrize(("changes", "message"), WRONG, ids=lambda x: str(x)[:40])
def test_a_wrong_setting_is_named_with_what_is_expected(changes, message):
    with pytest.raises(ValueError, match=message):
        resolved(config(**changes))


def test_what_is_missing_is_named():
    for path in (("optim",), ("optim", "lr")):
        held = config()
        section = held
        for name in path[:-1]:
            section = section[name]
        del section[path[-1]]
        with pytest.raises(ValueError, match=f"has no {'.'.join(path)}; start from a rec"):
            resolved(held)
    with pytest.raises(ValueError, match="expected a dictionary of settings"):
        resolved("qaconv")


@pytest.mark.parametrize("path", ["seed", "log__every_steps", "optim__lr"])
def test_a_number_that_cannot_be_printed_is_refused(path):
    with pytest.raises(ValueError, match=f"{path.replace('__', '.')} is a number of more than 20"):
        resolved(config(**{path: 10**5000}))
