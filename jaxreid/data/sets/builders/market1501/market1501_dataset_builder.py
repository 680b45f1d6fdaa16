"""TFDS builder of Market-1501 from its published folders."""

import dataclasses
import logging
from collections.abc import Iterator

import tensorflow_datasets as tfds

from jaxreid.data.sets import layouts
from jaxreid.data.sets.builders.features import image_features

logger = logging.getLogger(__name__)


@dataclasses.dataclass(eq=False, kw_only=True)
class MarketConfig(tfds.core.BuilderConfig):
    """One prepared form of the data set.

    Attributes:
        time_rule: see `jaxreid.data.sets.layouts.read_market1501`.
        raw: files already listed; None to list them from TFDS's `manual_dir`.
    """

    time_rule: str = "qaconv"
    raw: layouts.RawDataset | None = dataclasses.field(default=None, repr=False)


def make_config(raw: layouts.RawDataset) -> MarketConfig:
    """Returns a configuration whose name tells these files and options from any others.

    Args:
        raw: from `jaxreid.data.sets.layouts.read_market1501`.
    """
    time_rule = raw.options["time_rule"]
    return MarketConfig(name=f"{time_rule}-{raw.fingerprint()}", time_rule=time_rule, raw=raw)


class Builder(tfds.core.GeneratorBasedBuilder):
    """Market-1501: splits train, query and gallery, with the published bytes of each image."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First version."}
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Unpack Market-1501-v15.09.15.zip and give the folder which holds bounding_box_train, "
        "query and bounding_box_test, or the one above."
    )
    BUILDER_CONFIGS = [MarketConfig(name=rule, time_rule=rule) for rule in layouts.TIME_RULES]

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(features=image_features())

    def _split_generators(self, dl_manager):
        raw = self.builder_config.raw
        if raw is None:
            raw = layouts.read_market1501(
                dl_manager.manual_dir, time_rule=self.builder_config.time_rule
            )
            if raw.notice():
                logger.warning(raw.notice())
        return {split: self._generate_examples(images) for split, images in raw.splits.items()}

    def _generate_examples(self, images) -> Iterator[tuple[str, dict]]:
        for image in images:
            layouts.check_image(image.path)
            yield (
                image.name,
                {
                    "image": image.path,  # a path, so that TFDS keeps the file's bytes
                    "name": image.name,
                    "pid": image.pid,
                    "camid": image.camid,
                    "time": image.time,
                },
            )
