"""Numbers to bytes of FP8, and what is counted of them: device functions of the casts."""

# pyright: reportAttributeAccessIssue=false, reportMissingImports=false, reportIndexIssue=false

import triton
import triton.language as tl


@triton.jit
def magnitude(v):
    """|v|, of what is not finite 0."""
    a = tl.abs(v)
    return tl.where(a < float("inf"), a, 0.0)


@triton.jit
def scale_of(largest, LIMIT: tl.constexpr, LARGEST: tl.constexpr, WHOLE: tl.constexpr):
    """LIMIT / largest, 1 for 0; WHOLE down to a power of two."""
    some = largest > 0
    scale = tl.math.div_rn(tl.full(largest.shape, LIMIT, tl.float32), tl.where(some, largest, 1.0))
    scale = tl.minimum(scale, LARGEST)
    if WHOLE:
        scale = (scale.to(tl.int32, bitcast=True) & 0x7F800000).to(tl.float32, bitcast=True)
    return tl.where(some, scale, 1.0)


@triton.jit
def inverse_of(scale):
    return tl.math.div_rn(tl.full(scale.shape, 1.0, tl.float32), scale)


@triton.jit
def _made(scaled, LIMIT: tl.constexpr, MANTISSA: tl.constexpr):
    """Bytes of `scaled` in FP8, to nearest, even on ties, by integers; NaN stays one."""
    SHIFT: tl.constexpr = 23 - MANTISSA
    BIAS: tl.constexpr = 7 if MANTISSA == 3 else 15
    # Adding this leaves subnormal numbers' multiples of the smallest in the last bits.
    STEP: tl.constexpr = 2.0 ** (23 + 1 - BIAS - MANTISSA)
    a = tl.minimum(tl.abs(scaled), LIMIT)
    bits = a.to(tl.int32, bitcast=True)
    normal = (bits + ((bits >> SHIFT) & 1) + ((1 << (SHIFT - 1)) - 1)) >> SHIFT
    normal -= (127 - BIAS) << MANTISSA
    small = (a + STEP).to(tl.int32, bitcast=True) & 0xFF
    size = tl.where(a < 2.0 ** (1 - BIAS), small, normal)
    size = tl.where(scaled == scaled, size, 0x7F)
    sign = (scaled.to(tl.int32, bitcast=True) >> 24) & 0x80
    return (size | sign).to(tl.uint8)


@triton.jit
def codes_of(v, scaled, LIMIT: tl.constexpr, MANTISSA: tl.constexpr, HARDWARE: tl.constexpr):
    """Bytes of `scaled` in FP8, to nearest, even on ties; NaN where v is not finite."""
    scaled = tl.where(tl.abs(v) < float("inf"), scaled, float("nan"))
    if HARDWARE:  # what rounding lifts over the limit becomes the limit
        if MANTISSA == 3:
            return scaled.to(tl.float8e4nv).to(tl.uint8, bitcast=True)
        else:
            return scaled.to(tl.float8e5).to(tl.uint8, bitcast=True)
    else:
        return _made(scaled, LIMIT, MANTISSA)


@triton.jit
def fours(v, scaled, LIMIT: tl.constexpr, MANTISSA: tl.constexpr, HARDWARE: tl.constexpr):
    """`codes_of`, four of a thread's at once, into one register.

    The compiler's own conversion makes two in half a register. Where bytes are stored and make
    words too, those that it makes on an H200 (Triton 3.6.0) are wrong.
    """
    if HARDWARE:
        scaled = tl.where(tl.abs(v) < float("inf"), scaled, float("nan"))
        if MANTISSA == 3:
            return tl.inline_asm_elementwise(
                "{ .reg .b16 a, b; cvt.rn.satfinite.e4m3x2.f32 a, $2, $1; "
                "cvt.rn.satfinite.e4m3x2.f32 b, $4, $3; mov.b32 $0, {a, b}; }",
                "=r,r,r,r,r", [scaled], dtype=tl.uint8, is_pure=True, pack=4,
            )  # fmt: skip
        else:
            return tl.inline_asm_elementwise(
                "{ .reg .b16 a, b; cvt.rn.satfinite.e5m2x2.f32 a, $2, $1; "
                "cvt.rn.satfinite.e5m2x2.f32 b, $4, $3; mov.b32 $0, {a, b}; }",
                "=r,r,r,r,r", [scaled], dtype=tl.uint8, is_pure=True, pack=4,
            )  # fmt: skip
    else:
        return codes_of(v, scaled, LIMIT, MANTISSA, HARDWARE)


@triton.jit
def _bytes_set(word):
    """How many of a word's bytes have their highest bit set."""
    return (((word >> 7) & 0x01010101) * 0x01010101) >> 24


@triton.jit
def tally_of(words, some):
    """2^16 for what is not finite, and 1 for what became 0: sums of a tile fit both.

    words holds four codes each, `some` how many of the four were not 0.
    """
    size = words & 0x7F7F7F7F
    return (some - _bytes_set(size + 0x7F7F7F7F)) + _bytes_set(size + 0x01010101) * 65536
