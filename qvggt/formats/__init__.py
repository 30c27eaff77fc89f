"""What a number is: grids, granularities, formats of tensors and of linears."""
