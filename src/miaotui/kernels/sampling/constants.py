"""Coefficients of the polynomials that define a draw: part of the definition, so they stand here once.

Plain numbers, free of any compiler import; all are rounded to float32. `weights` and `gumbel` say how they are summed.
"""

from __future__ import annotations

# (2**f - 1) / f on [-1/2, 1/2], the lowest power first, interpolated at the Chebyshev points; 2**f is then right
# to 1e-7.
EXP2 = (
    0.6931471880262287,
    0.24022650760568084,
    0.05550357114218973,
    0.009618082557286611,
    0.0013390863364733119,
    0.00015453162942006833,
)

# -log2(1 - x) / x on [0, 1/2] and log2(1 + x) / x on [sqrt(1/2) - 1, sqrt(2) - 1], interpolated at the Chebyshev
# points; both are then right to 3e-7.
WAIT = (
    1.442694902420044,
    0.7213939428329468,
    0.4789845943450928,
    0.3902158737182617,
    0.06976592540740967,
    1.0886409282684326,
    -1.4946882724761963,
    1.6715266704559326,
)
LOG2 = (
    1.4426950216293335,
    -0.7213529348373413,
    0.48091670870780945,
    -0.3602251708507538,
    0.2872888743877411,
    -0.24927182495594025,
    0.23265257477760315,
    -0.14275974035263062,
)
SPREAD = 0x9E3779B9  # 2**32 / golden ratio, made odd
MIXERS = 0x7FEB352D, 0x846CA68B  # multipliers of a token's noise
ROOT_HALF_BITS = 0x3F3504F3  # sqrt(1/2) as float32: mantissas are centred around 1
