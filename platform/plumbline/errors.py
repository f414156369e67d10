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


def first_fault(error: Exception) -> str:
    """One line about an exception, without what was given: of pydantic's where it is, and what is wrong there."""
    from pydantic import ValidationError

    if not isinstance(error, ValidationError):
        return (str(error).splitlines() or [type(error).__name__])[0]
    first = error.errors(include_input=False, include_url=False)[0]
    where = ".".join(map(str, first["loc"]))
    return f"{where}: {first['msg']}" if where else str(first["msg"])
