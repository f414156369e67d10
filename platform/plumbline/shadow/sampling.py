"""What a shadow experiment is, who is in it, and under which decoder settings both legs answer.

Sampling is sticky: a session is in or out for good, by a salted hash, so that conversations are whole and an
experiment with another salt draws another sample. Session identifiers are kept only as a keyed pseudonym.
"""

import hashlib
import hmac
import json
import re
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from plumbline.errors import PlumblineError
from plumbline.records import DecoderSettings, Record

Mode = Literal["shadow", "aa", "ab"]
UNLABELLED = "unlabelled"
SLICE = re.compile(r"^[A-Za-z0-9_.:/-]{1,64}$")
IDENTIFIER = re.compile(r"^[\x21-\x7e]{1,200}$")


class Experiment(Record):
    """One shadow comparison. It is stored in the spool, which then takes no other experiment's records.

    `mode`: in `shadow` users get the reference and the aligned policy is asked afterwards; in `aa` the reference is
    asked twice, which shows the noise; in `ab` a share `ab_share` of the sessions gets the aligned policy, and the
    reference is asked afterwards.

    `share` of the sessions is sampled. `decoder` fills what a request leaves open. A request's body may have
    `max_body` bytes; a record (prompt and answer) `max_record`; `max_pending` records may wait for the other policy.
    """

    schema_id = "plumbline.dev/shadow-experiment/v2"

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")
    reference_model: str = "reference"
    aligned_model: str = "aligned"
    salt: str = Field(min_length=1)
    mode: Mode = "shadow"
    share: float = Field(default=1.0, ge=0, le=1)
    ab_share: float = Field(default=0.0, ge=0, le=1)
    decoder: DecoderSettings = DecoderSettings()
    max_body: int = Field(default=1 << 20, gt=0)
    max_record: int = Field(default=1 << 18, gt=0)
    max_pending: int = Field(default=10_000, gt=0)

    @model_validator(mode="after")
    def _assigns_only_where_it_may(self) -> Self:
        if (self.mode == "ab") != (self.ab_share > 0):
            raise ValueError("ab_share, the share of sessions that get the aligned policy, goes with mode ab (above 0)")
        return self


def read_experiment(file: Path) -> Experiment:
    """An experiment from its JSON file."""
    try:
        return Experiment.model_validate(json.loads(file.read_text("utf-8")))
    except (OSError, ValueError) as error:
        raise PlumblineError(
            f"{file} is not a shadow experiment: {str(error).splitlines()[0]}",
            consequence="no router was started",
            remedy='write at least {"name": "...", "salt": "..."} into it',
        ) from error


def sampled(salt: str, session: str, share: float) -> bool:
    """Whether a session takes part: a function of salt and session alone, for any share nested in every larger one."""
    drawn = hashlib.sha256(f"{salt}\0{session}".encode()).digest()
    return int.from_bytes(drawn[:8], "big") < share * 2**64


def session_pseudonym(salt: str, session: str) -> str:
    """HMAC-SHA-256 of a session identifier under the experiment's salt, 32 hexadecimal characters."""
    return hmac.new(salt.encode(), session.encode(), hashlib.sha256).hexdigest()[:32]


def pinned(body: dict[str, Any], default: DecoderSettings, request_id: str) -> DecoderSettings | None:
    """The settings both legs use: what the user asked for over `default`; None when what they asked is not valid.

    A request that samples and names no seed gets one derived from its id: fixed for the pair, varied over requests.
    """
    asked = {name: body[name] for name in ("temperature", "top_p", "seed") if body.get(name) is not None}
    limit = body.get("max_tokens") if body.get("max_completion_tokens") is None else body["max_completion_tokens"]
    if limit is not None:
        asked["max_tokens"] = limit
    if (stop := body.get("stop")) is not None:
        asked["stop"] = (stop,) if isinstance(stop, str) else stop
    try:
        decoder = DecoderSettings.model_validate({**default.model_dump(), **asked}, strict=False)
    except ValidationError:
        return None
    if decoder.greedy or "seed" in asked:
        return decoder
    seed = int.from_bytes(hashlib.sha256(request_id.encode()).digest()[:4], "big")
    return decoder.model_copy(update={"seed": seed})
