"""Evaluation of a loaded model: its test sets, and the files of its results."""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxreid.data.sets import check_trusted_sets, load_sets
from jaxreid.evaluation.array_file import check_suffix
from jaxreid.evaluation.feature_file import (
    SETTINGS,
    Stored,
    StoredFeatures,
    StoredScores,
    write_stored,
)
from jaxreid.evaluation.given_scores import GivenScores
from jaxreid.evaluation.ranked_pages import parse_choice, write_pages
from jaxreid.evaluation.results import Result
from jaxreid.evaluation.run import (
    TestSets,
    described,
    encode,
    make_evaluation,
    report,
    warnings_of,
)
from jaxreid.evaluation.scoring import Scorer
from jaxreid.places import place
from jaxreid.runs.log import Writer


def load_tests(
    settings: Mapping[str, Any],
    path: pathlib.Path | None,
    test: Sequence[str] | str | None,
    *,
    dir: str | os.PathLike | None,
    prepared_dir: str | os.PathLike | None,
    identities: int | None,
) -> TestSets:
    """Load test sets, for a model with these settings of its run; see `ReID.evaluate`."""
    data = dict(settings.get("data", {}))
    names = [test] if isinstance(test, str) else list(test or data.get("test") or ())
    if not names:
        raise ValueError(
            "no test set; expected names of data sets, as in test=['synthetic_people/mall']."
        )
    if not test:
        check_trusted_sets(names, path)
    _, tests = load_sets(
        train=None,
        test=names,
        dir=dir or data.get("dir"),
        prepared_dir=prepared_dir or data.get("prepared_dir"),
        identities=data.get("identities", 0) if identities is None else identities,
        skip_broken=data.get("skip_broken", False),
    )
    return tests


def evaluate_model(
    reid: Any,
    tests: TestSets,
    workdir: str | os.PathLike | None,
    settings: Mapping[str, Any],
    stored: StoredFeatures | StoredScores | None = None,
    ranked: str | None = None,
    keep: np.ndarray | None = None,
) -> dict[str, Result]:
    """Evaluate a `ReID` on test sets in memory; see `ReID.evaluate`.

    `stored` holds the features or scores of the only test set, if they are known, and `keep` [Q, G]
    takes its scores.
    """
    scorer: Scorer | GivenScores
    scorer, evaluation = make_evaluation(
        reid.model, reid.mesh, {**reid.settings.get("eval", {}), **settings}
    )
    scorer = scorer.bind(reid.variables)
    if isinstance(stored, StoredScores):
        scorer = GivenScores(scorer, stored.scores)
    features = None if stored is None else stored.features
    warnings = []
    if reid.path is not None and reid.step is not None:
        warnings = warnings_of(reid.path, tests)
    if workdir is None:
        evaluated = {}
        for warning in warnings:
            print(warning)
        for name, splits in tests.items():
            evaluated[name], _, messages = evaluation.on(
                scorer, splits["query"], splits["gallery"], name, features, keep
            )
            for message in messages:
                print(message)
    else:
        workdir = place(workdir)
        # A run keeps the name that its training gave to step 0.
        loaded = reid.step is None or reid.settings.get("init_from")
        initial = "loaded" if loaded else "untrained"
        writer = Writer(workdir, resume_at=None)
        for message in [f"evaluating {m}" for m in reid.messages] + warnings:
            writer.say(message)
        evaluated = evaluation.run(
            scorer,
            tests,
            writer,
            workdir,
            step=reid.step or 0,
            again=True,
            initial=initial,
            stored=stored,
            keep=keep,
        )
        report(writer, workdir, initial=initial)
        if ranked is not None and jax.process_index() == 0:
            for name, results in evaluated.items():
                first = next(iter(results.values()))
                pages = write_pages(workdir, name, dict(tests[name]), first, ranked)
                writer.say(f"{name}: pages of ranked lists: {len(pages)}, in {pages[0].parent}")
    return {
        name if i == 0 else f"{name} {variant}": result
        for name, results in evaluated.items()
        for i, (variant, result) in enumerate(results.items())
    }


def check_ranked(
    ranked: str | None, workdir: str | os.PathLike | None, stored: Stored | None = None
) -> None:
    """Raise ValueError, before anything is computed, if ranked lists cannot be drawn."""
    if ranked is None:
        return
    parse_choice(ranked)
    if workdir is None:
        raise ValueError("pictures of queries need a folder: expected workdir (--out=DIR).")
    if stored is not None and not stored.pictured:
        raise ValueError(
            f"the images of {stored.name} are not available: expected their files where the "
            "file or the table names them, to draw pictures of queries."
        )


def evaluate_and_save(
    reid: Any,
    tests: TestSets,
    workdir: str | os.PathLike | None,
    settings: Mapping[str, Any],
    ranked: str | None,
    *,
    features: str | os.PathLike | None,
    scores: str | os.PathLike | None,
) -> dict[str, Result]:
    """Evaluate, and write features and scores of the only test set; see `ReID.evaluate`."""
    if features is None and scores is None:
        return evaluate_model(reid, tests, workdir, settings, ranked=ranked)
    files = [None if file is None else place(file) for file in (features, scores)]
    for file in files:
        if file is not None:
            check_suffix(file)
    if files[0] == files[1]:
        raise ValueError(
            f"features and scores would both be written to {files[0]}; expected two files."
        )
    if len(tests) != 1:
        kinds = " and ".join(k for k, f in zip(("features", "scores"), files, strict=True) if f)
        raise ValueError(
            f"{kinds} of {len(tests)} test sets ({', '.join(tests)}) cannot be written to one "
            "file; name one of them, as in --test market1501."
        )
    stored = _encoded(reid, tests, settings)
    _save(files[0], stored)
    keep = None
    if files[1] is not None:
        keep = np.empty((len(stored.query), len(stored.gallery)), np.float32)
    results = evaluate_model(reid, tests, workdir, settings, stored, ranked, keep)
    if keep is not None:
        _save(files[1], stored.with_scores(keep))
    return results


def _encoded(reid: Any, tests: TestSets, settings: Mapping[str, Any]) -> StoredFeatures:
    ((name, splits),) = tests.items()
    settings = {**reid.settings.get("eval", {}), **settings}
    scorer, evaluation = make_evaluation(reid.model, reid.mesh, settings)
    evaluation.check(tests)
    scorer = scorer.bind(reid.variables)
    return StoredFeatures(
        name=name,
        features=encode(scorer, **splits, title=name),
        query=splits["query"],
        gallery=splits["gallery"],
        card=reid.card,
        model=described(reid.variables),
        step=reid.step,
        settings={key: settings[key] for key in SETTINGS if key in settings},
    )


def _save(path: pathlib.Path | None, stored: StoredFeatures | StoredScores) -> None:
    if path is not None and jax.process_index() == 0:
        write_stored(path, stored)
        shape = list(getattr(stored, stored.kind).shape)
        print(f"wrote the {stored.kind} {shape} of {stored.name} to {path}")
