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
def scale_of(largest, LIMIT: tl.constexpr, LARGEST: tl.constexpr):
    """LIMIT / largest, 1 for 0."""
    some = largest > 0
    scale = tl.math.div_rn(tl.full(largest.shape, LIMIT, tl.float32), tl.where(some, largest, 1.0))
    return tl.where(some, tl.minimum(scale, LARGEST), 1.0)


@triton.jit
def whole_scale_of(largest):
    """The largest power of two that keeps `largest` within E4M3's 448, at most 2^126; 1 for 0.

    448 is 1.75 * 2^8: a mantissa beyond that of 1.75 carries into the exponent.
    """
    exponent = 262 - ((largest.to(tl.int32, bitcast=True) + 0x1FFFFF) >> 23)
    scale = (tl.minimum(exponent, 253) << 23).to(tl.float32, bitcast=True)
    return tl.where(largest > 0, scale, 1.0)


@triton.jit
def inverse_of(scale):
    return tl.math.div_rn(tl.full(scale.shape, 1.0, tl.float32), scale)


@triton.jit
def whole_inverse_of(scale):
    """1 / scale of a power of two: exponents add up to twice the bias."""
    return (0x7F000000 - scale.to(tl.int32, bitcast=True)).to(tl.float32, bitcast=True)


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


# Two conversions make a register of four bytes. The compiler's own makes two in half a register,
# and where bytes are stored and make words too, those that it makes on an H200 (Triton 3.6.0) are
# wrong.
_E4M3 = tl.constexpr(
    "{ .reg .b16 a, b; cvt.rn.satfinite.e4m3x2.f32 a, $2, $1; "
    "cvt.rn.satfinite.e4m3x2.f32 b, $4, $3; mov.b32 $0, {a, b}; }"
)
_E5M2 = tl.constexpr(
    "{ .reg .b16 a, b; cvt.rn.satfinite.e5m2x2.f32 a, $2, $1; "
    "cvt.rn.satfinite.e5m2x2.f32 b, $4, $3; mov.b32 $0, {a, b}; }"
)


@triton.jit
def fours(scaled, LIMIT: tl.constexpr, MANTISSA: tl.constexpr, HARDWARE: tl.constexpr):
    """Bytes of `scaled`, four neighbours of a thread's at once; infinite becomes the limit."""
    if HARDWARE:
        return tl.inline_asm_elementwise(
            _E4M3 if MANTISSA == 3 else _E5M2, "=r,r,r,r,r", [scaled],
            dtype=tl.uint8, is_pure=True, pack=4,
        )  # fmt: skip
    else:
        return _made(scaled, LIMIT, MANTISSA)


@triton.jit
def words(a, b, c, d, LIMIT: tl.constexpr, MANTISSA: tl.constexpr, HARDWARE: tl.constexpr):
    """Bytes of four tensors as int32, those of the first lowest; infinite becomes the limit."""
    if HARDWARE:
        return tl.inline_asm_elementwise(
            _E4M3 if MANTISSA == 3 else _E5M2, "=r,r,r,r,r", [a, b, c, d],
            dtype=tl.int32, is_pure=True, pack=1,
        )  # fmt: skip
    else:
        low = _made(a, LIMIT, MANTISSA).to(tl.int32) | (_made(b, LIMIT, MANTISSA).to(tl.int32) << 8)
        high = _made(c, LIMIT, MANTISSA).to(tl.int32) | (
            _made(d, LIMIT, MANTISSA).to(tl.int32) << 8
        )
        return low | (high << 16)


_LOST = tl.constexpr(
    "{ .reg .pred p; .reg .f32 s; mov.b32 $0, 0;"
    + "".join(
        f" setp.neu.f32 p, ${v}, 0f00000000; abs.f32 s, ${v + 4};"
        f" setp.le.and.f32 p, s, $9, p; @p add.s32 $0, $0, 1;"
        for v in (1, 2, 3, 4)
    )
    + " }"
)


@triton.jit
def lost(
    a, b, c, d, scaled_a, scaled_b, scaled_c, scaled_d,
    MANTISSA: tl.constexpr, HARDWARE: tl.constexpr,
):  # fmt: skip
    """How many of four are not 0 while their bytes are: half the smallest number ties to 0."""
    half = tl.full(a.shape, 2.0**-10 if MANTISSA == 3 else 2.0**-17, tl.float32)
    if HARDWARE:
        return tl.inline_asm_elementwise(
            _LOST, "=r,r,r,r,r,r,r,r,r,r",
            [a, b, c, d, scaled_a, scaled_b, scaled_c, scaled_d, half],
            dtype=tl.int32, is_pure=True, pack=1,
        )  # fmt: skip
    else:
        first = ((tl.abs(scaled_a) <= half) & (a != 0)).to(tl.int32)
        first += ((tl.abs(scaled_b) <= half) & (b != 0)).to(tl.int32)
        second = ((tl.abs(scaled_c) <= half) & (c != 0)).to(tl.int32)
        return first + second + ((tl.abs(scaled_d) <= half) & (d != 0)).to(tl.int32)
