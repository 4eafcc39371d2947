import pytest
import torch

from polychron.errors import InputError
from polychron.nn import LookupTables, PairAttention, Readout, RecurrentTables
from polychron.ops import RowUpdate, pair_lookup
from polychron.optim import attach


def fill(layer, seed=0):
    with torch.no_grad():
        layer.synaptic_vectors.copy_(torch.randn(layer.synaptic_vectors.shape, generator=torch.manual_seed(seed)))
    return layer


def test_an_untrained_residual_layer_is_the_identity():
    x = torch.randn(3, 5, 8)
    layer = LookupTables(n_inputs=8, n_outputs=8, n_tables=4, n_comparisons=3, max_delay=2, residual=True)
    assert torch.equal(layer(x), x)


def test_the_layer_is_the_sum_of_one_row_a_table():
    layer = fill(LookupTables(n_inputs=6, n_outputs=5, n_tables=7, n_comparisons=4))
    x = torch.randn(3, 6)
    expected = torch.zeros(3, 5)
    for b in range(3):
        for i in range(7):
            row = sum(int(x[b, p] > x[b, q]) << r for r, (p, q) in enumerate(layer.anchors[i].tolist()))
            expected[b] += layer.synaptic_vectors[i, row].detach()
    torch.testing.assert_close(layer(x), expected)


def test_the_order_of_spikes_is_all_that_counts():
    layer = fill(LookupTables(n_inputs=8, n_outputs=5, n_tables=4, n_comparisons=3))
    x = torch.randn(2, 8)
    assert torch.equal(layer(x), layer(3 * x + 7))


def test_same_seed_same_layer_and_another_seed_another():
    a, b, c = (LookupTables(16, 4, 8, 5, max_delay=3, seed=s) for s in (1, 1, 2))
    assert torch.equal(a.anchors, b.anchors)
    assert torch.equal(a.delays, b.delays)
    assert not torch.equal(a.anchors, c.anchors)


def test_state_dict_restores_the_function():
    a = fill(LookupTables(16, 4, 8, 5, max_delay=3, seed=1))
    b = LookupTables(16, 4, 8, 5, max_delay=3, seed=2)
    b.load_state_dict(a.state_dict())
    x = torch.randn(2, 6, 16)
    assert torch.equal(a(x), b(x))


def test_float64_is_served_by_the_reference_and_agrees():
    layer = fill(LookupTables(16, 4, 8, 5, max_delay=3))
    x = torch.randn(2, 6, 16)
    single = layer(x)
    torch.testing.assert_close(layer.double()(x.double()).float(), single)


def test_readout_loss_equals_cross_entropy_of_its_logits():
    readout = fill(Readout(n_inputs=8, n_outputs=11, n_tables=4, n_comparisons=5))
    x = torch.randn(2, 7, 8)
    targets = torch.randint(0, 11, (2, 7))
    expected = torch.nn.functional.cross_entropy(readout(x).transpose(1, 2), targets, reduction="none")
    torch.testing.assert_close(readout.loss(x, targets), expected)


def test_a_torch_optimizer_trains_a_dense_layer():
    torch.manual_seed(0)
    layer = LookupTables(n_inputs=8, n_outputs=1, n_tables=32, n_comparisons=4)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.05)
    x = torch.randn(256, 8)
    target = (x[:, :1] > x[:, 1:2]).float()
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = (layer(x) - target).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]


def trained_by(optimizer, contiguous, **options):
    """Rows of ten outputs, sixteen numbers apart unless ``contiguous``, after some steps."""
    layer = fill(LookupTables(n_inputs=8, n_outputs=10, n_tables=4, n_comparisons=3))
    if contiguous:
        layer.synaptic_vectors.data = layer.synaptic_vectors.data.contiguous()
    steps = optimizer(layer.parameters(), lr=0.1, **options)
    x = torch.randn(20, 8, generator=torch.manual_seed(1))

    def loss():
        steps.zero_grad()
        value = (layer(x) - x.sum(dim=1, keepdim=True)).square().sum()
        value.backward()
        return value

    for _ in range(5):
        steps.step(loss)
    return layer.synaptic_vectors.detach()


OPTIMIZERS = [
    torch.optim.ASGD, torch.optim.Adadelta, torch.optim.Adagrad, torch.optim.Adam, torch.optim.AdamW,
    torch.optim.Adamax, torch.optim.LBFGS, torch.optim.NAdam, torch.optim.RAdam, torch.optim.RMSprop,
    torch.optim.Rprop, torch.optim.SGD,
]  # fmt: skip
FUSED = [torch.optim.Adagrad, torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD]


