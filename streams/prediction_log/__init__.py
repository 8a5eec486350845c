"""The role `log`: what was answered, written down."""
