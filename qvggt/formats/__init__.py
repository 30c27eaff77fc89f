"""What a number is: grids, granularities, formats of tensors and of linears.

To add a format: a `Grid` where there is none that rounds so, a `LinearFormat` made of it, and `register` (table.py).
Its ONNX form is the first of `export/forms/table.py` that takes it. tests/formats/test_outside_format.py
does all of it.
"""