@pytest.mark.parametrize("foreach", [False, True, None])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_rows_that_are_padded_are_trained_as_others(optimizer, foreach):
    if optimizer is torch.optim.LBFGS and foreach is not None:
        return
    options = {} if foreach is None else {"foreach": foreach}
    padded = trained_by(optimizer, contiguous=False, **options)
    assert torch.equal(padded, trained_by(optimizer, contiguous=True, **options))


@pytest.mark.parametrize("optimizer", FUSED)
def test_optimizers_that_walk_memory_flat_train_rows_that_are_not_padded(optimizer):
    """Those that the documents except (``fused=True``), after what they ask for."""
    torch.testing.assert_close(trained_by(optimizer, True, fused=True), trained_by(optimizer, True))


@pytest.mark.filterwarnings("ignore:Sparse invariant checks are implicitly disabled")  # inside torch.optim.Adagrad
@pytest.mark.parametrize("optimizer", [torch.optim.SparseAdam, torch.optim.Adagrad, torch.optim.SGD])
def test_torch_optimizers_take_the_sparse_gradient(optimizer):
    layer = fill(LookupTables(n_inputs=8, n_outputs=3, n_tables=4, n_comparisons=4, gradient="sparse"))
    before = layer.synaptic_vectors.detach().clone()
    layer(torch.randn(2, 8)).sum().backward()
    optimizer(layer.parameters(), lr=0.1).step()
    changed = (layer.synaptic_vectors != before).any(dim=-1).sum(dim=1)
    assert changed.tolist() == [len(set(r)) for r in rows_of(layer.synaptic_vectors.grad)]


def rows_of(gradient):
    table, row = gradient.coalesce().indices()
    return [row[table == i].tolist() for i in range(gradient.shape[0])]


def test_fused_layer_leaves_no_gradient_and_changes_only_the_rows_read():
    layer = fill(LookupTables(8, 3, 4, 6, gradient="fused", update=RowUpdate("sgd", rate=0.5)))
    before = layer.synaptic_vectors.detach().clone()
    layer(torch.randn(1, 8)).sum().backward()
    assert layer.synaptic_vectors.grad is None
    changed = (layer.synaptic_vectors != before).any(dim=-1)
    assert changed.sum(dim=1).tolist() == [1, 1, 1, 1]
    torch.testing.assert_close(layer.synaptic_vectors[changed], before[changed] - 0.5)


@pytest.mark.parametrize("drop", [0.0, 0.5])
def test_a_frozen_layer_passes_the_gradient_through_and_stays_as_it_is(drop):
    layer = fill(LookupTables(8, 3, 4, 6))
    attach(layer, "sgd", rate=0.5, drop=drop)
    layer.requires_grad_(False)
    before = layer.synaptic_vectors.clone()
    for _ in range(2):
        x = torch.randn(5, 8, requires_grad=True)
        layer(x).square().sum().backward()
        assert x.grad.any()
        assert torch.equal(layer.synaptic_vectors, before)


def test_attention_sees_no_later_position_and_nothing_beyond_its_window():
    head = fill(PairAttention(8, 8, n_tables=4, n_comparisons=3, n_position_bits=2, window=3))
    x = torch.randn(1, 10, 8)
    y = head(x)
    assert torch.equal(y[0, 0], torch.zeros(8))
    later = x.clone()
    later[0, 6:] = torch.randn(4, 8)
    assert torch.equal(head(later)[0, :6], y[0, :6])
    earlier = x.clone()
    earlier[0, :3] = torch.randn(3, 8)
    assert torch.equal(head(earlier)[0, 6:], y[0, 6:])
    assert not torch.equal(head(earlier)[0, 3:6], y[0, 3:6])


@pytest.mark.parametrize("share_anchors", [True, False])
def test_attention_extended_piece_by_piece_equals_attention_at_once(share_anchors):
    head = fill(
        PairAttention(8, 5, n_tables=4, n_comparisons=3, n_position_bits=2, window=6, share_anchors=share_anchors)
    )
    x = torch.randn(2, 15, 8)
    pieces, keys = [], None
    for part in x.split([1, 1, 4, 7, 2], dim=1):
        y, keys = head.extend(part, keys)
        pieces.append(y)
        assert keys.shape[2] <= 6
    assert torch.equal(torch.cat(pieces, dim=1), head(x))


