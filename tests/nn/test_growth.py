import pytest
import torch

from polychron.anchors import draw_delays
from polychron.errors import InputError
from polychron.nn import LookupTables, PairAttention, Readout, RecurrentTables, VariantTables
from polychron.nn.growth import add_comparisons, add_tables
from polychron.ops import RowUpdate
from polychron.optim import attach

LAYERS = {
    "tables": lambda: LookupTables(8, 8, 3, 4, residual=True),
    "delayed": lambda: LookupTables(8, 8, 3, 4, max_delay=3, residual=True),
    "readout": lambda: Readout(8, 5, 3, 4),
    "bfloat16": lambda: LookupTables(8, 8, 3, 4, dtype=torch.bfloat16),
    "recurrent": lambda: RecurrentTables(8, 3, 4),
    "attention": lambda: PairAttention(8, 8, 3, 2, 2, window=4, residual=True),
    "attention, own keys": lambda: PairAttention(8, 8, 3, 2, 1, window=4, share_anchors=False),
    "attention, no position": lambda: PairAttention(8, 8, 3, 2, 0, window=4),
}


@pytest.fixture(params=LAYERS.values(), ids=LAYERS.keys())
def layer(request):
    layer = request.param()
    with torch.no_grad():
        layer.synaptic_vectors.copy_(torch.randn(layer.synaptic_vectors.shape, generator=torch.manual_seed(1)))
    return layer


X = torch.randn(4, 9, 8, generator=torch.manual_seed(2))


@pytest.mark.parametrize("grow", [add_tables, add_comparisons])
@pytest.mark.parametrize("n", [1, 2])
def test_the_function_is_unchanged_to_the_bit(layer, grow, n):
    before, dtype = layer(X), layer.synaptic_vectors.dtype
    grow(layer, n, seed=5)
    assert torch.equal(layer(X), before)
    assert layer.synaptic_vectors.dtype == dtype


def test_both(layer):
    before = layer(X)
    add_comparisons(layer, 1, seed=5)
    add_tables(layer, 2, seed=6)
    add_comparisons(layer, 1, seed=7)
    assert torch.equal(layer(X), before)


def test_sizes_are_those_of_a_layer_made_so(layer):
    n_tables, n_comparisons, bits = layer.n_tables, layer.n_comparisons, layer.synaptic_vectors.shape[1].bit_length()
    add_tables(layer, 2)
    add_comparisons(layer, 1)
    assert (layer.n_tables, layer.n_comparisons) == (n_tables + 2, n_comparisons + 1)
    grown_bits = layer.synaptic_vectors.shape[1].bit_length()
    assert grown_bits == bits + (2 if isinstance(layer, PairAttention) else 1)
    assert layer.anchors.shape == (n_tables + 2, n_comparisons + 1, 2)
    if getattr(layer, "delays", None) is not None:
        assert layer.delays.shape == layer.anchors.shape
        assert int(layer.delays.max()) <= layer.max_delay


def test_tables_added_with_the_layers_own_seed_are_no_copies():
    for kind in ("random", "covering", "independent"):
        layer = LookupTables(32, 4, 6, 5, max_delay=3, anchors=kind)
        add_tables(layer, 2, anchors=kind)
        add_tables(layer, 4, anchors=kind)
        assert len({tuple(table.flatten().tolist()) for table in layer.anchors}) == 12
        assert torch.equal(layer.delays, draw_delays("geometric", 12, 5, 3, seed=1))
        head = PairAttention(32, 4, 6, 4, 2, window=4, share_anchors=False, anchors=kind)
        add_tables(head, 6, anchors=kind)
        for drawn in (head.anchors, head.key_anchors, head.position_code):
            assert len({tuple(table.flatten().tolist()) for table in drawn}) == 12


def test_comparisons_added_with_the_layers_own_seed_are_no_copies():
    layer = LookupTables(64, 4, 6, 5, max_delay=3, anchors="independent")
    add_comparisons(layer, 5, anchors="independent")
    assert not torch.equal(layer.anchors[:, :5], layer.anchors[:, 5:])
    assert not torch.equal(layer.delays[:, :5], layer.delays[:, 5:])


