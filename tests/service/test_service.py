"""The HTTP service: the numbers of Python, every limit in words, a stop that loses nothing."""

import base64
import contextlib
import hashlib
import http.client
import io
import itertools
import json
import os
import re
import shlex
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import types
import zlib

import numpy as np
import pytest
import uvicorn
from golden import REPOSITORY
from people import draw, save_model
from PIL import Image
from starlette.testclient import TestClient

import jaxreid
from jaxreid import cli
from jaxreid.cli.arguments import make_parser
from jaxreid.index.additions import digest_of
from jaxreid.pictures.matches import strongest_links
from jaxreid.service import server
from jaxreid.service.app import make_app
from jaxreid.service.batching import Batcher, Full
from jaxreid.service.engine import Engine
from jaxreid.service.limits import Limits
from jaxreid.service.photos import clean_name

pytest_plugins = ["browsers"]
pytestmark = pytest.mark.usefixtures("one_device")
TOKEN = "0123456789abcdef"


@pytest.fixture(scope="module")
def model(tmp_path_factory, one_device):
    return save_model(tmp_path_factory.mktemp("service") / "qaconv.safetensors")


@pytest.fixture(scope="module")
def reid(model):
    return jaxreid.load(model)


def photo(pid, camid=0, kind="PNG", **options):
    draw(pid, camid, 0).save(file := io.BytesIO(), kind, **options)
    return file.getvalue()


def pictures(*contents, field="images"):
    return [(field, (f"{i}.png", content)) for i, content in enumerate(contents)]


@contextlib.contextmanager
def running(reid, *, token=None, **options):
    engine = Engine(reid, **options)
    app = make_app(engine, token=token)
    with TestClient(app, base_url="http://localhost", raise_server_exceptions=False) as client:
        client.engine, client.app_ = engine, app
        yield client


@pytest.fixture(scope="module")
def client(reid):
    with running(reid) as client:
        yield client


def test_features_are_those_of_python(client, reid):
    contents = [photo(1), photo(2)]
    expected = reid.embed(contents)
    answer = client.post("/embed", files=pictures(*contents)).json()
    assert answer["shape"] == list(expected.shape)
    assert answer["names"] == ["0.png", "1.png"]
    np.testing.assert_allclose(answer["features"], expected, atol=1e-6)
    binary = client.post("/embed", files=pictures(*contents), data={"format": "npy"})
    np.testing.assert_allclose(np.load(io.BytesIO(binary.content)), expected, atol=1e-6)


def test_a_pair_has_the_score_and_the_matches_of_python(client, reid):
    a, b = photo(1), photo(1, 1)
    files = {"a": ("a.png", a), "b": ("b.png", b)}
    answer = client.post("/compare", files=files, data={"matches": 5}).json()
    (pair,) = reid.explain(a, b).pairs
    features = reid.embed([a, b])
    assert answer["score"] == pytest.approx(reid.score(features[:1], features[1:])[0, 0], abs=1e-5)
    links = strongest_links(pair, 5)
    rows, columns = pair.from_query.shape
    ends = [(match[0] * columns, match[1] * rows) for match in answer["matches"]]
    cells = [divmod(link.query, columns)[::-1] for link in links]
    np.testing.assert_allclose(ends, np.array(cells) + 0.5, atol=1e-2)
    assert answer["matches"][0][4] == 1
    assert answer["probability"] is answer["calibrated_on"] is None


def test_a_gallery_is_ranked_as_in_python_and_several_photos_count_together(client, reid):
    gallery = [photo(pid, 1) for pid in range(1, 8)]
    files = pictures(photo(3), field="query") + pictures(*gallery, field="gallery")
    answer = client.post("/search", files=files, data={"top": 4, "matches": 2}).json()
    hits = reid.rank(photo(3), gallery, top=4)
    assert [hit["place"] for hit in answer["hits"]] == [hit.index for hit in hits]
    scores = [hit["score"] for hit in answer["hits"]]
    np.testing.assert_allclose(scores, [hit.score for hit in hits], atol=1e-5)
    assert [hit["matches"] is not None for hit in answer["hits"]] == [True, True, False, False]
    assert answer["searched"] == 7
    assert answer["prior"] == 1 / 8
    both = pictures(photo(3), photo(4), field="query") + pictures(*gallery, field="gallery")
    mean = reid.score(reid.embed([photo(3), photo(4)]), reid.embed(gallery)).mean(0)
    best = client.post("/search", files=both).json()["hits"][0]
    assert best["place"] == mean.argmax()
    assert best["score"] == pytest.approx(mean.max(), abs=1e-5)


