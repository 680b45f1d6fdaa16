"""Differences of two cards, in words."""

from jaxreid.weights.cards import difference

DATA = {"name": "market1501", "identities": 4, "images": 16, "digest": "a", "content": "c"}
CARD = {"model": {"height": 384, "neck": {"name": "map"}}, "trained_on": DATA}


def changed(**data):
    return CARD | {"trained_on": DATA | data}


def test_changed_data_and_models_are_said_in_a_sentence():
    assert difference(CARD, CARD) == ""
    assert difference(CARD, changed(name="market1501 elsewhere")) == ""  # they have moved
    assert difference(CARD, changed(identities=6, images=20, digest="b")) == (
        "the training data have changed: 4 people and 16 images of market1501 in the checkpoint, "
        "6 people and 20 images of market1501 now"
    )
    assert difference(CARD, changed(content="d")).endswith(
        "the same number of other images or people now"
    )
    other = CARD | {"model": {"height": 256, "neck": {"name": "pooled", "bn": True}}}
    assert difference(CARD, other) == (
        "the model differs in model.height: 384 in the checkpoint, 256 now; model.neck.bn: None in "
        "the checkpoint, True now; model.neck.name: 'map' in the checkpoint, 'pooled' now"
    )


def test_what_an_older_checkpoint_does_not_record_is_not_compared():
    old = {key: value for key, value in DATA.items() if key != "content"}
    assert difference(CARD | {"trained_on": old}, CARD) == ""
    assert difference(CARD, CARD | {"trained_on": old})
