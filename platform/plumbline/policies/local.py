"""A policy in this process, by transformers. What it says and scores depends on the request alone.

Not on its neighbours, their number, or what was asked before: lm-evaluation-harness users have met scores that move
with the batch size for years (#1645, #704). `scoring` and `decoding` say how. On a CPU the results are equal to the
last bit; another device, another number format or another version of torch may differ in the last digits.
"""

import math
from collections.abc import Callable, Generator, Sequence
from functools import cached_property
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, cast

import torch
from transformers import AddedToken, AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from plumbline.errors import PlumblineError
from plumbline.policies import decoding, scoring
from plumbline.policies.base import Completion, LogLikelihood
from plumbline.policies.engine import Answer, Engine
from plumbline.policies.files import manifest_of, resolve, verify
from plumbline.policies.lean import Lean
from plumbline.policies.scoring import Scored, logits_at
from plumbline.policies.template import ChatTemplate, with_answer
from plumbline.records import Conversation, DecoderSettings, PolicyManifest

__all__ = ["LocalPolicy", "identify", "load_model", "load_template", "logits_at", "says_treated", "treats_logits"]


class LocalPolicy:
    """A causal language model with its template. Not thread-safe: one caller at a time.

    `truncated_prompts` counts prompts that were cut from the left because they left no room for an answer.
    """

    def __init__(self, model: Any, template: ChatTemplate, manifest: PolicyManifest) -> None:
        self.model = model.eval()
        self.template = template
        self.tokenizer = template.tokenizer
        self._manifest = manifest
        self.truncated_prompts = 0
        eos = model.generation_config.eos_token_id
        stops = [] if eos is None else eos if isinstance(eos, list) else [eos]
        self.stop_ids = frozenset([*stops, self.tokenizer.eos_token_id])

    @classmethod
    def load(cls, directory_or_id: str | Path, *, device: str = "cpu") -> "LocalPolicy":
        """Load and verify a policy. Raises PlumblineError when it is unreadable or not what its manifest says."""
        path, manifest = identify(directory_or_id)
        tokenizer, model = load_model(path)
        return cls(model.to(device), ChatTemplate(tokenizer, name=path.name), manifest)

    @property
    def manifest(self) -> PolicyManifest:
        return self._manifest

    @property
    def place(self) -> str:
        """Where it computes, which may change the last bits: `cpu` or `cuda`."""
        return str(self.device.type)

    @property
    def device(self) -> torch.device:
        return cast(torch.device, next(self.model.parameters()).device)

    @cached_property
    def _treated(self) -> bool:
        return treats_logits(self.model)

    @cached_property
    def _branching(self) -> bool:
        return scoring.branches(self.model, self._treated)

    @cached_property
    def _lean(self) -> Lean | None:
        """None where it would not say what the model says."""
        lean = None if self._treated else Lean.of(self.model)
        return lean if lean is not None and decoding.slots_work(lean, False) else None

    @cached_property
    def _shapes(self) -> decoding.Shapes | None:
        return decoding.try_out(self._lean or self.model, self._treated)

    @property
    def context(self) -> int:
        """Tokens that fit: prompt and answer together."""
        return int(getattr(self.model.config, "max_position_embeddings", 2048))

    def engine(self) -> Engine:
        """Continuous batching over this policy, to which prompts can be given at any step."""
        treated, shapes, lean = self._treated, self._shapes, self._lean
        return Engine(self.model, self.stop_ids, self._text, treated=treated, shapes=shapes, lean=lean)

    def generate(self, prompts: Sequence[Conversation], decoder: DecoderSettings) -> list[Completion]:
        """One completion per prompt, in order. Sampling is seeded per request, so neighbours do not matter."""
        answers = [Answer(self._fit(ids, decoder), decoder) for ids in self.template.prompt_ids(prompts)]
        engine = self.engine()
        for answer in sorted(answers, key=lambda answer: -len(answer.ids)):
            engine.ask(answer)
        engine.run()
        return [answer.completion for answer in answers]

    def stream(self, prompt: Conversation, decoder: DecoderSettings) -> Generator[str, None, Completion]:
        """The answer in pieces; the generator's value is the Completion. Joined, the pieces are `generate`'s text."""
        answer = Answer(self._fit(self.template.prompt_ids([prompt])[0], decoder), decoder, aloud=True)
        engine = self.engine()
        engine.ask(answer)
        while not answer.ended:
            engine.step()
            if piece := answer.piece():
                yield piece
        return answer.completion

    def spell(self, before: Sequence[int], token: int) -> str:
        """The text that a token adds after those `before` it; the vocabulary's name for it where it adds none."""
        some = list(before[-4:])
        read = self._text(some).rstrip("\N{REPLACEMENT CHARACTER}")
        return self._text([*some, token])[len(read) :] or str(self.tokenizer.convert_ids_to_tokens(token))

    def log_likelihood(self, pairs: Sequence[tuple[Conversation, str]]) -> list[LogLikelihood]:
        """log pi(answer | prompt) of each answer's text, end-of-turn excluded, in float32 nats. Answers that the prompt
        holds are context. Neighbours that share one prompt object, as the choices of an item do, are a unit: the last
        bits of a score hold for its unit. Raises PlumblineError where the template writes an answer in a form that
        cannot be masked."""
        rows = self.template.encode([with_answer(prompt, answer) for prompt, answer in pairs], turns="last")
        units = accumulate((int(one is not other) for (one, _), (other, _) in pairwise(pairs)), initial=0)
        asked = [self._whole(row.ids, row.content, unit) for [row], unit in zip(rows, units, strict=False)]
        whole = [one for one in asked if one is not None]
        found = iter(scoring.score(self.model, whole, treated=self._treated, branching=self._branching))
        return [
            LogLikelihood(math.nan, 0, len(answer.encode()))
            if one is None
            else LogLikelihood(next(found), len(one.ids) - one.start, len(answer.encode()))
            for one, (_, answer) in zip(asked, pairs, strict=True)
        ]

    def _whole(self, ids: list[int], content: list[bool], unit: int) -> Scored | None:
        """The answer's own tokens after what comes before them, cut from the left to fit; None when the answer alone
        does not fit. The last token is only predicted, so it needs no room."""
        start = max(1, content.index(True)) if any(content) else len(ids)
        end = len(ids) - content[::-1].index(True) if any(content) else len(ids)
        cut = max(0, end - self.context - 1)
        if cut:
            self.truncated_prompts += 1
        return Scored(tuple(ids[cut:end]), start - cut, unit) if start > cut else None

    def _fit(self, ids: list[int], decoder: DecoderSettings) -> list[int]:
        room = max(1, self.context - decoder.max_tokens)
        if len(ids) > room:
            self.truncated_prompts += 1
            return ids[-room:]
        return ids

    def _text(self, tokens: list[int]) -> str:
        return str(self.tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False))