def test_errors_name_the_argument():
    with pytest.raises(InputError, match="n_comparisons must be at most 3"):
        LookupTables(n_inputs=3, n_outputs=1, n_tables=1, n_comparisons=4)
    with pytest.raises(ValueError, match="residual needs n_outputs == n_inputs"):
        LookupTables(n_inputs=4, n_outputs=3, n_tables=1, n_comparisons=2, residual=True)
    with pytest.raises(ValueError, match="token ids"):
        LookupTables(4, 3, 1, 2)(torch.zeros(2, 4, dtype=torch.int64))
    with pytest.raises(ValueError, match="update must be given for gradient='fused'"):
        LookupTables(4, 3, 1, 2, gradient="fused")
    head = PairAttention(8, 8, n_tables=1, n_comparisons=3, n_position_bits=2, window=3)
    with pytest.raises(ValueError, match=r"Is the sequence longer than the context"):
        pair_lookup(torch.zeros(1, 9, 8), head.synaptic_vectors, head.anchors, head.position_code)


@pytest.mark.parametrize("n_wrong", [5, 7, 12])
def test_latencies_of_another_number_of_neurons_are_refused(n_wrong: int):
    """Of more than six an operator alone would read the first six."""
    x = torch.randn(2, 3, n_wrong)
    readout = Readout(6, 3, 2, 2)
    layers = [LookupTables(6, 3, 2, 2), LookupTables(6, 3, 2, 2, 4), PairAttention(6, 6, 2, 2, 1, 4)]
    for read in [*layers, readout, lambda x: readout.loss(x, torch.zeros(2, 3).long())]:
        with pytest.raises(ValueError, match=rf"x must have shape \(..., 6\); got \(2, 3, {n_wrong}\)"):
            read(x)
    with pytest.raises(ValueError, match=rf"z must have shape \(..., 6\); got \(2, 3, {n_wrong}\)"):
        RecurrentTables(6, 2, 2)(x)


def test_token_ids_are_recognised():
    with pytest.raises(ValueError, match="pass them through the embedding first"):
        LookupTables(6, 3, 2, 2)(torch.zeros(2, 3, dtype=torch.int64))


@pytest.mark.parametrize("anchors", [torch.tensor([[[0, 1]], [[1, 2]]]), torch.tensor([[[0, 6]], [[1, 2]]]).int()])
def test_given_anchors_are_int32_pairs_of_neurons_that_are_there(anchors: torch.Tensor):
    with pytest.raises(ValueError, match=rf"anchors must be int32 \(2, 1, 2\).*; got {anchors.dtype}"):
        LookupTables(6, 3, 2, 1, anchors=anchors)


def test_a_call_of_the_wrong_width_is_refused_before_anything_is_drawn():
    layer = LookupTables(n_inputs=8, n_outputs=5, n_tables=6, n_comparisons=3)
    attach(layer, "sgd", rate=0.1, drop=0.5)
    layer.train()
    torch.manual_seed(0)
    before = torch.get_rng_state()
    with pytest.raises(ValueError, match="8"):
        layer(torch.zeros(2, 7))
    assert torch.equal(torch.get_rng_state(), before)
    layer(torch.zeros(2, 8))
    assert not torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("drop", [0.0, 0.5])
@pytest.mark.parametrize("wrong", [-100, 11])
def test_a_target_that_is_no_class_is_refused_also_while_tables_are_left_out(drop, wrong):
    """Of torch's cross-entropy -100 is ignored without a word."""
    readout = fill(Readout(n_inputs=8, n_outputs=11, n_tables=4, n_comparisons=3))
    attach(readout, "sgd", rate=0.1, drop=drop)
    x, targets = torch.randn(2, 7, 8), torch.randint(0, 11, (2, 7))
    assert readout.loss(x, targets).shape == (2, 7)
    targets[1, 3] = wrong
    with pytest.raises(ValueError, match=rf"targets must lie in \[0, n_outputs = 11\); got {wrong}"):
        readout.loss(x, targets)
    with pytest.raises(ValueError, match=r"targets must be int64 of shape \(2, 7\)"):
        readout.loss(x, targets[:, :6])
    with pytest.raises(ValueError, match=r"x must have shape \(B, T, n\); got \(2, 8\)"):
        readout.loss(x[:, 0], targets[:, 0])


def test_a_recurrent_layer_rounds_by_a_new_seed_each_step_and_leaves_no_table_out():
    layer = fill(RecurrentTables(n_neurons=8, n_tables=4, n_comparisons=3))
    z = torch.randn(2, 5, 8)
    expected = layer(z)
    attach(layer, "sgd", rate=0.01, drop=0.5)
    torch.manual_seed(0)
    state = torch.get_rng_state()
    assert torch.equal(layer(z), expected)
    assert torch.equal(torch.get_rng_state(), state)
    assert not layer.drops_tables
    layer.synaptic_vectors.data = layer.synaptic_vectors.data.bfloat16()
    seeds = set()
    for _ in range(3):
        layer(z).sum().backward()
        seeds.add(layer.update.seed)
    assert len(seeds) == 3
    last = layer.update.seed
    layer.eval()(z)
    assert layer.update.seed == last