class Calibration:
    def probability(self, scores, *, prior):
        return np.full(len(scores), prior / 2)

    def false_match_rate(self, scores):
        return np.full(len(scores), 0.01)

    def sentence(self):
        return "calibrated on 12 people"


def test_probabilities_come_with_what_they_were_calibrated_on(client, monkeypatch):
    monkeypatch.setattr(client.engine, "calibration", Calibration())
    files = {"a": ("a.png", photo(1)), "b": ("b.png", photo(2))}
    answer = client.post("/compare", files=files, data={"prior": 0.2, "matches": 0}).json()
    assert (answer["probability"], answer["false_match_rate"]) == (0.1, 0.01)
    assert answer["calibrated_on"] == "calibrated on 12 people"
    files = pictures(photo(3), field="query") + pictures(photo(1), field="gallery")
    assert client.post("/search", files=files).json()["hits"][0]["probability"] == 0.25


def test_a_whole_frame_is_noticed(client):
    Image.new("RGB", (64, 32)).save(file := io.BytesIO(), "PNG")
    (note,) = client.post("/embed", files=pictures(file.getvalue())).json()["notes"]
    assert note.startswith("Wider than high, so perhaps a whole frame: 0.png.")


def bomb(side):
    """A PNG file of a few kilobytes that says it has side x side pixels."""
    chunk = lambda kind, data: (  # noqa: E731
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    )
    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(100_000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("status", "words", "path", "files", "data"),
    [
        (422, "0.png is empty", "/embed", pictures(b""), {}),
        (415, "not an image", "/embed", pictures(b"a text"), {}),
        (415, "GIF; expected JPEG", "/embed", pictures(photo(1, kind="GIF")), {}),
        (422, "a broken image", "/embed", pictures(photo(1, kind="JPEG")[:400]), {}),
        (422, "cannot decode", "/embed", pictures(photo(1, kind="JPEG")[:-99]), {}),
        (
            413,
            "5000 x 5000 pixels; expected at most 16,000,000",
            "/embed",
            pictures(bomb(5000)),
            {},
        ),
        (413, "pixels", "/embed", pictures(bomb(60_000)), {}),
        (422, "at most 100 items", "/embed", pictures(*[b"x"] * 101), {}),
        (422, "at most 8 items", "/search", pictures(*[b"x"] * 9, field="query"), {}),
        (422, "images: Field required", "/embed", pictures(b"x", field="other"), {}),
        (422, "less than or equal to 100", "/search", pictures(b"x", field="query"), {"top": 101}),
        (422, "prior", "/search", pictures(b"x", field="query"), {"prior": "nan"}),
        (404, "no index; start it with --index", "/search", pictures(b"x", field="query"), {}),
        (
            422,
            "are of the index",
            "/search",
            pictures(b"x", field="query") + pictures(b"x", field="gallery"),
            {"camera": "door"},
        ),
    ],
)
def test_what_is_not_expected_is_refused_in_words(client, status, words, path, files, data):
    answer = client.post(path, files=files, data=data)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/json")
    assert words in answer.json()["detail"]


def test_another_method_is_answered_with_those_that_a_path_has(client):
    answer = client.put("/index")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, POST")


def test_a_body_is_limited_with_and_without_its_length(reid):
    with running(reid, limits=Limits(body=1000)) as client:
        known = client.post("/embed", files=pictures(bytes(2000)))
        head = {"content-type": "multipart/form-data; boundary=b"}
        parts = itertools.chain(
            [b'--b\r\nContent-Disposition: form-data; name="images"; filename="a"\r\n\r\n'],
            itertools.repeat(bytes(500), 8),
        )
        unknown = client.post("/embed", content=parts, headers=head)
    for answer in (known, unknown):
        assert answer.status_code == 413
        assert answer.json()["detail"].endswith("expected at most 1,000 bytes.")


def test_the_name_of_a_file_is_shown_and_never_opened(client, reid, tmp_path):
    secret = tmp_path / "secret.png"
    secret.write_bytes(photo(5))
    names = ("../../etc/passwd", str(secret), "C:\\boot.ini", "a\0b\nc", "..", "x" * 500)
    files = [("images", (name, photo(1))) for name in names]
    answer = client.post("/embed", files=files).json()
    assert answer["names"][:3] == ["passwd", "secret.png", "boot.ini"]
    assert len(answer["names"][5]) == 120
    assert all(name.isprintable() for name in answer["names"])
    features = np.array(answer["features"])
    np.testing.assert_allclose(features, reid.embed([photo(1)]).repeat(6, 0), atol=1e-6)
    assert clean_name(None, 2) == clean_name("a/b/", 2) == "image 3"


