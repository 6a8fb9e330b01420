"""What /metrics says, for Prometheus. No label comes from what a client sent."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric

from calltune.serve.work import Worker

SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)


class Metrics:
    """Counters of one server."""

    def __init__(self, worker: Worker) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("calltune_requests", "Requests by their status", ["status"], registry=self.registry)
        self.prompt_tokens = Counter("calltune_prompt_tokens", "Tokens of prompts", registry=self.registry)
        self.completion_tokens = Counter("calltune_completion_tokens", "Tokens of replies", registry=self.registry)
        self.cancelled = Counter("calltune_cancelled", "Replies whose client went away", registry=self.registry)
        self.duration = Histogram("calltune_reply_seconds", "From a chat request to the end of its reply",
                                  buckets=SECONDS, registry=self.registry)  # fmt: skip
        self.first = Histogram("calltune_first_token_seconds", "From a chat request to the first text of its reply",
                               buckets=SECONDS, registry=self.registry)  # fmt: skip
        self.registry.register(_Standing(worker))

    def text(self) -> bytes:
        return generate_latest(self.registry)


class _Standing:
    """How the worker stands when it is asked."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker

    def collect(self) -> list[Metric]:
        counts = self.worker.counts()
        return [
            GaugeMetricFamily("calltune_running", "Replies that are being made", counts.running),
            GaugeMetricFamily("calltune_waiting", "Requests in the queue", counts.waiting),
        ]
