"""Layout of weight matrices in memory: 16 output rows side by side, so that one 64-byte load feeds 16 rows.

A *tile* is 16 rows of a matrix ``[rows, inputs]``; a *group* is 32 inputs. A tile is a sequence of *records*: a head
with scales, then the codes of one, two or eight groups. So a tile is read strictly forwards, which is what memory does
fastest. Codes lie in *planes*: one load of 64 bytes carries 4 inputs of 16 rows (8 bits), or 2, 4 or 8 times as many,
low bits first. A code of 5 bits is a plane of 4 bits and one of 1. Rows are padded with zeros to 32, groups to whole
records. Every block type of GGML has a format that holds its values exactly (scales of scales too):

    format  value of a code                               planes  bytes of a record  weights  bits a weight (GGML's)
    q4      (code - 8) scale                              4       64 + 2 x 256       1024     4.5
    q4m     code scale + minimum                          4       64 + 256           512      5.0
    q8      (code - 128) scale                            8       64 + 2 x 512       1024     8.5
    q5_0    (code - 16) scale                             4 + 1   64 + 2 x 320       1024     5.5 (5.5)
    q5_1    code scale + minimum                          4 + 1   64 + 320           512      6.0 (6.0)
    q6      (code - 32) scale                             4 + 2   64 + 2 x 384       1024     6.5
    iq4_nl  table[code] scale                             4       64 + 2 x 256       1024     4.5 (4.5)
    mxfp4   table[code] 2^(exponent - 128)                4       32 + 2 x 256       1024     4.25 (4.25)
    q2_k    code scale sub + minimum submin               2       320 + 8 x 128      4096     2.63 (2.63)
    q3_k    (code - 4) scale sub                          2 + 1   288 + 8 x 192      4096     3.56 (3.44)
    q4_k    code scale sub + minimum submin               4       320 + 8 x 256      4096     4.63 (4.5)
    q5_k    code scale sub + minimum submin               4 + 1   320 + 8 x 320      4096     5.63 (5.5)
    q6_k    (code - 32) scale sub                         4 + 2   288 + 8 x 384      4096     6.56 (6.56)
    iq4_xs  table[code] scale sub                         4       160 + 8 x 256      4096     4.31 (4.25)
    iq1 iq2 iq3_xxs iq3_s   as iq4_xs                     4       288 + 8 x 256      4096     4.56 (1.56 to 3.44)
    tq2     (code - 1) scale                              2       160 + 8 x 128      4096     2.31 (1.69, 2.06)
    bf16    bfloat16                                      16      1024               512      16.0 (16.0)
    f32     float32                                       32      2048               512

``sub`` and ``submin`` are integers of 32 inputs; of 16 in q2_k, q3_k, q6_k and the iq formats of less than 4 bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

TILE_ROWS = 16
GROUP = 32
UNIT_ROWS = 32  # rows padded to this: two tiles, and one group of the next layer's inputs
LINE = 64
SUPER_GROUPS = 8  # groups that share a scale of scales

IQ4_VALUES = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
IQ1_VALUES = (-9, -7, -1, 1, 7, 9)  # in eighths
IQ2_VALUES = (-43, -25, -8, 8, 25, 43)  # in eighths
IQ3_XXS_VALUES = (-62, -52, -44, -36, -28, -20, -12, -4, 4, 12, 20, 28, 36, 44, 52, 62)  # in quarters
IQ3_S_VALUES = (-15, -13, -11, -9, -7, -5, -3, -1, 1, 3, 5, 7, 9, 11, 13, 15)
MXFP4_VALUES = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)  # twice those of OCP's E2M1


@dataclass(frozen=True)
class Layout:
    """Codes of a group and their scales."""

    low: int  # bits of the first plane
    high: int = 0  # bits of the second plane, the upper ones of each code
    groups: int = 2  # of a record
    offset: int = 0  # value of the code that means zero
    table: tuple[int, ...] = ()  # values of the codes, where they are not code - offset
    subs: int = 0  # integer scales of a group; 0: the group has a scale of its own
    minimums: bool = False
    exponents: bool = False  # scales are bytes, powers of two
    unit: float = 1.0  # of scales: a power of two

    @property
    def sub_bytes(self) -> int:
        """Return the bytes of a group's integer scales and minimums in a tile: one of each, or 4 + 4 bits in q2_k."""
        return TILE_ROWS * self.subs * (2 if self.minimums and not self.nibbles else 1)

    @property
    def nibbles(self) -> bool:
        """Return whether a byte holds an integer scale and, above it, a minimum."""
        return self.low == 2 and self.minimums

    @property
    def float_bytes(self) -> int:
        """Return the bytes of a record's scales and minimums that are no integers."""
        one = TILE_ROWS * (1 if self.exponents else 2) * (1 + self.minimums)
        return one if self.subs else one * self.groups

    @property
    def head_bytes(self) -> int:
        """Return the bytes of a record before its codes."""
        return self.float_bytes + self.sub_bytes * self.groups


