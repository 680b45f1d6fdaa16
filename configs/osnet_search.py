"""The search that found OSNet-AIN (Zhou et al., TPAMI 2021, arXiv 1910.06827, Section 3.3).

    python -m jaxreid.main --config=osnet_search --workdir=runs/search
    python -m jaxreid.main --workdir=runs/found \
        --config=osnet:synthetic,architecture=runs/search/architecture.json

A super-network holds four candidates for each of six blocks. Layer weights and candidate weights
are trained together. Every epoch writes `architecture.json` (the best candidates so far) and
`architecture.png` (candidate shares over time). The argument is `dataset[,option...]`: data set
`synthetic` (embedded, the default) or `market1501`; width `x0_75`, `x0_5` or `x0_25`; `small`
(recipe of the embedded data, on any data; our values); `debug` (runs in seconds).
"""

from ml_collections import ConfigDict

from jaxreid.configs import common, osnet


def get_config(arg: str = "synthetic") -> ConfigDict:
    chosen = common.parse(arg, ("small", *osnet.WIDTHS, "debug"), one_of=[osnet.WIDTHS])
    config = common.base(chosen.dataset)
    osnet.published(config)
    osnet.generalise(config)
    config.init_expects = ""  # starts from random weights
    config.freeze_epochs = 0
    # The published search, run on MSMT17 and eight GPUs.
    config.model.backbone = ConfigDict(
        {
            "name": f"osnet_search_{osnet.width_of(chosen)}",
            "temperature": 10.0,  # initial Gumbel-softmax temperature of the candidates
            "temperature_factor": 0.5,  # factor of a drop
            "temperature_every": 20,  # epochs between drops
            "temperature_floor": 1.0,  # lower bound
        }
    )
    config.model.neck.affine = False  # like the normalisation layers of the super-network
    config.batch_size = 512
    config.epochs = 120
    config.optim.update(name="sgd", lr=0.1, backbone_lr=0.1, nesterov=False)

    if "small" in chosen:
        osnet.small(config)
        config.model.backbone.temperature_every = 2
        config.epochs = 12  # about half as many epochs: a step costs as much as four OSNet steps
    if "debug" in chosen:
        common.few(config)
        config.model.neck.channels = 16
        config.model.backbone.temperature_every = 1
    return config.lock()
