"""What every self-contained page shares: the template environment, one style sheet allowed by hash, whole writing."""

import base64
import hashlib
import os
import tempfile
from importlib import resources
from pathlib import Path

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup, escape

from plumbline.console.cases import shorten
from plumbline.console.words import count, humanise, in_words, number, percent, sentence, title, visible
from plumbline.records import short


def page_environment() -> Environment:
    """Templates of the console: everything escaped, nothing undefined, and the words of `words` as filters."""
    environment = Environment(
        loader=FunctionLoader(resource),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "percent": percent, "humanise": humanise, "title_case": title, "visible": visible, "sentence": sentence,
        "shorten": shorten, "short": short, "number": number, "coded": coded,
    }  # fmt: skip
    environment.globals |= {"count": count, "in_words": in_words}
    return environment


def style_hash(css: str) -> str:
    """The SHA-256 of a style sheet as a content security policy wants it: base64."""
    return base64.b64encode(hashlib.sha256(css.encode("utf-8")).digest()).decode("ascii")


def coded(text: str) -> Markup:
    """Text with its `back-quoted` runs as code; everything is escaped."""
    pieces = text.split("`")
    if len(pieces) % 2 == 0:
        return escape(text)
    return Markup("").join(
        Markup("<code>{}</code>").format(piece) if place % 2 else escape(piece) for place, piece in enumerate(pieces)
    )


def write_whole(path: Path, data: bytes) -> None:
    """Temporary file in the same directory, fsync, rename, fsync of the directory: no reader sees half a file."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def resource(name: str) -> str:
    return resources.files("plumbline.console").joinpath(name).read_text(encoding="utf-8")
