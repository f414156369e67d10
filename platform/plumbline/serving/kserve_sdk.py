"""The one place that imports KServe's SDK.

`kserve.model_server` parses the command line when it is imported, so a foreign option of ours (or of pytest) that
happens to be an abbreviation of one of its own would change the server, or end the process with a usage message.
It therefore sees an empty command line here. Its OpenAI layer is not used: it imports vLLM, which no CPU has.
"""

import sys

_argv = sys.argv
sys.argv = sys.argv[:1]
try:
    from kserve import Model, ModelServer
    from kserve.constants.constants import FASTAPI_APP_IMPORT_STRING
    from kserve.model_server import app
    from kserve.protocol.rest.server import RESTServer
finally:
    sys.argv = _argv

__all__ = ["FASTAPI_APP_IMPORT_STRING", "Model", "ModelServer", "RESTServer", "app"]
