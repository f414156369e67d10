"""Decoder settings: part of what a policy is, and the same on both legs of every pair."""

from pydantic import Field

from plumbline.records.base import Record


class DecoderSettings(Record):
    """Temperature 0 is greedy; `seed` is used only above it. `stop` strings end the answer and are not part of it."""

    schema_id = "plumbline.dev/decoder-settings/v1"

    max_tokens: int = Field(default=64, ge=1, le=32768)
    temperature: float = Field(default=0.0, ge=0, le=2)
    top_p: float = Field(default=1.0, gt=0, le=1)
    seed: int = 0
    stop: tuple[str, ...] = ()

    @property
    def greedy(self) -> bool:
        return self.temperature == 0.0
