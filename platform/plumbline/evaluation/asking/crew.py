"""Many Ray actors, each with the policy loaded once: batches are dealt in a fixed order to whoever is free.

    batches   0 1 2 3 4 5          an actor that dies takes one batch with it, which is dealt again to its
    actor a   0   2   4            successor; answers do not depend on who gave them, nor on how many there were
    actor b     1   3   5

Ray must be connected (`ray.init`), locally or to a cluster; the policy's directory must be readable from every node.
"""

import os
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from plumbline.errors import PlumblineError
from plumbline.evaluation.asking.answered import Answered, Batch, ask_items
from plumbline.records import DecoderSettings, PolicyManifest

DEATHS = 3  # of actors over one batch, before it is given up


def require_ray() -> None:
    """PlumblineError where Ray is not connected."""
    import ray

    if not ray.is_initialized():
        raise PlumblineError(
            "Ray is not connected",
            consequence="there is nobody to ask the policy",
            remedy="call ray.init() first, or ask in this process",
        )


class RayCrew:
    """An Asker over `workers` actors that load the policy at `path`. Close it, or use it in a `with` block."""

    verified = True

    def __init__(
        self, path: Path, manifest: PolicyManifest, *, workers: int, device: str = "cpu", threads: int | None = None
    ) -> None:
        import torch

        require_ray()
        self._manifest, self.place = manifest, device
        self._threads = threads or torch.get_num_threads()
        self._path, self.workers = path, workers
        self._resources: dict[str, Any] = {"num_cpus": 1} | ({"num_gpus": 1} if device == "cuda" else {})
        self.actors: list[Any] = []

    @property
    def manifest(self) -> PolicyManifest:
        return self._manifest

    def ask(self, batches: Sequence[Batch], decoder: DecoderSettings) -> Iterator[Answered]:
        """Answers batch by batch, as they are ready. Raises PlumblineError when one batch has killed its actor three
        times."""
        import ray
        from ray.exceptions import RayActorError, RayTaskError

        waiting = deque(range(len(batches)))
        deaths = [0] * len(batches)
        busy: dict[Any, tuple[int, Any]] = {}
        while len(self.actors) < min(self.workers, len(batches)):
            self.actors.append(self._hire())
        idle = list(self.actors)
        while waiting or busy:
            while waiting and idle:
                number, actor = waiting.popleft(), idle.pop(0)
                busy[actor.ask.remote(batches[number], decoder)] = (number, actor)
            [ready], _ = ray.wait(list(busy), num_returns=1)
            number, actor = busy.pop(ready)
            try:
                answered = ray.get(ready)
            except RayTaskError as error:
                raise _told(error) from error
            except RayActorError as error:
                deaths[number] += 1
                if deaths[number] == DEATHS:
                    raise PlumblineError(
                        f"a batch of {len(batches[number])} items killed its worker {DEATHS} times: {_last(error)}",
                        consequence="the evaluation stops; finished answers are kept",
                        remedy="see whether the workers run out of memory, use fewer --workers, and run it again",
                    ) from error
                self.actors[self.actors.index(actor)] = actor = self._hire()
                idle.append(actor)
                waiting.appendleft(number)
                continue
            idle.append(actor)
            yield answered

    def close(self) -> None:
        import ray

        for actor in self.actors:
            ray.kill(actor)
        self.actors = []

    def __enter__(self) -> "RayCrew":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _hire(self) -> Any:
        import ray

        made = ray.remote(max_restarts=0, runtime_env={"env_vars": _environment(self._threads)}, **self._resources)(
            _Member
        )
        return made.remote(str(self._path), self._manifest.digest, self.place, self._threads)


class _Member:
    """One actor: the policy, loaded and verified once."""

    def __init__(self, path: str, digest: str, device: str, threads: int) -> None:
        import torch

        from plumbline.policies.local import LocalPolicy

        torch.set_num_threads(threads)
        self.policy = LocalPolicy.load(path, device=device)
        self.other = self.policy.manifest.digest if self.policy.manifest.digest != digest else None

    def ask(self, items: Batch, decoder: DecoderSettings) -> Answered:
        if self.other is not None:
            raise PlumblineError(
                f"a worker found another policy at the same path ({self.other[:19]})",
                consequence="the evaluation stops; finished answers are kept",
                remedy="give all nodes the same files, on a shared volume or in the image",
            )
        return ask_items(self.policy, items, decoder)

    def process(self) -> int:
        return os.getpid()


def _environment(threads: int) -> dict[str, str]:
    return {"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}


def _told(error: Any) -> PlumblineError:
    """What went wrong in an actor: our own words, or the last line of a foreign error."""
    cause = error.cause
    if isinstance(cause, PlumblineError):
        return cause
    return PlumblineError(
        f"a worker could not answer: {_last(error)}",
        consequence="the evaluation stops; finished answers are kept",
        remedy="ask in one process (without --workers) to see the whole error",
    )


def _last(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
