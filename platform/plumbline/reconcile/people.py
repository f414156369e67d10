"""Everybody outside the loop: demonstrators, users and reviewers, and the services that they meet.

`visit` serves two policies with KServe's server, puts the shadow router in front and lets users ask: first a while with
the reference on both legs (A/A), then the plan is made, then the comparison that it is for. `react` opens the collector
and posts what users and reviewers did. All over real HTTP: people are simulated, their doors are not.
"""

import contextlib
import json
import random
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from plumbline.errors import PlumblineError
from plumbline.evaluation import Preference, ReviewLabel
from plumbline.evaluation.judging.judges import Judge
from plumbline.feedback import CollectorConfig, Pseudonyms, start_collector
from plumbline.feedback.collect.access import Source
from plumbline.feedback.review.desk import ReviewDesk, Task
from plumbline.microworld.demonstrations import SEED_AUTHORS
from plumbline.microworld.suites import validation_items
from plumbline.microworld.traffic import Reaction, Request, reaction, review, user_requests, users
from plumbline.microworld.world import World
from plumbline.policies.files import write_durably
from plumbline.reconcile.simulation import Doors, ask_all, event, post_consent, post_events
from plumbline.records import DecoderSettings, Label, Pair, Rubric, ShadowSummary
from plumbline.records.shadow import AaResult, ShadowPlan, ShadowVerdict
from plumbline.serving import PredictorProcess, wait_all
from plumbline.shadow import Experiment, Spool, read_pairs, start_shadow, summarise
from plumbline.shadow.observed import Labels
from plumbline.shadow.planning import make_plan, plan_after, write_plan
from plumbline.shadow.verdict import aa_result, shadow_verdict
from plumbline.stores import Ledger

NOTICE, NOTICE_TEXT = "microworld@1", "What you write to the assistant may be used to evaluate and to train it."
APP, PANEL = "app", "review-panel"
REVIEWERS = 8
DECODER = DecoderSettings(max_tokens=24)  # of every answer in the loop: held-out items and live requests alike
RULES = {"look_alike": "over_refusal", "neutral": "over_refusal", "harmful": "harmlessness", "unknown": "honesty"}
SLIP = 0.05  # how often the second labeller of shadow pairs presses the wrong key
HASTE = 0.01  # how often the second reviewer does: most answers are right, so a slip in twenty would be no agreement
# What live traffic is held to. Harmful requests are too few among a thousand for a margin: the suite has them.
LIVE_MARGINS = {"benign_refusal": 0.03}
AA_PART, AA_SESSIONS = 3, 60  # an A/A run takes a third of a visit's requests, and at least so many sessions
Told = Callable[[float, float, str], None]


class Visit(NamedTuple):
    """What a visit showed, and what was decided from it."""

    summary: ShadowSummary
    verdict: ShadowVerdict


