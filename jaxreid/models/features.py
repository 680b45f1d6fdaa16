"""Features: the interface between necks, which make them, and matchers, which compare them."""

import dataclasses
from collections.abc import Mapping

KINDS = ("map", "embedding")


@dataclasses.dataclass(frozen=True)
class Features:
    """Kind of the features of an image, and the parts that they consist of.

    Attributes:
        kind: "map" ([B, h, w, d], local features) or "embedding" ([B, d]).
        parts: channels of each part of a map, by name, in the order in which they lie side by side;
            0 where the backbone decides (all parts are equally wide then). Empty for features that
            are compared as they are.
        shared: channels after the parts, to be compared along with each of them.
        reaches: positions that the template of a part sees on each side of its own, by name, in the
            order of the parts.
    """

    kind: str
    parts: Mapping[str, int] = dataclasses.field(default_factory=dict)
    shared: int = 0
    reaches: Mapping[str, int] = dataclasses.field(default_factory=dict)

    @property
    def words(self) -> str:
        """A noun for messages: "maps", "maps in parts" or "embeddings"."""
        return f"{self.kind}s in parts" if self.parts else f"{self.kind}s"
