"""From a registered version to a backend: which hosts may be called, and how a model of MLflow is imported."""
