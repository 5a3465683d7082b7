"""The five stages, each a plain function from one manifest to the next."""
