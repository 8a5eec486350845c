"""Decides promotion events, and finds out whether every worker serves a decision."""
