"""Vectors of eight float32 numbers as a type of numba's, so that kernels say themselves what goes side by side.

The compiler's own vectoriser keeps nothing in registers from one Gaussian to the next and gives up where a loop has a
second exit; with a type of its own a kernel reads like scalar code and becomes what it says on every machine (one AVX
register, two of SSE or NEON). Operators: + - * /, > >= between `Float8`s, & between masks. They may be contracted to
fused multiply-adds.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic, lower_builtin, models, register_model, type_callable

LANES = 8
_FLAGS = ("contract", "nsz")
_F32, _I32, _I64 = ir.FloatType(), ir.IntType(32), ir.IntType(64)
_FLOATS = ir.VectorType(_F32, LANES)
_INTS = ir.VectorType(_I32, LANES)
_BITS = ir.VectorType(ir.IntType(1), LANES)


class _Vector(types.Type):
    pass


Float8 = _Vector("float32x8")
Mask8 = _Vector("bool1x8")


@register_model(_Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, vector: _Vector) -> None:
        super().__init__(manager, vector, _FLOATS if vector is Float8 or vector.name == Float8.name else _BITS)


def _binary(symbol: Any, kind: _Vector, result: _Vector, build: Any) -> None:
    """Teach numba an operator between two vectors of one kind."""

    @type_callable(symbol)
    def typer(context: Any) -> Any:
        def resolve(one: Any, other: Any) -> Any:
            return result if one == kind and other == kind else None

        return resolve

    @lower_builtin(symbol, kind, kind)
    def lower(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return build(builder, *arguments)


_binary(operator.add, Float8, Float8, lambda b, x, y: b.fadd(x, y, flags=_FLAGS))
_binary(operator.sub, Float8, Float8, lambda b, x, y: b.fsub(x, y, flags=_FLAGS))
_binary(operator.mul, Float8, Float8, lambda b, x, y: b.fmul(x, y, flags=_FLAGS))
_binary(operator.truediv, Float8, Float8, lambda b, x, y: b.fdiv(x, y, flags=_FLAGS))
_binary(operator.gt, Float8, Mask8, lambda b, x, y: b.fcmp_ordered(">", x, y))
_binary(operator.ge, Float8, Mask8, lambda b, x, y: b.fcmp_ordered(">=", x, y))
_binary(operator.and_, Mask8, Mask8, lambda b, x, y: b.and_(x, y))


def _pointer(context: Any, builder: Any, array_type: Any, array: Any, at: Any) -> Any:
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [at]), ir.PointerType(_FLOATS))


def _constant(value: float) -> ir.Constant:
    return ir.Constant(_FLOATS, [ir.Constant(_F32, value)] * LANES)


def _call(builder: Any, name: str, result: Any, arguments: list[Any], **options: Any) -> Any:
    """Call one of LLVM's own functions."""
    kind = ir.FunctionType(result, [argument.type for argument in arguments])
    module = builder.module
    function = module.globals.get(name) or ir.Function(module, kind, name)
    return builder.call(function, arguments, **options)


def _instruction(function: Callable[..., Any]) -> Any:
    """An intrinsic of numba's, whose type a checker could not follow."""
    return intrinsic(function)


@_instruction
def splat(typingctx, value):
    """Eight times the same float32."""

    def generate(context, builder, signature, arguments):
        one = builder.insert_element(ir.Constant(_FLOATS, ir.Undefined), arguments[0], ir.Constant(_I32, 0))
        return builder.shuffle_vector(one, ir.Constant(_FLOATS, ir.Undefined), ir.Constant(_INTS, [0] * LANES))

    return Float8(types.float32), generate


@_instruction
def load(typingctx, array, at):
    """array[at : at + 8] of a contiguous float32 array of one dimension. No bounds are checked."""

    def generate(context, builder, signature, arguments):
        return builder.load(_pointer(context, builder, signature.args[0], *arguments), align=4)

    return Float8(array, types.int64), generate


@_instruction
def store(typingctx, array, at, value):
    """array[at : at + 8] = value."""

    def generate(context, builder, signature, arguments):
        array, at, value = arguments
        builder.store(value, _pointer(context, builder, signature.args[0], array, at), align=4)
        return context.get_dummy_value()

    return types.void(array, types.int64, Float8), generate


@_instruction
def prefetch(typingctx, array, index):
    """Begin to bring array[index, 0] of a contiguous array of two dimensions into the cache."""

    def generate(context, builder, signature, arguments):
        view = context.make_array(signature.args[0])(context, builder, arguments[0])
        at = builder.mul(arguments[1], builder.extract_value(view.shape, 1))
        place = builder.bitcast(builder.gep(view.data, [at]), ir.PointerType(ir.IntType(8)))
        flags = [ir.Constant(_I32, flag) for flag in (0, 3, 1)]  # to read, to keep, data
        _call(builder, "llvm.prefetch.p0i8", ir.VoidType(), [place, *flags])
        return context.get_dummy_value()

    return types.void(array, types.int64), generate


