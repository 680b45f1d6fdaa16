"""Every config with every argument builds a model and the shapes of its state."""

import json

import jax
import numpy as np
import pytest
from selection import deep

from jaxreid import configs
from jaxreid.configs import common, load
from jaxreid.data.sampling import samplers
from jaxreid.models.model import make_model
from jaxreid.runs.settings import RULES, leaves, resolved, value_at
from jaxreid.training.objectives import make_objective
from jaxreid.training.optim import make_optimizer
from jaxreid.training.schedules import make_schedule
from jaxreid.training.state import abstract_state

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
    "synthetic,vit_small_patch16",
    "market1501,vit_small_patch16",
]
FEW = ["", "market1501,v1.2", "synthetic,debug"]


@pytest.mark.parametrize("argument", deep(*ARGUMENTS, but=FEW))
def test_qaconv(argument):
    config = load("qaconv").get_config(argument).to_dict()
    model = make_model(**config["model"])
    tx = make_optimizer(**config["optim"])
    schedule = make_schedule(**config["schedule"], epochs=10, steps_per_epoch=10)
    objective = make_objective(**config["objective"], num_classes=751)
    state = abstract_state(model, tx, num_classes=751)
    grid = {384: (24, 8), 128: (16, 8), 64: (8, 4)}[config["model"]["height"]]
    grid = (8, 4) if "osnet" in argument or "synthetic,vit" in argument else grid
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
    "argument",
    deep("", "market1501", "market1501,small", "synthetic,debug", "market1501,resnet18", but=[""]),
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


@pytest.mark.parametrize(
    ("argument", "parts"),
    [
        ("", (64,) * 5),
        ("market1501", (512,) * 5),
        ("market1501,multi", (512,) * 6),
        ("market1501,small", (64,) * 5),
        ("synthetic,multi,debug", (16,) * 6),
        ("market1501,resnet50", (512,) * 5),
    ],
)
def test_qaconv_ms(argument, parts):
    config = load("qaconv_ms").get_config(argument).to_dict()
    model = make_model(**config["model"])
    assert tuple(model.matcher.parts.values()) == parts
    state = abstract_state(model, make_optimizer(**config["optim"]), num_classes=None)
    assert all(leaf.size for leaf in jax.tree.leaves(state.params))
    assert not make_objective(**config["objective"], num_classes=751).uses_memory
    schedule = make_schedule(**config["schedule"], epochs=config["epochs"], steps_per_epoch=10)
    assert schedule.last_epoch(0, np.zeros(10)) == config["epochs"]
    assert config["sampler"]["alternate"] == ("multi" in argument)
    steps = make_sampler(config, classes=40).steps_per_epoch
    assert steps == (20 if "multi" in argument else 40)  # of 20 people in each of two sets


def test_the_recipe_of_qaconv_ms_is_that_of_its_authors():
    config = load("qaconv_ms").get_config("market1501")
    assert (config.batch_size, config.sampler.instances, config.epochs) == (64, 4, 15)
    assert (config.optim.lr, config.optim.backbone_lr, config.optim.clip_norm) == (0.005, 5e-4, 4)
    assert (config.schedule.name, config.schedule.step_epochs) == ("step", 10)
    assert config.model.freeze_stats
    shapes = abstract_state(
        make_model(**config.model.to_dict()),
        make_optimizer(**config.optim.to_dict()),
        num_classes=None,
    ).params
    # 3x3 to 512 channels; kernels of 1, 3 and 5; two encoder layers of 512 and 2,048.
    layer = 4 * 512**2 + 4 * 512 + 2 * 512 * 2048 + 2048 + 512 + 4 * 512
    kernels = 512 * (1024 * 9 + 1) + 512 * (512 * (1 + 9 + 25) + 3)
    count = {name: sum(x.size for x in jax.tree.leaves(tree)) for name, tree in shapes.items()}
    assert count["neck"] == kernels + 2 * layer
    # Five heads of 192 matches, 2,048 units and one score, with their normalisations.
    head = 2 + 192 * 2048 + 2048 + 2 * 2048 + 2048 + 1 + 2
    assert count["matcher"] == 5 * head + 2


