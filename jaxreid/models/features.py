"""Features: the interface between necks, which produce them, and matchers, which compare them."""

import dataclasses
from collections.abc import Mapping

KINDS = ("map", "embedding")


@dataclasses.dataclass(frozen=True)
class Features:
    """Layout of an image's features: their kind and their parts.

    Attributes:
        kind: "map" ([B, h, w, d], local features) or "embedding" ([B, d]).
        parts: channels of each part of a map, by name, in concatenation order. 0 if the backbone
            determines the width; all parts are then equally wide. Empty for features that are
            compared as a whole.
        shared: channels after the parts, compared together with every part.
        reaches: radius in positions of each part's template kernel, by name, in the same order.
    """

    kind: str
    parts: Mapping[str, int] = dataclasses.field(default_factory=dict)
    shared: int = 0
    reaches: Mapping[str, int] = dataclasses.field(default_factory=dict)

    @property
    def words(self) -> str:
        """Plural noun for messages: "maps", "maps in parts" or "embeddings"."""
        return f"{self.kind}s in parts" if self.parts else f"{self.kind}s"
