"""The spool's counts as Prometheus metrics, read at each scrape: true after a restart, and whoever pairs."""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from plumbline.metrics import CATALOGUE
from plumbline.shadow.aligned_leg import AlignedLeg
from plumbline.shadow.spool import Spool
from plumbline.shadow.sweeping import swept_at


class Accounting(Collector):
    """Spooled, paired, shed by reason, and pending; when withdrawals were last looked for; with the leg that answers
    users of an A/B experiment, whether it may not."""

    def __init__(self, spool: Spool, aligned: AlignedLeg | None = None) -> None:
        self.spool = spool
        self.aligned = aligned

    def collect(self) -> Iterator[Metric]:
        counts = self.spool.counts()
        name = counts.experiment
        names = ("plumbline_shadow_spooled", "plumbline_shadow_pairs", "plumbline_shadow_shed")
        spooled, pairs, shed = (_family(name) for name in names)
        spooled.add_metric((name,), counts.spooled)
        pairs.add_metric((name,), self.spool.ever_paired())  # a counter never falls: people may leave
        for reason, n in counts.shed.items():
            shed.add_metric((name, reason), n)
        yield from (spooled, pairs, shed)
        gauges = {
            "plumbline_shadow_pending": float(counts.pending),
            "plumbline_shadow_swept_timestamp_seconds": swept_at(self.spool),
            "plumbline_shadow_withheld": float(self.aligned is not None and bool(self.aligned.withheld)),
        }
        for gauge, value in gauges.items():
            _, text, labels = CATALOGUE[gauge]
            family = GaugeMetricFamily(gauge, text, labels=labels)
            family.add_metric((name,), value)
            yield family

    def describe(self) -> list[Metric]:
        return []


def _family(name: str) -> CounterMetricFamily:
    _, text, labels = CATALOGUE[name]
    return CounterMetricFamily(name, text, labels=labels)
