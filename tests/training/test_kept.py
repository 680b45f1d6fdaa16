"""The best weights of a training: which of them stay, and what cannot be chosen."""

import jax
import numpy as np
import pytest
from one_layer import ONE_LAYER

from jaxreid.models.model import abstract_variables, make_model
from jaxreid.runs.log import Writer, event
from jaxreid.training.kept import Best
from jaxreid.weights.file import read_selection
from jaxreid.weights.loading import load_weights

CARD = {
    "backbone": ONE_LAYER,
    "neck": {"name": "pooled"},
    "matcher": {"name": "embedding"},
    "height": 32,
    "width": 16,
}
TESTS = {"mall": {}, "plaza": {}}


def test_the_best_weights_so_far_stay(tmp_path, capsys):
    writer = Writer(tmp_path, resume_at=0)
    abstract = abstract_variables(make_model(**CARD))

    def evaluated(choice, step, model="", **values):
        """Weights full of the step are evaluated; return which are in the file then."""
        for name, value in values.items():
            row = {"mAP": value, "rank1": 1 - value} | ({"model": model} if model else {})
            writer.append(event("eval", step, row, name))
        variables = jax.tree.map(lambda x: np.full(x.shape, step, np.float32), abstract)
        best = Best(tmp_path, CARD, choice, TESTS, every_epochs=1)
        best.keep(variables, writer, step=step, model=model)
        if not (tmp_path / "best.safetensors").exists():
            return None
        held, _ = load_weights(tmp_path / "best.safetensors", CARD, whole=True)
        selection = read_selection(tmp_path / "best.safetensors")
        assert selection.step == jax.tree.leaves(held)[0].flat[0]
        return selection.step, selection.set, selection.metric, selection.value

    assert evaluated("mall:mAP", 0, mall=0.9) is None  # nothing has been learned
    assert evaluated("mall:mAP", 2, mall=0.3, plaza=0.9) == (2, "mall", "mAP", 0.3)
    assert evaluated("mall:mAP", 4, mall=0.3) == (2, "mall", "mAP", 0.3)  # the first of equals
    assert evaluated("mall:mAP", 6, mall=0.2) == (2, "mall", "mAP", 0.3)
    assert evaluated("mall:mAP", 8, "averaged", mall=0.4) == (8, "mall", "mAP", 0.4)
    assert "the averaged weights, chosen by mAP of mall, 40.0% at step 8" in capsys.readouterr().out
    # Resumed at an evaluation whose file a kill prevented: the event is there already.
    writer.append(event("eval", 9, {"mAP": 0.5, "rank1": 0.5}, "mall"))
    assert evaluated("mall:mAP", 9) == (9, "mall", "mAP", 0.5)
    # What another choice left is replaced.
    assert evaluated("plaza:rank1", 10, plaza=0.9) == (10, "plaza", "rank1", pytest.approx(0.1))


@pytest.mark.parametrize(
    ("choice", "every_epochs", "message"),
    [
        ("mal:mAP", 1, "unknown test set in checkpoint.best.* 'mal'; valid: mall, plaza"),
        ("mAP", 1, "unknown test set in checkpoint.best, which is SET:METRIC"),
        ("mall:map", 1, "unknown metric in checkpoint.best.* 'map'; valid: mAP"),
        ("mall:mAP", 0, "but eval.every_epochs is 0.*--config.eval.every_epochs=5"),
    ],
)
def test_a_choice_without_something_to_choose_from_is_refused(
    tmp_path, choice, every_epochs, message
):
    with pytest.raises(ValueError, match=message):
        Best(tmp_path, CARD, choice, TESTS, every_epochs=every_epochs)
