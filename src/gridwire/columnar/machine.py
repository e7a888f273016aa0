"""Instructions the kernels are made of: unchecked loads, stores and copies of bytes, and the compile switch.

Nothing here checks a bound: every caller does, before the call. Positions are int64 and never negative. Byte order is
the machine's; the kernels support little-endian machines only, which is checked on import.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar, cast

import numba
import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

F = TypeVar("F", bound=Callable[..., Any])

if sys.byteorder != "little":
    raise ImportError("the columnar kernels support little-endian machines only")


def _package_stamp() -> tuple[float, int]:
    """Newest modification time and total size of this package's sources."""
    stats = [path.stat() for path in Path(__file__).parent.glob("*.py")]
    return max(stat.st_mtime for stat in stats), sum(stat.st_size for stat in stats)


_STAMP: Final = _package_stamp()


def _compile(function: F, forceinline: bool = False) -> F:
    """Compile on first use without the interpreter lock, and keep the machine code on disk.

    numba notices a change of the function's own file only; kernels call each other across files, so the cache entry
    is stamped with all of them.
    """
    compiled = numba.njit(cache=True, nogil=True, error_model="numpy", forceinline=forceinline)(function)
    index: Any = getattr(getattr(compiled, "_cache", None), "_cache_file", None)
    if hasattr(index, "_source_stamp"):
        index._source_stamp = _STAMP
    return cast(F, compiled)


def kernel(function: F) -> F:
    """The decorator of every kernel."""
    return _compile(function)


def inlined(function: F) -> F:
    """As `kernel`, for the innermost parts: always becomes part of the kernel that calls it."""
    return _compile(function, forceinline=True)


def instruction(function: Callable[..., Any]) -> Any:
    """A numba intrinsic, typed by the name it is assigned to or not at all."""
    return intrinsic(function)


BYTES: Final = types.CPointer(types.uint8)  # type: ignore[no-untyped-call]
"""What kernels pass to each other in place of an array: passing an array costs two atomic reference counts."""


@instruction
def pointer(_context: Any, array: Any) -> Any:
    """pointer(uint8 array) -> BYTES: where its bytes are. The caller keeps the array alive."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        array_type: Any = cgutils.create_struct_proxy(signature.args[0])  # type: ignore[no-untyped-call]
        return array_type(context, builder, value=args[0]).data

    return BYTES(array), codegen


def _load(bits: int, result: Any, swap: bool = False) -> Any:
    """Make the code generator of an unaligned load of `bits` bits, zero-extended to `result`."""

    def codegen(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        place = builder.gep(args[0], [args[1]])
        word = builder.load(builder.bitcast(place, ir.IntType(bits).as_pointer()), align=1)
        word = builder.bswap(word) if swap else word
        return word if bits == 64 else builder.zext(word, ir.IntType(64))

    def typing(_context: Any, _data: Any, _position: Any) -> Any:
        return result(BYTES, types.int64), codegen

    return typing


load8: Callable[[Any, int], int] = instruction(_load(8, types.int64))
"""load8(data, position) -> int64: one byte."""

load32: Callable[[Any, int], np.uint64] = instruction(_load(32, types.uint64))
"""load32(data, position) -> uint64: four bytes, little-endian."""

load64: Callable[[Any, int], np.uint64] = instruction(_load(64, types.uint64))
"""load64(data, position) -> uint64: eight bytes, little-endian."""

load16_be: Callable[[Any, int], int] = instruction(_load(16, types.int64, swap=True))
"""load16_be(data, position) -> int64: big-endian uint16."""

load32_be: Callable[[Any, int], int] = instruction(_load(32, types.int64, swap=True))
"""load32_be(data, position) -> int64: big-endian uint32."""

load64_be: Callable[[Any, int], int] = instruction(_load(64, types.int64, swap=True))
"""load64_be(data, position) -> int64: big-endian int64."""


def _as_int(_context: Any, number: Any) -> Any:
    def codegen(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return context.cast(builder, args[0], number, types.int64)

    return types.int64(number), codegen


as_int: Callable[[Any], int] = instruction(_as_int)
"""as_int(any integer) -> int64 with the same low bits: numba would turn int64 with uint64 into a float."""


@instruction
def store8(_context: Any, _data: Any, _position: Any, _value: Any) -> Any:
    """store8(data, position, value): write the low byte of an int64."""

    def codegen(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        place = builder.gep(args[0], [args[1]])
        builder.store(builder.trunc(args[2], ir.IntType(8)), place)
        return context.get_dummy_value()

    return types.void(BYTES, types.int64, types.int64), codegen


@instruction
def store32(_context: Any, _data: Any, _position: Any, _value: Any) -> Any:
    """store32(data, position, value): write the low four bytes of an int64, little-endian."""

    def codegen(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        place = builder.gep(args[0], [args[1]])
        word = ir.IntType(32)
        builder.store(builder.trunc(args[2], word), builder.bitcast(place, word.as_pointer()), align=1)
        return context.get_dummy_value()

    return types.void(BYTES, types.int64, types.int64), codegen


@instruction
def store64(_context: Any, _data: Any, _position: Any, _value: Any) -> Any:
    """store64(data, position, value): write a uint64, little-endian."""

    def codegen(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        place = builder.gep(args[0], [args[1]])
        builder.store(args[2], builder.bitcast(place, ir.IntType(64).as_pointer()), align=1)
        return context.get_dummy_value()

    return types.void(BYTES, types.int64, types.uint64), codegen


@instruction
def copy(_context: Any, _to: Any, _to_position: Any, _source: Any, _position: Any, _size: Any) -> Any:
    """copy(to, to_position, source, position, size): memcpy."""

    def codegen(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        target = builder.gep(args[0], [args[1]])
        origin = builder.gep(args[2], [args[3]])
        cgutils.raw_memcpy(builder, target, origin, args[4], 1)  # type: ignore[no-untyped-call]
        return context.get_dummy_value()

    return types.void(BYTES, types.int64, BYTES, types.int64, types.int64), codegen


@instruction
def copy16(_context: Any, _to: Any, _to_position: Any, _source: Any, _position: Any) -> Any:
    """copy16(to, to_position, source, position): move 16 bytes in one instruction."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        wide = ir.IntType(128).as_pointer()
        target = builder.bitcast(builder.gep(args[0], [args[1]]), wide)
        origin = builder.bitcast(builder.gep(args[2], [args[3]]), wide)
        builder.store(builder.load(origin, align=1), target, align=1)
        return context.get_dummy_value()

    return types.void(BYTES, types.int64, BYTES, types.int64), codegen


