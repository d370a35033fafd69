"""Routes for a router in front of several engines: the model and the load of this one.

SGLang's router registers a worker by `/server_info` and `/model_info` (older versions by `/get_server_info`
and `/get_model_info`), watches `/health`, and with some policies calls `/get_load`. These routes need no key,
since a router has none; they only return the model's name, sizes and load.
"""

from __future__ import annotations

from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from jet.server.openai.responding import headers_of
from jet.server.openai.service import ApiService, model_name
from jet.version import __version__


async def server_info(service: ApiService, http: HttpRequest) -> Response:
    """Return the model's name and the sizes of this engine. Raises ApiError while it is being loaded."""
    info = (await service.engine()).info()
    plain = {
        "served_model_name": model_name(info.model),
        "version": f"jet-stories {__version__}",
        "max_running_requests": info.max_running_requests,
        "max_total_num_tokens": info.max_total_tokens,
        "context_length": info.context,
        "dp_size": 1,
    }
    return JSONResponse(plain, headers=headers_of(http))


async def model_info(service: ApiService, http: HttpRequest) -> Response:
    """Return the kind of the model. Raises ApiError while it is being loaded."""
    info = (await service.engine()).info()
    plain = {
        "is_generation": True,
        "model_type": "jet_nemotron",
        "architectures": ["JetNemotronForCausalLM"],
        "context_length": info.context,
        "owned_by": "jet-stories",
    }
    return JSONResponse(plain, headers=headers_of(http))


async def load(service: ApiService, http: HttpRequest) -> Response:
    """Return the load: running and waiting requests. Raises ApiError while the model is being loaded."""
    info = (await service.engine()).info()
    waiting = info.queued_requests
    requests = info.active_requests + waiting
    plain = {"dp_rank": 0, "num_reqs": requests, "num_waiting_reqs": waiting, "num_tokens": requests}
    return JSONResponse([plain], headers=headers_of(http))
