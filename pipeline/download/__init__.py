"""Bringing an archive here from wherever it lies, once, and as one known version of itself."""