def test_a_token_is_needed_for_all_that_computes(reid):
    with running(reid, token=TOKEN) as client:
        for path in ("/", "/health", "/docs", "/openapi.json"):
            assert client.get(path).status_code == 200
        assert "HTTPBearer" in client.get("/openapi.json").text
        for given in ("", f"Basic {TOKEN}", f"Bearer {TOKEN[:-1]}", f"Bearer {TOKEN}x", "Bearer ü"):
            header = {"authorization": given.encode()} if given else {}
            for path in ("/model", "/index", "/metrics", "/nothing"):
                answer = client.get(path, headers=header)
                assert answer.status_code == 401
                assert answer.headers["www-authenticate"] == "Bearer"
        # Also under another name of the machine.
        header = {"authorization": f"Bearer {TOKEN}", "host": "reid.example"}
        assert client.get("/model", headers=header).status_code == 200


def test_pages_of_other_sites_cannot_ask(client):
    for header in ({"origin": "https://evil.example"}, {"origin": "null"}):
        assert client.get("/model", headers=header).status_code == 403
    # A name that leads to this machine, but is of another site.
    answer = client.get("/model", headers={"host": "evil.example:8080"})
    assert answer.status_code == 403
    assert "start with a token" in answer.json()["detail"]
    for host in ("localhost:8080", "127.0.0.1", "[::1]:8080"):
        header = {"host": host, "origin": f"http://{host}"}
        assert client.get("/model", headers=header).status_code == 200


def test_another_address_needs_a_token_of_some_length(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"other machines could reach 0\.0\.0\.0"):
        server.bind("0.0.0.0", 0, token=None)
    server.bind("0.0.0.0", 0, token=TOKEN).socket.close()
    address = server.bind("127.0.0.1", 0, token=None)
    address.socket.listen()
    with address.socket, pytest.raises(OSError, match="try another --port"):
        server.bind("127.0.0.1", address.socket.getsockname()[1], token=None)
    monkeypatch.delenv("JAXREID_TOKEN", raising=False)
    assert server.read_token(None) is None
    monkeypatch.setenv("JAXREID_TOKEN", "short")
    with pytest.raises(ValueError, match="JAXREID_TOKEN has 5 characters"):
        server.read_token(None)
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    assert server.read_token(tmp_path / "token") == TOKEN


def test_requests_at_once_share_a_batch_and_get_their_own_features(reid):
    pixels = [np.asarray(draw(pid, 0, 0, size=(16, 32))) for pid in range(10)]
    batches = []
    batcher = Batcher(reid.embed, wait=2, room=64, observe=lambda *sizes: batches.append(sizes))
    futures = [batcher.submit([image]) for image in pixels[:8]]
    futures.append(batcher.submit(pixels[8:]))
    gone = batcher.submit(pixels[:1])
    gone.cancel()
    batcher.close()
    assert batches == [(9, 10)]
    features = np.concatenate([future.result() for future in futures])
    single = np.concatenate([reid.embed([image]) for image in pixels])
    np.testing.assert_allclose(features, single, atol=1e-6)
    with pytest.raises(Full):
        batcher.submit(pixels)


def test_a_request_does_not_fail_because_of_another():
    def embed(images):
        if any(image.sum() for image in images):
            raise ValueError("a fault")
        return np.zeros((len(images), 1))

    batcher = Batcher(embed, wait=0.5, room=2)
    good, bad = batcher.submit([np.zeros(1)]), batcher.submit([np.ones(1)])
    with pytest.raises(Full):
        batcher.submit([np.zeros(1)])
    assert good.result(5).shape == (1, 1)
    with pytest.raises(ValueError, match="a fault"):
        bad.result(5)
    batcher.close()


class Stub:
    """A model whose features are computed by a function."""

    def __init__(self, embed):
        self.embed, self.path, self.calibration = embed, None, None
        matcher = types.SimpleNamespace()
        size = {"height": 8, "width": 4, "interpolation": "bicubic"}
        self.model = types.SimpleNamespace(matcher=matcher, **size)


