"""Which images of the same person a query may find: the junk rules.

Every rule puts images into groups; a gallery image of the query's person in the query's group is
junk and left out of the ranking, one in another group is a match. The metrics know groups only, and
call them by the most usual: cameras.
"""

import numpy as np

from jaxreid.data.split import Split
from jaxreid.names import check_name

# camera: same person and same camera; same-image: the query's own file; none: nothing is junk.
RULES = ("camera", "same-image", "none")


def choose_rule(
    query_camid: np.ndarray, gallery_camid: np.ndarray, query_name, gallery_name
) -> tuple[str, str]:
    """The junk rule that fits the data.

    Args:
        query_camid: [Q] int; negative where the camera is not known.
        gallery_camid: [G] int, the same.
        query_name: Q names of files.
        gallery_name: G names of files.

    Returns:
        The rule, and a sentence that says why, empty for "camera".
    """
    unknown = int((query_camid < 0).sum() + (gallery_camid < 0).sum())
    if not unknown:
        return "camera", ""
    total = len(query_camid) + len(gallery_camid)
    shared = len(set(query_name) & set(gallery_name))
    if shared:
        what = f"{shared} queries are in the gallery too, and do not find themselves"
        rule = "same-image"
    else:
        what, rule = "every image of the same person counts, also of the same camera", "none"
    return rule, f"{unknown} of {total} images have no camera: junk rule {rule!r}, {what}."


def junk_groups(
    rule: str, query_camid: np.ndarray, gallery_camid: np.ndarray, query_name, gallery_name
) -> tuple[np.ndarray, np.ndarray]:
    """The groups of a rule, to be given to the metrics in the place of cameras.

    Args:
        rule: one of `RULES`.
        query_camid: [Q] int.
        gallery_camid: [G] int.
        query_name: Q names of files.
        gallery_name: G names of files.

    Returns:
        [Q] and [G] int.

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
    """Matches and junk of every query, before anything is scored.

    Args:
        query_pid: [Q] int.
        query_group: [Q] int.
        gallery_pid: [G] int.
        gallery_group: [G] int.

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
    """The junk rule of a test set, and what its user should know before it is evaluated.

    Args:
        name: of the set.
        query: Q images.
        gallery: G images.
        junk: a rule, or "auto" for the one that fits.

    Returns:
        The rule, and sentences.

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
    place = "in their own camera" if rule == "camera" else "in themselves"
    if not matches.any():
        advice = ""
        if rule == "camera" and (query.camid < 0).any():
            advice = " Some cameras are unknown: --config.eval.junk=auto."
        elif rule == "camera" and len(np.unique([*query.camid, *gallery.camid])) == 1:
            advice = (
                " All images are of one camera: --config.eval.junk=none counts matches within it."
            )
        raise ValueError(
            f"{name}: none of the {len(matches)} queries has a match in the gallery; "
            f"{int((own > 0).sum())} have some {place}, which the junk rule {rule!r} leaves out. "
            f"There is nothing to evaluate.{advice}"
        )
    if count:
        messages.append(f"{name}: {count} of {len(matches)} queries have matches only {place}.")
    if absent := int(((matches == 0) & (own == 0)).sum()):
        messages.append(f"{name}: {absent} of {len(matches)} queries have no match in the gallery.")
    if len(messages) > bool(why):
        messages[-1] += " They are left out of the averages."
    return rule, messages
