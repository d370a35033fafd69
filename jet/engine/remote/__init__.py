"""RemoteEngine: any OpenAI-compatible server as an engine of the page."""