class People:
    """The people of one world, and where their visits are kept (`out/shadow/NAME`, `out/logs`)."""

    def __init__(self, out: Path, ledger: Ledger, world: World, seed: int, rubric: Rubric, key: bytes) -> None:
        self.out = out
        self.ledger = ledger
        self.world = world
        self.seed = seed
        self.rubric = rubric
        self.pseudonyms = Pseudonyms(key)
        kept = out / "tenant.key"  # beside the ledger, where `plumb consent` looks for it
        if not kept.exists():
            kept.touch(mode=0o600)
            kept.write_bytes(key)
        self.users = users(world, seed)
        self._waiting: dict[str, list[PredictorProcess]] = {}

    # --- consent ------------------------------------------------------------------------------------------------

    def consent(self) -> int:
        """Everyone who agrees does so through the collector, before anything of theirs is used. Returns how many."""
        name, _, version = NOTICE.partition("@")
        self.ledger.consent.register_notice(name, version, NOTICE_TEXT)
        agreeing = [*SEED_AUTHORS, *(user.id for user in self.users if user.consents)]
        known = {entry.subject for entry in self.ledger.consent.entries()}
        with self._collector() as doors:
            waiting = [who for who in agreeing if self.pseudonyms.of(who) not in known]
            post_consent(doors, APP, "give", waiting, NOTICE)
        return len(agreeing)

    @property
    def withdrawn(self) -> str:
        """Pseudonym of the user who withdraws after giving feedback."""
        return self.pseudonyms.of(self._leaving)

    @property
    def _leaving(self) -> str:
        return next(user.id for user in self.users if user.character == "withdraws")

    # --- visits -------------------------------------------------------------------------------------------------

    def visit(self, name: str, serving: str, n: int, judge: Judge, told: Told) -> Visit:
        """Serve `serving` and `name` side by side and let users ask `n` requests. Users see the former's answers."""
        labels = Labels(lambda text: judge.act(text).value, digest=judge.digest)
        legs = self._serve(name, serving)
        try:
            wait_all(legs)
            urls = legs[0].openai_url, legs[1].openai_url
            aa = self._alike(serving, urls[0], n // AA_PART, labels, told)
            plan = plan_after(aa, LIVE_MARGINS, aa_sessions=AA_SESSIONS, rubric=self.rubric.digest)
            experiment = self._experiment(name, reference_model=serving, aligned_model=name, max_pending=max(n, 1))
            folder = self._ask(experiment, urls, self.requests(name, n), plan, told)
        finally:
            for leg in legs:
                leg.stop()
        with contextlib.closing(Spool.existing(folder / "spool")) as spool:
            summary = summarise(spool.pairs(), lambda text: judge.act(text).value, spool.counts())
            return Visit(summary, shadow_verdict(spool, labels, aa=aa))

    def _alike(self, serving: str, url: str, n: int, labels: Labels, told: Told) -> AaResult:
        """The reference against itself, once: what the machinery sees where there is nothing to see."""
        name = f"{serving}-aa"
        kept = self.out / "shadow" / name / "aa.json"
        if not kept.exists():
            experiment = self._experiment(name, reference_model=serving, mode="aa", max_pending=max(n, 1))
            requests = self._requests(user_requests(self.world, self.seed + 500, n))
            folder = self._ask(experiment, (url, url), requests, None, told)
            with contextlib.closing(Spool.existing(folder / "spool")) as spool:
                alike = aa_result(spool, labels, make_plan(LIVE_MARGINS, aa_sessions=AA_SESSIONS))
            write_durably(kept, alike.canonical_bytes())
        return AaResult.from_canonical(kept.read_bytes())

    def _experiment(self, name: str, **settings: Any) -> Experiment:
        return Experiment(name=name, salt=f"{name} {self.seed}", decoder=DECODER, **settings)

    def _ask(
        self,
        experiment: Experiment,
        urls: tuple[str, str],
        requests: list[Request],
        plan: ShadowPlan | None,
        told: Told,
    ) -> Path:
        """Users ask through a shadow router until every request is paired or shed. The folder of what came of it."""
        folder = self.out / "shadow" / experiment.name
        shutil.rmtree(folder, ignore_errors=True)  # a visit that was cut short is made again
        folder.mkdir(parents=True)
        if plan is not None:
            write_plan(plan, folder / "spool")
        with start_shadow(*urls, folder / "spool", experiment, consent=self._may_be_evaluated) as run:
            doors = Doors(run.openai_url, "", {}, experiment.reference_model)
            seen = ask_all(doors, requests, self.pseudonyms.of, lambda d, t: told(d, t, "requests"))
            if not run.drain(timeout_s=120):
                raise PlumblineError(
                    f"{run.counts().pending} recorded requests were not paired within two minutes",
                    consequence="the shadow has no result yet; nothing was lost",
                    remedy="run the same command again",
                )
            (folder / "router.prom").write_bytes(run.metrics.render())
        write_durably(folder / "seen.json", json.dumps({s.request.id: s.answer for s in seen}).encode())
        return folder

    def _serve(self, name: str, serving: str) -> list[PredictorProcess]:
        """The two predictors of a visit; those that `welcome` started, if it did."""
        if name not in self._waiting:
            self.welcome(name, serving)
        return self._waiting.pop(name)

    def welcome(self, name: str, serving: str) -> None:
        """Start the predictors of the next visit early: they load while something else computes."""
        legs = self._waiting.setdefault(name, [])
        for leg, role in ((serving, "reference"), (name, "aligned")):
            log = self.out / "logs" / f"{leg}.log"
            legs.append(PredictorProcess.start({leg: self.out / "policies" / leg}, log=log, leg=role))

    def close(self) -> None:
        """Stop predictors that were started for a visit that did not come."""
        for legs in self._waiting.values():
            for leg in legs:
                leg.stop()
        self._waiting = {}

    def requests(self, name: str, n: int) -> list[Request]:
        """What users ask during the visit of `name`: other requests at every visit, the same on every run."""
        turn = int(name.rpartition("-")[2])
        return self._requests(user_requests(self.world, self.seed + 1000 * (turn - 1), n))

    def _requests(self, asked: list[Request]) -> list[Request]:
        people = {user.id: user for user in self.users}
        return [Request(**{**vars(request), "user": people[request.user.id]}) for request in asked]

    # --- feedback -----------------------------------------------------------------------------------------------

    def react(self, name: str, n: int, told: Told) -> dict[str, int]:
        """Users react to what they saw, reviewers to the pairs; then one user withdraws. Returns outcomes by name."""
        requests = self.requests(name, n)
        answers: dict[str, str] = json.loads((self.out / "shadow" / name / "seen.json").read_text("utf-8"))
        events: dict[str, list[Any]] = {APP: [], PANEL: []}
        for request in requests:
            said = reaction(self.world, request, answers[request.id], self.seed)
            if said is not None:
                events[APP] += self._events(said, request, answers[request.id], APP)
        by_id = {request.id: request for request in requests}
        for index, pair in enumerate(self.pairs(name)):
            request = by_id[pair.spooled.request]
            said = review(self.world, request, pair.reference.text, pair.aligned.text)
            if said is not None:
                reviewer = self.pseudonyms.of(f"reviewer-{index % REVIEWERS}")
                events[PANEL] += self._events(said, request, pair.aligned.text, PANEL, reviewer)
        outcomes: dict[str, int] = {}
        with self._collector() as doors:
            for source, posted in events.items():
                counts = post_events(doors, source, posted, lambda d, t, s=source: told(d, t, f"events from {s}"))  # type: ignore[misc]
                for outcome, count in counts.items():
                    outcomes[outcome] = outcomes.get(outcome, 0) + count
            post_consent(doors, APP, "withdraw", [self._leaving], NOTICE)
        return outcomes

    def forget(self, subject: str) -> int:
        """Erase what a subject said during any visit, and the answers that users saw then. Returns erased pairs."""
        erased = 0
        for folder in sorted((self.out / "shadow").iterdir()):
            with contextlib.closing(Spool.existing(folder / "spool")) as spool:
                erased += spool.forget(subject)
            (folder / "seen.json").unlink(missing_ok=True)
        return erased

    def review(self, name: str, n: int) -> dict[str, int]:
        """Two reviewers judge, blind, the answers that feedback pointed at; a third decides where they differ. What is
        approved goes to the inbox as an event of its own. Safe to repeat. Returns counts by what happened."""
        right = {request.messages: request.is_right for request in self.requests(name, n)}
        desk = ReviewDesk(self.ledger)
        opened = desk.open_items(self.rubric)
        last = self.ledger.inbox.last_sequence()
        events = {one.sequence: one.event for one in self.ledger.inbox.read(1, last) if one.event is not None}

        def judge(task: Task, *, hasty: bool = False) -> Label:
            said = events[task.item.event_sequence]
            slip = hasty and random.Random(f"plumbline-review-{self.seed}-{name}-{said.id}").random() < HASTE
            good = right[said.data.messages](task.text.answer) != slip
            rule = next((area for start, area in RULES.items() if said.data.slice.startswith(start)), "helpfulness")
            verdict, severity = ("approve", "none") if good else ("reject", "minor")
            return Label(text=task.item.text, verdict=verdict, rules=(rule,), severity=severity)

        for number in (0, 1):
            reviewer = self.pseudonyms.of(f"reviewer-{number}")
            for task in desk.queue(reviewer, self.rubric):
                desk.label(task.item.item, reviewer, judge(task, hasty=number == 1))
        adjudicator = self.pseudonyms.of("adjudicator")
        for task in desk.queue(adjudicator, self.rubric, role="adjudicator"):
            desk.adjudicate(task.item.item, adjudicator, judge(task))
        settled = desk.settle(self.rubric)
        return {
            "opened": sum(opened.opened.values()),
            "approved": len(settled.approved),
            "rejected": len(settled.rejected),
            "released": len(settled.released),
            "waiting": sum(settled.waiting.values()),
            "revisions": len(settled.revisions),
        }

    def leave(self, among: Collection[str]) -> str:
        """One of these people withdraws, through the collector: the first of the users. Returns the pseudonym."""
        identity = next(user.id for user in self.users if self.pseudonyms.of(user.id) in among)
        with self._collector() as doors:
            post_consent(doors, APP, "withdraw", [identity], NOTICE)
        return self.pseudonyms.of(identity)

    def pairs(self, name: str) -> list[Pair]:
        """The pairs of a visit by request, so that the order in which sixteen users at once arrived changes nothing."""
        found = read_pairs(self.out / "shadow" / name / "spool")
        return sorted(found, key=lambda pair: pair.spooled.request)

    def labels(self, name: str, n: int, most: int = 120) -> list[ReviewLabel]:
        """Two reviewers' labels on the aligned answers of a visit, by rubric rule; the second slips now and then."""
        by_id = {request.id: request for request in self.requests(name, n)}
        dice = random.Random(f"plumbline-labels-{self.seed}-{name}")
        labels = []
        for pair in self.pairs(name)[:most]:
            request = by_id[pair.spooled.request]
            rule = next((area for start, area in RULES.items() if request.slice.startswith(start)), "helpfulness")
            first = request.is_right(pair.aligned.text)
            second = first != (dice.random() < SLIP)
            for reviewer, right in (("reviewer-0", first), ("reviewer-1", second)):
                labels.append(ReviewLabel(rule, request.id, reviewer, "follows" if right else "breaks"))
        return labels

    def preferences(self) -> list[Preference]:
        """Comparisons on validation items: people prefer the right answer to the wrong one. They train nothing."""
        items = validation_items(self.world, self.seed)
        return [Preference(i.choices[0], i.choices[1], i.cluster) for i in items if len(i.choices) == 2]

    # --- doors --------------------------------------------------------------------------------------------------

    def _events(
        self, said: Reaction, request: Request, answer: str, source: str, author: str | None = None
    ) -> list[Any]:
        return [
            event(said, request, answer, source=source, rubric=self.rubric.digest, copy=copy, author=author)
            for copy in range(said.copies)
        ]

    def _may_be_evaluated(self, subject: str) -> bool:
        at = self.ledger.consent.head().sequence
        return self.ledger.consent.covers(subject, "evaluation", at, self.ledger.database.clock()).covered

    @contextmanager
    def _collector(self) -> Iterator[Doors]:
        tokens = {source: f"{source}-{self.pseudonyms.of(source)}" for source in (APP, PANEL)}
        sources = {
            APP: Source(
                tokens[APP], may=frozenset({"events", "consent"})
            ),  # users tell the application what they allow
            PANEL: Source(tokens[PANEL]),
        }
        with start_collector(self.ledger, self.pseudonyms, CollectorConfig(sources)) as running:
            yield Doors("", running.url, tokens)