class Format(Enum):
    """Packed weight format."""

    Q4 = "q4"
    Q4M = "q4m"
    Q8 = "q8"
    F32 = "f32"
    BF16 = "bf16"
    Q5_0 = "q5_0"
    Q5_1 = "q5_1"
    Q6 = "q6"
    IQ4_NL = "iq4_nl"
    MXFP4 = "mxfp4"
    Q2_K = "q2_k"
    Q3_K = "q3_k"
    Q4_K = "q4_k"
    Q5_K = "q5_k"
    Q6_K = "q6_k"
    IQ4_XS = "iq4_xs"
    IQ1 = "iq1"
    IQ2 = "iq2"
    IQ3_XXS = "iq3_xxs"
    IQ3_S = "iq3_s"
    TQ2 = "tq2"

    @property
    def layout(self) -> Layout:
        """Return how codes and scales lie; of floats, which have none, an empty one."""
        return _LAYOUTS.get(self, Layout(16 if self is Format.BF16 else 32, groups=1))

    @property
    def is_float(self) -> bool:
        """Return whether weights are floats without scales."""
        return self in (Format.F32, Format.BF16)

    @property
    def record_groups(self) -> int:
        """Return the number of groups in a record."""
        return self.layout.groups

    @property
    def integer_bytes(self) -> int:
        """Return the bytes of one tile's group without scales and minimums."""
        return TILE_ROWS * GROUP * (self.layout.low + self.layout.high) // 8

    @property
    def head_bytes(self) -> int:
        """Return the bytes of a record before its integers."""
        return 0 if self.is_float else self.layout.head_bytes

    @property
    def record_bytes(self) -> int:
        """Return the bytes of a record, a multiple of 32."""
        return self.head_bytes + self.record_groups * self.integer_bytes

    @property
    def bits_per_weight(self) -> float:
        """Return the bits of memory read per weight."""
        return self.record_bytes * 8 / (TILE_ROWS * GROUP * self.record_groups)


def _filled(values: tuple[int, ...]) -> tuple[int, ...]:
    """Return a table of sixteen values, of which the last ones are not used."""
    return values + (0,) * (16 - len(values))


_LAYOUTS = {
    Format.Q4: Layout(4, offset=8),
    Format.Q4M: Layout(4, groups=1, minimums=True),
    Format.Q8: Layout(8, offset=128),
    Format.Q5_0: Layout(4, 1, offset=16),
    Format.Q5_1: Layout(4, 1, groups=1, minimums=True),
    Format.Q6: Layout(4, 2, offset=32),
    Format.IQ4_NL: Layout(4, table=IQ4_VALUES),
    Format.MXFP4: Layout(4, table=MXFP4_VALUES, exponents=True),
    Format.Q2_K: Layout(2, groups=SUPER_GROUPS, subs=2, minimums=True),
    Format.Q3_K: Layout(2, 1, groups=SUPER_GROUPS, offset=4, subs=2),
    Format.Q4_K: Layout(4, groups=SUPER_GROUPS, subs=1, minimums=True),
    Format.Q5_K: Layout(4, 1, groups=SUPER_GROUPS, subs=1, minimums=True),
    Format.Q6_K: Layout(4, 2, groups=SUPER_GROUPS, offset=32, subs=2),
    Format.IQ4_XS: Layout(4, groups=SUPER_GROUPS, table=IQ4_VALUES, subs=1),
    Format.IQ1: Layout(4, groups=SUPER_GROUPS, table=_filled(IQ1_VALUES), subs=2, unit=0.125),
    Format.IQ2: Layout(4, groups=SUPER_GROUPS, table=_filled(IQ2_VALUES), subs=2, unit=0.125),
    Format.IQ3_XXS: Layout(4, groups=SUPER_GROUPS, table=IQ3_XXS_VALUES, subs=2, unit=0.25),
    Format.IQ3_S: Layout(4, groups=SUPER_GROUPS, table=IQ3_S_VALUES, subs=2),
    Format.TQ2: Layout(2, groups=SUPER_GROUPS, offset=1, subs=1),
}


WANTED = {"q4": Format.Q4, "q5": Format.Q5_0, "q6": Format.Q6, "q8": Format.Q8, "bf16": Format.BF16}
"""Formats that weights stored as floats may be rounded to, by the names that users give."""


def records(form: Format, inputs: int) -> int:
    """Return the number of records in a tile of rows of ``inputs`` values."""
    return -(-(inputs // GROUP) // form.record_groups)


def tile_stride(form: Format, inputs: int) -> int:
    """Return the bytes from one tile to the next, for rows of ``inputs`` values (a multiple of 32).

    The result is a multiple of 64.
    """
    return -(-records(form, inputs) * form.record_bytes // LINE) * LINE


def packed_bytes(form: Format, rows: int, inputs: int) -> int:
    """Return the bytes of a packed matrix."""
    return padded_rows(rows) // TILE_ROWS * tile_stride(form, inputs)


def padded_rows(rows: int) -> int:
    """Round a number of rows up to whole units of 32."""
    return -(-rows // UNIT_ROWS) * UNIT_ROWS
