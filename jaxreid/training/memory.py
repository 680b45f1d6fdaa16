"""Class memory: the latest feature map of every training identity."""

import flax.struct
import jax
import jax.numpy as jnp

# Any device count that divides this can restore any checkpoint.
PAD_TO = 128


@flax.struct.dataclass
class ClassMemory:
    """Gallery with one feature map per class.

    Inside a sharded step, the arrays are one device's part: C / devices consecutive classes.

    Attributes:
        feature: [C, h, w, d] float32; zero for unseen classes and padding.
        valid: [C] bool; the class has been seen.

    Source: Liao and Shao, ECCV 2020, Section 3.3; valid flags since QAConv 1.1.
    """

    feature: jax.Array
    valid: jax.Array

    @classmethod
    def create(cls, num_classes: int, shape: tuple[int, ...]) -> "ClassMemory":
        """Create an empty memory.

        Args:
            num_classes: training identities; rounded up to a multiple of `PAD_TO`.
            shape: [h, w, d] of one feature map.
        """
        padded = -(-num_classes // PAD_TO) * PAD_TO
        return cls(jnp.zeros((padded, *shape), jnp.float32), jnp.zeros((padded,), bool))

    def filled(self, num_classes: int, feature: jax.Array, valid: jax.Array) -> "ClassMemory":
        """Return a memory with the maps of another one of the same identities.

        Args:
            num_classes: training identities, without padding.
            feature: [num_classes, h, w, d] float.
            valid: [num_classes] bool.

        Raises:
            ValueError: the other memory has a different shape.
        """
        if feature.shape != (expected := (num_classes, *self.feature.shape[1:])):
            raise ValueError(
                f"the class memory to start from has shape {feature.shape}, expected {expected}; "
                f"leave it out: --config.init_skip=\"('memory',)\"."
            )
        return ClassMemory(
            self.feature.at[:num_classes].set(feature), self.valid.at[:num_classes].set(valid)
        )

    def write(
        self, feature: jax.Array, label: jax.Array, first_class: jax.Array | int = 0
    ) -> "ClassMemory":
        """Return the memory after a batch: each class keeps its latest map.

        Args:
            feature: [B, h, w, d] float.
            label: [B] int32, class indices over the whole memory.
            first_class: class of row 0 of this part of the memory.

        Returns:
            The new memory. A class that occurs several times in the batch keeps its last row.
            Labels outside this part are ignored; the device that holds them writes them.

        Differs: like the original, this overwrites without momentum. In the original, the order of
            repeated writes is undefined on a GPU. On two GPUs it kept only the first half of each
            batch, an artefact of data parallelism that is not reproduced.
        """
        rows = self.valid.shape[0]
        later = jnp.triu(label[:, None] == label[None, :], k=1).any(1)
        mine = ~later & (label >= first_class) & (label < first_class + rows)
        # Row `rows` is out of range, so that mode="drop" discards it.
        row = jnp.where(mine, label - first_class, rows)
        feature = jax.lax.stop_gradient(feature).astype(self.feature.dtype)
        return ClassMemory(
            feature=self.feature.at[row].set(feature, mode="drop"),
            valid=self.valid.at[row].set(True, mode="drop"),
        )