@pytest.mark.parametrize(
    "argument",
    deep(
        *("", "market1501", "market1501,small", "synthetic,debug", "market1501,osnet_x0_25"),
        but=["market1501"],
    ),
)
def test_transmatcher(argument):
    config = load("transmatcher").get_config(argument).to_dict()
    model = make_model(**config["model"])
    assert tuple(model.matcher.parts) == ("map", "encoder_1", "encoder_2")
    state = abstract_state(model, make_optimizer(**config["optim"]), num_classes=None)
    assert all(leaf.size for leaf in jax.tree.leaves(state.params))
    assert not make_objective(**config["objective"], num_classes=751).uses_memory
    schedule = make_schedule(**config["schedule"], epochs=config["epochs"], steps_per_epoch=10)
    assert schedule.last_epoch(0, np.zeros(10)) == config["epochs"]
    assert make_sampler(config, classes=40).steps_per_epoch == 40


def test_the_recipe_of_transmatcher_is_that_of_its_authors():
    config = load("transmatcher").get_config("market1501")
    assert (config.batch_size, config.sampler.instances, config.epochs) == (64, 4, 15)
    assert (config.optim.lr, config.optim.backbone_lr, config.optim.clip_norm) == (0.005, 5e-4, 4)
    assert (config.schedule.name, config.schedule.step_epochs) == ("step", 10)
    assert config.model.freeze_stats
    shapes = abstract_state(
        make_model(**config.model.to_dict()),
        make_optimizer(**config.optim.to_dict()),
        num_classes=None,
    ).params
    count = {name: sum(x.size for x in jax.tree.leaves(tree)) for name, tree in shapes.items()}
    assert count["neck"] == 4_719_104 + 2 * 3_152_384
    assert count["matcher"] == 2_102_801  # those that the original uses


@pytest.mark.parametrize(
    ("matcher", "neck", "message"),
    [
        ("qaconv", "multi_scale", "compares maps, .* makes maps in parts; use neck 'map'"),
        ("qaconv_ms", "map", "compares maps in parts, .*use neck 'multi_scale'"),
        ("qaconv_ms", "pooled", "'pooled' makes embeddings; use neck 'multi_scale'"),
        ("transmatcher", "map", "compares maps in parts, .*'multi_scale' or 'transformer'"),
        ("embedding", "map", "'map' makes maps; use neck 'pooled' or 'linear'"),
        ("metric_network", "map", "'map' makes maps; use neck 'pooled' or 'linear'"),
    ],
)  # fmt: skip
def test_parts_of_a_model_that_do_not_fit_are_refused(matcher, neck, message):
    config = load("qaconv").get_config("synthetic,debug").to_dict()["model"]
    with pytest.raises(ValueError, match=message):
        make_model(**config | {"matcher": {"name": matcher}, "neck": {"name": neck}})


OSNETS = {
    "": "osnet_x0_25",
    "synthetic,x0_5,ain": "osnet_ain_x0_5",
    "synthetic,ibn,debug": "osnet_ibn_x0_25",
    "market1501": "osnet_x1_0",
    "market1501,x0_75,ibn": "osnet_ibn_x0_75",
    "market1501,x0_25,ain": "osnet_ain_x0_25",
    "market1501,small,triplet": "osnet_x0_25",
    "market1501,paper": "osnet_x1_0",
    "market1501,scratch": "osnet_x1_0",
    "market1501,resnet50": "resnet50",
    "market1501,vit_small_patch16": "vit_small_patch16",
}


