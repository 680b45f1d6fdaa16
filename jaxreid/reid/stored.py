"""Evaluation of features or scores in a file: of a model, or from elsewhere."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from jaxreid.evaluation.feature_file import StoredFeatures, StoredScores, read_stored
from jaxreid.evaluation.feature_table import features_of_table, scores_of_table
from jaxreid.evaluation.results import Result
from jaxreid.evaluation.run import digest_of
from jaxreid.models.model import abstract_variables, make_model
from jaxreid.places import place
from jaxreid.reid.evaluating import check_ranked, evaluate_model
from jaxreid.reid.loaded import ReID
from jaxreid.reid.loading import load

# Parts of a model besides its matcher; none of them is computed.
_AROUND = {"backbone": {"name": "resnet18"}, "neck": {"name": "pooled"}, "height": 64, "width": 32}
_NOTHING: dict[str, Any] = {"params": {}, "batch_stats": {}}
# Settings of `eval` that compare images which no score of a query and the gallery compares.
_OF_FEATURES = ("rerank", "expand", "multi_query", "shortlist")


def evaluate_features(
    features: str | os.PathLike,
    *,
    table: str | os.PathLike | None = None,
    model: str | os.PathLike | None = None,
    metric: str | None = None,
    workdir: str | os.PathLike | None = None,
    ranked: str | None = None,
    **settings: Any,
) -> dict[str, Result]:
    """Evaluate features in a file.

    Args:
        features: file of `ReID.evaluate(save_features=...)`; with `table`, an array [N, d] or
            [N, h, w, d] from elsewhere (.npy, or `features` of .npz and .safetensors).
        table: table with one row for each row of `features` (`evaluation.feature_table`): person,
            split (query, gallery), and optionally camera, time, path.
        model: model whose matcher compares them, as for `load`; needed if the matcher has learned
            parameters.
        metric: "cosine" or "euclidean" for embeddings, instead of the matcher; "cosine" by default
            for those from elsewhere.
        workdir: folder to which the results are also written, as those of a run.
        ranked: pages of ranked lists in `workdir`, as for `ReID.evaluate`.
        **settings: settings of `eval`, such as `rerank=True`.

    Returns:
        Results by set and variant, as `ReID.evaluate`.

    Raises:
        ValueError, OSError: a file cannot be read, or does not fit the model or the settings.
    """
    _check_computed(settings, "features")
    messages: list[str] = []
    if table is None:
        stored = read_stored(place(features), StoredFeatures)
    else:
        stored, messages = features_of_table(place(features), place(table))
    check_ranked(ranked, workdir, stored)
    reid = _matcher_of(stored, model, metric, str(features))
    return _evaluated(reid, stored, messages, workdir, ranked, settings)


def evaluate_scores(
    scores: str | os.PathLike,
    *,
    table: str | os.PathLike | None = None,
    metric: str | None = None,
    workdir: str | os.PathLike | None = None,
    ranked: str | None = None,
    **settings: Any,
) -> dict[str, Result]:
    """Evaluate scores in a file; larger is more similar.

    Args:
        scores: file of `ReID.evaluate(save_scores=...)`; with `table`, an array [Q, G] from
            elsewhere (.npy, or `scores` of .npz and .safetensors): a row for each query of the
            table and a column for each image of its gallery, in their order there.
        table: table of the images, as for `evaluate_features`.
        metric: of scores from elsewhere, for TLift: "cosine", or "euclidean" for the squared
            distance with a minus.
        workdir: folder to which the results are also written, as those of a run.
        ranked: pages of ranked lists in `workdir`, as for `ReID.evaluate`.
        **settings: settings of `eval` that need scores alone, such as `tlift=True`.

    Returns:
        Results by set and variant, as `ReID.evaluate`.

    Raises:
        ValueError, OSError: a file cannot be read, or does not fit the settings.
    """
    _check_computed(settings, "scores")
    wanted = {**settings, "multi_query": settings.get("multi_query", "none") != "none"}
    if others := [name for name in _OF_FEATURES if wanted.get(name)]:
        raise ValueError(
            f"{' and '.join(others)} cannot be computed from scores of queries and gallery alone: "
            "evaluate features (jaxreid evaluate --features=FILE)."
        )
    if table is None and metric is not None:
        raise ValueError("a file of jaxreid records the metric of its scores; expected no metric.")
    messages: list[str] = []
    if table is None:
        stored = read_stored(place(scores), StoredScores)
    else:
        stored, messages = scores_of_table(place(scores), place(table))
    if settings.get("tlift") and stored.card is None and metric is None:
        raise ValueError(
            "TLift takes similarities, and the metric of these scores is not known: expected "
            "--metric=cosine, or --metric=euclidean for squared distances with a minus."
        )
    check_ranked(ranked, workdir, stored)
    card = stored.card or {
        **_AROUND,
        "matcher": {"name": "embedding", "metric": metric or "cosine"},
    }
    reid = ReID(card, _NOTHING, path=place(scores), step=stored.step)
    return _evaluated(reid, stored, messages, workdir, ranked, settings)


def _check_computed(settings: Mapping[str, Any], kind: str) -> None:
    if computed := [name for name in ("flip", "dtype") if settings.get(name)]:
        raise ValueError(
            f"{' and '.join(computed)} cannot be set for {kind} that are computed already: set "
            f"it where they are computed (jaxreid evaluate RUN --save-{kind}=FILE)."
        )


def _evaluated(
    reid: ReID,
    stored: StoredFeatures | StoredScores,
    messages: Sequence[str],
    workdir: str | os.PathLike | None,
    ranked: str | None,
    settings: Mapping[str, Any],
) -> dict[str, Result]:
    for message in messages:
        print(message)
    if workdir is not None:
        place(workdir).mkdir(parents=True, exist_ok=True)
    tests = {stored.name: stored.splits}
    return evaluate_model(reid, tests, workdir, {**stored.settings, **settings}, stored, ranked)


def _matcher_of(
    stored: StoredFeatures, model: str | os.PathLike | None, metric: str | None, where: str
) -> ReID:
    """Return a model that can compare the features, perhaps without weights of anything else."""
    shape = stored.features.shape[1:]
    if model is not None and metric is not None:
        raise ValueError("a model and a metric are given; expected one way to compare features.")
    if model is not None:
        reid = load(model)
        if reid.feature_shape != shape:
            raise ValueError(
                f"{where} holds features {list(shape)} of an image; {model} compares "
                f"{list(reid.feature_shape)}. Name the model that they were computed with."
            )
        digest = stored.model.get("model_digest")
        if stored.card is not None and digest != digest_of(reid.variables):
            raise ValueError(
                f"{where} holds features of the weights {digest}, and {model} holds "
                f"{digest_of(reid.variables)}: name the step that they were computed with, as in "
                f"RUN/checkpoints/{stored.step or 500}, or compute them again."
            )
        return reid
    if metric is None and stored.card is not None:
        card = stored.card
        if abstract_variables(make_model(**card))["params"].get("matcher"):
            raise ValueError(
                f"{where} holds features that the matcher {card['matcher']['name']!r} compares, "
                "whose weights are not in the file: name the model, as in jaxreid evaluate RUN "
                f"--features={where}."
            )
    else:
        card = {**_AROUND, "matcher": {"name": "embedding", "metric": metric or "cosine"}}
    if len(shape) != 1:
        raise ValueError(
            f"{where} holds feature maps {list(shape)}, and a metric compares embeddings [d]: name "
            f"a model that compares them, as in jaxreid evaluate RUN --features={where}."
        )
    return ReID(card, _NOTHING, path=place(where), step=stored.step)
