"""Embedded data set `synthetic_people`: a person re-identification problem drawn by code.

    splits = generate("plaza")
    splits["query"][0].image  # bytes of a JPEG

People are articulated figures of textured tubes (`tubes`, `anatomy`, `figure`), each with hair, an
outfit and a bag (`people`, `wardrobe`, `garments`). They walk past the six cameras of a domain,
alone or in groups (`walks`, `domains`), and each camera degrades the picture in its own way
(`backdrop`, `camera`, `rendering`). NumPy and Pillow only. The same seed gives the same bytes on
every machine: random numbers come from raw generator words (`stream`), pixels from integers and
exact floating-point operations.
"""

from jaxreid.data.synthetic.domains import DOMAINS
from jaxreid.data.synthetic.generation import (
    DISTRACTORS,
    IMAGES_PER_ID,
    RANDOM,
    TEST_IDS,
    TRAIN_IDS,
    Sighting,
    check,
    draw_all,
    generate,
    plan,
)

__all__ = [
    "DISTRACTORS",
    "DOMAINS",
    "IMAGES_PER_ID",
    "RANDOM",
    "TEST_IDS",
    "TRAIN_IDS",
    "Sighting",
    "check",
    "draw_all",
    "generate",
    "plan",
]