@instruction
def count_trailing_zeros(_context: Any, _word: Any) -> Any:
    """count_trailing_zeros(uint64) -> int64; 64 for zero."""

    def codegen(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 0))

    return types.int64(types.uint64), codegen


@instruction
def string_mask16(_context: Any, _data: Any, _position: Any) -> Any:
    """string_mask16(data, position) -> uint64: one bit for each of 16 bytes that is a quote, a backslash,
    a control character or not ASCII."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        vector = ir.VectorType(ir.IntType(8), 16)

        def splat(value: int) -> Any:
            return ir.Constant(vector, [value] * 16)

        place = builder.gep(args[0], [args[1]])
        found = builder.load(builder.bitcast(place, vector.as_pointer()), align=1)
        # Signed: bytes from 0x80 are negative, so one comparison covers control characters and non-ASCII.
        special = builder.icmp_signed("<", found, splat(0x20))
        special = builder.or_(special, builder.icmp_signed("==", found, splat(ord('"'))))
        special = builder.or_(special, builder.icmp_signed("==", found, splat(ord("\\"))))
        return builder.zext(builder.bitcast(special, ir.IntType(16)), ir.IntType(64))

    return types.uint64(BYTES, types.int64), codegen


@instruction
def folded_multiply(_context: Any, _a: Any, _b: Any) -> Any:
    """folded_multiply(uint64, uint64) -> uint64: both halves of the 128-bit product, xored."""

    def codegen(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        wide, word = ir.IntType(128), ir.IntType(64)
        product = builder.mul(builder.zext(args[0], wide), builder.zext(args[1], wide))
        high = builder.trunc(builder.lshr(product, ir.Constant(wide, 64)), word)
        return builder.xor(high, builder.trunc(product, word))

    return types.uint64(types.uint64, types.uint64), codegen


@instruction
def prefetch(_context: Any, _data: Any, _position: Any) -> Any:
    """prefetch(data, position): ask for the cache line; never faults."""

    def codegen(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        place = builder.gep(args[0], [args[1]])
        number = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [place.type, number, number, number])
        name = "llvm.prefetch.p0" if str(place.type) == "ptr" else "llvm.prefetch.p0i8"
        function: Any = cgutils.get_or_insert_function(builder.module, kind, name)  # type: ignore[no-untyped-call]
        builder.call(function, [place, *(ir.Constant(number, option) for option in (0, 3, 1))])
        return context.get_dummy_value()

    return types.void(BYTES, types.int64), codegen
