"""Vectors of float32 in compiled kernels: written as such, because the compiler finds too few of them in loops.

LLVM turns a vector into as many registers as the processor has for it, so a width is a choice and no requirement. How
many numbers a vector has is known when a kernel is compiled: functions that make vectors take a tuple of that length.
"""

# ruff: noqa: PLR0917 - numba calls what generates code with four arguments by position

from __future__ import annotations

import operator
from typing import Any, no_type_check

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.extending import lower_builtin, models, register_model, type_callable
from numba.extending import intrinsic

# Indices are unsigned: numba lets a signed one count from the end, and the test for that costs.
U = np.uint64
FAST = {"contract", "reassoc", "nsz"}
FOUR, EIGHT, SIXTEEN = (0,) * 4, (0,) * 8, (0,) * 16

_FLOAT = ir.FloatType()


class Vector(types.Type):
    """So many numbers of type float32, side by side."""

    def __init__(self, width: int) -> None:
        self.width = width
        super().__init__(name=f"Vector({width})")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Vector) -> None:
        super().__init__(manager, kind, ir.VectorType(_FLOAT, kind.width))


@no_type_check
def _splat(builder, scalar, width):
    vector = builder.insert_element(ir.Constant(ir.VectorType(_FLOAT, width), ir.Undefined), scalar,
                                    ir.Constant(ir.IntType(32), 0))  # fmt: skip
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), width), [0] * width)
    return builder.shuffle_vector(vector, vector, zeros)


@no_type_check
def _address(context, builder, kind, array, offset, width):
    data = context.make_array(kind)(context, builder, array).data
    place = builder.gep(data, [offset])
    return builder.bitcast(place, ir.VectorType(_FLOAT, width).as_pointer())


@intrinsic
@no_type_check
def load(typing_context, array, offset, width):
    """The numbers of a contiguous array from `offset` on."""

    def generate(context, builder, signature, arguments):
        address = _address(context, builder, signature.args[0], arguments[0], arguments[1], len(width))
        return builder.load(address, align=4)

    return Vector(len(width))(array, types.uint64, width), generate


@intrinsic
@no_type_check
def store(typing_context, array, offset, vector):
    """Write a vector to a contiguous array from `offset` on."""

    def generate(context, builder, signature, arguments):
        address = _address(context, builder, signature.args[0], arguments[0], arguments[1], vector.width)
        builder.store(arguments[2], address, align=4)
        return context.get_dummy_value()

    return types.void(array, types.uint64, vector), generate


@intrinsic
@no_type_check
def prefetch(typing_context, array, offset):
    """Begin to read a contiguous array at `offset`, which the processor would not guess."""

    def generate(context, builder, signature, arguments):
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        place = builder.bitcast(builder.gep(data, [arguments[1]]), ir.IntType(8).as_pointer())
        number = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [place.type, number, number, number])
        function = builder.module.declare_intrinsic("llvm.prefetch", (place.type,), kind)
        builder.call(function, [place, number(0), number(3), number(1)])  # to read, often, data
        return context.get_dummy_value()

    return types.void(array, types.uint64), generate


@intrinsic
@no_type_check
def fill(typing_context, scalar, width):
    """A vector of one number."""

    def generate(context, builder, signature, arguments):
        return _splat(builder, arguments[0], len(width))

    return Vector(len(width))(types.float32, width), generate


@intrinsic
@no_type_check
def larger(typing_context, one, other):
    """The larger of each pair; the second may be a number."""

    def generate(context, builder, signature, arguments):
        second = arguments[1] if isinstance(other, Vector) else _splat(builder, arguments[1], one.width)
        return builder.select(builder.fcmp_ordered(">", arguments[0], second), arguments[0], second)

    return one(one, other), generate


@intrinsic
@no_type_check
def scaled_by_power_of_two(typing_context, vector, exponents):
    """Vector · 2^exponents, for whole exponents between -126 and 127."""

    def generate(context, builder, signature, arguments):
        integers = ir.VectorType(ir.IntType(32), vector.width)
        bias = ir.Constant(integers, [127] * vector.width)
        shift = ir.Constant(integers, [23] * vector.width)
        power = builder.shl(builder.add(builder.fptosi(arguments[1], integers), bias), shift)
        return builder.fmul(arguments[0], builder.bitcast(power, ir.VectorType(_FLOAT, vector.width)))

    return vector(vector, exponents), generate


