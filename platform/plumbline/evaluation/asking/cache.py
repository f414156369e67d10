"""Finished answers on disk: one append-only file of JSON lines per policy, template, decoder and place.

A cache whose key forgets the model, the template or the sampling settings has spoilt published results in every large
harness, so the key is the digest of all of them, and each line names its item by the digest of the whole item. Judge
and rubric are not in it: they read answers and do not change them; they stand in the report. A torn line (the crash
itself) counts as not yet asked. Writers hold a lock, so that two runs of one command share their work.
"""

import fcntl
import json
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from plumbline.errors import PlumblineError
from plumbline.evaluation.asking.records import ItemAnswer
from plumbline.records import digest_of, short


def answers_key(policy: str, template: str, decoder: str, place: str) -> str:
    """The key of everything that decides an answer beside the item: three digests, and where it is computed."""
    return digest_of([policy, template, decoder, place])


class AnswerCache:
    """The file of one key in `folder`."""

    def __init__(self, folder: Path, key: str) -> None:
        self.path, self.key = folder / f"answers-{short(key)}.jsonl", key

    def load(self) -> dict[str, ItemAnswer]:
        """Answers by item digest, the first one where an item was answered twice. Lines that are torn, or belong to
        another key, count as not yet asked."""
        try:
            data = self.path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except OSError as error:
            raise self._fault("read", error) from error
        known: dict[str, ItemAnswer] = {}
        for line in data.split(b"\n"):
            try:
                entry = json.loads(line)
                if entry["key"] == self.key:
                    known.setdefault(entry["item"], ItemAnswer.model_validate(entry["answer"]))
            except (ValueError, KeyError, TypeError, RecursionError, ValidationError):
                continue
        return known

    def append(self, entries: Sequence[tuple[str, ItemAnswer]]) -> None:
        """Written under a lock, batch by batch. It starts on a new line, so that a torn line spoils only itself."""
        lines = [
            json.dumps({"key": self.key, "item": digest, "answer": answer.model_dump(mode="json")}, ensure_ascii=False)
            for digest, answer in entries
        ]
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                file.write(("\n" + "\n".join(lines) + "\n").encode("utf-8"))
        except OSError as error:
            raise self._fault("written", error) from error

    def set_aside(self) -> None:
        """Begin afresh; the answers so far stay beside, under a number."""
        number = 1
        while (older := self.path.with_name(f"{self.path.stem}.{number}.jsonl")).exists():
            number += 1
        try:
            self.path.rename(older)
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise self._fault("set aside", error) from error

    def _fault(self, what: str, error: OSError) -> PlumblineError:
        return PlumblineError(
            f"the answer cache {self.path} cannot be {what} ({error.strerror})",
            consequence="the evaluation stops; answers already on disk are kept",
            remedy="free some space or give another cache directory, then run the same command again",
        )
