"""Evaluation of a loaded model: its test sets, and what is written of the results."""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from jaxreid.data.sets import check_trusted_sets, load_sets
from jaxreid.evaluation.feature_file import (
    SETTINGS,
    StoredFeatures,
    check_suffix,
    write_features,
)
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
    stored: StoredFeatures | None = None,
    ranked: str | None = None,
) -> dict[str, Result]:
    """Evaluate a `ReID` on test sets in memory; see `ReID.evaluate`.

    `stored` holds the features of the only test set, if they are known.
    """
    scorer, evaluation = make_evaluation(
        reid.model, reid.mesh, {**reid.settings.get("eval", {}), **settings}
    )
    scorer = scorer.bind(reid.variables)
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
                scorer, splits["query"], splits["gallery"], name, features
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
    ranked: str | None, workdir: str | os.PathLike | None, stored: StoredFeatures | None = None
) -> None:
    """Raise ValueError, before anything is computed, if ranked lists cannot be drawn."""
    if ranked is None:
        return
    parse_choice(ranked)
    if workdir is None:
        raise ValueError("pictures of queries need a folder: expected workdir (--out=DIR).")
    if stored is not None and not stored.pictured:
        raise ValueError(
            f"the images of {stored.name} are not at hand: expected their files where the "
            "features or the table name them, to draw pictures of queries."
        )


def encode_and_save(
    reid: Any, tests: TestSets, path: str | os.PathLike, settings: Mapping[str, Any]
) -> StoredFeatures:
    """Compute the features of one test set and write them; see `ReID.evaluate`."""
    path = place(path)
    check_suffix(path)
    if len(tests) != 1:
        raise ValueError(
            f"features of {len(tests)} test sets ({', '.join(tests)}) cannot be written to one "
            "file; name one of them, as in --test market1501."
        )
    ((name, splits),) = tests.items()
    settings = {**reid.settings.get("eval", {}), **settings}
    scorer, evaluation = make_evaluation(reid.model, reid.mesh, settings)
    evaluation.check(tests)
    scorer = scorer.bind(reid.variables)
    stored = StoredFeatures(
        name,
        encode(scorer, **splits, title=name),
        **splits,
        card=reid.card,
        model=described(reid.variables),
        step=reid.step,
        settings={key: settings[key] for key in SETTINGS if key in settings},
    )
    if jax.process_index() == 0:
        write_features(path, stored)
        print(f"wrote the features of {len(stored.features)} images to {path}")
    return stored
