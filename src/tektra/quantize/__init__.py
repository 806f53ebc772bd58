"""Makes smaller weights: quantized and converted GGUF files, quantization at load, importance.

`mixes` decides which tensor becomes what, `encode` makes the bytes, `view` shows a model as if it
were stored so, `job` writes that to a file; `imatrix` reads and writes importance matrices, and
`collect` measures them.
"""
