"""Whether neighbours change an answer: the same items asked alone, together and in another order.

    alone       a | b | c | d        together    a b c d        turned     d c b a

All differences should be 0: on CPUs the sums are the same to the last bit. Where they are not (another device or
kernel), the largest difference says what a score may be trusted to.
"""

from collections.abc import Sequence

from plumbline.evaluation.asking.answered import ask_items, by_likelihood
from plumbline.evaluation.asking.records import ItemAnswer
from plumbline.policies import Policy
from plumbline.records import DecoderSettings, Record, SuiteItem


class Invariance(Record):
    """`nats` is the largest difference of a log-likelihood, `texts` the number of answers that differed."""

    schema_id = "plumbline.dev/invariance/v1"

    items: int
    nats: float
    texts: int

    @property
    def exact(self) -> bool:
        return self.nats == 0 and self.texts == 0


def invariance(policy: Policy, items: Sequence[SuiteItem], decoder: DecoderSettings) -> Invariance:
    """Ask each item three times. For a sample: it costs as much as three passes without batches."""
    nats, texts = 0.0, 0
    for kind in (True, False):
        mine = tuple(item for item in items if by_likelihood(item) is kind)
        if not mine:
            continue
        alone = [answer for item in mine for answer in ask_items(policy, (item,), decoder).answers]
        together = ask_items(policy, mine, decoder).answers
        turned = ask_items(policy, mine[::-1], decoder).answers[::-1]
        for other in (together, turned):
            pairs = list(zip(alone, other, strict=True))
            texts += sum((a.text, a.finish, a.error) != (b.text, b.finish, b.error) for a, b in pairs)
            nats = max([nats, *(_apart(a, b) for a, b in pairs)])
    return Invariance(items=len(items), nats=nats, texts=texts)


def _apart(one: ItemAnswer, other: ItemAnswer) -> float:
    return max((abs(a.total - b.total) for a, b in zip(one.choices, other.choices, strict=True)), default=0.0)
