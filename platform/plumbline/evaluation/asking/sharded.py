"""A suite's batches, sharded over a cluster by Ray Data: a pool of actors, each with the policy loaded once.

    batches   0 1 2 3 4 5 ...    --> map_batches(Member) on as many actors as the pool has -->    answers as they come

The pool may grow and shrink (MIN:MAX) while nodes come and go. A batch whose node is lost is asked again elsewhere;
answers do not depend on who gave them, so the report is the one that a single process writes. Against `RayCrew`,
which deals to a fixed crew, this is for clusters that change size.

Ray must be connected; the policy's directory must be readable from every node.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from plumbline.errors import PlumblineError
from plumbline.evaluation.asking.answered import Answered, Batch, ask_items
from plumbline.evaluation.asking.crew import require_ray
from plumbline.evaluation.asking.records import ItemAnswer
from plumbline.records import DecoderSettings, PolicyManifest, SuiteItem

LOSSES = 3  # of an actor's node over one batch, before the run ends
_CONSEQUENCE = "the evaluation stops; finished answers are kept"


class RayDataCrew:
    """An Asker over Ray Data. `workers` is the number of actors, or (fewest, most)."""

    verified = True

    def __init__(
        self,
        path: Path,
        manifest: PolicyManifest,
        *,
        workers: int | tuple[int, int],
        device: str = "cpu",
        threads: int | None = None,
    ) -> None:
        import torch

        require_ray()
        self._manifest, self._path, self.place = manifest, path, device
        self._fewest, self._most = (workers, workers) if isinstance(workers, int) else workers
        self._threads = threads or torch.get_num_threads()

    @property
    def manifest(self) -> PolicyManifest:
        return self._manifest

    def ask(self, batches: Sequence[Batch], decoder: DecoderSettings) -> Iterator[Answered]:
        """Answers batch by batch, as they are ready. Raises PlumblineError for what no other actor could do better."""
        import ray
        from ray.data import ActorPoolStrategy, DataContext
        from ray.exceptions import RayError

        if not batches:
            return
        context = DataContext.get_current()
        context.enable_progress_bars = False
        rows = [{"items": json.dumps([item.model_dump(mode="json") for item in batch])} for batch in batches]
        environment = {"OMP_NUM_THREADS": str(self._threads), "TOKENIZERS_PARALLELISM": "false"}
        most = min(self._most, len(rows))
        answered = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
            _Member,
            fn_constructor_args=(str(self._path), self._manifest.digest, self.place, self._threads),
            fn_kwargs={"decoder": decoder.model_dump_json()},
            batch_size=1,
            compute=ActorPoolStrategy(min_size=min(self._fewest, most), max_size=most, max_tasks_in_flight_per_actor=2),
            num_cpus=1,
            **({"num_gpus": 1} if self.place == "cuda" else {}),
            max_restarts=LOSSES,
            max_task_retries=LOSSES,
            runtime_env={"env_vars": environment},
        )
        try:
            for row in answered.iter_rows():
                said = json.loads(row["said"])
                fault = PlumblineError(**said["fault"]) if said["fault"] else None
                yield Answered(tuple(map(ItemAnswer.model_validate, said["answers"])), fault)
        except RayError as error:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            raise PlumblineError(
                f"the workers could not answer: {lines[-1] if lines else type(error).__name__}",
                consequence=_CONSEQUENCE,
                remedy="see whether they run out of memory, use fewer of them, and run it again",
            ) from error

    def close(self) -> None:
        """The pool ends with the last batch."""


class _Member:
    """One actor of the pool."""

    def __init__(self, path: str, digest: str, device: str, threads: int) -> None:
        import torch

        from plumbline.policies.local import LocalPolicy

        torch.set_num_threads(threads)
        self.fault: PlumblineError | None = None
        try:
            self.policy = LocalPolicy.load(path, device=device)
        except PlumblineError as error:
            self.fault = error
            return
        if (found := self.policy.manifest.digest) != digest:
            self.fault = PlumblineError(
                f"a worker found another policy at the same path ({found[:19]})",
                consequence=_CONSEQUENCE,
                remedy="give all nodes the same files, on a shared volume or in the image",
            )

    def __call__(self, batch: dict[str, Any], decoder: str) -> dict[str, list[str]]:
        items = tuple(SuiteItem.model_validate(one) for one in json.loads(str(batch["items"][0])))
        settings = DecoderSettings.model_validate_json(decoder)
        answered = Answered((), self.fault) if self.fault else ask_items(self.policy, items, settings)
        fault = answered.fault
        told = fault and {"fact": fault.fact, "consequence": fault.consequence, "remedy": fault.remedy}
        return {"said": [json.dumps({"answers": [a.model_dump(mode="json") for a in answered.answers], "fault": told})]}
