"""synthetic_people: a small, complete person re-identification problem drawn by code.

Methods can be tried and compared on it without a download. Articulated figures with bodies, hair,
outfits and bags walk past cameras, alone or in groups. Some identities wear nearly the same clothes
and differ only in details.

Four domains of six cameras each: `plaza` (summer, hard sun), `station` (winter coats and luggage,
lamps of many colours, noise), `mall` (indoors, smart clothes, better cameras), `campus` (autumn,
students with backpacks, low resolution). They differ in clothing, places, light and camera quality,
so a model loses accuracy from one domain to another.

Splits follow Market-1501: `train` (100 identities), and 50 other identities with one image per
camera in `query` and the others in `gallery`, besides distractors (pid 0: other people and false
alarms of a detector). There are about 12 images of 128 x 64 pixels per identity. `time` is in
seconds on a clock shared by the cameras of a domain. Options set other sizes, up to thousands of
identities; the same options give the same bytes on every machine.
"""

import dataclasses
from collections.abc import Iterator, Sequence

from jaxreid.data import synthetic
from jaxreid.data.sets.source import Record, Source, short_digest
from jaxreid.data.synthetic.walks import Plan
from jaxreid.names import check_name

VERSION = "1.0.0"

_DEFAULTS = {
    "train_ids": synthetic.TRAIN_IDS,
    "test_ids": synthetic.TEST_IDS,
    "images_per_id": synthetic.IMAGES_PER_ID,
    "distractors": synthetic.DISTRACTORS,
    "seed": 0,
    "domains": 0,
}
_CITATION = r"""@misc{jaxreid_synthetic_people,
  title = {synthetic\_people: a person re-identification problem drawn by code},
  note  = {Embedded in jaxreid}
}
"""


def find(
    domain: str,
    *,
    train_ids: int = synthetic.TRAIN_IDS,
    test_ids: int = synthetic.TEST_IDS,
    images_per_id: int = synthetic.IMAGES_PER_ID,
    distractors: int = synthetic.DISTRACTORS,
    seed: int = 0,
    domains: int = 0,
) -> Source:
    """Return the source of people drawn by code, in four domains of six cameras.

    Its prepared copy is named after the domain and all options that differ from their defaults:
    `plaza?train_ids=1000&seed=3`.

    Args:
        domain: plaza, station, mall or campus; or random, for domains that are drawn themselves.
        train_ids: identities of the training split.
        test_ids: identities of the query and gallery splits.
        images_per_id: average number of pictures per identity, at least 4.
        distractors: pictures of other people in the gallery.
        seed: other seeds give other people, and other cameras for random.
        domains: number of domains of random; 0 for one per 25 people.

    Raises:
        ValueError: the domain is unknown or a number is too small.
    """
    title = f"synthetic_people/{domain}".rstrip("/")
    known = [f"synthetic_people/{d}" for d in (*synthetic.DOMAINS, synthetic.RANDOM)]
    check_name(title, known, "domain of a data set")
    options = {
        "train_ids": train_ids,
        "test_ids": test_ids,
        "images_per_id": images_per_id,
        "distractors": distractors,
        "seed": seed,
        "domains": domains,
    }
    planned = synthetic.plan(domain, **options)
    changed = [f"{key}={value}" for key, value in options.items() if value != _DEFAULTS[key]]
    lines = [
        title,
        VERSION,
        *(f"{key}={value}" for key, value in options.items() if key != "domains"),
    ]
    lines += [f"domains={domains}"] * (domains > 0)
    return Source(
        name="synthetic_people",
        config="-".join([domain, *changed]),
        fingerprint=short_digest(lines),
        splits={split: _Drawn(plans, seed) for split, plans in planned.items()},
        # Another seed draws other people, and those of training are never those of a test.
        numbered_anew=True,
        description=__doc__,
        citation=_CITATION,
        version=VERSION,
    )


@dataclasses.dataclass(frozen=True)
class _Drawn:
    """Records drawn while they are iterated."""

    plans: Sequence[Plan] = dataclasses.field(repr=False)
    seed: int

    def __len__(self) -> int:
        return len(self.plans)

    def __iter__(self) -> Iterator[Record]:
        for s in synthetic.draw_all(self.plans, seed=self.seed):
            yield Record(image=s.image, name=s.name, pid=s.pid, camid=s.camid, time=s.time)
