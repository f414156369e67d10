"""A policy in this process, by transformers. Prompts of equal length are asked together, never padded.

Padding changes attention sums in the last bits, and lm-evaluation-harness users have met scores that move with the
batch size for years (#1645, #704); grouping by exact length avoids it. Log-likelihoods right-pad, which a causal
model cannot see.
"""

from collections.abc import Generator, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
from transformers import AddedToken, AutoModelForCausalLM, AutoTokenizer, DynamicCache
from transformers.utils.logging import disable_progress_bar

from plumbline.errors import PlumblineError
from plumbline.policies.base import Completion, LogLikelihood
from plumbline.policies.files import manifest_of, resolve, verify
from plumbline.policies.template import ChatTemplate, with_answer
from plumbline.records import Conversation, DecoderSettings, Finish, PolicyManifest

MAX_ROWS = 256
MAX_SCORE_TOKENS = 16384


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
        path = resolve(directory_or_id)
        tokenizer, model = load_model(path)
        template = ChatTemplate(tokenizer, name=path.name)
        manifest = manifest_of(path, template.digest)
        verify(path, manifest)
        if manifest.template != template.digest:
            raise PlumblineError(
                f"the chat template at {path} is not the one that the policy's manifest names",
                consequence="the policy was not loaded: it would be asked in another form than it was trained in",
                remedy="restore the exported chat template",
            )
        return cls(model.to(device), template, manifest)

    @property
    def manifest(self) -> PolicyManifest:
        return self._manifest

    @property
    def device(self) -> torch.device:
        return cast(torch.device, next(self.model.parameters()).device)

    @cached_property
    def _treated(self) -> bool:
        return treats_logits(self.model)

    @property
    def context(self) -> int:
        """Tokens that fit: prompt and answer together."""
        return int(getattr(self.model.config, "max_position_embeddings", 2048))

    def generate(self, prompts: Sequence[Conversation], decoder: DecoderSettings) -> list[Completion]:
        """One completion per prompt, in order. Sampling is seeded per request, so neighbours do not matter."""
        encoded = [self._fit(ids, decoder) for ids in self.template.prompt_ids(prompts)]
        groups: dict[int, list[int]] = {}
        for index, ids in enumerate(encoded):
            groups.setdefault(len(ids), []).append(index)
        answers: list[Completion | None] = [None] * len(encoded)
        for members in groups.values():
            for start in range(0, len(members), MAX_ROWS):
                rows = members[start : start + MAX_ROWS]
                for index, completion in zip(rows, self._decode([encoded[i] for i in rows], decoder), strict=True):
                    answers[index] = completion
        return cast(list[Completion], answers)

    def stream(self, prompt: Conversation, decoder: DecoderSettings) -> Generator[str, None, Completion]:
        """The answer in pieces; the generator's value is the Completion. Joined, the pieces are `generate`'s text.

        Text is held back while it could still become a stop text, or while its last character is incomplete.
        """
        ids = self._fit(self.template.prompt_ids([prompt])[0], decoder)
        tokens: list[int] = []
        said, text = 0, ""
        finish: Finish = "length"
        for (token,) in self._steps([ids], decoder):
            if token in self.stop_ids:
                finish = "stop"
                break
            tokens.append(token)
            text = self._text(tokens)
            if (cut := _stop_at(text, decoder.stop)) is not None:
                text, finish = text[:cut], "stop"
                break
            safe = len(text.rstrip("\N{REPLACEMENT CHARACTER}")) - _held_back(text, decoder.stop)
            if safe > said:
                yield text[said:safe]
                said = safe
        if text[said:]:
            yield text[said:]
        return Completion(text, finish, len(tokens))

    def log_likelihood(self, pairs: Sequence[tuple[Conversation, str]]) -> list[LogLikelihood]:
        """log pi(answer | prompt) of each answer's text, end-of-turn excluded, in float32 nats. Answers that the prompt
        holds are context. Raises PlumblineError where the template writes an answer in a form that cannot be masked."""
        rows = self.template.encode([with_answer(prompt, answer) for prompt, answer in pairs], turns="last")
        encoded = [row for [row] in rows]
        order = sorted(range(len(pairs)), key=lambda i: len(encoded[i].ids))
        scores: list[LogLikelihood | None] = [None] * len(pairs)
        batch: list[int] = []
        for index in [*order, -1]:
            longest = len(encoded[index].ids) if index >= 0 else 0
            if batch and (index < 0 or longest * (len(batch) + 1) > MAX_SCORE_TOKENS):
                for i, (total, tokens) in zip(batch, self._score([encoded[i] for i in batch]), strict=True):
                    scores[i] = LogLikelihood(total, tokens, len(pairs[i][1].encode()))
                batch = []
            batch.append(index)
        return cast(list[LogLikelihood], scores)

    def _fit(self, ids: list[int], decoder: DecoderSettings) -> list[int]:
        room = max(1, self.context - decoder.max_tokens)
        if len(ids) > room:
            self.truncated_prompts += 1
            return ids[-room:]
        return ids

    def _decode(self, prompts: list[list[int]], decoder: DecoderSettings) -> list[Completion]:
        tokens: list[list[int]] = [[] for _ in prompts]
        finished: list[bool] = [False] * len(prompts)
        stopped: list[str | None] = [None] * len(prompts)
        for step in self._steps(prompts, decoder):
            for row, token in enumerate(step):
                if finished[row]:
                    continue
                if token in self.stop_ids:
                    finished[row] = True
                    continue
                tokens[row].append(token)
                if decoder.stop and (cut := _stop_at(text := self._text(tokens[row]), decoder.stop)) is not None:
                    finished[row], stopped[row] = True, text[:cut]
            if all(finished):
                break
        texts = [self._text(row) if cut is None else cut for row, cut in zip(tokens, stopped, strict=True)]
        return [
            Completion(text, "stop" if done else "length", len(row))
            for text, done, row in zip(texts, finished, tokens, strict=True)
        ]

    def _steps(self, prompts: list[list[int]], decoder: DecoderSettings) -> Iterator[list[int]]:
        """Next tokens of every row, step by step. All prompts have the same length."""
        generators = [torch.Generator().manual_seed(decoder.seed) for _ in prompts] if not decoder.greedy else []
        ids = torch.tensor(prompts, device=self.device)
        cache = DynamicCache(config=self.model.config)
        for _ in range(decoder.max_tokens):
            # Not held across the yield: a consumer that drops the stream must not leave the mode switched on.
            with torch.inference_mode():
                logits = self.model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1].float()
                chosen = logits.argmax(-1) if decoder.greedy else _sample(logits, decoder, generators)
                ids = chosen[:, None]
            yield chosen.tolist()

    def _score(self, rows: list[Any]) -> list[tuple[float, int]]:
        longest = max(len(row.ids) for row in rows)
        ids = torch.zeros((len(rows), longest), dtype=torch.long)
        wanted = torch.zeros((len(rows), longest), dtype=torch.bool)
        for i, row in enumerate(rows):
            ids[i, : len(row.ids)] = torch.tensor(row.ids)
            wanted[i, : len(row.ids)] = torch.tensor(row.content)
        ids, wanted = ids.to(self.device), wanted.to(self.device)
        wanted[:, 0] = False
        with torch.inference_mode():
            logp = torch.log_softmax(logits_at(self.model, ids, wanted[:, 1:], treated=self._treated).float(), -1)
            picked = logp.gather(-1, ids[:, 1:][wanted[:, 1:]][:, None])[:, 0].double()
        counts = wanted.sum(-1).tolist()
        parts = torch.split(picked, counts)
        return [(float(part.sum()), n) for part, n in zip(parts, counts, strict=True)]

    def _text(self, tokens: list[int]) -> str:
        return str(self.tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False))


