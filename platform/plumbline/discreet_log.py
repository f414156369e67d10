"""A log for services whose requests carry secrets: what went wrong and where, and not a word of the request.

A server that refuses a malformed request quotes it, and with it the link or the cookie. A browser needs no ill will for
that: cookies of a neighbour under the same host make the header too long.
"""

import logging
import traceback

from aiohttp.http_exceptions import HttpProcessingError


def discreet_logger(name: str) -> logging.Logger:
    """The logger of this name, which repeats neither what an exception says nor whom a request came from."""
    logger = logging.getLogger(name)
    if not any(isinstance(one, _Discreet) for one in logger.filters):
        logger.addFilter(_Discreet())
    return logger


class _Discreet(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if error is not None:
            refused = isinstance(error, HttpProcessingError)
            where = "" if refused else "\n" + "".join(traceback.format_tb(error.__traceback__)).rstrip()
            said = "a request was refused as malformed" if refused else "a request failed"
            record.msg, record.args = "%s: %s%s", (said, type(error).__name__, where)
            record.exc_info = record.exc_text = None
        return True
