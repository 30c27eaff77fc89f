"""VGGT written from its specification, with the original parameter names."""
