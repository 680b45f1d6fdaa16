"""The part of S3 that s3fs needs for objects of one bucket, in memory, over loopback."""

import contextlib
import http.server
import threading
import urllib.parse
from collections.abc import Iterator
from xml.sax.saxutils import escape


@contextlib.contextmanager
def serve() -> Iterator[str]:
    """Yield the address of a server with any bucket."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.objects = {}
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _answer(self, status: int, content: bytes = b"", *, length: int | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content) if length is None else length))
        self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
        self.send_header("ETag", '"0"')
        self.end_headers()
        self.wfile.write(content)

    def do_PUT(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.objects[urllib.parse.unquote(self.path)] = content
        self._answer(200)

    def do_HEAD(self) -> None:
        content = self.server.objects.get(urllib.parse.unquote(self.path))
        self._answer(404) if content is None else self._answer(200, length=len(content))

    def do_GET(self) -> None:
        url = urllib.parse.urlsplit(self.path)
        query = urllib.parse.parse_qs(url.query)
        if "list-type" in query:
            return self._answer(200, self._listed(url.path, query.get("prefix", [""])[0]))
        content = self.server.objects.get(urllib.parse.unquote(url.path))
        if content is None:
            return self._answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
        first, _, last = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
        part = content[int(first) : int(last) + 1 if last else None]
        return self._answer(206 if "Range" in self.headers else 200, part)

    def _listed(self, bucket: str, prefix: str) -> bytes:
        start = f"{bucket.rstrip('/')}/"
        rows = [
            f"<Contents><Key>{escape(name.removeprefix(start))}</Key><Size>{len(content)}</Size>"
            "<LastModified>2026-01-01T00:00:00Z</LastModified></Contents>"
            for name, content in sorted(self.server.objects.items())
            if name.startswith(start + prefix)
        ]
        count = f"<KeyCount>{len(rows)}</KeyCount><IsTruncated>false</IsTruncated>"
        return f"<ListBucketResult>{count}{''.join(rows)}</ListBucketResult>".encode()

    def log_message(self, *args: object) -> None:
        """Be silent."""
