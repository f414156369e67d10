"""How far a shadow evaluation is, and what was decided about it: what the operator shows of it.

A step's report is replaced by its next one; a step that is done stays done, so that a late report of an attempt that
was given up cannot take it back. Verdicts are read by experiment and by both policies' digests: what was decided about
other policies is never found here.
"""

from plumbline.records.shadow import ShadowStep, ShadowVerdict
from plumbline.stores.database import Database


class ShadowSteps:
    def __init__(self, database: Database) -> None:
        self._database = database

    def record(self, step: ShadowStep) -> None:
        """Keep what a step came to, in the place of what it came to before; not in the place of its success."""
        with self._database.transaction():
            before = self._one(step.evaluation, step.step)
            if before is not None and before.done and not step.done:
                return
            self._database.execute(
                "INSERT INTO shadow_step VALUES (?, ?, ?, ?) ON CONFLICT (evaluation, step)"
                " DO UPDATE SET body = excluded.body, recorded_at = excluded.recorded_at",
                (step.evaluation, step.step, step.model_dump_json(), self._database.now()),
            )

    def of(self, evaluation: str) -> tuple[ShadowStep, ...]:
        """The last report of each step of an evaluation that has one."""
        rows = self._database.rows("SELECT body FROM shadow_step WHERE evaluation = ? ORDER BY step", (evaluation,))
        return tuple(ShadowStep.model_validate_json(row["body"]) for row in rows)

    def verdict(
        self, name: str, reference: str, aligned: str, *, experiment: str | None = None
    ) -> ShadowVerdict | None:
        """What was said of these two policies in the shadow of this name (and digest, where it is known): what was
        decided first, except that a kill switch ends a PASS; while nothing was decided, what was said last."""
        rows = self._database.rows(
            "SELECT body FROM shadow_verdict WHERE reference = ? AND aligned = ? ORDER BY recorded_at, digest",
            (reference, aligned),
        )
        said = [ShadowVerdict.model_validate_json(row["body"]) for row in rows]
        ours = [
            one for one in said if one.name == name and one.mode == "shadow" and experiment in (None, one.experiment)
        ]
        decided = [one for one in ours if one.decided]
        stopped = [one for one in decided if one.tripped is not None]
        return next(iter(stopped or decided or ours[::-1]), None)

    def _one(self, evaluation: str, step: str) -> ShadowStep | None:
        found = self._database.value(
            "SELECT body FROM shadow_step WHERE evaluation = ? AND step = ?", (evaluation, step)
        )
        return None if found is None else ShadowStep.model_validate_json(found)
