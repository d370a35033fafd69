# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls
"""LLVM intrinsics for numba: integer dot products, activation quantization, atomics, calls by address.

A dot product instruction takes four columns of 16 rows of a quantized weight, with one lane for each row.
Products of 32 columns are summed exactly in int32, converted to float32, multiplied by the activation's scale
and, for int4, the weight's scale, and accumulated. The order is the same for every instruction set in `ISAS`
and for every tile size, so a row's result does not depend on the batch.
"""

from __future__ import annotations

import os
import platform
from functools import cache
from typing import Any

import llvmlite.binding
import numba
from llvmlite import ir
from numba import carray, types  # type: ignore[attr-defined]
from numba.core import cgutils
from numba.extending import intrinsic as numba_intrinsic

intrinsic: Any = numba_intrinsic  # its functions lack their first argument when they are called

I8, I16, I32, I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
HALF, FLOAT, VOID = ir.HalfType(), ir.FloatType(), ir.VoidType()
LANES, STRIP = 16, 64  # rows of a block, and bytes of four columns of them
GROUP = 32  # activations that share a scale
CODES, WHOLE, WIDE = ir.VectorType(I8, STRIP), ir.VectorType(I32, LANES), ir.VectorType(FLOAT, LANES)
AHEAD = 64  # vectors between a load and the prefetch issued with it

# Instruction sets, best first: the CPU features that each needs, and whether its dot product takes unsigned
# weights. If so, codes are shifted to be unsigned, and the sums start from minus what the shift adds.
ISAS = {
    "AVX-512 VNNI": (("avx512vnni", "avx512bw", "avx512vl"), True),
    "AVX-VNNI": (("avxvnni", "avx2"), True),
    "AVX2": (("avx2",), False),
    "NEON dot product": (("dotprod",), False),
    "plain": ((), False),
}
OFFSETS = {"int8": 128, "int4": 8}


@cache
def supported_isas() -> tuple[str, ...]:
    """Return the names in `ISAS` that this CPU supports, best first."""
    found = getattr(numba.config, "CPU_FEATURES", None)
    if found is None:
        found = llvmlite.binding.get_host_cpu_features().flatten()
    features = {feature[1:] for feature in found.split(",") if feature.startswith("+")}
    arm = platform.machine().lower() in ("arm64", "aarch64")
    return tuple(
        name
        for name, (needed, _) in ISAS.items()
        if features.issuperset(needed) and (arm or name != "NEON dot product")
    )


def offset_of(scheme: str, isa: str) -> int:
    """Return the number that is added to the signed codes of weights before they are multiplied."""
    return OFFSETS[scheme] if ISAS[isa][1] else 0


def _constant(value: int):
    return ir.Constant(I64, value)


def _splat(vector, value):
    return ir.Constant(vector, [value] * vector.count)


