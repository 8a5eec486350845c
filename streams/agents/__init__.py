"""One thin agent a file: it takes slices from a stream, has them handled, and acknowledges them."""
