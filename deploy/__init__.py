"""Running Headrace: the local stack, containers, the demo."""
