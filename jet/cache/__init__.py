"""Memory for request states: state pool, page allocator, pinned host pool and prefix cache."""
