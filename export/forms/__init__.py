"""One file per form of a linear or convolution in ONNX, chosen by the format of its weight and of its input.

Every form here is one TensorRT accepts: zero point 0, build-time-constant scales, per-tensor activations (a token's
own range is divided out before and multiplied back after), per-channel or per-tensor weights under quantized
activations, block scales only for weight-only formats.

In a half-precision network the choice of codes, the scales after the product and the bias stay fp32. Both sides of
the product are dequantized to fractions of 1 (`Grid.fraction`), which the half types hold exactly and whose products
cannot overflow; the real scales come after. So a linear computes the same numbers in every float type, up to one
rounding of its product.
"""
