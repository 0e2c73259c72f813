"""Activation functions that threads split by whole registers."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from assay.engine.activations import SteadyActivation, evenly_split, steady

GRAIN, REGISTERS = 32_768, 64


@given(rows=st.integers(1, 3000), width=st.integers(1, 600), threads=st.integers(1, 96))
def test_every_thread_of_every_call_fills_its_registers(rows, width, threads):
    """Torch's own rule: a thread for each grain begun, and pieces of equal size, rounded up."""
    count = rows * 16 * 4 * width  # rows come in sixteens, widths in fours
    whole = evenly_split(count, threads)

    for size in (whole, count - whole):
        used = min(threads, -(-size // GRAIN))
        assert used <= 1 or -(-size // used) % REGISTERS == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", [torch.nn.SiLU, torch.nn.GELU])
@pytest.mark.parametrize("threads", [3, 5, 7])
def test_a_row_has_the_same_bits_whatever_is_beside_it(kind, dtype, threads, thread_count):
    """Alone in sixteen rows and among thousands of others."""
    thread_count(threads)
    activation = SteadyActivation(kind())
    state = torch.randn(4096, 512, generator=torch.Generator().manual_seed(0)).to(dtype)
    alone = torch.cat([activation(rows) for rows in state.split(16)])

    for rows in (208, 1040, 2000, 4096):
        assert torch.equal(activation(state[:rows]), alone[:rows])


def test_only_activation_functions_are_replaced():
    """A trunk keeps its other modules, and its numbers."""
    trunk = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.SiLU())
    state = torch.randn(16, 4)
    before = trunk(state)

    steady(trunk)

    assert [type(module) for module in trunk] == [torch.nn.Linear, SteadyActivation]
    assert torch.equal(trunk(state), before)