@pytest.mark.parametrize("argument", deep(*OSNETS, but=["", "market1501"]))
def test_osnet(argument):
    config = load("osnet").get_config(argument).to_dict()
    assert config["model"]["backbone"]["name"] == OSNETS[argument]
    objective = make_objective(**config["objective"], num_classes=10)
    assert objective.classifies
    model = make_model(**config["model"], classes=10)
    tx = make_optimizer(**config["optim"], freeze_steps=config["freeze_epochs"])
    state = abstract_state(model, tx, num_classes=None)
    neck = config["model"]["neck"]["channels"]
    assert state.params["classifier"]["kernel"].shape == (neck, 10)
    schedule = make_schedule(**config["schedule"], epochs=config["epochs"], steps_per_epoch=10)
    assert 0 < schedule.share(10 * config["epochs"] - 1, np.zeros(10)) <= 0.1
    make_sampler(config, classes=40)


def test_the_options_of_osnet_go_together():
    get = load("osnet").get_config
    for argument in ("market1501,ain,x0_25", "market1501,x0_25,ain"):  # in any order
        config = get(argument)
        assert (config.batch_size, config.epochs, config.optim.lr) == (128, 100, 0.003)
        assert config.model.matcher.metric == "cosine"
    small = [get(f"synthetic,{option}").to_dict() for option in ("x0_25", "ibn", "ain")]
    for config in small:  # the same budget and the same images: what differs is the network
        config["model"].pop("backbone")
    assert small[0] == small[1] == small[2]
    scratch = get("market1501,scratch")
    assert scratch.freeze_epochs == 0
    schedule = make_schedule(**scratch.schedule.to_dict(), epochs=350, steps_per_epoch=1)
    shares = [float(schedule.share(step, None)) for step in (149, 150, 225, 300)]
    np.testing.assert_allclose(shares, [1, 0.1, 0.01, 0.001], rtol=1e-5)


def test_a_found_architecture_becomes_part_of_the_configuration(tmp_path):
    file = tmp_path / "architecture.json"
    found = {"stem": "instance", "blocks": ["none", "sum", "both", "residual", "none", "sum"]}
    file.write_text(json.dumps(found | {"format": "jaxreid architecture 1"}))
    config = load("osnet").get_config(f"synthetic,architecture={file}").to_dict()
    backbone = config["model"]["backbone"]
    assert backbone == found | {"name": "osnet_x0_25", "blocks": tuple(found["blocks"])}
    assert make_model(**config["model"]).backbone.blocks == tuple(found["blocks"])
    other = json.dumps(found | {"format": "jaxreid architecture 2"})
    for content in ("", "[]", "{}", json.dumps(found), other):
        file.write_text(content)
        with pytest.raises(ValueError, match=r"expected an architecture\.json"):
            load("osnet").get_config(f"synthetic,architecture={file}")


def test_one_thing_says_where_norms_are(tmp_path):
    for option in ("ain", f"architecture={tmp_path}"):
        with pytest.raises(ValueError, match="are mutually exclusive; give one of them"):
            load("osnet").get_config(f"synthetic,ibn,{option}")
    for config, name in (("osnet", "osnet_x1_0"), ("osnet_search", "resnet18")):
        with pytest.raises(ValueError, match=f"unknown option '{name}' in the recipe's argument"):
            load(config).get_config(f"synthetic,{name}")


