"""Vector code written in Python: everything here runs without the interpreter lock, on addresses and integers.

`simd` names the vector operations, `dots` lowers the one that differs per processor, `linear`,
`attention` and `pointwise` are the kernels, `team` runs a whole pass of them on several threads.
Nothing here knows of models or requests.
"""
