"""The role `monitor`: what the workers count, added up, and what follows from it."""
