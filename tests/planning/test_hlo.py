"""Costs of compiled programs, read off their text."""

import math

import jax
import jax.numpy as jnp
import pytest

from jaxreid.planning.hlo import Array, Collective, Program

# An optimised module as XLA prints it: four devices, a loop of five, asynchronous halves.
TEXT = """\
HloModule jit_step, is_scheduled=true, entry_computation_layout={(f32[8,16]{1,0})->f32[8,16]{1,0}}

%sum (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %add = f32[] add(%a, %b)
}

%fused (param_0: f32[8,16], param_1: s32[]) -> f32[2,16] {
  %param_0 = f32[8,16]{1,0} parameter(0)
  %param_1 = s32[] parameter(1)
  %zero = s32[] constant(0)
  ROOT %part = f32[2,16]{1,0} dynamic-slice(%param_0, %param_1, %zero), dynamic_slice_sizes={2,16}
}

%body (state: (s32[], f32[8,16], bf16[16,4])) -> (s32[], f32[8,16], bf16[16,4]) {
  %state = (s32[], f32[8,16]{1,0}, /*index=2*/bf16[16,4]{1,0:T(8,128)(2,1)S(1)}) parameter(0)
  %i = s32[] get-tuple-element(%state), index=0
  %x = f32[8,16]{1,0} get-tuple-element(%state), index=1
  %w = bf16[16,4]{1,0:T(8,128)(2,1)S(1)} get-tuple-element(%state), index=2
  %slice = f32[2,16]{1,0} fusion(%x, %i), kind=kLoop, calls=%fused
  %dot.1 = f32[2,4]{1,0:S(1)} dot(%slice, %w), lhs_contracting_dims={1}, rhs_contracting_dims={0}, operand_precision={highest,highest}
  %moved = f32[2,4]{1,0:S(1)} collective-permute(%dot.1), channel_id=2, source_target_pairs={{0,1},{1,0}}
  ROOT %next = (s32[], f32[8,16]{1,0}, bf16[16,4]{1,0:S(1)}) tuple(%i, %x, %w)
}

%condition (state.1: (s32[], f32[8,16], bf16[16,4])) -> pred[] {
  %state.1 = (s32[], f32[8,16]{1,0}, bf16[16,4]{1,0:S(1)}) parameter(0)
  %i.1 = s32[] get-tuple-element(%state.1), index=0
  %limit = s32[] constant(5)
  ROOT %less = pred[] compare(%i.1, %limit), direction=LT
}

ENTRY %main (p: f32[8,16], w: bf16[16,4]) -> f32[8,16] {
  %p = f32[8,16]{1,0:T(8,128)} parameter(0)
  %w.1 = bf16[16,4]{1,0} parameter(1)
  %fetch = (bf16[16,4]{1,0:S(1)}, bf16[16,4]{1,0}, u32[]{:S(2)}) copy-start(%w.1)
  %w.2 = bf16[16,4]{1,0:S(1)} copy-done(%fetch)
  %zero.1 = s32[] constant(0)
  %start = (s32[], f32[8,16]{1,0}, bf16[16,4]{1,0:S(1)}) tuple(%zero.1, %p, %w.2)
  %loop = (s32[], f32[8,16]{1,0}, bf16[16,4]{1,0:S(1)}) while(%start), condition=%condition, body=%body
  %x.1 = f32[8,16]{1,0} get-tuple-element(%loop), index=1
  %begun = (f32[8,16]{1,0}, f32[32,16]{1,0}) all-gather-start(%x.1), replica_groups=[1,4]<=[4], dimensions={0}
  %whole = f32[32,16]{1,0} all-gather-done(%begun)
  %both = (f32[32,16]{1,0}, f32[8,16]{1,0}) all-reduce(%whole, %x.1), replica_groups={{0,1},{2,3}}, to_apply=%sum
  %first = f32[32,16]{1,0} get-tuple-element(%both), index=0
  %swapped = f32[32,16]{1,0} all-to-all(%first), replica_groups={{0,1,2,3}}, dimensions={0}
  ROOT %scattered = f32[8,16]{1,0} reduce-scatter(%swapped), replica_groups={}, dimensions={0}, to_apply=%sum
}
"""  # noqa: E501


def test_collectives_are_counted_with_what_a_device_sends():
    row = 8 * 16 * 4
    assert Program(TEXT).collectives(4) == [
        Collective("all-gather", 1, 3 * row),
        Collective("all-reduce", 1, 2 * (4 * row + row) // 2),  # in groups of two
        Collective("reduce-scatter", 1, 4 * row * 3 // 4),
        Collective("all-to-all", 1, 4 * row * 3 // 4),
        Collective("collective-permute", 5, 5 * 2 * 4 * 4),
    ]


def test_loops_count_as_often_as_they_run_and_the_chips_own_memory_is_no_traffic():
    program = Program(TEXT)
    assert program.product_flops() == {"f32 highest": 5 * 2 * 2 * 4 * 16}
    part, row, weight = 2 * 16 * 4, 8 * 16 * 4, 16 * 4 * 2
    # A slice is read, and written; the index beside it; the product reads it, its factor does not
    # leave the chip. Outside, one copy of the factor, and operands and results of collectives.
    inside = 5 * (part + part + 4 + part)
    outside = weight + 5 * row + 2 * 5 * row + 2 * 4 * row + 5 * row
    assert program.traffic() == inside + outside


def test_arrays_are_known_by_their_shape():
    assert Program(TEXT).arrays_like((32, 4, 4)) == ["begun", "whole", "both", "first", "swapped"]
    assert Array("s4", (3,)).nbytes == 2
    assert Array("f8e4m3fn", (3, 2)).nbytes == 6


@pytest.mark.parametrize("stride", [1, 2])
def test_operations_of_convolutions_are_those_of_the_compiler(stride):
    def loss(x, kernel):
        y = jax.lax.conv_general_dilated(
            x, kernel, (stride, stride), [(1, 1)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return y.sum()

    shapes = (
        jax.ShapeDtypeStruct((2, 14, 10, 8), jnp.float32),
        jax.ShapeDtypeStruct((3, 3, 8, 16), jnp.float32),
    )
    compiled = jax.jit(jax.grad(loss, (0, 1))).lower(*shapes).compile()
    counted = sum(Program(compiled.as_text()).product_flops().values())
    # The compiler also counts what surrounds them.
    assert counted == pytest.approx(compiled.cost_analysis()["flops"], rel=0.02)


def test_a_loop_of_products_counts_in_full():
    def scan(x, kernels):
        return jax.lax.map(lambda kernel: x @ kernel, kernels)

    shapes = [(32, 16), (7, 16, 8)]
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    compiled = jax.jit(scan).lower(*arguments).compile()
    counted = sum(Program(compiled.as_text()).product_flops().values())
    assert counted == 2 * 7 * math.prod((32, 16, 8))