@pytest.mark.parametrize(
    ("argument", "backbone", "d"),
    [
        ("", "resnet18_ibn_b", 64),
        ("synthetic,target=mall,ibn_a", "resnet18_ibn_a", 64),
        ("synthetic,dp,debug", "resnet18", 16),
        ("market1501", "resnet50", 2048),
        ("market1501,ibn_a,mnet", "resnet50_ibn_a", 2048),
        ("market1501,small", "resnet18_ibn_b", 64),
        ("market1501,resnet50_ibn_b,baseline", "resnet50_ibn_b", 2048),
        ("synthetic,osnet_x0_25", "osnet_x0_25", 128),
        pytest.param(
            "market1501,vit_small_patch16", "vit_small_patch16", 384, marks=pytest.mark.full
        ),
    ],
)
def test_gmn(argument, backbone, d):
    config = load("gmn").get_config(argument).to_dict()
    assert config["model"]["backbone"]["name"] == backbone
    assert config["model"]["backbone"].get("last_stride", 1) == 1
    assert config["model"]["neck"]["pool"] == ("average" if "vit" in argument else "gem")
    objective = make_objective(**config["objective"], num_classes=10)
    assert objective.classifies
    state = abstract_state(
        make_model(**config["model"], classes=10),
        make_optimizer(**config["optim"]),
        num_classes=None,
    )
    assert state.params["classifier"]["kernel"].shape == (d, 10)
    if "baseline" in argument:
        assert "matcher" not in state.params
    else:
        hidden = config["model"]["matcher"]["hidden"]
        assert state.params["matcher"]["kernel"].shape == (d, hidden)
    assert objective.dropout_from == config["epochs"] // 3
    schedule = make_schedule(**config["schedule"], epochs=config["epochs"], steps_per_epoch=70)
    assert schedule.share(0, np.zeros(10)) <= 1
    assert 0 < schedule.share(70 * config["epochs"] - 1, np.zeros(10)) <= 0.1
    quota = config["sampler"]["quota"]
    assert quota == (() if "market" in argument else (config["batch_size"] // 3,) * 3)
    make_sampler(config, classes=40)


def test_one_domain_is_left_out():
    get = load("gmn").get_config
    for target in ("plaza", "station", "mall", "campus"):
        data = get(f"synthetic,target={target}").data
        assert data.test == (f"synthetic_people/{target}",)
        assert len(data.train) == 3
        assert not {*data.train} & {*data.test}
    assert get("synthetic").data == get("synthetic,target=station").data
    with pytest.raises(ValueError, match="unknown domain 'square' in target=square; valid: "):
        get("synthetic,target=square")
    with pytest.raises(ValueError, match="target names a test domain of 'synthetic'"):
        get("market1501,target=mall")
    with pytest.raises(ValueError, match="target=mall and target=plaza are mutually exclusive"):
        get("synthetic,target=mall,target=plaza")


def test_the_rows_of_gmns_ablation_differ_in_its_losses_alone():
    get = lambda row: load("gmn").get_config(f"synthetic{row}").to_dict()  # noqa: E731
    rows = {row: get(row) for row in (",baseline", ",mnet", ",dp", "")}
    parts = {
        row: tuple(config["objective"].pop(k) > 0 for k in ("gmn", "dropout", "pic"))
        for row, config in rows.items()
    }
    assert parts[",mnet"] == (True, False, False)
    assert parts[",dp"] == (True, True, False)
    assert parts[""] == (True, True, True)
    assert not parts[",baseline"][0]
    assert not parts[",baseline"][2]
    assert rows[",mnet"] == rows[",dp"] == rows[""]
    assert rows[",baseline"]["model"].pop("matcher") == {"name": "embedding", "metric": "cosine"}
    rows[""]["model"].pop("matcher")
    assert rows[",baseline"] == rows[""]
    for argument, message in (
        ("synthetic,mnet,dp", "mnet and dp are mutually exclusive; give one"),
        ("market1501,ibn_a,resnet101", "ibn_a and resnet101: each names a network"),
    ):
        with pytest.raises(ValueError, match=message):
            load("gmn").get_config(argument)


def test_perturbed_pairs_follow_the_number_of_epochs():
    config = load("gmn").get_config("market1501")
    assert (config.epochs, config.objective.dropout_from) == (60, 20)
    config.epochs = 120
    assert config.to_dict()["objective"]["dropout_from"] == 40
    config.objective.dropout_from = 7
    assert config.to_dict()["objective"]["dropout_from"] == 7


@pytest.mark.parametrize(
    "argument", deep("", "market1501", "market1501,x0_5", "synthetic,debug", but=[""])
)
def test_osnet_search(argument):
    config = load("osnet_search").get_config(argument).to_dict()
    model = make_model(**config["model"], classes=10)
    assert hasattr(model.backbone, "draw")
    drawn = model.draw(config["epochs"] - 1, jax.random.key(0))["drawn"]["backbone"]
    assert drawn["temperature"] == (2.5 if "debug" in argument else 1)
    make_optimizer(**config["optim"])
    assert config["freeze_epochs"] == 0


def make_sampler(config, classes):
    options = {key: value for key, value in config["sampler"].items() if "graph" not in key}
    labels = np.repeat(np.arange(classes), 4)
    sets = 2 if options["alternate"] else len(options["quota"])
    return samplers.make_sampler(
        labels=labels,
        batch_size=config["batch_size"],
        seed=0,
        sources=labels % sets if sets > 1 else None,
        **options,
    )


@pytest.mark.parametrize("recipe", configs.recipes())
@pytest.mark.parametrize("argument", ["market", "synthetic,debag", "market1501,vgg16"])
def test_unknown_arguments_list_the_valid_ones(recipe, argument):
    with pytest.raises(ValueError, match="valid: "):
        configs.get(f"{recipe}:{argument}")


def test_recipes_are_found_by_name_and_by_path(tmp_path):
    assert {"gmn", "osnet", "osnet_search", "qaconv", "qaconv_gs"} <= {*configs.recipes()}
    assert "common" not in configs.recipes()
    named = configs.get("qaconv:market1501,small")
    assert named == configs.get(f"{configs.FOLDER / 'qaconv.py'}:market1501,small")
    assert named.data.train == ("market1501",)
    with pytest.raises(ValueError, match="unknown recipe 'qaconv_sg'; valid: qaconv_"):
        configs.get("qaconv_sg:synthetic")
    with pytest.raises(FileNotFoundError, match="expected a recipe"):
        configs.get(f"{tmp_path}/other.py")
    own = tmp_path / "own.py"
    for source, message in (
        ("def get_config(:", "SyntaxError"),
        ("import nothing_like_it", "No module named"),
        ("config = 1", "expected a function get_config"),
        ("def get_config(arg=''): return {}", "expected a ConfigDict"),
        ("def get_config(arg=''): return undefined", "NameError"),
    ):
        own.write_text(source)
        with pytest.raises(ValueError, match=message):
            configs.get(str(own))


def test_the_settings_of_a_run_are_those_of_its_recipe(tmp_path):
    config = configs.get("qaconv_ms:market1501,multi,debug")
    record = {"config": json.loads(config.to_json()), "seed": 0, "runs": []}
    (tmp_path / "config.json").write_text(json.dumps(record))
    assert configs.get(str(tmp_path)).to_dict() == config.to_dict()
    del record["config"]["init_expects"]  # as an older run
    (tmp_path / "config.json").write_text(json.dumps(record))
    assert configs.get(str(tmp_path)).to_dict() == config.to_dict() | {"init_expects": ""}


@pytest.mark.parametrize("recipe", configs.recipes())
def test_every_setting_has_a_rule_and_a_comment(recipe):
    for argument in ("synthetic", "market1501,debug"):
        config = configs.get(f"{recipe}:{argument}")
        resolved(config)  # and its values obey the rules
        lines = configs.commented(config, recipe).splitlines()
        bare = [line for line in lines if "  # " not in line]
        assert not bare
        assert len(lines) == len(list(leaves(config)))


def test_the_rules_are_of_settings_that_there_are():
    config = common.base("synthetic")
    config.schedule.warmup_epochs = 0  # gmn alone has it
    for path in RULES:
        assert value_at(config, path) is not None or path in {
            "init_from", "data.dir", "data.prepared_dir", "eval.memory_dir",
        }  # fmt: skip


@pytest.mark.parametrize("recipe", configs.recipes())
def test_a_recipe_that_starts_from_published_weights_says_so(recipe):
    expects = configs.get(f"{recipe}:market1501").init_expects
    assert expects == ("" if recipe in ("osnet_search", "drawn") else "ImageNet")
    scratch = [",scratch"] if recipe == "osnet" else []
    for argument in ("synthetic", "market1501,small", "market1501,debug"):
        assert configs.get(f"{recipe}:{argument}").init_expects == ""
    for option in scratch:
        assert configs.get(f"{recipe}:market1501{option}").init_expects == ""
