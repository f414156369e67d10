"""A house with a review desk, two reviewers who go through their queues, and what they say."""

from dataclasses import dataclass, field

from plumbline.feedback.pseudonyms import Pseudonyms
from plumbline.feedback.review.desk import ReviewDesk
from plumbline.records import Label, Rubric, Rule

REVIEWERS = ("rita", "rolf")
HONEST = "say when you do not know"


def rubric(version: str = "1", honesty: str = HONEST, margin: float = 0.02) -> Rubric:
    rules = (
        Rule(area="helpfulness", text="answer what was asked", margins={"helpful": margin}),
        Rule(area="honesty", text=honesty, margins={"calibrated": margin}),
    )
    return Rubric(id="support", version=version, owner="data-owner", purpose="tests", rules=rules)


@dataclass
class Room:
    """A house with a review desk, and people to sit at it."""

    house: object
    desk: ReviewDesk = field(init=False)

    def __post_init__(self):
        self.desk = ReviewDesk(self.house.ledger)
        self.names: Pseudonyms = self.house.names

    def rate(self, person, asked, answer="the answer", score=1.0, **data):
        self.house.post(self.house.event(person, "rating", asked, answer=answer, score=score, **data))
        return self.house.ledger.inbox.last_sequence()

    def rated(self, count, person="ana"):
        self.house.consent(person)
        for number in range(count):
            self.rate(person, f"question {number}", f"answer {number}")
        return self.desk.open_items(rubric())

    def of(self, name):
        return self.names.of(name)

    def queue(self, name, of=None, role="reviewer"):
        return self.desk.queue(self.of(name), of or rubric(), role=role)

    def say(self, name, task, verdict="approve", rules=("honesty",), role="reviewer", **more):
        severity = "major" if verdict == "reject" else "none"
        correct = more.pop("correct", False)
        label = Label(text=task.item.text, verdict=verdict, rules=rules, severity=severity, **more)
        act = self.desk.adjudicate if role == "adjudicator" else self.desk.label
        return act(task.item.item, self.of(name), label, correct=correct)

    def judge(self, verdicts, of=None):
        """Both reviewers go through their queues; `verdicts(reviewer, answer)` is what each says."""
        for name in REVIEWERS:
            for task in self.queue(name, of):
                self.say(name, task, verdicts(name, task.text.answer))

    def decide(self, verdict, name="alma", of=None):
        for task in self.queue(name, of, role="adjudicator"):
            self.say(name, task, verdict(task.text.answer), role="adjudicator")

    def settle(self, of=None, **options):
        return self.desk.settle(of or rubric(), **options)

    @property
    def released(self):
        """Approvals in the inbox: the event that each is of, and who gave it."""
        events = self.house.ledger.inbox.read(1, self.house.ledger.inbox.last_sequence())
        approved = [queued.event.data for queued in events if queued.event and queued.event.kind == "approved"]
        return [(data.original, data.approved_by) for data in approved]


def number(answer):
    return int(answer.split()[-1])


def truth(_, answer):
    """Half the answers are good."""
    return "approve" if number(answer) % 2 else "reject"


def slipping(slips):
    def say(name, answer):
        right = truth(name, answer)
        wrong = "approve" if right == "reject" else "reject"
        return wrong if name == "rolf" and number(answer) < slips else right

    return say
