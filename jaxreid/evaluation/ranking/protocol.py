"""Junk rules: which images of its own person a query may match.

Every rule assigns images to groups. A gallery image of the query's person is junk, and left out of
the ranking, if it is in the query's group; it is a match if it is in another group. The metrics
know only groups, and call them by the most common kind: cameras.
"""

import numpy as np

from jaxreid.data.split import Split
from jaxreid.names import check_name

# Junk by rule. camera: same person, same camera; same-image: the query's own file; none: nothing.
RULES = ("camera", "same-image", "none")


def choose_rule(
    query_camid: np.ndarray, gallery_camid: np.ndarray, query_name, gallery_name
) -> tuple[str, str]:
    """Choose the junk rule that fits the data.

    Cameras are negative where they are unknown; names are those of the files.

    Returns:
        The rule, and a sentence with the reason; the sentence is empty for "camera".
    """
    cameras = np.concatenate([query_camid, gallery_camid])
    unknown = int((cameras < 0).sum())
    if not unknown:
        return "camera", ""
    total = len(cameras)
    shared = len(set(query_name) & set(gallery_name))
    if shared:
        effect = f"{shared} queries are also in the gallery and do not match themselves"
        rule = "same-image"
    else:
        effect, rule = (
            "every image of the same person is a match, even from the same camera",
            "none",
        )
    return (
        rule,
        f"no camera is known for {unknown} of {total} images: junk rule {rule!r}, {effect}.",
    )


def junk_groups(
    rule: str, query_camid: np.ndarray, gallery_camid: np.ndarray, query_name, gallery_name
) -> tuple[np.ndarray, np.ndarray]:
    """Return the groups [Q] and [G] int of a rule, which the metrics take in place of cameras.

    Raises:
        ValueError: an unknown rule.
    """
    check_name(rule, RULES, "junk rule")
    if rule == "camera":
        return query_camid, gallery_camid
    if rule == "none":
        return np.zeros(len(query_name), np.int64), np.ones(len(gallery_name), np.int64)
    names = [*query_name, *gallery_name]
    groups = np.unique(np.array(names), return_inverse=True)[1]
    return groups[: len(query_name)], groups[len(query_name) :]


def count_matches(
    query_pid: np.ndarray,
    query_group: np.ndarray,
    gallery_pid: np.ndarray,
    gallery_group: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Count matches and junk of every query, without scores.

    Returns:
        [Q] int matches (same person, another group) and [Q] int junk (same person, same group).
    """
    people = np.sort(gallery_pid)
    same = np.searchsorted(people, query_pid, "right") - np.searchsorted(people, query_pid, "left")
    pairs = np.stack([np.append(gallery_pid, query_pid), np.append(gallery_group, query_group)], 1)
    code = np.unique(pairs, axis=0, return_inverse=True)[1].ravel()
    junk = np.bincount(code[: len(gallery_pid)], minlength=code.max() + 1)[code[len(gallery_pid) :]]
    return same - junk, junk


def protocol_of(
    name: str, query: Split, gallery: Split, junk: str = "auto"
) -> tuple[str, list[str]]:
    """Return the junk rule of a test set, and messages to report before its evaluation.

    `junk` is a rule, or "auto" for the one that fits.

    Raises:
        ValueError: an unknown rule, an empty query or gallery, or no query has a match.
    """
    if not (len(query.name) and len(gallery.name)):
        raise ValueError(
            f"{name} has {len(query.name)} queries and a gallery of {len(gallery.name)} images; "
            "an evaluation needs at least one of each."
        )
    data = query.camid, gallery.camid, query.name, gallery.name
    rule, why = choose_rule(*data) if junk == "auto" else (junk, "")
    groups = junk_groups(rule, *data)
    matches, own = count_matches(query.pid, groups[0], gallery.pid, groups[1])
    messages = [f"{name}: {why}"] if why else []
    count = int(((matches == 0) & (own > 0)).sum())
    place = "from their own camera" if rule == "camera" else "under their own file name"
    if not matches.any():
        advice = ""
        if rule == "camera" and (query.camid < 0).any():
            advice = " Some cameras are unknown: use --config.eval.junk=auto."
        elif rule == "camera" and own.any():
            advice = (
                " Every person is seen by one camera alone: use --config.eval.junk=none "
                "(jaxreid evaluate: --junk=none) to count matches within a camera."
            )
        elif not own.any():
            advice = " Expected people who are both in the queries and in the gallery."
        raise ValueError(
            f"{name}: none of the {len(matches)} queries has a match in the gallery; "
            f"{int((own > 0).sum())} have images of the same person only {place}, which the junk "
            f"rule {rule!r} excludes. "
            f"There is nothing to evaluate.{advice}"
        )
    if count:
        messages.append(
            f"{name}: {count} of {len(matches)} queries have images of the same person only "
            f"{place}."
        )
    if absent := int(((matches == 0) & (own == 0)).sum()):
        messages.append(f"{name}: {absent} of {len(matches)} queries have no match in the gallery.")
    if len(messages) > bool(why):
        messages[-1] += " They are left out of the averages."
    return rule, messages
