"""TFDS builder of the embedded data set `synthetic_people`."""

import dataclasses
import io
from collections.abc import Iterator

import tensorflow_datasets as tfds

from jaxreid.data import synthetic
from jaxreid.data.sets.builders.features import image_features


@dataclasses.dataclass(eq=False, kw_only=True)
class SyntheticConfig(tfds.core.BuilderConfig):
    """One domain at one size; see `jaxreid.data.synthetic.plan` for the numbers.

    Attributes:
        domain: plaza, station, mall or campus.
        train_ids: identities of the training split.
        test_ids: identities of the query and gallery splits.
        images_per_id: pictures of an identity, on average.
        distractors: pictures of other people in the gallery.
        seed: other seeds give other people.
    """

    domain: str
    train_ids: int = synthetic.TRAIN_IDS
    test_ids: int = synthetic.TEST_IDS
    images_per_id: int = synthetic.IMAGES_PER_ID
    distractors: int = synthetic.DISTRACTORS
    seed: int = 0

    def plan(self) -> dict[str, list]:
        """Returns the planned pictures by split."""
        return synthetic.plan(
            self.domain,
            train_ids=self.train_ids,
            test_ids=self.test_ids,
            images_per_id=self.images_per_id,
            distractors=self.distractors,
            seed=self.seed,
        )


def make_config(
    domain: str,
    *,
    train_ids: int = synthetic.TRAIN_IDS,
    test_ids: int = synthetic.TEST_IDS,
    images_per_id: int = synthetic.IMAGES_PER_ID,
    distractors: int = synthetic.DISTRACTORS,
    seed: int = 0,
) -> SyntheticConfig:
    """Returns the configuration of a domain at any size.

    Its name, which is also the folder of the prepared data, is the domain followed by every option
    that is not the default one: `plaza-train_ids=1000-seed=3`.

    Args:
        domain: plaza, station, mall or campus.
        train_ids: identities of the training split.
        test_ids: identities of the query and gallery splits.
        images_per_id: pictures of an identity, on average; at least 4.
        distractors: pictures of other people in the gallery.
        seed: other seeds give other people.

    Raises:
        ValueError: the domain is unknown or a number is too small.
    """
    given = {
        "train_ids": train_ids,
        "test_ids": test_ids,
        "images_per_id": images_per_id,
        "distractors": distractors,
        "seed": seed,
    }
    synthetic.check(domain, **given)
    defaults = {field.name: field.default for field in dataclasses.fields(SyntheticConfig)}
    other = [f"{key}={value}" for key, value in given.items() if value != defaults[key]]
    return SyntheticConfig(
        name="-".join([domain, *other]),
        description=f"Domain {domain}" + (f" with {', '.join(other)}." if other else "."),
        domain=domain,
        **given,
    )


class Builder(tfds.core.GeneratorBasedBuilder):
    """People drawn by code: splits train, query and gallery in Market-1501's protocol."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First version."}
    BUILDER_CONFIGS = [make_config(domain) for domain in synthetic.DOMAINS]

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(features=image_features())

    def _split_generators(self, dl_manager):
        planned = self.builder_config.plan()
        return {split: self._generate_examples(chosen) for split, chosen in planned.items()}

    def _generate_examples(self, planned) -> Iterator[tuple[str, dict]]:
        config = self.builder_config
        for sighting in synthetic.draw_all(config.domain, planned, seed=config.seed):
            yield (
                sighting.name,
                {
                    "image": io.BytesIO(sighting.image),  # a file, so that TFDS keeps its bytes
                    "name": sighting.name,
                    "pid": sighting.pid,
                    "camid": sighting.camid,
                    "time": sighting.time,
                },
            )
