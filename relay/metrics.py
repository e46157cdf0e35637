"""What Prometheus reads. No label holds a user's name, an address or a call."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from core.api.bridge_messages import BridgeItem
from core.version import VERSION
from relay.figures import Figures
from relay.web.connection import HttpLimits
from relay.web.websocket import WebSocketLimits

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_GAUGES = {
    "allocations": "Allocations that live now.",
    "sessions": "Sessions that live now.",
    "flows": "Permissions and channels that live now.",
}
_SIGNALING = {
    "pages": "Pages that are connected now.",
    "rooms": "Rooms that live now.",
    "people": "People in rooms now.",
    "calls": "Calls that live now.",
}
_CONNECTIONS = (
    "Connections to the pages' listeners that live now, by kind; of http there are "
    f"{HttpLimits().connections} at most, of websocket {WebSocketLimits().connections}."
)
_OUTBOX = {
    "events": ("outbox_events", "Events that wait to be told through a bridge."),
    "oldest_s": ("outbox_oldest_seconds", "For how long the oldest of them has waited."),
}
_SMS = {
    "parts_today": "Parts of SMS that were sent on this day, in UTC.",
    "parts_ever": "Parts of SMS that were ever sent.",
}
_COUNTERS = {
    "packets": ("relayed_packets", "direction", "Packets relayed."),
    "bytes": ("relayed_bytes", "direction", "Payload bytes relayed."),
    "drops": ("dropped_packets", "cause", "Packets that were not relayed, by cause."),
    "engine": ("engine_events", "event", "What the data plane counts besides, by event."),
}


class _NodeCollector(Collector):
    def __init__(
        self, read_figures: Callable[[], Figures], bridges: Callable[[], list[BridgeItem]]
    ) -> None:
        self._read_figures = read_figures
        self._bridges = bridges

    def describe(self) -> list[Metric]:
        """Nothing before the first reading: names can't clash, the registry is ours alone."""
        return []

    def collect(self) -> Iterator[Metric]:
        """The figures now."""
        figures = self._read_figures()
        build = GaugeMetricFamily("montana_build_info", "The version.", labels=["version"])
        build.add_metric([VERSION], 1)
        yield build
        yield GaugeMetricFamily(
            "montana_uptime_seconds", "Seconds since the start.", value=figures.uptime_s
        )
        for field, help_text in _GAUGES.items():
            yield GaugeMetricFamily(f"montana_{field}", help_text, value=getattr(figures, field))
        connections = GaugeMetricFamily("montana_connections", _CONNECTIONS, labels=["kind"])
        for kind, count in figures.connections.items():
            connections.add_metric([kind], count)
        yield connections
        for name, help_text in _SIGNALING.items():
            value = figures.signaling.get(name, 0)
            yield GaugeMetricFamily(f"montana_{name}", help_text, value=value)
        settled = CounterMetricFamily(
            "montana_outbox_settled", "Events that wait no more, by outcome.", labels=["outcome"]
        )
        for name, count in figures.outbox.items():
            if name in _OUTBOX:
                metric, help_text = _OUTBOX[name]
                yield GaugeMetricFamily(f"montana_{metric}", help_text, value=count)
            else:
                settled.add_metric([name], count)
        yield settled
        handled = CounterMetricFamily(
            "montana_sms_events", "What SMS have come to, by event.", labels=["event"]
        )
        for name, count in figures.sms.items():
            if name in _SMS:
                yield GaugeMetricFamily(f"montana_sms_{name}", _SMS[name], value=count)
            else:
                handled.add_metric([name], count)
        yield handled
        yield CounterMetricFamily(
            "montana_session_active_seconds",
            "Seconds in which a session relayed something, over all sessions.",
            value=figures.active_s,
        )
        for field, (name, label, help_text) in _COUNTERS.items():
            family = CounterMetricFamily(f"montana_{name}", help_text, labels=[label])
            for value, count in getattr(figures, field).items():
                family.add_metric([value], count)
            yield family
        yield from self._bridge_families()

    def _bridge_families(self) -> Iterator[Metric]:
        connected = GaugeMetricFamily(
            "montana_bridge_connected", "Whether a bridge is there.", labels=["bridge"]
        )
        restarts = CounterMetricFamily(
            "montana_bridge_restarts", "How often a bridge has ended by itself.", labels=["bridge"]
        )
        figures = GaugeMetricFamily(
            "montana_bridge_figure", "What a bridge counts.", labels=["bridge", "figure"]
        )
        for item in self._bridges():
            connected.add_metric([item.name], item.connected)
            restarts.add_metric([item.name], item.restarts)
            for name, written in item.figures.items():
                value = _number_untrusted(written)
                if value is not None:
                    figures.add_metric([item.name, name], value)
        yield from (connected, restarts, figures)


def _number_untrusted(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


class Metrics:
    """Renders the node's metrics, its process's and its bridges' among them, as Prometheus's
    text."""

    def __init__(
        self,
        read_figures: Callable[[], Figures],
        bridges: Callable[[], list[BridgeItem]] = list,
    ) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_NodeCollector(read_figures, bridges))
        ProcessCollector(registry=self._registry)

    def render(self) -> bytes:
        """The text, as `CONTENT_TYPE`."""
        return generate_latest(self._registry)
