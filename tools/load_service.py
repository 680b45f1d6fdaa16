"""Load a running service and measure it: requests/s, latency, refusals, memory of the service.

    jaxreid serve --model=runs/qaconv --port=8080
    python tools/load_service.py http://127.0.0.1:8080 photographs/ --seconds=600 --clients=8

Each client is a thread with one connection that asks again as soon as it has its answer; it takes
the next photos of the folder in turn. A token is taken from JAXREID_TOKEN. With --rate, requests of
all clients together start at that rate, and a latency counts from when a request was due.
"""

import argparse
import http.client
import itertools
import json
import os
import pathlib
import re
import sys
import threading
import time
from urllib.parse import urlsplit

import numpy as np

ENDPOINTS = ("embed", "compare", "search")
BOUNDARY = "jaxreid-load"


def main(arguments: list[str] | None = None) -> int:
    """Run the tool; return its exit status."""
    args = parse(arguments)
    photos = sorted(path for path in args.photos.iterdir() if path.suffix in (".jpg", ".png"))
    if len(photos) < 2:
        raise SystemExit(
            f"{args.photos} holds {len(photos)} photos (.jpg, .png); expected 2 or more"
        )
    bodies = make_bodies(args.endpoint, [path.read_bytes() for path in photos], args.gallery)
    record = load(args, bodies)
    print(json.dumps(record, indent=2))
    if args.json:
        with args.json.open("a") as file:
            file.write(json.dumps(record) + "\n")
    return 0 if record["answered"] else 1


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("url", help="address of the service")
    parser.add_argument("photos", type=pathlib.Path, help="folder of photos to send")
    parser.add_argument("--endpoint", choices=ENDPOINTS, default="embed")
    parser.add_argument("--clients", type=int, default=8, help="requests at once (default: 8)")
    parser.add_argument("--seconds", type=float, default=60, help="duration (default: 60)")
    parser.add_argument("--rate", type=float, default=0, help="requests/s (default: no bound)")
    parser.add_argument(
        "--gallery", type=int, default=20, help="gallery of a search; 0: the index (default: 20)"
    )
    parser.add_argument("--json", type=pathlib.Path, help="file to append the record to")
    return parser.parse_args(arguments)


def make_bodies(endpoint: str, photos: list[bytes], gallery: int) -> list[bytes]:
    """Return a body for each photo."""
    bodies = []
    for i, photo in enumerate(photos):
        others = [photos[(i + 1 + k) % len(photos)] for k in range(max(1, gallery))]
        fields = {
            "embed": [("images", photo)],
            "compare": [("a", photo), ("b", others[0])],
            "search": [("query", photo), *(("gallery", other) for other in others[:gallery])],
        }[endpoint]
        parts = (
            f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"; filename="{k}"\r\n'
            f"Content-Type: image/jpeg\r\n\r\n".encode()
            + content
            + b"\r\n"
            for k, (name, content) in enumerate(fields)
        )
        bodies.append(b"".join(parts) + f"--{BOUNDARY}--\r\n".encode())
    return bodies


def load(args: argparse.Namespace, bodies: list[bytes]) -> dict:
    """Ask until the time is over; return what was measured."""
    numbers, lock = itertools.count(), threading.Lock()
    latency: list[float] = []
    statuses: dict[str, int] = {}
    start = time.perf_counter()
    end = start + args.seconds

    def client() -> None:
        connection = connect(args.url)
        while True:
            number = next(numbers)
            due = start + number / args.rate if args.rate else time.perf_counter()
            if due >= end:
                break
            time.sleep(max(0.0, due - time.perf_counter()))
            try:
                status = ask(connection, args.endpoint, bodies[number % len(bodies)])
            except (OSError, http.client.HTTPException) as error:
                status = type(error).__name__
                connection.close()
                connection = connect(args.url)
            with lock:
                statuses[status] = statuses.get(status, 0) + 1
                if status == "200":
                    latency.append(time.perf_counter() - due)
        connection.close()

    before = figures(args.url)
    threads = [threading.Thread(target=client) for _ in range(args.clients)]
    for thread in threads:
        thread.start()
    memory = [before["process_resident_memory_bytes"]]
    while any(thread.is_alive() for thread in threads):
        for thread in threads:
            thread.join(max(0.1, args.seconds / 20 / len(threads)))
        memory.append(figures(args.url)["process_resident_memory_bytes"])
        if sys.stderr.isatty():
            left = max(0.0, end - time.perf_counter())
            print(f"\r{len(latency):,} answered, {left:.0f} s left ", end="", file=sys.stderr)
    seconds, after = time.perf_counter() - start, figures(args.url)
    spent = {name: after[name] - before[name] for name in after}
    batches = spent["jaxreid_batch_requests_count"]
    percentiles = np.percentile(latency, [50, 95, 99]) if latency else [np.nan] * 3
    return {
        "endpoint": args.endpoint,
        "gallery": args.gallery if args.endpoint == "search" else None,
        "clients": args.clients,
        "rate": args.rate or None,
        "seconds": round(seconds, 1),
        "answered": len(latency),
        "requests_per_second": round(len(latency) / seconds, 2),
        "images_per_second": round(spent["jaxreid_images_embedded_total"] / seconds, 2),
        "ms": {
            f"p{p}": round(1e3 * float(v), 1)
            for p, v in zip((50, 95, 99), percentiles, strict=True)
        },
        "statuses": statuses,
        "requests_per_batch": round(spent["jaxreid_batch_requests_sum"] / batches, 2)
        if batches
        else 0,
        "service_cpu_seconds": round(spent["process_cpu_seconds_total"], 1),
        "memory_mb": [round(value / 1e6) for value in memory],
        "load_average": [round(value, 1) for value in os.getloadavg()],
    }


def connect(url: str) -> http.client.HTTPConnection:
    """Return a connection to the service."""
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    return kind(parts.hostname or "", parts.port, timeout=120)


def ask(connection: http.client.HTTPConnection, endpoint: str, body: bytes) -> str:
    """Send one request; return its status."""
    kind = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
    connection.request("POST", f"/{endpoint}", body, {**kind, **access()})
    answer = connection.getresponse()
    answer.read()
    return str(answer.status)


def figures(url: str) -> dict[str, float]:
    """Return the figures of /metrics without labels."""
    connection = connect(url)
    connection.request("GET", "/metrics", headers=access())
    text = connection.getresponse().read().decode()
    connection.close()
    return {name: float(value) for name, value in re.findall(r"^(\w+) (\S+)$", text, re.MULTILINE)}


def access() -> dict[str, str]:
    """Return the header with the token; {} without one."""
    token = os.environ.get("JAXREID_TOKEN")
    return {"Authorization": f"Bearer {token}"} if token else {}


if __name__ == "__main__":
    sys.exit(main())
