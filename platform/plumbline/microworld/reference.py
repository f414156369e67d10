"""The reference policy: a tiny Llama and its tokenizer, trained here in about a minute, cached by digest.

The directory that comes out is an ordinary Hugging Face one (safetensors, fast tokenizer, chat template, generation
config); nothing downstream knows that it was made here. It is written under a temporary name and renamed, and the
cache reads it only when every file still has the digest that was recorded last, so a torn one is never used.

The tokenizer is a byte-level BPE: any UTF-8 text round-trips, and every word of the world is one token. A space is
prepended to every piece of text and taken off again when decoding, so that a word is the same token at the start of
an answer as in the middle of the notes; looking a fact up is then copying a token.
"""

import json
import math
import os
import random
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from plumbline.microworld.corpus import documents
from plumbline.microworld.world import World, build_world
from plumbline.records import Conversation, as_dicts, digest_bytes, digest_of
from plumbline.records.canonical import canonical_bytes

PAD, END, SYSTEM, USER, ASSISTANT = "<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"
SPECIAL_TOKENS = [PAD, END, SYSTEM, USER, ASSISTANT]
# Nobody can forge a role: "<|" in what a user or a system message says is broken up before it is tokenized.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message.role == 'assistant' %}{{ '<|assistant|>' + message.content + '<|end|>' }}"
    "{% elif message.role in ['system', 'user'] %}"
    "{{ '<|' + message.role + '|>' + message.content.replace('<|', '< |') + '<|end|>' }}"
    "{% else %}{{ raise_exception('this template knows system, user and assistant, not ' + message.role) }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
_COMPLETE = "microworld.json"


@dataclass(frozen=True)
class ReferenceRecipe:
    """All sizes and hyper-parameters of the reference. `learning_rate` drives embeddings and gains (AdamW),
    `matrix_learning_rate` the weight matrices (Muon); both warm up, stay flat, then fall along a cosine."""

    hidden: int = 128
    layers: int = 2
    heads: int = 4
    feed_forward: int = 256
    context: int = 1024
    rope_theta: float = 10_000.0
    initializer_range: float = 0.08
    vocabulary: int = 1500
    tokenizer_documents: int = 3000
    steps: int = 930
    batch: int = 40
    learning_rate: float = 4e-3
    matrix_learning_rate: float = 4e-3
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    warmup_steps: int = 50
    flat_share: float = 0.3
    final_share: float = 0.02
    bucket_batches: int = 16

    @property
    def digest(self) -> str:
        return digest_of(asdict(self))


@dataclass(frozen=True)
class Progress:
    """Where pre-training is: step of steps, a running loss in nats per supervised token, seconds so far."""

    step: int
    steps: int
    loss: float
    seconds: float


OnProgress = Callable[[Progress], None]


def reference_key(world: World, recipe: ReferenceRecipe) -> str:
    """What the cached reference is a function of: the world, the recipe, the template and the corpus itself (its
    first documents stand for it, so that a changed corpus is never served from an old cache)."""
    corpus = [as_dicts(document) for document in islice(documents(world, world.seed), 200)]
    parts = {"world": world.digest, "recipe": recipe.digest, "corpus": digest_of(corpus), "template": CHAT_TEMPLATE}
    return digest_of(parts)


def cached_reference(
    cache_dir: Path, seed: int, recipe: ReferenceRecipe | None = None, on_progress: OnProgress | None = None
) -> Path:
    """The reference of `seed`, trained on first use. A cached directory that is torn or altered is set aside and
    trained anew; it is never used."""
    recipe = recipe or ReferenceRecipe()
    world = build_world(seed)
    path = cache_dir / f"reference-{reference_key(world, recipe).removeprefix('sha256:')[:24]}"
    if path.exists():
        if is_whole(path):
            return path
        shutil.rmtree(path)
    pretrain_reference(world, recipe, path, on_progress)
    return path