def test_too_much_at_once_and_too_long_are_refused():
    go = threading.Event()

    def embed(images):
        go.wait(10)
        return np.zeros((len(images), 1))

    with running(Stub(embed), limits=Limits(seconds=0.3)) as client:
        slow = client.post("/embed", files=pictures(photo(1)))
        go.set()
    with running(Stub(embed), limits=Limits(waiting=1, requests=1)) as client:
        full = client.post("/embed", files=pictures(photo(1), photo(2)))
        client.app_._count = 1
        busy = client.get("/model")
        assert client.get("/health").status_code == 200
    assert slow.status_code == 504
    assert "within 0.3 seconds" in slow.json()["detail"]
    for answer, words in ((full, "expected at most 1"), (busy, "1 requests are in progress")):
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert words in answer.json()["detail"]


def test_a_fault_shows_nothing_of_the_machine():
    def embed(images):
        raise RuntimeError("/home/somebody/secret")

    with running(Stub(embed)) as client:
        answer = client.post("/embed", files=pictures(photo(1)))
    assert answer.status_code == 500
    assert answer.json()["detail"] == "fault of the service; its log has the reason."


@pytest.fixture
def index(reid, tmp_path):
    """A file of a door's camera, one that has changed since, and one without a file."""
    index = jaxreid.Index.create(tmp_path / "index", reid)
    paths = [tmp_path / name for name in ("kept.png", "changed.png")]
    for pid, path in enumerate(paths):
        path.write_bytes(photo(pid))
    index.add([*paths, photo(2)], {"camera": ["door", "door", "hall"], "time": 5})
    paths[1].write_bytes(photo(9))
    return index


def test_an_index_is_searched_and_shows_only_what_was_indexed(reid, index, tmp_path):
    with running(reid, index=index) as client:
        assert client.get("/model").json()["index"] == 3
        described = client.get("/index")
        files = pictures(photo(1), field="query")
        answer = client.post("/search", files=files, data={"matches": 3})
        data = {"camera": "hall", "after": "1970-01-01T00:00:04"}
        (hit,) = client.post("/search", files=files, data=data).json()["hits"]
        late = client.post("/search", files=files, data={"after": "1970-01-01T00:01"}).json()
        refused = client.post("/index", files=pictures(photo(1)))
    hits = {hit["name"]: hit for hit in answer.json()["hits"]}
    kept, changed = hits["kept.png"], hits["changed.png"]
    head, _, data = kept["thumbnail"].partition(",")
    with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
        assert (head, picture.size) == ("data:image/jpeg;base64", (32, 64))
    assert (kept["camera"], kept["time"]) == ("door", 5.0)
    assert kept["matches"]
    assert changed["thumbnail"] is changed["matches"] is None
    assert answer.json()["hits"][0] == changed
    assert (hit["id"], hit["name"]) == (digest_of(photo(2)),) * 2
    assert late["hits"] == []
    assert described.json()["images"] == 3
    assert str(tmp_path) not in answer.text + described.text
    assert refused.status_code == 403
    assert "--writable" in refused.json()["detail"]


def test_a_writable_index_takes_images_without_any_path(reid, index):
    said = {"camera": "gate", "time": "60", "person": "Ann"}
    with running(reid, index=index, writable=True) as client:
        new = pictures(photo(5), photo(6))
        added = client.post("/index", files=new, data=said).json()
        again = client.post("/index", files=new[:1]).json()
        wrong = client.post("/index", files=new, data={"time": "noon"})
        files = pictures(photo(6), field="query")
        hit = client.post("/search", files=files, data={"camera": "gate"}).json()["hits"][0]
        ids = added["ids"]
        gone = client.delete(f"/index/{ids[0]}").json()
        status = [client.delete(f"/index/{id}").status_code for id in (ids[0], "..%2F..%2Fetc")]
    assert (added["added"], again["added"], again["there"]) == (2, 0, 1)
    assert ids == [digest_of(photo(5)), digest_of(photo(6))]
    assert (hit["id"], hit["time"], hit["person"]) == (ids[1], 60.0, "Ann")
    assert hit["thumbnail"] is None
    assert wrong.status_code == 422
    assert "time is 'noon'; expected seconds, or a date" in wrong.json()["detail"]
    assert gone == {"removed": 1, "images": 4}
    assert status[0] == 404
    assert status[1] in (404, 422)


def test_requests_and_batches_are_counted(client):
    client.post("/embed", files=pictures(photo(1)))
    client.get("/nothing/of/this/name")
    text = client.get("/metrics").text
    for line in (
        r'jaxreid_requests_total\{endpoint="/embed",status="200"\} \d',
        r'jaxreid_requests_total\{endpoint="other",status="404"\} 1',
        r"jaxreid_images_embedded_total \d",
        r"jaxreid_batch_requests_count \d",
        r"jaxreid_requests_in_progress 1",
    ):
        assert re.search(line, text), line


