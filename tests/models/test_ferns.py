import math

import pytest
import torch

from polychron.errors import InputError
from polychron.models.ferns import Ferns
from polychron.nn import Readout


def examples(n, seed=0):
    x = torch.randn(n, 6, generator=torch.manual_seed(seed))
    return x, (x[:, 0] > x[:, 1]).long() + (x[:, 2] > 0.8).long()


def rows_of(readout, x):
    """Row of each table, an example a line, one comparison after another."""
    tables, latencies = readout.anchors.tolist(), x.tolist()
    return [[sum((one[a] > one[b]) << r for r, (a, b) in enumerate(table)) for table in tables] for one in latencies]


def test_rows_give_the_probabilities_of_the_definition():
    readout = Readout(6, 3, n_tables=4, n_comparisons=3, seed=1)
    x, labels = examples(60)
    ferns = Ferns(readout)
    ferns.count(x[:25], labels[:25])
    ferns.count(x[25:], labels[25:])
    ferns.write(smoothing=0.5, scale=0.7)
    share = [(int((labels == k).sum()) + 1) / 63 for k in range(3)]
    seen, given = rows_of(readout, x), labels.tolist()
    fresh = examples(10, seed=9)[0]
    for new, own in zip(fresh, rows_of(readout, fresh), strict=True):
        logits = []
        for k in range(3):
            total = math.log(share[k])
            for i in range(4):
                same = [n for n in range(60) if seen[n][i] == own[i]]
                of_class = sum(given[n] == k for n in same)
                total += 0.7 * math.log((of_class + 0.5 * share[k]) / (len(same) + 0.5) / share[k])
            logits.append(total)
        expected = torch.tensor(logits).softmax(dim=0)
        torch.testing.assert_close(readout(new[None])[0].softmax(dim=0).detach(), expected, atol=1e-5, rtol=1e-4)


def test_a_row_that_was_never_read_says_nothing():
    readout = Readout(6, 3, n_tables=1, n_comparisons=3, seed=1)
    x, labels = examples(200)
    read = torch.tensor(rows_of(readout, x))[:, 0]
    kept = read != read[0]
    ferns = Ferns(readout)
    ferns.count(x[kept], labels[kept])
    ferns.write()
    torch.testing.assert_close(readout(x[:1])[0].softmax(dim=0).detach(), ferns.shares)


def test_counting_classifies_and_calibrating_costs_less():
    readout = Readout(6, 3, n_tables=40, n_comparisons=5, seed=2)
    ferns = Ferns(readout)
    ferns.count(*examples(4000))
    x, labels = examples(1000, seed=5)
    ferns.write()
    sure = torch.nn.functional.cross_entropy(readout(x), labels).item()
    scale, nats = ferns.calibrate(x, labels)
    assert 0 < scale < 1
    assert nats < sure
    assert torch.nn.functional.cross_entropy(readout(x), labels).item() == pytest.approx(nats, rel=1e-4)
    for other in (0.8 * scale, 1.25 * scale):
        ferns.write(scale=other)
        assert torch.nn.functional.cross_entropy(readout(x), labels).item() > nats
    assert (readout(x).argmax(dim=1) == labels).float().mean() > 0.85


def test_delays_and_history_are_those_of_the_layer():
    readout = Readout(6, 3, n_tables=3, n_comparisons=3, max_delay=2, seed=3)
    x = torch.randn(2, 30, 6, generator=torch.manual_seed(0))
    labels = torch.randint(0, 3, (2, 30), generator=torch.manual_seed(1))
    whole, parts = Ferns(readout), Ferns(readout)
    whole.count(x, labels)
    whole.write()
    rows = readout.synaptic_vectors.detach().clone()
    parts.count(x[:, :11], labels[:, :11])
    parts.count(x[:, 11:], labels[:, 11:], history=x[:, 9:11].contiguous())
    parts.write()
    assert torch.equal(readout.synaptic_vectors, rows)


def test_wrong_arguments_are_refused():
    ferns = Ferns(Readout(6, 3, 2, 2))
    x, labels = examples(5)
    for wrong in (labels[:3], labels + 3, labels - 5):
        with pytest.raises(InputError, match="labels must be of shape"):
            ferns.count(x, wrong)
    for smoothing, scale in ((0.0, 1.0), (math.inf, 1.0), (1.0, math.nan)):
        with pytest.raises(InputError, match="smoothing must be positive"):
            ferns.write(smoothing, scale)
