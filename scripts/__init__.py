"""One-off tools: preparing the stories, training the story model, sampling from it."""
