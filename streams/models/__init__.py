"""Load a registered version as a backend, with the hosts that it may call; import versions from MLflow."""