@_instruction
def take(typingctx, queue):
    """The next whole number, from 0 on, of a queue (int64 [1], zero at first) that several threads take from."""

    def generate(context, builder, signature, arguments):
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        return builder.atomic_rmw("add", data, ir.Constant(_I64, 1), "monotonic")

    return types.int64(queue), generate


@_instruction
def minimum(typingctx, one, other):
    """The smaller of two numbers; the second where one of them is NaN."""

    def generate(context, builder, signature, arguments):
        return builder.select(builder.fcmp_ordered("<", *arguments), *arguments)

    return Float8(Float8, Float8), generate


@_instruction
def maximum(typingctx, one, other):
    """The greater of two numbers; the second where one of them is NaN."""

    def generate(context, builder, signature, arguments):
        return builder.select(builder.fcmp_ordered(">", *arguments), *arguments)

    return Float8(Float8, Float8), generate


@_instruction
def where(typingctx, mask, one, other):
    """`one` where the mask is set, `other` elsewhere."""

    def generate(context, builder, signature, arguments):
        return builder.select(*arguments)

    return Float8(Mask8, Float8, Float8), generate


@_instruction
def square_root(typingctx, value):
    """The square roots."""

    def generate(context, builder, signature, arguments):
        return _call(builder, "llvm.sqrt.v8f32", _FLOATS, list(arguments))

    return Float8(Float8), generate


@_instruction
def round_down(typingctx, value):
    """The greatest whole number not above the value."""

    def generate(context, builder, signature, arguments):
        return _call(builder, "llvm.floor.v8f32", _FLOATS, list(arguments))

    return Float8(Float8), generate


@_instruction
def round_up(typingctx, value):
    """The smallest whole number not below the value."""

    def generate(context, builder, signature, arguments):
        return _call(builder, "llvm.ceil.v8f32", _FLOATS, list(arguments))

    return Float8(Float8), generate


@_instruction
def minus_magnitude(typingctx, value):
    """-|value|."""

    def generate(context, builder, signature, arguments):
        sign = ir.Constant(_INTS, [ir.Constant(_I32, 0x80000000)] * LANES)
        return builder.bitcast(builder.or_(builder.bitcast(arguments[0], _INTS), sign), _FLOATS)

    return Float8(Float8), generate


# 2^f on [-1/2, 1/2]: the polynomial of the least relative error (1e-7), found by Lawson's iteration.
_EXPONENTIAL = (0.001327647196, 0.009675541503, 0.05550713275, 0.2402211972, 0.6931469671, 1.000000072)


@_instruction
def power_of_two(typingctx, exponent):
    """2^x for |x| < 126; an arbitrary number beyond."""

    def generate(context, builder, signature, arguments):
        (x,) = arguments
        rounded = _call(builder, "llvm.rint.v8f32", _FLOATS, [x])
        f = builder.fsub(x, rounded)
        value = _constant(_EXPONENTIAL[0])
        for coefficient in _EXPONENTIAL[1:]:
            value = builder.fadd(builder.fmul(value, f, flags=_FLAGS), _constant(coefficient), flags=_FLAGS)
        shift = ir.Constant(_INTS, [ir.Constant(_I32, 23)] * LANES)
        whole = builder.shl(builder.fptosi(rounded, _INTS), shift)
        return builder.bitcast(builder.add(builder.bitcast(value, _INTS), whole), _FLOATS)

    return Float8(Float8), generate


@_instruction
def bits(typingctx, mask):
    """The mask as a whole number, lane 0 in the lowest bit. int64."""

    def generate(context, builder, signature, arguments):
        return builder.zext(builder.bitcast(arguments[0], ir.IntType(LANES)), _I64)

    return types.int64(Mask8), generate


@_instruction
def lowest_bit(typingctx, value):
    """The place of the lowest bit that is set in an int64 that is not 0."""

    def generate(context, builder, signature, arguments):
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.int64), generate


@_instruction
def total(typingctx, value):
    """The sum of the eight numbers. float32."""

    def generate(context, builder, signature, arguments):
        zero = ir.Constant(_F32, 0.0)
        return _call(builder, "llvm.vector.reduce.fadd.v8f32", _F32, [zero, arguments[0]], fastmath=("reassoc", "nsz"))

    return types.float32(Float8), generate


@_instruction
def totals(typingctx, a, b, c, d, e, f, g, h):
    """The sums of eight vectors, as one vector."""

    def generate(context, builder, signature, arguments):
        def halve(one, other, low, high):
            def shuffled(places):
                return builder.shuffle_vector(one, other, ir.Constant(_INTS, places))

            return builder.fadd(shuffled(low), shuffled(high))

        # Each step adds neighbours within halves of four lanes, where shuffles are cheap; the last one the two halves.
        low, high = [0, 2, 8, 10, 4, 6, 12, 14], [1, 3, 9, 11, 5, 7, 13, 15]
        pairs = [halve(arguments[i], arguments[i + 1], low, high) for i in (0, 2, 4, 6)]
        fours = [halve(pairs[i], pairs[i + 1], low, high) for i in (0, 2)]
        return halve(fours[0], fours[1], [0, 1, 2, 3, 8, 9, 10, 11], [4, 5, 6, 7, 12, 13, 14, 15])

    return Float8(*[Float8] * 8), generate
