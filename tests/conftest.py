"""Puts tests/ on the import path, for helpers such as `reference_weights`."""
