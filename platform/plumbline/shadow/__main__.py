"""The shadow router as a process (a router pod), with a worker when it is told where the aligned policy is.

    python -m plumbline.shadow --experiment FILE.json --spool DIR --consent FILE \\
        --reference http://reference/openai/v1 [--aligned http://aligned/openai/v1] --port 8080

FILE.json is an `Experiment`; the consent file holds the pseudonyms of subjects who agreed to evaluation.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from plumbline.errors import PlumblineError
from plumbline.shadow.experiment import ShadowRun
from plumbline.shadow.recorder import Consent, nobody
from plumbline.shadow.sampling import read_experiment


def consent_list(file: Path | None) -> Consent:
    """Subjects who consent, one pseudonym per line, read anew when the file changes; nobody without a file."""
    if file is None:
        return nobody
    seen: tuple[float, frozenset[str]] = (0.0, frozenset())

    def consents(subject: str) -> bool:
        nonlocal seen
        changed = file.stat().st_mtime
        if changed != seen[0]:
            seen = (changed, frozenset(file.read_text("utf-8").split()))
        return subject in seen[1]

    return consents


def main(argv: Sequence[str] | None = None) -> None:
    """Serve a router, and a worker when --aligned names where to ask. Exits 2 with a remedy."""
    parser = argparse.ArgumentParser(prog="python -m plumbline.shadow", allow_abbrev=False)
    parser.add_argument("--experiment", type=Path, required=True, help="JSON file with the Experiment")
    parser.add_argument("--reference", required=True, help="URL of the reference, ending in /v1")
    parser.add_argument("--aligned", help="URL of the aligned policy; without it only the router runs")
    parser.add_argument("--spool", type=Path, required=True, help="spool directory")
    parser.add_argument("--consent", type=Path, help="file of consenting subjects' pseudonyms (default: nobody)")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080)
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.WARNING)
    try:
        run = ShadowRun(
            read_experiment(options.experiment),
            options.reference,
            options.aligned,
            options.spool,
            consent=consent_list(options.consent),
            host=options.host,
            port=options.port,
        )
        for words in run.unsaid:
            print(f"note: {words}", file=sys.stderr)
        run.serve()
    except PlumblineError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
