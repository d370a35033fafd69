"""The parts of `scripts.train_story_model`: recipe, data, network, optimizer, run."""
