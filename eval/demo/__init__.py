"""A local web page on top of the reconstruction (extra `demo`)."""
