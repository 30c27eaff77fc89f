"""Training of the small VGGTs that benches use (tools/train_model.py); not part of the installed package."""