@intrinsic
@no_type_check
def nearest(typing_context, vector):
    """The nearest whole numbers."""

    def generate(context, builder, signature, arguments):
        kind = ir.VectorType(_FLOAT, vector.width)
        function = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(kind, [kind]), f"llvm.rint.v{vector.width}f32"
        )
        return builder.call(function, arguments)

    return vector(vector), generate


@intrinsic
@no_type_check
def transposed(typing_context, a, b, c, d):
    """Four vectors of four numbers, as the rows of a matrix; gives its columns."""

    def generate(context, builder, signature, arguments):
        def mixed(one, other, lanes):
            mask = ir.Constant(ir.VectorType(ir.IntType(32), 4), lanes)
            return builder.shuffle_vector(one, other, mask)

        one, two, three, four = arguments
        low, high = mixed(one, two, [0, 4, 1, 5]), mixed(three, four, [0, 4, 1, 5])
        low2, high2 = mixed(one, two, [2, 6, 3, 7]), mixed(three, four, [2, 6, 3, 7])
        columns = [
            mixed(low, high, [0, 1, 4, 5]),
            mixed(low, high, [2, 3, 6, 7]),
            mixed(low2, high2, [0, 1, 4, 5]),
            mixed(low2, high2, [2, 3, 6, 7]),
        ]
        return context.make_tuple(builder, signature.return_type, columns)

    return types.UniTuple(a, 4)(a, b, c, d), generate


@no_type_check
def _part(first):
    def typed(typing_context, vector):
        def generate(context, builder, signature, arguments):
            lanes = list(range(first, first + vector.width // 2))
            mask = ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), lanes)
            return builder.shuffle_vector(arguments[0], arguments[0], mask)

        return Vector(vector.width // 2)(vector), generate

    return typed


lower_four = intrinsic(_part(0))
upper_four = intrinsic(_part(4))


@intrinsic
@no_type_check
def exponent_and_mantissa(typing_context, vector):
    """Whole numbers n and others m between √½ and √2, with m · 2^n = vector; for positive, normal numbers."""

    def generate(context, builder, signature, arguments):
        integers = ir.VectorType(ir.IntType(32), vector.width)
        bits = builder.bitcast(arguments[0], integers)
        root_of_half = ir.Constant(integers, [0x3F3504F3] * vector.width)
        shift = ir.Constant(integers, [23] * vector.width)
        power = builder.ashr(builder.sub(bits, root_of_half), shift)
        mantissa = builder.bitcast(builder.sub(bits, builder.shl(power, shift)), arguments[0].type)
        parts = [builder.sitofp(power, arguments[0].type), mantissa]
        return context.make_tuple(builder, signature.return_type, parts)

    return types.UniTuple(vector, 2)(vector), generate


@no_type_check
def _reduced(builder, vector, width, combine):
    while width > 1:
        width //= 2
        halves = [
            builder.shuffle_vector(
                vector, vector, ir.Constant(ir.VectorType(ir.IntType(32), width), list(range(first, first + width)))
            )
            for first in (0, width)
        ]
        vector = combine(*halves)
    return builder.extract_element(vector, ir.Constant(ir.IntType(32), 0))


@intrinsic
@no_type_check
def total_of(typing_context, vector):
    """The sum of a vector's numbers."""

    def generate(context, builder, signature, arguments):
        return _reduced(builder, arguments[0], vector.width, builder.fadd)

    return types.float32(vector), generate


@intrinsic
@no_type_check
def largest_of(typing_context, vector):
    """The largest of a vector's numbers."""

    def generate(context, builder, signature, arguments):
        def combine(one, other):
            return builder.select(builder.fcmp_ordered(">", one, other), one, other)

        return _reduced(builder, arguments[0], vector.width, combine)

    return types.float32(vector), generate


@no_type_check
def _teach(symbol, instruction):
    """Arithmetic of two vectors, or of a vector and a number."""

    @type_callable(symbol)
    def kind(context):
        def of(one, other):
            widths = {side.width for side in (one, other) if isinstance(side, Vector)}
            if len(widths) == 1 and all(isinstance(side, Vector | types.Float) for side in (one, other)):
                return Vector(widths.pop())
            return None

        return of

    @lower_builtin(symbol, Vector, Vector)
    def vectors(context, builder, signature, arguments):
        return getattr(builder, instruction)(*arguments)

    @lower_builtin(symbol, types.float32, Vector)
    def scalar_and_vector(context, builder, signature, arguments):
        one = _splat(builder, arguments[0], signature.return_type.width)
        return getattr(builder, instruction)(one, arguments[1])


for _symbol, _instruction in (
    (operator.add, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
    (operator.truediv, "fdiv"),
):
    _teach(_symbol, _instruction)
