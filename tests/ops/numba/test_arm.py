"""Test that the products compile for 64-bit Arm: LLVM emits its code on any machine."""

from __future__ import annotations

import re
from typing import Any

import llvmlite.binding as llvm
import pytest
from llvmlite import ir

from jet.ops.numba import simd
from jet.ops.quantization import SCHEMES

_TRIPLE = "aarch64-unknown-linux-gnu"
_COLUMNS_A_STEP = 32  # of 16 rows: a step of the loop multiplies as many numbers


class _Context:
    """A stand-in for numba's context, of which an intrinsic without a result needs only one method."""

    def get_dummy_value(self) -> None:
        """Return no value."""


def assembly(intrinsic: Any, arguments: int) -> str:
    """Return the Arm assembly of a function that consists of one intrinsic."""
    module = ir.Module()
    module.triple = _TRIPLE
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [simd.I64] * arguments), "tile")
    builder = ir.IRBuilder(function.append_basic_block())
    signature, generate = intrinsic._defn(None, *[None] * arguments)
    generate(_Context(), builder, signature, list(function.args))
    builder.ret_void()
    compiled = llvm.parse_assembly(str(module))
    compiled.verify()
    target = llvm.Target.from_triple(_TRIPLE)
    return str(target.create_target_machine(features="+dotprod", opt=3).emit_assembly(compiled))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_products_are_dot_products_in_registers(scheme: str) -> None:
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    runs = 2 if scheme == "int4" else 1
    strips = 2 if scheme == "int4" else 1
    for count in (1, 2):
        code = assembly(simd.dot_tile(scheme, "NEON dot product", count), 9)
        numbers = 16 * _COLUMNS_A_STEP * runs * strips * count
        assert len(re.findall(r"\bsdot\b", code)) == numbers // 16  # each multiplies 16 of them
        assert not re.findall(r"\bbl\b", code)  # no function of a library, as half precision may need
    offset = simd.offset_of(scheme, "NEON dot product")
    assert offset == 0 and not re.findall(r"\bbl\b", assembly(simd.quantizer(offset), 4))
