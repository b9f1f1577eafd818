"""Vector code in Python: everything here runs without the interpreter lock, on addresses and integers.

`runtime` has the vector operations, the compiler, the tables and the thread pool; `linear`, `attention`, `pointwise`,
`sampling` and `draft` are the kernels; `platform` describes the machine. `reference` defines each kernel in NumPy.
Nothing here knows models or requests.
"""