def _call(builder, name, result, *arguments, **options):
    kind = ir.FunctionType(result, [argument.type for argument in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments, **options)


def _at(builder, address, offset, kind):
    return builder.inttoptr(builder.add(address, offset), kind.as_pointer())


def _load(builder, address, offset, kind, align=1):
    return builder.load(_at(builder, address, offset, kind), align=align)


def _store(builder, value, address, offset, align=1):
    builder.store(value, _at(builder, address, offset, value.type), align=align)


def _fused(builder, a, b, c):
    """Emit `a * b + c`, rounded once if the CPU has FMA."""
    if platform.machine().lower() in ("x86_64", "amd64") and "AVX2" not in supported_isas():
        return builder.fadd(builder.fmul(a, b), c)
    return _call(builder, "llvm.fma.v16f32", WIDE, a, b, c)


def _part(builder, vector, number, of):
    """Emit part `number` of `of` equal parts of a vector."""
    size = vector.type.count // of
    places = ir.Constant(ir.VectorType(I32, size), list(range(number * size, (number + 1) * size)))
    return builder.shuffle_vector(vector, ir.Constant(vector.type, ir.Undefined), places)


def _join(builder, parts):
    """Emit the concatenation of vectors, whose number is a power of two."""
    while len(parts) > 1:
        size = 2 * parts[0].type.count
        places = ir.Constant(ir.VectorType(I32, size), list(range(size)))
        parts = [builder.shuffle_vector(*pair, places) for pair in zip(parts[::2], parts[1::2], strict=True)]
    return parts[0]


def _dot(builder, isa, start, weight, x):
    """Emit `start` `[16]` plus the products of 64 weights and activations, summed by fours, in int32."""
    if isa == "AVX-512 VNNI":
        words = (builder.bitcast(vector, WHOLE) for vector in (weight, x))
        return _call(builder, "llvm.x86.avx512.vpdpbusd.512", WHOLE, start, *words)
    halves = 4 if isa == "NEON dot product" else 2
    parts = [[_part(builder, vector, n, halves) for n in range(halves)] for vector in (start, weight, x)]
    return _join(builder, [_DOTS[isa](builder, *given) for given in zip(*parts, strict=True)])


def _dot_vnni(builder, start, weight, x):
    words = (builder.bitcast(vector, start.type) for vector in (weight, x))
    return _call(builder, "llvm.x86.avx512.vpdpbusd.256", start.type, start, *words)


def _dot_avx2(builder, start, weight, x):
    shorts = ir.VectorType(I16, 16)
    size = _call(builder, "llvm.abs.v32i8", weight.type, weight, ir.Constant(ir.IntType(1), 0))
    signed = _call(builder, "llvm.x86.avx2.psign.b", x.type, x, weight)
    # Two products of at most 127 * 127: no saturation in 16 bits.
    pairs = _call(builder, "llvm.x86.avx2.pmadd.ub.sw", shorts, size, signed)
    fours = _call(builder, "llvm.x86.avx2.pmadd.wd", start.type, pairs, _splat(shorts, 1))
    return builder.add(start, fours)


def _dot_neon(builder, start, weight, x):
    return _call(builder, "llvm.aarch64.neon.sdot.v4i32.v16i8", start.type, start, weight, x)


def _dot_plain(builder, start, weight, x):
    count = weight.type.count
    wide = [builder.sext(vector, ir.VectorType(I32, count)) for vector in (weight, x)]
    products, total = builder.mul(*wide), start
    for n in range(4):
        places = ir.Constant(ir.VectorType(I32, count // 4), list(range(n, count, 4)))
        fourth = builder.shuffle_vector(products, ir.Constant(products.type, ir.Undefined), places)
        total = builder.add(total, fourth)
    return total


_DOTS = {"AVX-VNNI": _dot_vnni, "AVX2": _dot_avx2, "NEON dot product": _dot_neon, "plain": _dot_plain}


def _unpack(builder, scheme, isa, loaded):
    """Emit the codes in 64 loaded bytes as vectors: one for int8, for int4 one for each half of the row.

    The codes have the offset of `offset_of`.
    """
    if scheme == "int8":
        return [builder.xor(loaded, _splat(CODES, 128)) if ISAS[isa][1] else loaded]
    words = ir.VectorType(I16, STRIP // 2)
    high = builder.lshr(builder.bitcast(loaded, words), _splat(words, 4))
    codes = [builder.and_(part, _splat(CODES, 15)) for part in (loaded, builder.bitcast(high, CODES))]
    return codes if ISAS[isa][1] else [builder.sub(part, _splat(CODES, 8)) for part in codes]


def _repeat(builder, number):
    """Emit a vector with 16 copies of a number."""
    vector = ir.VectorType(number.type, LANES)
    undefined = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(undefined, number, ir.Constant(I32, 0))
    return builder.shuffle_vector(first, undefined, _splat(WHOLE, 0))


@cache
def dot_tile(scheme: str, isa: str, count: int):  # noqa: C901
    """Create an intrinsic that multiplies a block of 16 weight rows by `count` rows of activations.

    Both are quantized. The intrinsic's arguments are addresses, and sizes in bytes:
        codes: the block's codes, laid out as in `jet.ops.blocked`.
        span: the bytes of each row, a multiple of 64.
        scales: the block's float16 scales `[2 * span / 64, 16]`; for int4 only.
        x: the int8 codes of the first activation row.
        starts, factors: for each 32 codes, the int32 that the sum starts from, and the float32 scale.
        stride: the bytes between the codes of two activation rows.
        out: 16 float32 results of the first activation row.
        out_stride: the bytes between the results of two activation rows.
    """
    int4 = scheme == "int4"
    runs, strips = (2, 2) if int4 else (1, 1)  # an int4 scale is that of two groups of activations

    def emit(builder, codes, span, scales, x, starts, factors, stride, out, out_stride):
        totals = [cgutils.alloca_once_value(builder, _splat(WIDE, 0.0)) for _ in range(count)]
        step = builder.lshr(stride, _constant(3))  # of starts and factors
        groups = builder.lshr(span, _constant(6 if int4 else 5))
        with cgutils.for_range(builder, groups, intp=I64) as loop:
            weights = []
            for run in range(runs if int4 else 0):
                number = builder.add(loop.index, builder.mul(groups, _constant(run)))
                halves = _load(
                    builder, scales, builder.shl(number, _constant(5)), ir.VectorType(HALF, LANES), 2
                )
                weights.append(builder.fpext(halves, WIDE))
            for strip in range(strips):
                group = builder.add(builder.mul(loop.index, _constant(strips)), _constant(strip))
                block = builder.add(codes, builder.shl(group, _constant(9)))
                sums, places = {}, {}
                for run in range(runs):
                    column = builder.add(builder.shl(group, _constant(5)), builder.mul(span, _constant(run)))
                    for one in range(count):
                        places[run, one] = builder.add(
                            builder.add(x, column), builder.mul(stride, _constant(one))
                        )
                        at = builder.add(
                            builder.lshr(column, _constant(3)), builder.mul(step, _constant(one))
                        )
                        start = builder.load(_at(builder, starts, at, I32), align=4)
                        sums[run, one] = _repeat(builder, start)
                for four in range(GROUP // 4):
                    where = builder.add(block, _constant(STRIP * (four + AHEAD)))
                    hints = (ir.Constant(I32, value) for value in (0, 3, 1))  # to read, into L1, as data
                    _call(builder, "llvm.prefetch.p0", VOID, _at(builder, where, _constant(0), I8), *hints)
                    loaded = _load(builder, block, _constant(STRIP * four), CODES, STRIP)
                    for run, unpacked in enumerate(_unpack(builder, scheme, isa, loaded)):
                        for one in range(count):
                            number = _load(builder, places[run, one], _constant(4 * four), I32, 4)
                            numbers = builder.bitcast(_repeat(builder, number), CODES)
                            sums[run, one] = _dot(builder, isa, sums[run, one], unpacked, numbers)
                for run in range(runs):
                    column = builder.add(builder.shl(group, _constant(5)), builder.mul(span, _constant(run)))
                    for one in range(count):
                        at = builder.add(
                            builder.lshr(column, _constant(3)), builder.mul(step, _constant(one))
                        )
                        factor = _repeat(builder, _load(builder, factors, at, FLOAT, 4))
                        exact, total = builder.sitofp(sums[run, one], WIDE), builder.load(totals[one])
                        if int4:
                            exact, factor = builder.fmul(exact, factor), weights[run]
                        builder.store(_fused(builder, exact, factor, total), totals[one])
        for one in range(count):
            _store(builder, builder.load(totals[one]), out, builder.mul(out_stride, _constant(one)), 4)

    @intrinsic
    def multiply(typing, codes, span, scales, x, starts, factors, stride, out, out_stride):
        def generate(context, builder, signature, arguments):
            emit(builder, *arguments)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 9), generate

    return multiply


def _sum(builder, vector):
    """Emit the sum of a vector's elements, added pairwise in a tree."""
    while vector.type.count > 1:
        vector = builder.fadd(*(_part(builder, vector, number, 2) for number in range(2)))
    return builder.extract_element(vector, ir.Constant(I32, 0))


@cache
def quantizer(offset: int):
    """Create an intrinsic that quantizes 32 float32 activations for weights with an offset.

    The intrinsic's arguments are addresses: it reads the activations at `x`, and writes `codes`, `start` and
    `factor` in the form that `dot_tile` reads. The scale of a group with infinities or NaN is NaN, so that
    its products are NaN, too.

    `offset`: the number that `offset_of` returns.
    """
    floats, whole = ir.VectorType(FLOAT, GROUP), ir.VectorType(I32, GROUP)

    @intrinsic
    def quantize(typing, x, codes, start, factor):
        def generate(context, builder, signature, arguments):
            x, codes, start, factor = arguments
            numbers = _load(builder, x, _constant(0), floats, 4)
            sizes = _call(builder, "llvm.fabs.v32f32", floats, numbers)
            peak = _reduce(builder, "llvm.maxnum.v{}f32", sizes)
            # 0, or NaN if a number is not finite.
            nothing = _sum(builder, builder.fmul(numbers, _splat(floats, 0.0)))
            scale = builder.fadd(builder.fmul(peak, ir.Constant(FLOAT, 1 / 127)), nothing)
            least = builder.fcmp_ordered(">", peak, ir.Constant(FLOAT, 2.0**-100))
            inverse = builder.fdiv(ir.Constant(FLOAT, 127.0), peak)
            inverse = builder.select(least, inverse, ir.Constant(FLOAT, 0.0))
            wide = _repeat(builder, inverse)
            scaled = builder.fmul(numbers, _join(builder, [wide, wide]))
            nearest = _call(builder, "llvm.rint.v32f32", floats, scaled)
            exact = _call(builder, "llvm.fptosi.sat.v32i32.v32f32", whole, nearest)
            _store(builder, builder.trunc(exact, ir.VectorType(I8, GROUP)), codes, _constant(0), GROUP)
            total = exact
            while total.type.count > 1:
                total = builder.add(*(_part(builder, total, number, 2) for number in range(2)))
            total = builder.extract_element(total, ir.Constant(I32, 0))
            _store(builder, builder.mul(total, ir.Constant(I32, -offset)), start, _constant(0), 4)
            _store(builder, builder.select(least, scale, nothing), factor, _constant(0), 4)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 4), generate

    return quantize


def _reduce(builder, name, vector):
    """Emit the reduction of a vector to one number by a binary function, pairwise in a tree."""
    while vector.type.count > 1:
        halves = [_part(builder, vector, number, 2) for number in range(2)]
        count = halves[0].type.count
        vector = _call(builder, name.format(count), halves[0].type, *halves)
    return builder.extract_element(vector, ir.Constant(I32, 0))


# --- shared memory and calls by address --------------------------------------------------------------------


@intrinsic
def load_shared(typing, address):
    """Load an int64 with acquire order."""

    def generate(context, builder, signature, arguments):
        return builder.load_atomic(_at(builder, arguments[0], _constant(0), I64), "acquire", 8)

    return types.int64(types.int64), generate


@intrinsic
def store_shared(typing, address, value):
    """Store an int64 with release order."""

    def generate(context, builder, signature, arguments):
        place = _at(builder, arguments[0], _constant(0), I64)
        builder.store_atomic(arguments[1], place, "release", 8)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@intrinsic
def add_shared(typing, address, value):
    """Add to an int64 atomically; return its previous value."""

    def generate(context, builder, signature, arguments):
        place = _at(builder, arguments[0], _constant(0), I64)
        return builder.atomic_rmw("add", place, arguments[1], "acq_rel")

    return types.int64(types.int64, types.int64), generate


@intrinsic
def pause(typing, give_way):
    """Pause in a spin loop; with `give_way`, yield the core to another thread."""

    def generate(context, builder, signature, arguments):
        with builder.if_else(builder.trunc(arguments[0], ir.IntType(1))) as (then, otherwise):
            with then:
                if os.name == "posix":
                    _call(builder, "sched_yield", I32)
            with otherwise:
                if platform.machine().lower() in ("x86_64", "amd64"):
                    _call(builder, "llvm.x86.sse2.pause", VOID)
        return context.get_dummy_value()

    return types.void(types.int64), generate


@intrinsic
def doze(typing, microseconds):
    """Sleep for some microseconds without Python's lock; return at once if the system is not POSIX."""

    def generate(context, builder, signature, arguments):
        if os.name == "posix":
            _call(builder, "usleep", I32, builder.trunc(arguments[0], I32))
        return context.get_dummy_value()

    return types.void(types.int64), generate


@intrinsic
def call_at(typing, function, argument, number):
    """Call the compiled function at an address with two int64 arguments."""

    def generate(context, builder, signature, arguments):
        kind = ir.FunctionType(VOID, [I64, I64])
        builder.call(builder.inttoptr(arguments[0], kind.as_pointer()), arguments[1:])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), generate


@intrinsic
def _pointer(typing, address):
    def generate(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], context.get_value_type(types.voidptr))

    return types.voidptr(types.int64), generate


@numba.njit
def view(address, shape, dtype):
    """View the memory at an address as a contiguous array."""
    return carray(_pointer(address), shape, dtype)
