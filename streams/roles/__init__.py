"""What a worker process does: each role opens what it needs, takes its share of the topics, and shows itself.

The only package that puts the others together.
"""
