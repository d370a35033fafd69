"""Tools beside the app: checks, audits, load, pictures, training of the story model, and kernel tuning."""
