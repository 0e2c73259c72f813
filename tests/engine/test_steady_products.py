"""A CPU's products: a row's bits however many share it, or it is known that these move."""

import torch

from assay.engine import compilation
from assay.engine.compilation import PrepackedLinear


class _Moody(PrepackedLinear):
    """A layer that sums in another way for few rows, unless it multiplies equally many."""

    def forward(self, state):
        product = super().forward(state)
        return product if self.rows or len(state) > 100 else product * (1 + 2**-7)


class _Shifty(PrepackedLinear):
    """A layer whose rows depend on their place, whatever is done."""

    def forward(self, state):
        return super().forward(state) * (1 + torch.arange(len(state))[:, None] % 2)


def _trunk(kind, inner=512, dtype=torch.float32):
    torch.manual_seed(0)
    return torch.nn.ModuleList([kind(torch.nn.Linear(inner, 96, dtype=dtype))])


@torch.inference_mode()
def test_a_layer_whose_bits_depend_on_the_number_of_rows_is_known():
    """And one that depends on a row's place; what multiplies equally many always doesn't."""
    plain, moody, shifty = map(_trunk, (PrepackedLinear, _Moody, _Shifty))

    assert compilation.depends_on_rows(moody)
    assert compilation.depends_on_rows(shifty)
    assert not compilation.depends_on_rows(plain)
    compilation.steady(moody)
    compilation.steady(shifty)
    assert not compilation.depends_on_rows(moody)
    assert compilation.depends_on_rows(shifty)


@torch.inference_mode()
def test_rows_multiplied_equally_many_at_a_time_keep_their_bits():
    """In bfloat16, which sums in two orders on some processors; any number of rows, any place."""
    (layer,) = trunk = _trunk(PrepackedLinear, inner=1024, dtype=torch.bfloat16)
    state = torch.randn(1, 300, 1024).bfloat16()
    before = layer(state)

    compilation.steady(trunk)

    whole = layer(state)
    assert whole.shape == before.shape
    assert (whole - before).abs().max() <= 2**-7 * before.abs().max()
    for rows in (1, 7, 64, 100):
        assert torch.equal(layer(state[:, :rows]), whole[:, :rows])
    assert torch.equal(layer(state[:, 13:77]), whole[:, 13:77])
