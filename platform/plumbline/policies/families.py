"""Chat templates that the platform brings along: one readable file per family, written from its public description.

For a base policy without a template, or to train one in another family's form. The file says what the family does with
system and tool turns; `ChatTemplate` says whether a given tokenizer can write it.
"""

from functools import cache
from importlib.resources import files

from plumbline.errors import PlumblineError

# Special tokens by family, beside the tokenizer's own bos and eos, which the templates write by variable. Qwen's
# <think> is not among them: a special token is left out when an answer is decoded, and what was thought is answer.
_TOKENS: dict[str, tuple[str, ...]] = {
    "chatml": ("<|im_start|>", "<|im_end|>"),
    "gemma": ("<start_of_turn>", "<end_of_turn>"),
    "generation": ("<|im_start|>", "<|im_end|>"),
    "llama-3": ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    "mistral-instruct": ("[INST]", "[/INST]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]"),
    "plain": (),
    "qwen-thinking": ("<|im_start|>", "<|im_end|>"),
}
FAMILIES = tuple(_TOKENS)


@cache
def family(name: str) -> str:
    """The template's text. Raises PlumblineError, with the names there are, for another name."""
    _require(name)
    return files("plumbline.policies").joinpath("families", f"{name}.jinja").read_text("utf-8")


def family_tokens(name: str) -> tuple[str, ...]:
    """The special tokens that the family's template writes; a tokenizer that lacks one must be given it."""
    _require(name)
    return _TOKENS[name]


def family_of(text: str) -> str | None:
    """The family whose template this is, letter for letter; None for any other."""
    return next((name for name in FAMILIES if family(name) == text), None)


def _require(name: str) -> None:
    if name not in _TOKENS:
        raise PlumblineError(
            f"there is no template family {name!r}",
            consequence="no template was chosen",
            remedy=f"name one of {', '.join(FAMILIES)}",
        )
