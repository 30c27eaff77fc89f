"""Names of models, downloads, push, pull and model cards."""
