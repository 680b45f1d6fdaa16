"""Break important lines, one at a time, and check that a test fails each time.

    python tools/check_mutations.py
    python tools/check_mutations.py memory resume

Each mutation replaces one piece of code in a copy of the repository, where the test that guards it
must fail. Exit status 1 if one survives. docs/testing.md lists them.
"""

import argparse
import dataclasses
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence

from jaxreid.names import check_name

ROOT = pathlib.Path(__file__).resolve().parent.parent
_RANKING, _TESTS = "jaxreid/evaluation/ranking", "tests/evaluation/ranking"


@dataclasses.dataclass(frozen=True)
class Mutation:
    """A piece of code, what it is replaced by, and the test that notices.

    Attributes:
        name: short name.
        fault: the fault in words.
        file: file of the package.
        old: the code, which occurs once in the file.
        new: the faulty code.
        test: file and function of the test.
    """

    name: str
    fault: str
    file: str
    old: str
    new: str
    test: str


MUTATIONS = (
    Mutation(
        "lift",
        "TLift lowers the scores of companions",
        f"{_RANKING}/temporal_lifting.py",
        "own *= _nearness(counts, gallery_time[columns], sigma, own.dtype) + alpha",
        "own *= alpha - _nearness(counts, gallery_time[columns], sigma, own.dtype)",
        f"{_TESTS}/test_temporal_lifting.py::test_by_hand",
    ),
    Mutation(
        "junk",
        "images of the query's own camera count as matches",
        f"{_RANKING}/protocol.py",
        "return query_camid, gallery_camid\n",
        "return query_camid, gallery_camid + 1\n",
        f"{_TESTS}/test_protocol.py::test_rules_say_what_is_junk",
    ),
    Mutation(
        "ranks",
        "junk keeps its places in the ranking",
        f"{_RANKING}/metrics.py",
        "_count_at_least(worst_first, row) - _count_at_least(worst_first, row[junk])",
        "_count_at_least(worst_first, row)",
        f"{_TESTS}/test_metrics.py::test_images_of_the_same_person_on_the_same_camera_are_left_out",
    ),
    Mutation(
        "variance",
        "batch normalisation keeps the biased variance",
        "jaxreid/ops/normalize.py",
        "_unbiased(variance, count).astype(old_variance.dtype)",
        "variance.astype(old_variance.dtype)",
        "tests/ops/test_normalize.py::test_running_variance_is_unbiased",
    ),
    Mutation(
        "devices",
        "statistics are those of one device alone",
        "jaxreid/ops/normalize.py",
        "return values if axis_name is None else jax.lax.psum(values, axis_name)",
        "return values",
        "tests/ops/test_normalize.py::test_moments_ignore_masked_elements_on_any_number_of_devices",
    ),
    Mutation(
        "memory",
        "of several maps of a class, the memory keeps the first",
        "jaxreid/training/memory.py",
        "jnp.triu(label[:, None] == label[None, :], k=1)",
        "jnp.tril(label[:, None] == label[None, :], k=-1)",
        "tests/training/test_memory.py::test_the_last_row_of_a_repeated_label_wins",
    ),
    Mutation(
        "resume",
        "a resumed epoch begins with its first images",
        "jaxreid/data/pipeline.py",
        "index = order[start:, part]",
        "index = order[: steps - start, part]",
        "tests/data/test_pipeline.py::test_start_skips_without_decoding",
    ),
    Mutation(
        "reranking",
        "re-ranking gives both distances the same weight",
        f"{_RANKING}/k_reciprocal.py",
        "row += (1 - self.weight) * self._jaccard(code, postings, query)",
        "row += self.weight * self._jaccard(code, postings, query)",
        f"{_TESTS}/test_k_reciprocal.py::test_equals_the_classical_loop",
    ),
    Mutation(
        "hardest",
        "the triplet loss takes the easiest positive",
        "jaxreid/training/losses.py",
        "jnp.where(same & ~itself, logit, jnp.inf).min(1)",
        "jnp.where(same & ~itself, logit, -jnp.inf).max(1)",
        "tests/training/test_losses.py::test_the_hardest_pairs_are_one_of_each_kind_for_each_image",
    ),
    Mutation(
        "unseen",
        "the focal loss counts classes that were never seen",
        "jaxreid/training/objectives/class_memory.py",
        "jnp.where(valid, jnp.square(miss) * cross_entropy, 0)",
        "(jnp.square(miss) * cross_entropy)",
        "tests/training/test_objectives.py::test_focal_loss_equals_plain_loops",
    ),
)


def mutated(mutation: Mutation, text: str) -> str:
    """Return a file's text with the mutation.

    Raises:
        ValueError: the code is not in the file, or several times.
    """
    if (count := text.count(mutation.old)) != 1:
        raise ValueError(
            f"mutation {mutation.name}: {mutation.file} holds {mutation.old!r} {count} times, "
            "expected once; adapt tools/check_mutations.py to the code."
        )
    return text.replace(mutation.old, mutation.new)


def is_noticed(mutation: Mutation, copy: pathlib.Path) -> bool:
    """Return whether the test fails in a copy of the repository; the copy is restored.

    Raises:
        ValueError: the test fails without the mutation, too, or does not run.
    """
    file = copy / mutation.file
    text = file.read_text()
    if fails(mutation.test, copy):
        raise ValueError(f"{mutation.test} fails without the mutation; expected it to pass.")
    file.write_text(mutated(mutation, text))
    try:
        return fails(mutation.test, copy)
    finally:
        file.write_text(text)


def fails(test: str, copy: pathlib.Path) -> bool:
    """Return whether a test of a copy of the repository fails.

    Raises:
        ValueError: it does not run.
    """
    words = ["-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", test]
    paths = [str(copy), *filter(None, [os.environ.get("PYTHONPATH")])]
    # A changed file of the same size and second would not be compiled again.
    env = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "PYTHONDONTWRITEBYTECODE": "1"}
    ended = subprocess.run(
        [sys.executable, *words], cwd=copy, env=env, capture_output=True, text=True
    )
    if ended.returncode not in (0, 1):
        raise ValueError(f"{test} did not run:\n{ended.stdout}{ended.stderr}")
    return ended.returncode == 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the tool; return its exit status."""
    names = [one.name for one in MUTATIONS]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help=f"{', '.join(names)}; default: all")
    chosen = parser.parse_args(arguments).names or names
    survived = []
    with tempfile.TemporaryDirectory() as folder:
        copy = pathlib.Path(folder) / "copy"
        out = shutil.ignore_patterns(".git", ".venv", "__pycache__", ".*_cache", ".hypothesis")
        try:
            for name in chosen:
                check_name(name, names, "mutation")
            shutil.copytree(ROOT, copy, ignore=out)
            for one in MUTATIONS:
                if one.name in chosen:
                    noticed = is_noticed(one, copy)
                    print(f"{one.name}: {'noticed by' if noticed else 'SURVIVED'} {one.test}")
                    survived += [] if noticed else [one.name]
        except (ValueError, OSError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
    print(f"{len(chosen) - len(survived)} of {len(chosen)} noticed")
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