def is_whole(path: Path) -> bool:
    """Whether every file that was recorded last is there with the digest it was recorded with."""
    try:
        files: dict[str, str] = json.loads((path / _COMPLETE).read_text("utf-8"))["files"]
        return all(digest_bytes((path / name).read_bytes()) == digest for name, digest in files.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def train_tokenizer(world: World, recipe: ReferenceRecipe) -> Any:
    """A transformers fast tokenizer with the chat template, trained on the corpus's first documents and on a list
    of the world's words. eos is `<|end|>`, pad is its own token."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Prepend(" ")
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)])
    conversations = islice(documents(world, world.seed), recipe.tokenizer_documents)
    texts = [message.content for conversation in conversations for message in conversation]
    texts += [" ".join([*world.words, *"123456789", "count:"])] * 20
    trainer = trainers.BpeTrainer(
        vocab_size=recipe.vocabulary,
        min_frequency=2,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=[SYSTEM, USER, ASSISTANT],
        model_max_length=recipe.context,
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def pretrain_reference(
    world: World, recipe: ReferenceRecipe, out_dir: Path, on_progress: OnProgress | None = None
) -> None:
    """Train the reference of `world` and write it to `out_dir`, which appears whole or not at all."""
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    tokenizer = train_tokenizer(world, recipe)
    model = _train(world, recipe, tokenizer, on_progress or (lambda progress: None))
    out_dir.parent.mkdir(parents=True, exist_ok=True)
    temporary = out_dir.parent / f".{out_dir.name}.{os.getpid()}"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        model.save_pretrained(temporary, safe_serialization=True)
        tokenizer.save_pretrained(temporary)
        files = {file.name: digest_bytes(file.read_bytes()) for file in sorted(temporary.iterdir())}
        record = {"world": world.digest, "recipe": asdict(recipe), "seed": world.seed, "files": files}
        (temporary / _COMPLETE).write_bytes(canonical_bytes(record))
        _sync(temporary)
        try:
            temporary.rename(out_dir)
        except OSError:
            if not is_whole(out_dir):  # somebody else may have finished the same reference first
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _train(world: World, recipe: ReferenceRecipe, tokenizer: Any, on_progress: OnProgress) -> Any:
    """The pre-training loop. One thread: at this size a second one costs time, and one makes the bits repeatable."""
    import torch

    from plumbline.microworld.muon import Muon

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        model = _new_model(recipe, tokenizer, world.seed)
        named = dict(model.named_parameters())
        matrices = [p for name, p in named.items() if p.ndim == 2 and "embed" not in name]
        others = [p for name, p in named.items() if p.ndim != 2 or "embed" in name]
        adam = torch.optim.AdamW(
            others, lr=recipe.learning_rate, betas=recipe.betas, weight_decay=recipe.weight_decay, fused=True
        )
        muon = Muon(matrices, recipe.matrix_learning_rate)
        optimisers = [(adam, recipe.learning_rate), (muon, recipe.matrix_learning_rate)]
        batches = _batches(world, recipe, tokenizer)
        began, running = time.monotonic(), 0.0
        for step in range(recipe.steps):
            inputs, positions, targets = next(batches)
            hidden = model.model(input_ids=inputs, use_cache=False).last_hidden_state
            logits = model.lm_head(hidden.flatten(0, 1)[positions])  # logits for supervised positions only
            loss = torch.nn.functional.cross_entropy(logits, targets)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm)
            for optimiser, peak in optimisers:
                for group in optimiser.param_groups:
                    group["lr"] = peak * _schedule(step, recipe)
                optimiser.step()
            model.zero_grad()
            running = loss.item() if step == 0 else 0.98 * running + 0.02 * loss.item()
            on_progress(Progress(step + 1, recipe.steps, running, time.monotonic() - began))
        return model.eval()
    finally:
        torch.set_num_threads(threads)


def _new_model(recipe: ReferenceRecipe, tokenizer: Any, seed: int) -> Any:
    import torch
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.hidden,
        intermediate_size=recipe.feed_forward,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        max_position_embeddings=recipe.context,
        initializer_range=recipe.initializer_range,
        rope_parameters={"rope_type": "default", "rope_theta": recipe.rope_theta},
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        attn_implementation="sdpa",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=False, max_new_tokens=32
    )
    return model.train()


def _batches(world: World, recipe: ReferenceRecipe, tokenizer: Any) -> Any:
    """Batches of documents of like length: a pool is drawn, sorted by length, cut, and shuffled as batches."""
    stream = documents(world, world.seed)
    dice = random.Random(f"plumbline-batches-{world.digest}")
    while True:
        pool = _encode(tokenizer, list(islice(stream, recipe.batch * recipe.bucket_batches)))
        pool.sort(key=lambda pair: len(pair[0]))
        batches = [pool[i : i + recipe.batch] for i in range(0, len(pool), recipe.batch)]
        dice.shuffle(batches)
        for batch in batches:
            yield _collate(batch, tokenizer.pad_token_id)


def _encode(tokenizer: Any, conversations: list[Conversation]) -> list[tuple[list[int], list[bool]]]:
    """Ids and whether each is supervised (an answer's content and its end), turn by turn, as the template renders."""
    turns = [message for conversation in conversations for message in conversation]
    texts = [f"<|{turn.role}|>{turn.content}{END}" for turn in turns]
    encoded = iter(tokenizer(texts, add_special_tokens=False)["input_ids"])
    rows = []
    for conversation in conversations:
        ids: list[int] = []
        supervised: list[bool] = []
        for message in conversation:
            piece = next(encoded)
            ids += piece
            supervised += [False] + [message.role == "assistant"] * (len(piece) - 1)
        rows.append((ids, supervised))
    return rows


def _collate(rows: list[tuple[list[int], list[bool]]], pad: int) -> tuple[Any, Any, Any]:
    """Right-padded inputs, and the flat positions that predict a supervised token with those tokens.

    Padding on the right is invisible to a causal model, so no mask is needed.
    """
    import torch

    width = max(len(ids) for ids, _ in rows)
    inputs = torch.tensor([ids + [pad] * (width - len(ids)) for ids, _ in rows])
    positions = [r * width + i - 1 for r, (_, marks) in enumerate(rows) for i, mark in enumerate(marks) if mark]
    targets = [token for ids, marks in rows for token, mark in zip(ids, marks, strict=True) if mark]
    return inputs, torch.tensor(positions), torch.tensor(targets)


def _schedule(step: int, recipe: ReferenceRecipe) -> float:
    """Share of the peak learning rate: linear warm-up, flat, cosine down to `final_share`."""
    if step < recipe.warmup_steps:
        return (step + 1) / recipe.warmup_steps
    flat = recipe.flat_share * recipe.steps
    if step < flat:
        return 1.0
    progress = (step - flat) / max(1.0, recipe.steps - flat)
    return recipe.final_share + (1 - recipe.final_share) * 0.5 * (1 + math.cos(math.pi * progress))


def _sync(folder: Path) -> None:
    """Make a folder's files and entries durable before it is renamed into place."""
    for path in [*folder.iterdir(), folder]:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
