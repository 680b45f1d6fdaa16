"""The class memory: what a write keeps, and for whom."""

import jax.numpy as jnp
import numpy as np

from jaxreid.training.memory import PAD_TO, ClassMemory


def feature(*values):
    return jnp.array(values, jnp.float32).reshape(-1, 1, 1, 1)


def test_a_new_memory_is_empty_and_padded():
    memory = ClassMemory.create(PAD_TO + 1, (2, 1, 3))
    assert memory.feature.shape == (2 * PAD_TO, 2, 1, 3)
    assert not memory.feature.any()
    assert not memory.valid.any()


def test_the_last_row_of_a_repeated_label_wins():
    memory = ClassMemory.create(4, (1, 1, 1))
    memory = memory.write(feature(1, 2, 3, 4), jnp.array([2, 0, 2, 2]))
    np.testing.assert_array_equal(memory.feature[:4, 0, 0, 0], [2, 0, 4, 0])
    np.testing.assert_array_equal(memory.valid[:4], [True, False, True, False])
    memory = memory.write(feature(9), jnp.array([2]))
    np.testing.assert_array_equal(memory.feature[:4, 0, 0, 0], [2, 0, 9, 0])


def test_parts_together_equal_the_whole():
    whole = ClassMemory.create(PAD_TO, (1, 1, 1))
    half = PAD_TO // 2
    rows, labels = feature(1, 2, 3, 4), jnp.array([half, 3, half - 1, half])
    parts = [
        ClassMemory(whole.feature[a : a + half], whole.valid[a : a + half]).write(rows, labels, a)
        for a in (0, half)
    ]
    whole = whole.write(rows, labels)
    np.testing.assert_array_equal(jnp.concatenate([p.feature for p in parts]), whole.feature)
    np.testing.assert_array_equal(jnp.concatenate([p.valid for p in parts]), whole.valid)
    assert whole.valid.sum() == 3
