"""Traces of training steps."""

import jax
import jax.numpy as jnp
import pytest

from jaxreid.runs.profile import SKIPPED, Profile


@pytest.mark.parametrize("steps", [2, 50])
def test_a_trace_is_written_also_by_a_run_that_ends_within_it(tmp_path, steps):
    step = jax.jit(lambda x: x + 1)
    with Profile(tmp_path, steps) as profile:
        messages = [profile.after(step(jnp.ones(()))) for _ in range(SKIPPED + 3)]
    said = [(n, m) for n, m in enumerate(messages, 1) if m]
    assert len(list(tmp_path.glob("profile/**/*.xplane.pb"))) == 1
    assert [n for n, _ in said] == ([SKIPPED + 2] if steps == 2 else [])
    assert all(f"2 steps are traced in {tmp_path}/profile" in m for _, m in said)


def test_nothing_is_traced_by_default(tmp_path):
    with Profile(tmp_path, 0) as profile:
        assert not any(profile.after(jnp.ones(())) for _ in range(SKIPPED + 2))
    assert not list(tmp_path.iterdir())
