"""Deciding promotion events, and whether every worker answers by a decision."""
