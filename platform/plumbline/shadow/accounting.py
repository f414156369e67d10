"""The spool's counts as Prometheus metrics, read at each scrape: true after a restart, and whoever pairs."""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from plumbline.metrics import CATALOGUE
from plumbline.shadow.spool import Spool


class Accounting(Collector):
    """Spooled, paired, shed by reason, and pending."""

    def __init__(self, spool: Spool) -> None:
        self.spool = spool

    def collect(self) -> Iterator[Metric]:
        counts = self.spool.counts()
        name = counts.experiment
        names = ("plumbline_shadow_spooled", "plumbline_shadow_pairs", "plumbline_shadow_shed")
        spooled, pairs, shed = (_family(name) for name in names)
        spooled.add_metric((name,), counts.spooled)
        pairs.add_metric((name,), counts.paired)
        for reason, n in counts.shed.items():
            shed.add_metric((name, reason), n)
        _, text, labels = CATALOGUE["plumbline_shadow_pending"]
        pending = GaugeMetricFamily("plumbline_shadow_pending", text, labels=labels)
        pending.add_metric((name,), counts.pending)
        yield from (spooled, pairs, shed, pending)

    def describe(self) -> list[Metric]:
        return []


def _family(name: str) -> CounterMetricFamily:
    _, text, labels = CATALOGUE[name]
    return CounterMetricFamily(name, text, labels=labels)
