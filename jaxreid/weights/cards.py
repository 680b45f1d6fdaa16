"""Cards of files: checked names, and a description of their differences from the card of a run."""

from collections.abc import Iterator, Mapping
from typing import Any

from jaxreid.models.model import Model, make_model
from jaxreid.names import check_trusted

_LISTED = 5


def model_of(card: Any, source: Any) -> Model:
    """Build the model of a card that was read from a file.

    Args:
        card: unchecked card of the file, of any type.
        source: the file, for messages.

    Raises:
        ValueError: the card describes no model, or names a module that nobody has allowed
            (`names.check_trusted`).
    """
    for kind in ("backbone", "neck", "matcher"):
        part = card.get(kind) if isinstance(card, Mapping) else None
        if isinstance(part, Mapping):
            check_trusted(part.get("name"), kind, source)
    try:
        return make_model(**card)
    # A hostile description can raise anything, as deep nesting does a RecursionError.
    except Exception as error:
        raise ValueError(
            f"{source} has an invalid description of its model ({error}); convert it again."
        ) from error


def difference(held: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Describe how the card of a checkpoint differs from that of the run that would resume it.

    Checkpoints of older versions do not record the content of their training data; it is then not
    compared.

    Args:
        held: card of the checkpoint, plain data.
        now: card of the run.

    Returns:
        A sentence without a full stop; "" for equal cards.
    """
    data, new_data = dict(held.get("trained_on") or {}), dict(now.get("trained_on") or {})
    if "content" not in data:
        new_data.pop("content", None)
    parts = []
    # By content: the name is only their former place.
    if {**data, "name": None} != {**new_data, "name": None}:
        old, new = _size(data), _size(new_data)
        if old == new:
            new = "the same number of other images or people"
        parts.append(f"the training data have changed: {old} in the checkpoint, {new} now")
    rest = [{k: v for k, v in card.items() if k != "trained_on"} for card in (held, now)]
    old_leaves, new_leaves = (dict(_leaves(card)) for card in rest)
    changed = [
        f"{path}: {old_leaves.get(path)!r} in the checkpoint, {new_leaves.get(path)!r} now"
        for path in sorted(old_leaves.keys() | new_leaves.keys())
        if old_leaves.get(path) != new_leaves.get(path)
    ]
    if changed:
        more = f"; and {len(changed) - _LISTED} more" if len(changed) > _LISTED else ""
        parts.append(f"the model differs in {'; '.join(changed[:_LISTED])}{more}")
    return "; ".join(parts)


def _size(data: Mapping[str, Any]) -> str:
    names = data.get("name")
    title = names if isinstance(names, str) else ", ".join(map(str, names or ["no data"]))
    return f"{data.get('identities')} people and {data.get('images')} images of {title}"


def _leaves(card: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(card, Mapping) and card:
        for name, value in card.items():
            yield from _leaves(value, f"{path}.{name}" if path else str(name))
    else:
        yield path, card