def identify(directory_or_id: str | Path) -> tuple[Path, PolicyManifest]:
    """A policy's directory and manifest, verified against its files; its weights are hashed, not loaded. Raises
    PlumblineError when it is unreadable, an adapter alone, or not what its manifest says."""
    given = Path(directory_or_id)
    if (given / "adapter_config.json").is_file() and not (given / "config.json").is_file():
        raise PlumblineError(
            f"{given} holds an adapter alone, without the weights that it changes",
            consequence="nothing was loaded: an adapter is no policy until it is merged into its base",
            remedy="export the job once more as one model: plumb export JOB --out DIR --form merged, and name that DIR",
        )
    path = resolve(directory_or_id)
    template = ChatTemplate(_read(path, lambda: AutoTokenizer.from_pretrained(path)), name=path.name)
    manifest = manifest_of(path, template.digest)
    verify(path, manifest)
    if manifest.template != template.digest:
        raise PlumblineError(
            f"the chat template at {path} is not the one that the policy's manifest names",
            consequence="the policy was not loaded: it would be asked in another form than it was trained in",
            remedy="restore the exported chat template",
        )
    return path, manifest


def treats_logits(model: Any) -> bool:
    """Whether logits are more than the output layer over the last hidden states: scaled, capped, or behind another
    transformation (Gemma 2, Granite, Cohere, Falcon-H1, the BERT family). Then only the model's own forward pass makes
    them. Beside what the configuration says (a cap hardly shows while logits are small) it is tried out: architectures
    name such things as they like.

    Raises PlumblineError when the model is not causal: a later token changes what an earlier position says.
    """
    head, training = model.get_output_embeddings(), model.training
    device = next(model.parameters()).device
    known = int(model.get_input_embeddings().num_embeddings)
    ids = torch.stack([torch.arange(2, 10), torch.tensor([2, 3, 4, 5, 6, 7, 8, 11])]).to(device) % known
    model.eval()
    with torch.no_grad():
        own = model(ids, use_cache=False).logits.float()
        states = getattr(model.base_model(ids, use_cache=False), "last_hidden_state", None)
        plain = None
        if head is not None and states is not None and states.shape[-1] == model.get_input_embeddings().embedding_dim:
            plain = head(states).float()
    model.train(training)
    scale = float(own.abs().max())
    if float((own[0, :-1] - own[1, :-1]).abs().max()) > 1e-2 * scale:
        raise PlumblineError(
            f"{type(model).__name__} is not a causal language model: a later token changes earlier positions",
            consequence="what it is trained on it would see beforehand, so nothing was trained or asked",
            remedy="use a decoder, or set is_decoder in its config.json",
        )
    return says_treated(model.config) or plain is None or not float((plain - own).abs().max()) <= 1e-3 * scale


def says_treated(config: Any) -> bool:
    """Whether the configuration says by a known name that logits are scaled or capped."""
    text = config.get_text_config()
    return getattr(text, "final_logit_softcapping", None) is not None or any(
        getattr(text, name, None) not in (None, 1, 1.0) for name in ("logit_scale", "logits_scaling")
    )


def load_template(path: Path, text: str | None = None, added_tokens: tuple[str, ...] = ()) -> ChatTemplate:
    """The chat template of a resolved directory, without its weights, or `text` in its place. `added_tokens` become
    special tokens of the tokenizer; those that it does not have yet get the ids after its last one, in order."""
    tokenizer = AutoTokenizer.from_pretrained(path)
    special = [AddedToken(token, special=True, normalized=False) for token in added_tokens]
    tokenizer.add_tokens(special, special_tokens=True)
    return ChatTemplate(tokenizer, name=path.name, text=text)


def load_model(path: Path) -> tuple[Any, Any]:
    """(tokenizer, model) of a resolved directory, float32, safetensors only, no remote code."""
    disable_progress_bar()
    tokenizer = _read(path, lambda: AutoTokenizer.from_pretrained(path))
    return tokenizer, _read(
        path, lambda: AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, use_safetensors=True)
    )


def _read(path: Path, read: Callable[[], Any]) -> Any:
    try:
        return read()
    except Exception as error:  # transformers raises OSError, ValueError, SafetensorError and more
        raise PlumblineError(
            f"the policy at {path} cannot be read: {str(error).splitlines()[0]}",
            consequence="nothing was loaded",
            remedy="export it again (safetensors, tokenizer.json, config.json), or name another directory or id",
        ) from error
