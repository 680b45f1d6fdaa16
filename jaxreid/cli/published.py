"""Published results of the methods, by what they were trained on.

Values are mAP and rank-1 in percent, of models that start from ImageNet weights; "all" is training
on all images of MSMT17. CUHK03-NP is tested on detected boxes.
"""

from typing import NamedTuple

MARKET, MSMT, CUHK, DUKE = "market1501", "msmt17", "cuhk03_np", "dukemtmcreid"
ALL, RANDPERSON = "msmt17?combine_all=True", "randperson"
# Sets that those who hold them may use, but that nobody is asked to get.
WITHDRAWN = (DUKE,)

Values = dict[str, tuple[float, float]]


class Training(NamedTuple):
    """One training, with its published results.

    Attributes:
        train: training sets.
        values: mAP and rank-1 by test set.
        options: of the recipe's argument.
        settings: further settings.
        word: protocol that names the training and test sets; "" for `train` and `values`.
    """

    train: tuple[str, ...]
    values: Values
    options: str = ""
    settings: tuple[str, ...] = ()
    word: str = ""


class Table(NamedTuple):
    """Published results of one method.

    Attributes:
        recipe: name of its recipe.
        source: where the values are from.
        trainings: by a name for the data sets that were trained on.
    """

    recipe: str
    source: str
    trainings: dict[str, Training]


def _of(train: str, options: str = "", settings: tuple[str, ...] = (), **values) -> Training:
    names = {"M": MARKET, "MS": MSMT, "C3": CUHK, "D": DUKE}
    return Training(
        tuple(names.get(name, name) for name in train.split("+")),
        {names[name]: pair for name, pair in values.items()},
        options,
        settings,
    )


_TRAPEZOID = ("--config.eval.average_precision=trapezoid",)
_SMALL = {"prid2011": "prid2011?split=0..9", "grid": "grid?split=0..9", "viper": "viper?split=0..9"}

TABLES = {
    "qaconv": Table(
        "qaconv",
        "QAConv 1.0, Liao and Shao, ECCV 2020: ResNet-50; mAP by the trapezoid rule",
        {
            "M": _of("M", "", _TRAPEZOID, D=(28.7, 48.8), MS=(7.0, 22.6), C3=(8.6, 9.9)),
            "D": _of("D", "", _TRAPEZOID, M=(27.2, 58.6), MS=(8.9, 29.0), C3=(6.8, 7.9)),
            "all": _of(ALL, "", _TRAPEZOID, M=(43.1, 72.6), D=(52.6, 69.4), C3=(22.6, 25.3)),
        },
    ),
    "qaconv_1.2": Table(
        "qaconv",
        "QAConv 1.2, its maintainers' list of changes: ResNet-50-IBN-b",
        {
            "M": _of("M", "v1.2", MS=(14.7, 40.9), C3=(14.2, 13.3)),
            "MS": _of("MS", "v1.2", M=(44.2, 72.9), C3=(16.2, 15.6)),
            "all": _of(ALL, "v1.2", M=(52.3, 79.5)),
        },
    ),
    "qaconv_gs": Table(
        "qaconv_gs",
        "QAConv-GS, Liao and Shao, CVPR 2022, and its README: ResNet-50-IBN-b",
        {
            "M": _of("M", C3=(18.1, 19.1), MS=(17.2, 45.9)),
            "MS": _of("MS", C3=(20.6, 20.9), M=(49.5, 79.1)),
            "all": _of(ALL, C3=(28.0, 27.6), M=(56.9, 82.4)),
            "RP": _of(RANDPERSON, C3=(16.1, 18.4), M=(46.7, 76.7), MS=(15.5, 45.1)),
        },
    ),
    "transmatcher": Table(
        "transmatcher",
        "TransMatcher, Liao and Shao, NeurIPS 2021, and its README: ResNet-50-IBN-b",
        {
            "M": _of("M", C3=(21.4, 22.2), MS=(18.4, 47.3)),
            "MS": _of("MS", C3=(22.5, 23.7), M=(52.0, 80.1)),
            "all": _of(ALL, C3=(30.7, 31.9), M=(58.4, 82.6)),
            "RP": _of(RANDPERSON, C3=(16.0, 17.1), M=(49.1, 77.3), MS=(17.7, 48.3)),
        },
    ),
    "qaconv_ms": Table(
        "qaconv_ms",
        "QAConv-MS, Chen et al., TCSVT 2024; which of its settings they used is not known",
        {
            "M": _of("M", MS=(19.9, 49.7), C3=(24.9, 26.6)),
            "MS": _of("MS", M=(54.5, 83.0), C3=(28.5, 31.0)),
            "D+MS+C3": _of("D+MS+C3", "multi", M=(65.2, 87.1)),
            "M+D+C3": _of("M+D+C3", "multi", MS=(25.9, 57.7)),
            "M+D+MS": _of("M+D+MS", "multi", C3=(40.3, 44.0)),
        },
    ),
    "gmn": Table(
        "gmn",
        "GMN, Qi et al., TCSVT 2024, as its group lists it; boxes of CUHK03 and splits of small "
        "sets are not known",
        {
            "p1": Training(
                (),
                {
                    _SMALL["prid2011"]: (75.4, 66.0),
                    _SMALL["grid"]: (64.8, 54.4),
                    _SMALL["viper"]: (77.7, 69.0),
                },
                word="p1",
            ),
            **{
                f"{protocol}->{name}": Training((), {name: pair}, word=f"{protocol}->{name}")
                for protocol, pairs in {
                    "p2": {CUHK: (43.2, 42.1), MSMT: (24.4, 50.9), MARKET: (72.3, 87.1)},
                    "p3": {CUHK: (49.5, 50.1), MSMT: (24.8, 51.0), MARKET: (75.9, 89.0)},
                }.items()
                for name, pair in pairs.items()
            },
        },
    ),
    "osnet": Table(
        "osnet",
        "OSNet x1.0 and OSNet-AIN x1.0, Zhou et al., torchreid's model zoo",
        {
            "M": _of("M", M=(82.6, 94.2)),
            "D": _of("D", D=(70.2, 87.0)),
            "MS": _of("MS", MS=(43.8, 74.9)),
            "M, ain": _of("M", "ain", D=(30.5, 52.4)),
            "D, ain": _of("D", "ain", M=(30.6, 61.0)),
            "all": _of(ALL, "", M=(37.5, 66.6), D=(45.3, 66.0)),
            "all, ain": _of(ALL, "ain", ("--config.epochs=50",), M=(43.3, 70.1), D=(52.7, 71.1)),
            "MS+D+C3, ain": _of("MS+D+C3", "ain", ("--config.epochs=50",), M=(45.8, 73.3)),
        },
    ),
}
