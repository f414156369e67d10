"""One exception for everything a user can put right.

Every message says the fact, its consequence and the remedy, in that order. The command line prints it without
a traceback and exits with `exit_code` (2 unless a subclass says otherwise).
"""


class PlumblineError(Exception):
    """A fault with a remedy: `fact` is what was seen, `consequence` what follows, `remedy` what to do."""

    exit_code = 2

    def __init__(self, fact: str, *, consequence: str, remedy: str) -> None:
        self.fact = fact
        self.consequence = consequence
        self.remedy = remedy
        super().__init__(f"{fact}\n  so: {consequence}\n  do: {remedy}")

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.fact, self.consequence, self.remedy))


def _rebuild(kind: type[PlumblineError], fact: str, consequence: str, remedy: str) -> PlumblineError:
    return kind(fact, consequence=consequence, remedy=remedy)
