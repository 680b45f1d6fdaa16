"""Figures of the service for Prometheus."""

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """Counters and histograms of one service, with memory and CPU time of its process."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter(
            "jaxreid_requests", "Requests answered", ("endpoint", "status"), registry=registry
        )
        self.seconds = Histogram(
            "jaxreid_request_seconds",
            "Time from the first byte of a request to the last of its answer",
            ("endpoint",),
            buckets=_SECONDS,
            registry=registry,
        )
        self.in_progress = Gauge(
            "jaxreid_requests_in_progress", "Requests in progress", registry=registry
        )
        self.waiting = Gauge(
            "jaxreid_images_waiting", "Images that wait to be embedded", registry=registry
        )
        self.images = Counter("jaxreid_images_embedded", "Images embedded", registry=registry)
        self.batch = Histogram(
            "jaxreid_batch_requests",
            "Requests that were embedded together",
            buckets=_SIZES,
            registry=registry,
        )

    def embedded(self, requests: int, images: int) -> None:
        """Count a batch."""
        self.batch.observe(requests)
        self.images.inc(images)

    @property
    def answered(self) -> int:
        """Number of requests answered."""
        samples = (sample for metric in self.requests.collect() for sample in metric.samples)
        return sum(int(sample.value) for sample in samples if sample.name.endswith("_total"))

    def text(self) -> bytes:
        """Return all figures in Prometheus's text format."""
        return generate_latest(self.registry)