@pytest.mark.parametrize("grow", [add_tables, add_comparisons])
def test_a_loss_that_is_still_alive_does_not_stop_the_next(layer, grow):
    if layer.synaptic_vectors.dtype == torch.bfloat16:
        attach(layer)
    before = layer(X).sum()  # holds what adds up the gradient of the parameter as it was
    grow(layer, 1, seed=5)
    layer(X).sum().backward()
    for parameter in layer.parameters():
        assert parameter.grad is None or parameter.grad.shape == parameter.shape
    assert before.grad_fn is not None


@pytest.mark.parametrize("grow", [add_tables, add_comparisons])
def test_a_layer_grows_where_it_is(layer, grow):
    layer.to("meta")
    grow(layer, 2, anchors="independent")
    assert {tensor.device.type for tensor in [*layer.parameters(), *layer.buffers()]} == {"meta"}
    assert layer.synaptic_vectors.dtype in (torch.float32, torch.bfloat16)


@pytest.mark.parametrize("grow", [add_tables, add_comparisons])
def test_no_pair_is_compared_twice_in_a_table(grow):
    layer = LookupTables(4, 4, 5, 3)
    grow(layer, 3, seed=1)
    for table in layer.anchors.tolist():
        assert len({frozenset(pair) for pair in table}) == len(table)


def test_a_new_comparison_tells_its_halves_apart_after_a_step(layer):
    add_comparisons(layer, 1, seed=5)
    optimizer = attach(layer, "sgd", rate=0.1)
    before = layer.synaptic_vectors.detach().clone()
    layer(X).square().sum().backward()
    optimizer.step()
    changed = (layer.synaptic_vectors != before).any(dim=2)
    half = changed.shape[1] // 2
    assert changed.any()
    assert not torch.equal(changed[:, :half], changed[:, half:])


@pytest.mark.parametrize("name", ["delayed", "attention"])
def test_row_state_grows_with_the_rows(name):
    layer = LAYERS[name]()
    optimizer = attach(layer, "adagrad", rate=0.1)
    layer(X).sum().backward()
    optimizer.step()
    state = layer.update.state.clone()
    assert state.any()
    add_tables(layer, 1)
    assert torch.equal(layer.update.state[:3], state)
    assert not layer.update.state[3:].any()
    rows = layer.synaptic_vectors.detach().clone()
    add_comparisons(layer, 1)
    # A row's state stands wherever its row was copied to.
    state, grown = layer.update.state, layer.synaptic_vectors.detach()
    for i in range(3):
        for j in range(grown.shape[1]):
            same = (rows[i] == grown[i, j]).all(dim=1).nonzero()[:, 0]
            assert len(same) >= 1
    assert state.shape == grown.shape[:2]
    layer(X).sum().backward()  # and the optimizer goes on with both
    optimizer.step()


def test_row_state_of_a_copied_row_is_its_own():
    layer = LookupTables(8, 2, 1, 2, gradient="fused", update=RowUpdate("adagrad"))
    layer.update.state = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    add_comparisons(layer, 1)
    assert layer.update.state.tolist() == [[1, 2, 3, 4, 1, 2, 3, 4]]


def test_row_state_of_attention_follows_query_key_and_position():
    layer = PairAttention(8, 2, 1, 1, 1, window=2, gradient="fused", update=RowUpdate("adagrad"))
    layer.update.state = torch.arange(8.0)[None]
    with torch.no_grad():
        layer.synaptic_vectors.copy_(torch.arange(8.0)[None, :, None].expand(1, 8, 2))
    add_comparisons(layer, 1)
    expected = [
        float((j >> 3 & 1) << 2 | (j >> 1 & 1) << 1 | j & 1) for j in range(32)
    ]  # the old bits of query, key, PE
    assert layer.update.state[0].tolist() == expected
    assert layer.synaptic_vectors[0, :, 0].tolist() == expected


def test_what_cannot_grow_is_refused():
    layer = LookupTables(4, 4, 2, 3)
    for grow in (add_tables, add_comparisons):
        with pytest.raises(ValueError, match="n must be at least 1"):
            grow(layer, 0)
        with pytest.raises(ValueError, match="got VariantTables"):
            grow(VariantTables(4, 4, 2, 3), 1)
    with pytest.raises(InputError, match="at most 6, the pairs that 4 neurons form"):
        add_comparisons(layer, 4)
    with pytest.raises(ValueError, match="at most 30 bits"):
        add_comparisons(layer, 28)
