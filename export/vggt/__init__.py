"""Emission of VGGT's own modules."""
