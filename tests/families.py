"""A tokenizer of each template family, trained on the spot: its special tokens, its way with white space, its bos."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plumbline.policies.families import family, family_tokens
from plumbline.policies.template import ChatTemplate

TEXTS = [
    "who is ana ? ana is a baker .", "i can not help with that .", "assistant: user: system: one two three four five",
    "<think>\n\n</think>\n\n", '{"content": "six"}', "ünïcödé 猫 🙂\n\n\t tabs and  spaces",
]  # fmt: skip
# How Llama 3 and Qwen cut text into words: line ends stay together, apart from what follows.
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class Kind:
    """`pieces`: `bytes`, byte-level BPE; like SentencePiece, `first` with a space before the text, `spaces` without."""

    pieces: str
    eos: str
    pad: str
    bos: str | None = None
    plain: tuple[str, ...] = ()  # added tokens that are not special


KINDS = {
    "chatml": Kind("bytes", "<|im_end|>", "<|endoftext|>"),
    "gemma": Kind("spaces", "<eos>", "<pad>", "<bos>"),
    "generation": Kind("bytes", "<|im_end|>", "<|endoftext|>"),
    "llama-3": Kind("bytes", "<|eot_id|>", "<|finetune_right_pad_id|>", "<|begin_of_text|>"),
    "mistral-instruct": Kind("first", "</s>", "<pad>", "<s>"),
    "plain": Kind("bytes", "<|endoftext|>", "<|pad|>"),
    "qwen-thinking": Kind("bytes", "<|im_end|>", "<|endoftext|>", plain=("<think>", "</think>")),
}


def family_tokenizer(name: str, *, pad_is_eos: bool = False, special: bool = True, vocab: int = 420) -> Any:
    """A transformers fast tokenizer for the family `name`, without a chat template. `special=False` leaves out the
    special tokens that the family's template writes, beside bos and eos."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    kind = KINDS[name]
    eos = kind.eos if special or kind.eos not in family_tokens(name) else "<|endoftext|>"
    named = [eos, kind.pad, *([kind.bos] if kind.bos else []), *(family_tokens(name) if special else ())]
    alphabet: list[str] = []
    if kind.pieces == "bytes":
        raw = Tokenizer(models.BPE())
        words = pre_tokenizers.Split(Regex(WORDS), "isolated")
        raw.pre_tokenizer = pre_tokenizers.Sequence(
            [words, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        )
        raw.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    else:
        raw = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
        steps: list[Any] = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
        if kind.pieces == "first":
            raw.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=False)
            steps.append(decoders.Strip(" ", 1, 0))
        else:
            raw.normalizer = normalizers.Replace(" ", "▁")
        raw.decoder = decoders.Sequence(steps)
        named += ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    named = list(dict.fromkeys(named))
    size = vocab + (256 if kind.pieces != "bytes" else 0)
    raw.train_from_iterator(
        TEXTS,
        trainers.BpeTrainer(vocab_size=size, special_tokens=named, initial_alphabet=alphabet, show_progress=False),
    )
    raw.add_tokens([AddedToken(token, normalized=False) for token in kind.plain])
    extra = [token for token in named if not token.startswith("<0x")]
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        bos_token=kind.bos,
        eos_token=eos,
        pad_token=eos if pad_is_eos else kind.pad,
        additional_special_tokens=[token for token in extra if token not in (eos, kind.pad, kind.bos)],
        clean_up_tokenization_spaces=False,
    )


def family_template(name: str, **options: Any) -> ChatTemplate:
    """The family's template with a tokenizer trained for it; options as for `family_tokenizer`."""
    return ChatTemplate(family_tokenizer(name, **options), name=name, text=family(name))


def save_family_tokenizer(folder: Path, name: str, **options: Any) -> Path:
    """A directory with the tokenizer alone, its chat template beside it: what `load_template` reads."""
    template = family_template(name, **options)
    template.tokenizer.save_pretrained(folder)
    return folder
