"""Features and scores on a mesh: what is held, what is padded, the best of a gallery."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from people import MODEL
from selection import deep

from jaxreid.evaluation import scoring as module
from jaxreid.evaluation.compiled import make_encode, make_score
from jaxreid.evaluation.scoring import Gallery, Scorer, even_tile
from jaxreid.mesh import make_mesh, to_host
from jaxreid.models.matchers import make_matcher
from jaxreid.models.model import init_variables, make_model


def make(variables, devices=2, query_tile=3, gallery_tile=8, **options):
    mesh = make_mesh(jax.devices()[:devices])
    tiles = {"query_tile": query_tile, "gallery_tile": gallery_tile}
    return Scorer(make_model(**MODEL), mesh, variables, batch_size=8, **tiles, **options)


@pytest.fixture(scope="module")
def variables():
    return init_variables(make_model(**MODEL), 0)


def maps(count, seed=0):
    x = np.random.default_rng(seed).standard_normal((count, 8, 4, 4)).astype(np.float32)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.mark.parametrize("sizes", [(1, 3, 8), (2, 4, 4), (4, 16, 32)])
@pytest.mark.parametrize("count", deep(1, 5, 21, but=[1, 21]))
def test_the_nearest_are_the_best_scored(variables, sizes, count):
    query, gallery = maps(7), maps(21, 1)
    gallery[12:15] = gallery[3]  # equals: the lower one first, wherever it lies
    scores = make(variables).scores(query, gallery)
    found, kept = make(variables, *sizes).nearest(query, gallery, count)
    np.testing.assert_array_equal(found, np.argsort(-scores, axis=1, kind="stable")[:, :count])
    np.testing.assert_allclose(kept, np.take_along_axis(scores, found, 1), atol=1e-5)


@pytest.mark.parametrize("count", [0, 22])
def test_more_than_there_are_cannot_be_the_nearest(variables, count):
    with pytest.raises(ValueError, match=f"count is {count}; expected 1 to 21"):
        make(variables).nearest(maps(2), maps(21), count)


def test_a_gallery_stays_on_the_devices_as_far_as_it_fits(monkeypatch):
    features, sent = maps(21), []
    tile = features[:8].nbytes
    monkeypatch.setattr(module, "_free", lambda device: 2 * tile)  # half of 2 * 2
    send = module.to_devices
    monkeypatch.setattr(module, "to_devices", lambda *given: sent.append(1) or send(*given))
    gallery = Gallery(make_mesh(jax.devices()[:2]), features, 8)
    for expected in (3, 4, 5):  # two tiles of three stay
        got = np.concatenate([to_host(rows) for _, rows in gallery.tiles()])
        np.testing.assert_array_equal(got[:21], features)
        assert not got[21:].any()
        assert len(sent) == expected


@pytest.mark.parametrize("devices", [1, 4, 6])
def test_tiles_divide_a_gallery_evenly_in_few_sizes(devices):
    most, sizes = 512 // devices * devices, set()
    for count in range(1, 4 * most):
        tile = even_tile(count, most, devices)
        tiles = -(-count // tile)
        assert tiles == -(-count // most)
        assert tile <= most
        assert tile % devices == 0
        assert tiles * tile - count <= tiles * (most // 16 + devices)
        # A part as large as a tile has the same one, and its program.
        assert even_tile(min(count, tile), most, devices) == tile
        sizes.add(tile)
    assert len(sizes) <= 17


def test_scores_of_a_held_gallery_are_those_of_one_tile(variables):
    scorer, query, gallery = make(variables, gallery_tile=32), maps(4), maps(35, 1)
    held = scorer.hold(gallery)
    assert held.tile == 18
    expected = np.concatenate(
        [scorer.scores(query, part) for part in (gallery[:9], gallery[9:])], 1
    )
    np.testing.assert_allclose(scorer.scores(query, held), expected, atol=1e-5)


def test_memory_is_known_only_where_the_device_tells():
    device = types.SimpleNamespace(memory_stats=lambda: {"bytes_limit": 10, "bytes_in_use": 4})
    assert module._free(device) == 6
    assert module._free(types.SimpleNamespace(memory_stats=lambda: None)) == 0


def test_bfloat16_features_are_half_as_large_and_score_nearly_the_same(variables):
    images = np.random.default_rng(0).integers(0, 256, (8, 32, 16, 3), np.uint8)
    wide, half = make(variables), make(variables, dtype="bfloat16")
    features = [e.features([images], 7) for e in (wide, half)]
    assert 2 * features[1].nbytes == features[0].nbytes
    scores = [e.scores(f, f) for e, f in zip((wide, half), features, strict=True)]
    assert scores[1].dtype == np.float32
    np.testing.assert_allclose(scores[1], scores[0], atol=2e-2)
    assert (scores[1] != scores[0]).any()
    with pytest.raises(ValueError, match=r"eval\.dtype 'float61'.*float32"):
        make(variables, dtype="float61")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_features_beyond_the_memory_are_in_a_file_and_equal(variables, dtype, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (8, 32, 16, 3), np.uint8)
    limits = {"memory": 1e-6, "memory_dir": str(tmp_path)}
    held, filed = make(variables, dtype=dtype), make(variables, dtype=dtype, **limits)
    features = [e.features([images, images], 15) for e in (held, filed)]
    assert [isinstance(f, np.memmap) for f in features] == [False, True]
    np.testing.assert_array_equal(*features)
    scores = [e.scores(f[:4], f) for e, f in zip((held, filed), features, strict=True)]
    np.testing.assert_array_equal(*scores)
    # Without a name, so that no killed process leaves one behind.
    assert not list(tmp_path.iterdir())
    with pytest.raises(OSError, match=f"cannot write {tmp_path}/missing: No such.*another place"):
        make(variables, memory=1e-6, memory_dir=f"{tmp_path}/missing").features([images], 7)


@pytest.mark.parametrize("precision", ["highest", "default"])
def test_products_have_the_precision_that_is_set(variables, precision):
    mesh, model = make_mesh(jax.devices()[:1]), make_model(**MODEL)
    encode = make_encode(model, mesh, precision=precision)
    score = make_score(model, mesh, precision=precision)
    images, features = jnp.zeros((2, 32, 16, 3), jnp.uint8), jnp.zeros((2, 8, 4, 4))
    with jax.default_matmul_precision("default"):
        for program in (
            encode.lower(variables, images),
            score.lower(variables, features, features),
        ):
            assert ("HIGHEST" in program.as_text()) == (precision == "highest")


@pytest.mark.parametrize("matcher", ["cosine", "euclidean"])
def test_bfloat16_embeddings_are_scored_in_float32(matcher):
    x = np.random.default_rng(0).standard_normal((50, 64)).astype(np.float32)
    score = make_matcher("embedding", metric=matcher).apply
    half = score({}, jnp.asarray(x[:5], jnp.bfloat16), jnp.asarray(x, jnp.bfloat16))
    assert half.dtype == jnp.float32
    np.testing.assert_allclose(half, score({}, x[:5], x), rtol=0.05, atol=0.5)
    assert len(np.unique(half[0])) == 50


def test_features_that_are_no_numbers_are_refused(variables):
    images = np.random.default_rng(0).integers(0, 256, (8, 32, 16, 3), np.uint8)
    damaged = jax.tree.map(lambda x: x * np.nan, variables["params"]["neck"])
    params = {**variables["params"], "neck": damaged}
    with pytest.raises(ValueError, match="images 0 to 6 are not all finite: did the training"):
        make({**variables, "params": params}).features([images], 7)


def test_scores_that_are_no_numbers_are_not_the_nearest(variables):
    matcher = jax.tree.map(lambda x: x * np.nan, variables["params"]["matcher"])
    params = {**variables["params"], "matcher": matcher}
    with pytest.raises(ValueError, match="NaN: did the training fail"):
        make({**variables, "params": params}).nearest(maps(2), maps(9), 3)


def test_images_that_do_not_come_are_missed(variables):
    with pytest.raises(ValueError, match="got 0 images; expected 3"):
        make(variables).features([], 3)
