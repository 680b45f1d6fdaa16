"""Model with its weights, ready to use; returned by `jaxreid.load`."""

import functools
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import PartitionSpec as P

from jaxreid.data.images.pillow import ImageSource
from jaxreid.evaluation.calibration import Calibration
from jaxreid.evaluation.results import Result
from jaxreid.evaluation.run import TestSets
from jaxreid.mesh import make_mesh, shardings
from jaxreid.models.model import feature_shape, make_model
from jaxreid.places import is_remote, place
from jaxreid.reid.activation import Activations, activations_of, make_energy
from jaxreid.reid.calibrated import calibrate, find_calibration
from jaxreid.reid.evaluating import check_ranked, evaluate_and_save, evaluate_model, load_tests
from jaxreid.reid.explanation import (
    Explanation,
    explained,
    make_explain,
    matches_with,
    parts_shown,
)
from jaxreid.reid.gallery import Filter, Gallery, gallery_of
from jaxreid.reid.groups import Groups, make_groups
from jaxreid.reid.hits import Hits, listed
from jaxreid.reid.inputs import checked_features, people_in
from jaxreid.reid.scorers import Scorers, fitting
from jaxreid.reid.search import find, ranked_by
from jaxreid.runs.log import progress
from jaxreid.weights.file import save_weights

# Number of images from which a progress bar is shown.
LONG = 256


