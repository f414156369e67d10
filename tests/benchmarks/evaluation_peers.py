"""Both sides of the evaluation benchmark: a policy made on the spot, tasks as local files, and how each side is asked.

The harness reads the tasks as a user would give them to it: a YAML and a JSON file each, its own `multiple_choice` and
`generate_until`, the policy's chat template applied, greedy decoding. Nothing is downloaded.
"""

import json
import logging
import os
import random
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plumbline.evaluation import answer_suite
from plumbline.policies.local import LocalPolicy
from plumbline.records import DecoderSettings, Suite, SuiteItem, say

SYLLABLES = "ba ko ri ten ma su lo fi gan de po wi ra hu le mo ti san ke jo"
TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message.role + '|>' + message.content + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
MC_YAML = """\
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: 0
target_delimiter: ""
metric_list: [{{metric: acc}}]
"""
GEN_YAML = """\
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{reference}}}}"
target_delimiter: ""
generation_kwargs: {{until: [], do_sample: false, max_gen_toks: {most}}}
metric_list: [{{metric: exact_match}}]
"""


@dataclass(frozen=True)
class Outcome:
    """What a side found: log-likelihoods by item, or texts, and the rate that it prints."""

    likelihoods: tuple[tuple[float, ...], ...]
    texts: tuple[str, ...]
    rate: float


def make_policy(folder: Path, *, hidden: int = 256, layers: int = 6, ending: float = 1.0, seed: int = 0) -> Path:
    """A Llama with random weights and a byte-level tokenizer, saved with its chat template. `ending` scales the output
    row of the end token: above 1, answers end at different lengths instead of always at the limit."""
    import torch
    from tokenizers import ByteLevelBPETokenizer
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    special = ["<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
    raw = ByteLevelBPETokenizer()
    draw = random.Random(seed)
    raw.train_from_iterator([words(draw, 40) for _ in range(400)], vocab_size=2000, special_tokens=special)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw._tokenizer, eos_token="<|end|>", pad_token="<|pad|>", additional_special_tokens=special[2:]
    )
    tokenizer.chat_template = TEMPLATE
    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=hidden,
            intermediate_size=hidden * 11 // 4,
            num_hidden_layers=layers,
            num_attention_heads=8,
            num_key_value_heads=4,
            max_position_embeddings=2048,
            initializer_range=0.08,
            tie_word_embeddings=False,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    with torch.no_grad():
        model.lm_head.weight[tokenizer.eos_token_id] *= ending
    model.save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)
    return folder


def words(draw: random.Random, n: int) -> str:
    return " ".join("".join(draw.choices(SYLLABLES.split(), k=draw.randint(1, 3))) for _ in range(n))


def choice_suite(n: int, *, longest_choice: int = 8, seed: int = 1) -> Suite:
    """Questions of 20 to 300 words (log-uniform) with four choices of 1 to `longest_choice` words; 0 makes the choices
    the letters A to D, one token each."""
    draw = random.Random(seed)
    items = []
    for i in range(n):
        choices = {words(draw, draw.randint(1, longest_choice)) for _ in range(4)} if longest_choice else set("ABCD")
        while len(choices) < 4:
            choices.add(words(draw, longest_choice))
        items.append(_item(i, draw, "choice_loglik", choices=tuple(sorted(choices))))
    return Suite(name="choices", version="1", items=tuple(items))


def answer_items(n: int, seed: int = 2) -> Suite:
    draw = random.Random(seed)
    return Suite(
        name="answers",
        version="1",
        items=tuple(_item(i, draw, "exact", references=(words(draw, 3),)) for i in range(n)),
    )


def _item(i: int, draw: random.Random, scorer: str, **more: Any) -> SuiteItem:
    question = words(draw, round(20 * 15 ** draw.random()))
    return SuiteItem.model_validate(
        {
            "id": f"i{i:06d}",
            "area": "helpfulness",
            "slice": "s",
            "cluster": f"c{i}",
            "messages": (say("user", question),),
            "scorer": scorer,
            **more,
        }
    )


# --- our side ---------------------------------------------------------------------------------------------------------


def ours(policy: LocalPolicy, suite: Suite, most: int) -> Callable[[], Outcome]:
    def run() -> Outcome:
        answers = answer_suite(policy, suite, DecoderSettings(max_tokens=most)).answers
        likelihoods = tuple(tuple(choice.total for choice in answer.choices) for answer in answers)
        texts = tuple(answer.text or "" for answer in answers)
        if likelihoods[0]:
            return Outcome(likelihoods, (), sum(max(row) == row[0] for row in likelihoods) / len(likelihoods))
        right = sum(text in item.references for text, item in zip(texts, suite.items, strict=True))
        return Outcome((), texts, right / len(texts))

    return run


# --- the harness's side -----------------------------------------------------------------------------------------------


def harness(policy: LocalPolicy, suite: Suite, most: int, batch: int, folder: Path) -> Callable[[], Outcome]:
    """`lm_eval.evaluator.evaluate` over the suite as a task of its own kind; task and model are loaded beforehand."""
    quiet()
    from lm_eval import evaluator
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    name = f"bench_{suite.name}_{batch}_{len(suite.items)}"
    write_task(suite, name, most, folder)
    device = str(policy.device)
    model = HFLM(pretrained=policy.model, tokenizer=policy.tokenizer, batch_size=batch, device=device)
    tasks = TaskManager(include_path=str(folder), include_defaults=False).load([name])

    def run() -> Outcome:
        found = evaluator.evaluate(
            model, tasks, bootstrap_iters=0, apply_chat_template=True, log_samples=True, verbosity="ERROR"
        )
        samples = sorted(found["samples"][name], key=lambda sample: sample["doc_id"])
        results = found["results"][name]
        if suite.items[0].choices:
            likelihoods = tuple(tuple(float(r[0][0]) for r in sample["resps"]) for sample in samples)
            return Outcome(likelihoods, (), float(results["acc,none"]))
        return Outcome((), tuple(sample["resps"][0][0] for sample in samples), float(results["exact_match,none"]))

    return run


def write_task(suite: Suite, name: str, most: int, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    data = folder / f"{name}.jsonl"
    rows = [
        {
            "question": item.messages[-1].content,
            "choices": list(item.choices),
            "reference": (item.references or ("",))[0],
        }
        for item in suite.items
    ]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    form = MC_YAML if suite.items[0].choices else GEN_YAML
    (folder / f"{name}.yaml").write_text(form.format(name=name, file=data, most=most))


def quiet() -> None:
    """No network, no progress bars, no warnings; the data sets' cache goes where it is forgotten."""
    os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", HF_DATASETS_DISABLE_PROGRESS_BARS="1")
    os.environ.setdefault("HF_DATASETS_CACHE", tempfile.mkdtemp(prefix="plumbline-datasets-"))
    os.environ.update(TQDM_DISABLE="1", TOKENIZERS_PARALLELISM="false")
    for name in ("lm_eval", "datasets", "lm-eval"):
        logging.getLogger(name).setLevel(logging.ERROR)


def largest_difference(one: Sequence[Sequence[float]], other: Sequence[Sequence[float]]) -> float:
    """In nats; infinite where a value is missing."""
    if [len(row) for row in one] != [len(row) for row in other]:
        return float("inf")
    return max((abs(a - b) for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True)), default=0.0)
