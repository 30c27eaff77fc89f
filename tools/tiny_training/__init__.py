"""Training of the shipped tiny VGGT (tools/train_tiny.py); not part of the installed package."""
