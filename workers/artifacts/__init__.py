"""Model files: where they come from, their digests, the folder that keeps them, and what MLflow says of them."""
