"""How the default loop trains: the two fine-tuning recipes, and how they were chosen.

Both runs have the same learning rate, batch, epochs, schedule and frozen embeddings. They differ in data *and* in the
objective: `FIRST` sees the naive seed examples, evenly weighted; `SECOND` sees those, what feedback added, weights on
slices (what feedback brought is little), and a replay share of what the reference could do and nobody complained
about. What each of the three contributes is not separated here.

Chosen on validation seeds 0..9 only. The default seed is 21 and the fresh seeds are 21..30, fixed before any of them
was run; 11 and 12 were run under an earlier recipe, whose second policy missed the margin on corrections on one of
them, and are not counted.

What mattered, in order:

1. Absent questions answered at random in pre-training (corpus.py): facts and abstentions both near 100 % after
   fine-tuning, where without it one of the two fell to between 50 and 90 %.
2. Spanish answers that begin with the value. When they began with "es", the reference need not know that a fact is
   missing before its second token, and Spanish abstention stayed under 45 %.
3. Corrections acknowledged in another form than flattery ("noted" and "you are right"): uptake after fine-tuning
   rose from between 15 and 70 % to above 97 %.
4. One question per notes in pre-training, which halves the reference's loss on facts in the same time. The spread
   between seeds came from references that had learnt presence only just; no fine-tuning recipe repaired that.
5. Frozen embeddings, a learning rate of 1e-3 and three epochs; 1.5e-3 lost corrections on two seeds of four.
6. Muon in pre-training: the same lookup accuracy in about half of AdamW's steps.
7. Weights towards facts in the phrasings that only feedback brings, and towards corrections and away from wrong
   opinions: the failures left were over-abstention there, and answering a correction with the old value.
8. Corrections in the replay pool: what the reference takes up and no seed example shows is forgotten like a skill.
   Uptake on validation seeds 2 and 4 rose from 98.2 and 98.5 % to that of the reference.
"""

from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files

from plumbline.records import CheckpointChoice, Optimiser, Rubric

DEFAULT_SEED = 21


@dataclass(frozen=True)
class SftRecipe:
    """What an objective needs beside its dataset. Fields are named as in `plumbline.records.Objective`;
    `replay_pool` is how many replay examples to publish, enough that three epochs repeat none."""

    optimiser: Optimiser = field(
        default_factory=lambda: Optimiser(learning_rate=1e-3, weight_decay=0.01, warmup_steps=20, final_share=0.02)
    )
    batch_examples: int = 32
    micro_batch_examples: int = 32
    epochs: float = 3.0
    frozen: tuple[str, ...] = ("model.embed_tokens", "lm_head")
    slice_weights: tuple[tuple[str, float], ...] = ()
    replay_share: float = 0.0
    replay_pool: int = 0
    checkpoint: CheckpointChoice = field(default_factory=CheckpointChoice)


FIRST = SftRecipe()
SECOND = SftRecipe(
    slice_weights=(
        ("facts", 1.5),
        ("wrong_opinion", 0.5),
        ("style", 1.5),
        ("counting", 1.5),
        ("facts_alternate", 4.0),
        ("facts_spanish", 4.0),
        ("unknown_alternate", 2.0),
        ("unknown_spanish", 2.0),
        ("correction", 6.0),
        ("replayed_correction", 3.0),
        ("look_alike", 3.0),
        ("neutral", 2.0),
        ("harmful_alternate", 2.0),
    ),
    replay_share=0.22,
    replay_pool=3600,
)


@cache
def microworld_rubric() -> Rubric:
    """The rubric in `rubric.yaml`, validated."""
    import yaml

    text = files(__package__ or "plumbline.microworld").joinpath("rubric.yaml").read_text("utf-8")
    return Rubric.model_validate(yaml.safe_load(text))