def test_pages_run_their_own_script_alone_and_need_no_other_host(client):
    for path in ("/", "/docs"):
        page = client.get(path)
        policy = page.headers["content-security-policy"]
        (script,) = re.findall(r"<script>(.*?)</script>", page.text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy
        assert "default-src 'none'" in policy
        assert not re.findall(r"https?://(?!www\.w3\.org/2000/svg)", page.text)
    assert client.get("/docs/swagger-ui.js").headers["content-type"].startswith("text/javascript")
    assert client.get("/health").headers["x-content-type-options"] == "nosniff"


def test_every_program_is_compiled_at_the_start(reid, monkeypatch):
    engine = Engine(reid)
    engine.compile()
    scorers = dict(reid._scorers)
    features = reid.embed([np.zeros((32, 16, 3), np.uint8)] * 9)
    for queries, images in ((1, 1), (1, 9), (8, 9)):
        engine._scores(features[:queries], features[:images])
    engine._matches(features[:1], features, 3)
    engine.close()
    assert reid._scorers == scorers


DOCUMENT = (REPOSITORY / "docs" / "service.md").read_text()


def test_the_examples_of_the_document_are_answered(client, index, monkeypatch):
    monkeypatch.setattr(client.engine, "index", index)
    monkeypatch.setattr(client.engine, "writable", True)
    commands = re.findall(r"^curl (.*)$", DOCUMENT, re.MULTILINE)
    assert len(commands) == 11
    for command in commands:
        words = shlex.split(command)
        files, data, method = [], {}, None
        for option, value in itertools.pairwise(words):
            name, _, content = value.partition("=")
            if option == "-F" and content.startswith("@"):
                files.append((name, (content[1:], photo(ord(content[1])))))
            elif option == "-F":
                data[name] = content
            method = value if option == "-X" else method
        address, _, path = words[-1].removeprefix("http://").partition("/")
        path = re.sub("[0-9a-f]{32}", digest_of(photo(2)), path)
        method = method or ("POST" if files else "GET")
        answer = client.request(method, path, files=files, data=data)
        assert (address, answer.status_code) == ("127.0.0.1:8080", 200), command


def test_limits_and_endpoints_of_the_document_are_those_of_the_command(client):
    for name, path in itertools.product(("get", "post", "delete"), ("/search", "/index", "/embed")):
        known = name in client.get("/openapi.json").json()["paths"][path]
        assert (f"`{name.upper()} {path}`" in DOCUMENT) == known
    limits, args = Limits(), make_parser().parse_args(["serve"])
    of_the_command = {
        "--max-mb": (args.max_mb, limits.body / 2**20),
        "--max-megapixels": (args.max_megapixels, limits.pixels / 1e6),
        "--max-images": (args.max_images, limits.images),
        "--max-requests": (args.max_requests, limits.requests),
        "--max-seconds": (args.max_seconds, limits.seconds),
        "--wait-ms": (args.wait_ms, 5),
    }
    documented = dict(re.findall(r"\| `(--[a-z-]+)` \| (\d+)", DOCUMENT))
    assert {option: int(value) for option, value in documented.items()} == {
        option: value for option, (value, _) in of_the_command.items()
    }
    assert all(value == default for value, default in of_the_command.values())
    assert (limits.queries, limits.waiting) == (8, 512)


def test_mistakes_of_the_command_are_answered_before_the_model_is_loaded(capsys, monkeypatch):
    monkeypatch.delenv("JAXREID_TOKEN", raising=False)
    assert cli.main(["serve", "--host=0.0.0.0"]) == 1
    assert "set JAXREID_TOKEN or --token-file" in capsys.readouterr().err
    assert cli.main(["serve", "--token-file=/no/such/file"]) == 1
    assert "No such file" in capsys.readouterr().err
    for wrong, words in (("--writable", "give --index=INDEX"), ("--port=65536", "at most 65535")):
        with pytest.raises(SystemExit) as stopped:
            cli.main(["serve", wrong])
        assert stopped.value.code == 2
        assert words in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "jaxreid.service.server")
    assert cli.main(["serve"]) == 1
    assert "the service needs uvicorn: pip install 'jaxreid[serve]'" in capsys.readouterr().err


