"""RemoteEngine: an engine on any OpenAI-compatible server."""
