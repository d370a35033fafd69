"""OpenAI's and KoboldAI's APIs on the engine of this process.

A call passes through these modules and classes:

NameConnections ─ AllowlistMiddleware ─ ApiFirst ─ ApiApp ─ chat, completions, kobold, listing, probes
                                                            ├ service (keys, limits, cache salt)
                                                            └ batch ─ generation ─ wakeups ─ engine
"""

from __future__ import annotations

from jet.server.openai.app import ApiApp as ApiApp
from jet.server.openai.app import ApiFirst as ApiFirst
from jet.server.openai.app import routes_of as routes_of
from jet.server.openai.connection_names import NameConnections as NameConnections
from jet.server.openai.cross_origin import allow_origins as allow_origins
from jet.server.openai.keys import Keys as Keys
from jet.server.openai.keys import KeysError as KeysError
from jet.server.openai.service import ApiOptions as ApiOptions
from jet.server.openai.service import ApiService as ApiService