def form(**files):
    """A body of multipart/form-data, and its headers."""
    body = b"".join(
        f'--b\r\nContent-Disposition: form-data; name="{name}"; filename="a"\r\n\r\n'.encode()
        + content
        + b"\r\n"
        for name, content in files.items()
    )
    body += b"--b--\r\n"
    length = {"Content-Length": str(len(body))}
    return body, {"Content-Type": "multipart/form-data; boundary=b"} | length


def test_a_stop_by_sigterm_finishes_what_is_in_progress(model):
    command = [sys.executable, "-m", "jaxreid", "serve", f"--model={model}", "--port=0"]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "JAX_PLATFORMS": "cpu"}
    environment.pop("JAXREID_TOKEN", None)
    with subprocess.Popen(
        [*command, "--json"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            port = next(
                int(found[1])
                for line in process.stderr
                if (found := re.search(r"http://127\.0\.0\.1:(\d+)", line))
            )
            body, head = form(images=photo(1))
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            connection.putrequest("POST", "/embed")
            for name, value in head.items():
                connection.putheader(name, value)
            connection.endheaders(body[:20])
            other = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            for _ in range(100):
                other.request("GET", "/metrics")
                if "jaxreid_requests_in_progress 2.0" in other.getresponse().read().decode():
                    break
                time.sleep(0.05)
            other.close()
            process.send_signal(signal.SIGTERM)
            # No longer listens, and waits for the body.
            for _ in range(100):
                with socket.socket() as asking:
                    if asking.connect_ex(("127.0.0.1", port)):
                        break
                time.sleep(0.05)
            else:
                pytest.fail("still listens")
            connection.send(body[20:])
            answer = connection.getresponse()
            assert (answer.status, json.loads(answer.read())["shape"]) == (200, [1, 8, 4, 4])
            connection.close()
            assert process.wait(60) == 0
            assert "stopped;" in process.stderr.read()
            assert json.loads(process.stdout.read())["requests"] >= 2
        finally:
            process.kill()


DROP = """([zone, files]) => {
    const data = new DataTransfer();
    for (const [name, text] of files) {
        const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
        data.items.add(new File([bytes], name, { type: "image/png" }));
    }
    const event = new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true });
    document.getElementById(zone).dispatchEvent(event);
}"""


def test_the_page_finds_a_dropped_person_in_a_browser(browser, reid):
    address = server.bind("127.0.0.1", 0, token=TOKEN)
    app = make_app(Engine(reid), token=TOKEN)
    service = uvicorn.Server(uvicorn.Config(app, log_level="error", ws="none"))
    thread = threading.Thread(target=service.run, kwargs={"sockets": [address.socket]})
    thread.start()
    view = browser.new_page(viewport={"width": 1200, "height": 800})
    problems, hosts = [], set()
    view.on("console", lambda message: problems.append(message.text))
    view.on("pageerror", lambda error: problems.append(str(error)))
    view.on("request", lambda request: hosts.add(request.url.split("/")[2]))
    try:
        view.goto(address.url)
        view.fill("#token", TOKEN)
        view.keyboard.press("Enter")
        view.wait_for_selector("#notes li", state="attached")
        problems.clear()  # the refusal of the first request
        encoded = lambda *pids: [  # noqa: E731
            [f"<img src=x onerror=alert(1)>{pid}.png", base64.b64encode(photo(pid)).decode()]
            for pid in pids
        ]
        view.evaluate(DROP, ["found", encoded(*range(1, 7))])
        view.evaluate(DROP, ["asked", encoded(3)])
        view.wait_for_selector(".card")
        assert view.locator(".card").count() == 6
        assert view.locator(".card img").first.get_attribute("src").startswith("blob:")
        assert "6 of 6 images" in view.inner_text("#title")
        assert "onerror" in view.inner_text(".card >> nth=0")
        view.hover(".card >> nth=1")
        assert view.locator("#lines line").count() > 0
        view.keyboard.press("ArrowRight")
        view.keyboard.press("ArrowRight")
        assert view.evaluate("document.activeElement.querySelector('.rank').textContent") == "2"
        view.keyboard.press("Enter")
        view.wait_for_selector("#pairlines line", state="attached")
        view.keyboard.press("Escape")
        view.evaluate(DROP, ["found", [["broken.png", base64.b64encode(b"x" * 9).decode()]]])
        view.wait_for_selector("#problem:not([hidden])")
        assert "broken.png: not an image" in view.inner_text("#problem")
        assert hosts <= {address.url.split("/")[2]} | {""}
        assert not [text for text in problems if "415" not in text]
    finally:
        view.close()
        service.should_exit = True
        thread.join()