class ReID:
    """Person re-identification model with its weights, returned by `jaxreid.load`.

    Attributes:
        card: model, as keywords of `make_model`.
        model: Flax modules.
        variables: {"params", "batch_stats"}.
        path: source of the weights.
        step: number of updates in the run; None for a weights file.
        settings: resolved configuration of the run; {} for a weights file.
        messages: messages about what was read.
        mesh: the devices.
        contributions: contributions of cells to scores (`explanation.make_explain`).
        energy: squared maps of the backbone (`activation.make_energy`).
    """

    def __init__(
        self,
        card: Mapping[str, Any],
        variables: Mapping[str, Any],
        *,
        path: pathlib.Path | None = None,
        step: int | None = None,
        settings: Mapping[str, Any] | None = None,
        messages: Sequence[str] = (),
    ) -> None:
        self.card, self.path, self.step = dict(card), path, step
        self.settings, self.messages = dict(settings or {}), tuple(messages)
        self.model = make_model(**self.card)
        self.mesh = make_mesh()
        self.variables = jax.device_put(dict(variables), shardings(self.mesh, P()))
        self._scorers = Scorers(self.model, self.mesh, self.variables)
        self.contributions = make_explain(self.model, self.variables)
        self.energy = make_energy(self.model)

    def __repr__(self) -> str:
        parts = (self.card[part]["name"] for part in ("backbone", "neck", "matcher"))
        where = f"step {self.step} of {self.path}" if self.step is not None else f"{self.path}"
        return f"ReID({', '.join(parts)}; {self.model.height}x{self.model.width}; {where})"

    def embed(
        self,
        images: ImageSource | Sequence[ImageSource],
        *,
        xyxy: Any = None,
        names: Sequence[str] | None = None,
    ) -> np.ndarray:
        """Return features of images; a warning is logged where they are wider than high.

        Args:
            images: one or more paths, bytes of image files, PIL images or uint8 arrays [h, w, 3],
                of any size. Each shows a person cropped from a frame.
            xyxy: boxes around people, [N, 4] left, top, right, bottom in pixels, or an object with
                them as `xyxy`, such as `supervision.Detections`. `images` is then one frame, and
                the features are those of its boxes, clipped at its edges.
            names: names of the images, for messages.

        Returns:
            [N, h, w, d] float32 feature maps or [N, d] embeddings, depending on the model; N is 1
            for one image.

        Raises:
            ValueError, OSError: an image cannot be read, or nothing of a box is inside of the
                frame; the message names it.
        """
        images, names = people_in(images, xyxy, names)
        if not images:
            return np.zeros((0, *self.feature_shape), np.float32)
        scorer = self._scorers.of(batch_size=fitting(len(images), 64))
        with progress("features", total=len(images), least=LONG) as bar:
            return scorer.encode(images, names, bar)

    def score(self, query: np.ndarray, gallery: np.ndarray) -> np.ndarray:
        """Score all pairs of features, as `embed` returns them.

        Returns:
            [Q, G] float32; larger is more similar.

        Raises:
            ValueError: features do not have this model's shape, or they or the scores are not
                finite numbers.
        """
        query, gallery = (checked_features(x, self.feature_shape) for x in (query, gallery))
        tiles = {
            "query_tile": fitting(len(query), 32),
            "gallery_tile": fitting(len(gallery), 512),
        }
        scores = self._scorers.of(**tiles).scores(query, gallery)
        if np.isnan(scores).any():
            raise ValueError(
                f"{np.isnan(scores).sum()} of {scores.size} scores are NaN: the features are too "
                "large for float32, or the weights are damaged."
            )
        return scores

    def rank(
        self,
        query: ImageSource,
        gallery: Sequence[ImageSource],
        *,
        top: int = 10,
        features: np.ndarray | None = None,
    ) -> Hits:
        """Rank the gallery images that are most similar to a query.

        Args:
            query: an image, as for `embed`.
            gallery: G images.
            top: length of the list.
            features: [G, ...] features of the gallery, if known.

        Returns:
            Ranked list, best first; ties in gallery order.
        """
        return ranked_by(self, query, listed(gallery), top=top, features=features)

    def group(self, images: Sequence[ImageSource], **options: Any) -> Groups:
        """Group images of unknown people by person; see `groups.make_groups` for the options.

        Without `calibration=`, that of the model makes probabilities of its scores if it has one.
        """
        options.setdefault("calibration", self.calibration)
        return make_groups(self, images, **options)

    @functools.cached_property
    def calibration(self) -> Calibration | None:
        """Calibration of the run or weights file; None without. May be replaced.

        Raises:
            ValueError, OSError: it cannot be read.
        """
        return find_calibration(self.path, self.variables)[0]

    def calibrate(
        self,
        test: Sequence[str] | str | None = None,
        *,
        dir: str | os.PathLike | None = None,
        prepared_dir: str | os.PathLike | None = None,
    ) -> Calibration:
        """Calibrate on test sets, such as photos of your own cameras, and keep it as `calibration`.

        Its `save` writes a file, and `save` of the model a weights file that carries it.

        Args:
            test: names of data sets; those of the run by default.
            dir: as for `evaluate`.
            prepared_dir: as for `evaluate`.

        Raises:
            ValueError, OSError: a set cannot be read or shows too few people.
        """
        self.calibration, _ = calibrate(self, self.load_tests(test, dir, prepared_dir))
        return self.calibration

    def search(
        self,
        query: ImageSource | Sequence[ImageSource],
        gallery: Gallery | Sequence[Any],
        *,
        top: int = 50,
        threshold: float | str | None = None,
        prior: float | None = None,
        fusion: str = "mean",
        where: Filter | None = None,
    ) -> Hits:
        """Search a gallery for one person.

        Args:
            query: one or more photos of the person, as for `embed`; they count together.
            gallery: images, or entries with cameras and times (`reid.gallery`), or what
                `open_gallery` returns. Files that are a query themselves are left out.
            top: length of the list, at most.
            threshold: lowest score; or "score:X", "prob:0.9" (probability) or "fmr:1e-3" (rate of
                other people who score as high), which need a calibration.
            prior: probability of the same person before looking; 1 / (G + 1) for G searched images
                by default: one of them, or none, may be expected.
            fusion: "mean" or "max" of the scores of several photos.
            where: cameras and times to search.

        Returns:
            Ranked list, best first, with probabilities if there is a calibration.

        Raises:
            ValueError, OSError: an image cannot be read, or an argument is out of its range.
        """
        photos = listed(query)
        hits, notes = find(
            self,
            photos,
            gallery_of(gallery),
            top=top,
            threshold=threshold,
            prior=prior,
            fusion=fusion,
            where=where or Filter(),
        )
        pairs = lambda photo, images: matches_with(self, photos[photo], images)  # noqa: E731
        resolution = 0.0 if self.calibration is None else self.calibration.resolution
        explain = pairs if self.explains else None
        return Hits(query, hits, notes=notes, resolution=resolution, explain=explain)

    def explain(
        self,
        query: ImageSource,
        *gallery: ImageSource,
        parts: Sequence[str] | None = None,
        reference: np.ndarray | None = None,
        titles: Sequence[str] | None = None,
        right: Sequence[bool | None] | None = None,
    ) -> Explanation:
        """Explain the score of a query with each gallery image by local matches.

        Args:
            query: an image, as for `embed`.
            *gallery: at least one image.
            parts: parts to show, for a matcher with parts; None for all.
            reference: [R, ...] features of other images. Contributions are then measured relative
                to the average contribution of the same cells with these images.
            titles: titles of the query and of the gallery images; their names by default.
            right: for each gallery image, whether it shows the query's person; None if unknown.

        Raises:
            ValueError: the matcher compares whole images, or has no such part.
        """
        return explained(
            self,
            [query, *gallery],
            parts=parts,
            reference=reference,
            titles=titles,
            right=right,
        )

    @property
    def explains(self) -> bool:
        """Whether `explain` can show local matches."""
        return hasattr(self.model.matcher, "explain")

    def activations(self, images: ImageSource | Sequence[ImageSource]) -> Activations:
        """Return where in images the features come from, for any model.

        Args:
            images: one or more images, as for `embed`.

        Returns:
            Maps [N, h, w] float32 in [0, 1]: sums over the channels of the squared maps of the
            backbone, as shares of the largest of each image. `save` draws them.

        Raises:
            ValueError, OSError: an image cannot be read.

        Source: Zagoruyko and Komodakis, ICLR 2017, arXiv 1612.03928, Section 3.1 (F_sum^2); shown
            for OSNet by Zhou et al., ICCV 2019.
        """
        return activations_of(self, images)

    def check_explains(self, parts: Sequence[str] | None = None) -> Mapping[str, int]:
        """Return the parts that `explain` can show, with their reach; {} without parts.

        Raises:
            ValueError: the matcher compares whole images, or does not have one of `parts`.
        """
        return parts_shown(self, parts)

    def evaluate(
        self,
        test: Sequence[str] | None = None,
        *,
        dir: str | os.PathLike | None = None,
        prepared_dir: str | os.PathLike | None = None,
        identities: int | None = None,
        workdir: str | os.PathLike | None = None,
        save_features: str | os.PathLike | None = None,
        save_scores: str | os.PathLike | None = None,
        ranked: str | None = None,
        **settings: Any,
    ) -> dict[str, Result]:
        """Evaluate the model on test sets.

        Args:
            test: names of data sets, as for `jaxreid.datasets.load`; those of the run by default.
            dir: folder of data sets that are read from files; that of the run by default.
            prepared_dir: folder of prepared copies; that of the run by default.
            identities: number of people per set, 0 for all; as in the run by default.
            workdir: work directory to which the results are also written.
            save_features: file (.safetensors, .npz) for the features of the only test set, which
                `jaxreid.evaluate_features` evaluates.
            save_scores: file (.safetensors, .npz) for its scores [Q, G], which are held in memory
                and which `jaxreid.evaluate_scores` evaluates.
            ranked: draw pages of ranked lists in `workdir`: of "all" queries, the "worst:N" or
                "random:N".
            **settings: settings of `eval`, such as `rerank=True`; the others are those of the run.

        Returns:
            Results of the first variant by set; of further variants by "<set> <variant>", such as
            "market1501 rerank".

        Raises:
            ValueError, OSError: a set cannot be read, or a setting is invalid.
        """
        check_ranked(ranked, workdir)
        tests = self.load_tests(test, dir, prepared_dir, identities)
        files = {"features": save_features, "scores": save_scores}
        return evaluate_and_save(self, tests, workdir, settings, ranked, **files)

    def load_tests(
        self,
        test: Sequence[str] | str | None = None,
        dir: str | os.PathLike | None = None,
        prepared_dir: str | os.PathLike | None = None,
        identities: int | None = None,
    ) -> TestSets:
        """Load test sets as `evaluate` does: splits "query" and "gallery" by set."""
        folders = {"dir": dir, "prepared_dir": prepared_dir}
        return load_tests(self.settings, self.path, test, **folders, identities=identities)

    def evaluate_on(
        self, tests: TestSets, *, workdir: str | os.PathLike | None = None, **settings: Any
    ) -> dict[str, Result]:
        """Evaluate, as `evaluate`, on test sets in memory: splits "query" and "gallery" by set."""
        return evaluate_model(self, tests, workdir, settings)

    def save(self, path: str | os.PathLike) -> None:
        """Write the model as a weights file (.safetensors) that `load` reads.

        Raises:
            ValueError, OSError: the suffix is another, or the folder does not exist.
        """
        path = place(path)
        if path.suffix != ".safetensors":
            raise ValueError(f"{path} must end in .safetensors.")
        if not is_remote(path) and not path.absolute().parent.is_dir():
            raise FileNotFoundError(f"folder {path.absolute().parent} does not exist.")
        source = "; ".join(self.messages) or f"{self.path}"
        calibration = None if self.calibration is None else self.calibration.as_json()
        variables = jax.tree.map(np.asarray, self.variables)
        save_weights(path, variables, self.card, source=source, calibration=calibration)

    # Kept: it traces the whole model, and `score` checks every call against it.
    @functools.cached_property
    def feature_shape(self) -> tuple[int, ...]:
        """Shape of one image's features, [h, w, d] or [d]."""
        return feature_shape(self.model, self.variables)
