"""Class memory: the newest feature map of every training identity."""

import flax.struct
import jax
import jax.numpy as jnp

PAD_TO = 128  # any device count that divides this can restore any checkpoint


@flax.struct.dataclass
class ClassMemory:
    """A gallery with one feature map per class.

    Inside a sharded step the arrays are one device's part: C / devices consecutive classes.

    Attributes:
        feature: [C, h, w, d] float32; zero until the class is seen, and for padding.
        valid: [C] bool; the class has been seen.

    Source: Liao and Shao, ECCV 2020, Section 3.3; valid flags from QAConv 1.1 on.
    """

    feature: jax.Array
    valid: jax.Array

    @classmethod
    def create(cls, num_classes: int, shape: tuple[int, ...]) -> "ClassMemory":
        """An empty memory.

        Args:
            num_classes: training identities; rounded up to a multiple of `PAD_TO`.
            shape: [h, w, d] of one feature map.
        """
        padded = -(-num_classes // PAD_TO) * PAD_TO
        return cls(jnp.zeros((padded, *shape), jnp.float32), jnp.zeros((padded,), bool))

    def filled(self, num_classes: int, feature: jax.Array, valid: jax.Array) -> "ClassMemory":
        """A memory with the maps of another one of the same identities.

        Args:
            num_classes: training identities, without the padding.
            feature: [num_classes, h, w, d] float.
            valid: [num_classes] bool.

        Raises:
            ValueError: the other memory is of another size.
        """
        if feature.shape != (needed := (num_classes, *self.feature.shape[1:])):
            raise ValueError(
                f"the class memory to start from is {feature.shape}, and this training needs "
                f"{needed}; leave it out: --config.init_skip=\"('memory',)\"."
            )
        return ClassMemory(
            self.feature.at[:num_classes].set(feature), self.valid.at[:num_classes].set(valid)
        )

    def write(
        self, feature: jax.Array, label: jax.Array, first_class: jax.Array | int = 0
    ) -> "ClassMemory":
        """The memory after a batch: each class keeps its newest map.

        Args:
            feature: [B, h, w, d] float.
            label: [B] int32, classes of the whole memory.
            first_class: the class in row 0 of this part of the memory.

        Returns:
            The new memory. A class that occurs more than once in the batch keeps its last row.
            Labels outside this part are left to the device that holds them.

        Differs: the original overwrites without momentum, and so do we; on a GPU the order of its
            repeated writes is undefined. On two GPUs it kept only the first half of each batch, an
            accident of data parallelism that is not reproduced.
        """
        rows = self.valid.shape[0]
        later = jnp.triu(label[:, None] == label[None, :], k=1).any(1)
        mine = ~later & (label >= first_class) & (label < first_class + rows)
        row = jnp.where(mine, label - first_class, rows)  # row `rows` is out of range: dropped
        feature = jax.lax.stop_gradient(feature).astype(self.feature.dtype)
        return ClassMemory(
            feature=self.feature.at[row].set(feature, mode="drop"),
            valid=self.valid.at[row].set(True, mode="drop"),
        )
