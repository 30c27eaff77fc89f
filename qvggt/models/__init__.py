"""Networks: shared blocks, and one folder per model family."""
