"""Calibration of a loaded model: finding the one it came with, and fitting one on own images."""

import pathlib
from typing import Any

from jaxreid.evaluation.calibration import Calibration
from jaxreid.evaluation.calibration_file import CALIBRATION
from jaxreid.evaluation.fitting import fit
from jaxreid.evaluation.reliability import Reliability, reliabilities
from jaxreid.evaluation.run import TestSets, digest_of, make_evaluation
from jaxreid.weights.file import read_calibration

_HOW = "Fit one on your own cameras: jaxreid calibrate MODEL --data=SET."
# Scores of `ReID.score`.
_PLAIN: dict[str, Any] = {
    "flip": False,
    "dtype": "float32",
    "rerank": False,
    "tlift": False,
    "shortlist": 0,
    "expand": 0,
    "multi_query": "none",
}


def find_calibration(path: pathlib.Path | None, variables: Any) -> tuple[Calibration | None, str]:
    """Return the calibration of a run or of a weights file, and why there is none.

    Args:
        path: work directory or weights file; None for a model from memory.
        variables: weights of the model, to which it must belong.

    Raises:
        ValueError: a calibration cannot be read.
    """
    none = f"No probabilities: this model has no calibration. {_HOW}"
    if path is None:
        return None, none
    if path.is_dir():
        file = path / CALIBRATION
        if not file.is_file():
            return None, none
        calibration, where = Calibration.read(file), f"{file}"
    else:
        text = read_calibration(path)
        if text is None:
            return None, none
        where = f"the calibration in {path}"
        calibration = Calibration.from_text(text, where)
    if calibration.model_digest != (digest := digest_of(variables)):
        return None, (
            f"No probabilities: {where} is of the weights {calibration.model_digest}, and these "
            f"are {digest}. {_HOW}"
        )
    return calibration, ""


def read_for(path: pathlib.Path, reid: Any) -> Calibration:
    """Read the calibration of a `ReID` from a file.

    Raises:
        OSError, ValueError: it cannot be read, or is of other weights.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}; expected a calibration (.json). {_HOW}")
    calibration = Calibration.read(path)
    if calibration.model_digest != (digest := digest_of(reid.variables)):
        raise ValueError(
            f"{path} is of the weights {calibration.model_digest}, and {reid.path} holds {digest}: "
            f"scores of two models cannot be compared. {_HOW}"
        )
    return calibration


def calibrate(reid: Any, tests: TestSets) -> tuple[Calibration, dict[str, dict[str, Reliability]]]:
    """Fit a calibration of a `ReID` on test sets, and judge it (`reliabilities`).

    Raises:
        ValueError: a set has no pairs of two people, or no query with a match.
    """
    settings = {**reid.settings.get("eval", {}), **_PLAIN}
    scorer, evaluation = make_evaluation(reid.model, reid.mesh, settings)
    scorer = scorer.bind(reid.variables)
    pairs, fingerprints = {}, {}
    for name, splits in tests.items():
        results, protocol, messages = evaluation.on(
            scorer, splits["query"], splits["gallery"], name
        )
        for message in messages:
            print(message)
        (result,) = results.values()
        if result.pairs is None:
            raise ValueError(f"{name} shows a single person; expected two or more to calibrate on.")
        pairs[name], fingerprints[name] = result.pairs, protocol["fingerprint"]
    digest = digest_of(reid.variables)
    return fit(pairs, fingerprints, model_digest=digest, own=True), reliabilities(pairs)