def logits_at(model: Any, ids: torch.Tensor, wanted: torch.Tensor, *, treated: bool) -> torch.Tensor:
    """Logits [wanted positions, vocabulary] for ids [rows, length] and wanted [rows, length - 1], where position i
    predicts token i + 1. Only those positions meet the output layer, unless the architecture treats its logits
    (`treats_logits`)."""
    if treated:
        return cast(torch.Tensor, model(ids, use_cache=False).logits[:, :-1][wanted])
    hidden = model.base_model(ids, use_cache=False).last_hidden_state[:, :-1][wanted]
    return cast(torch.Tensor, model.get_output_embeddings()(hidden))


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
    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
        model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, use_safetensors=True)
    except Exception as error:  # transformers raises OSError, ValueError, SafetensorError and more
        raise PlumblineError(
            f"the policy at {path} cannot be read: {str(error).splitlines()[0]}",
            consequence="nothing was loaded",
            remedy="export it again (safetensors, tokenizer.json, config.json), or name another directory or id",
        ) from error
    return tokenizer, model


def _sample(logits: torch.Tensor, decoder: DecoderSettings, generators: list[torch.Generator]) -> torch.Tensor:
    """Temperature and nucleus sampling (Holtzman et al. 2020), one generator per row."""
    probabilities = torch.softmax(logits.cpu() / decoder.temperature, -1)
    if decoder.top_p < 1:
        ordered, places = probabilities.sort(-1, descending=True)
        ordered[(ordered.cumsum(-1) - ordered) >= decoder.top_p] = 0
        probabilities = torch.zeros_like(probabilities).scatter(-1, places, ordered)
    picks = [torch.multinomial(row, 1, generator=g) for row, g in zip(probabilities, generators, strict=True)]
    return torch.cat(picks).to(logits.device)


def _held_back(text: str, stops: tuple[str, ...]) -> int:
    """Characters at the end of `text` that are the beginning of a stop text."""
    return max((n for stop in stops for n in range(1, len(stop)) if text.endswith(stop[:n])), default=0)


def _stop_at(text: str, stops: tuple[str, ...]) -> int | None:
    places = [place for stop in stops if stop and (place := text.find(stop)) >= 0]
    return min(places) if places else None
