"""Scalar transcriptions of the model's formulae: plain loops over Python floats, no arrays.

Written from the equations alone (docs/model.md, the paper's (1)-(8), (11), (14), (15)) and not from the
package, so that a test which compares the two compares two readings of the same mathematics. Slow on
purpose: one line for each line of the equations. Every argument is a nested list (`tensor.tolist()`).
"""

# B batch, T position, n input, I table, R comparison, J row, K output

from __future__ import annotations

import math

# --- one layer ------------------------------------------------------------------------------------------


def surrogate_slope(u):
    """U'(u) = -0.5 sign(u) / (1 + |u|)^2 with sign(0) = -1, so that a tie still learns."""
    sign = 1.0 if u > 0 else -1.0
    return -0.5 * sign / (1.0 + abs(u)) ** 2


def address(comparisons):
    """(row, pair, u_min) of one table: row = sum_r (u_r > 0) 2^r; pair is the first r of smallest |u_r|.

    A table without comparisons has the one row 0 and nothing to flip: pair None, u_min infinite.
    """
    row, pair, u_min = 0, None, math.inf
    for r, u in enumerate(comparisons):
        if u > 0:
            row += 2**r
        if abs(u) < abs(u_min):
            pair, u_min = r, u
    return row, pair, u_min


def latency_at(x, history, b, t, neuron):
    """x[b][t][neuron]; before the start the history (its last entry is position -1); before that 0."""
    if t >= 0:
        return x[b][t][neuron]
    known = history[b] if history is not None else []
    return known[len(known) + t][neuron] if len(known) + t >= 0 else 0.0


def lookup_address(x, anchors, delays, history, i, b, t):
    """The address of table i at (b, t): u_r = x[t - d_a][a] - x[t - d_b][b]."""
    comparisons = []
    for r, (neuron_a, neuron_b) in enumerate(anchors[i]):
        delay_a, delay_b = delays[i][r] if delays is not None else (0, 0)
        comparisons.append(
            latency_at(x, history, b, t - delay_a, neuron_a) - latency_at(x, history, b, t - delay_b, neuron_b)
        )
    return address(comparisons)


def lookup_addresses(x, anchors, delays=None, history=None):
    """[I][B][T] of (row, pair, u_min)."""

    def sequence(i, b):
        return [lookup_address(x, anchors, delays, history, i, b, t) for t in range(len(x[b]))]

    return [[sequence(i, b) for b in range(len(x))] for i in range(len(anchors))]


def lookup(x, tables, anchors, delays=None, history=None, residual=False):
    """y[b][t][k] = [x[b][t][k] +] sum_i S[i][row_i][k]."""
    n_outputs = len(tables[0][0])
    y = []
    for b in range(len(x)):
        y.append([])
        for t in range(len(x[b])):
            total = list(x[b][t]) if residual else [0.0] * n_outputs
            for i in range(len(tables)):
                row, _, _ = lookup_address(x, anchors, delays, history, i, b, t)
                for k in range(n_outputs):
                    total[k] += tables[i][row][k]
            y[b].append(total)
    return y


def lookup_backward(x, tables, anchors, v, delays=None, history=None, residual=False):
    """(dL/dx, reads) for v = dL/dy.

    g = v . (S[flipped] - S[row]);  dx[t - d_a][a] += U'(u) g;  dx[t - d_b][b] -= U'(u) g; nothing flows to
    positions before the start. reads: (table, row, v) of every row that was read, positions ascending:
    dS[table][row] += v.
    """
    dx = [[list(v_t) for v_t in v_b] for v_b in v] if residual else zeros_like(x)
    reads = []
    for i in range(len(tables)):
        for b in range(len(x)):
            for t in range(len(x[b])):
                row = lookup_gradient(x, tables[i], anchors, delays, history, i, b, t, v[b][t], dx)
                reads.append((i, row, v[b][t]))
    return dx, reads


def lookup_gradient(x, table, anchors, delays, history, i, b, t, v, dx):
    """Adds one position's share of dL/dx, read from `table` as it is now; returns the row that was read."""
    row, pair, u = lookup_address(x, anchors, delays, history, i, b, t)
    g = dot(v, difference(table[row ^ (1 << pair)], table[row]))
    neuron_a, neuron_b = anchors[i][pair]
    delay_a, delay_b = delays[i][pair] if delays is not None else (0, 0)
    if t - delay_a >= 0:
        dx[b][t - delay_a][neuron_a] += surrogate_slope(u) * g
    if t - delay_b >= 0:
        dx[b][t - delay_b][neuron_b] -= surrogate_slope(u) * g
    return row


def lookup_online(x, tables, anchors, v, rate, delays=None, history=None, residual=False):
    """dL/dx, with `tables` updated in place: a position reads its gradient, then takes S[row] -= rate v."""
    dx = [[list(v_t) for v_t in v_b] for v_b in v] if residual else zeros_like(x)
    for i in range(len(tables)):
        for b in range(len(x)):
            for t in range(len(x[b])):
                row = lookup_gradient(x, tables[i], anchors, delays, history, i, b, t, v[b][t], dx)
                for k in range(len(v[b][t])):
                    tables[i][row][k] -= rate * v[b][t][k]
    return dx


# --- attention ------------------------------------------------------------------------------------------


class PairAddresses:
    """The hashes of one position each (the V-index cache): a pair's row is their concatenation."""

    def __init__(self, x, anchors, position_code, key_anchors=None):
        """Hash every position as a query and as a key, and every distance."""
        self.query_anchors = anchors
        self.key_anchors = anchors if key_anchors is None else key_anchors
        self.query = lookup_addresses(x, self.query_anchors)
        self.key = lookup_addresses(x, self.key_anchors)
        self.position = [[address(code) for code in codes] for codes in position_code]
        self.n_key_bits = len(self.key_anchors[0])
        self.n_position_bits = len(position_code[0][0])

    def row(self, i, b, t, s):
        """Query in the high bits, then key, the relative position lowest."""
        high, middle, low = self.query[i][b][t][0], self.key[i][b][s][0], self.position[i][t - s][0]
        return (high * 2**self.n_key_bits + middle) * 2**self.n_position_bits + low


def earlier(t, window):
    """The positions that t attends to: all earlier ones, or the last `window` of them; never itself."""
    return range(0 if window is None else max(0, t - window), t)


def pair_lookup(x, tables, anchors, position_code, key_anchors=None, window=None):
    """y[b][t][k] = sum_{s < t, t - s <= window} sum_i S[i][H(z_t) || H(z_s) || H(PE_{t-s})][k]."""
    addresses = PairAddresses(x, anchors, position_code, key_anchors)
    n_outputs = len(tables[0][0])
    y = [[[0.0] * n_outputs for _ in x[b]] for b in range(len(x))]
    for b in range(len(x)):
        for t in range(len(x[b])):
            for s in earlier(t, window):
                for i in range(len(tables)):
                    row = addresses.row(i, b, t, s)
                    for k in range(n_outputs):
                        y[b][t][k] += tables[i][row][k]
    return y


def pair_gradient(addresses, table, i, b, t, s, v, position_gradient, dx, dposition_code):
    """The gradient routing of one pair and table (model.md section 4 (3)), read from `table` as it is now.

    The nearer of query and key is flipped (ties: key). "additional": the position code has its own flip
    besides, iff it is strictly nearer than both. "nearest": that flip takes the place of the other one.
    """
    _, query_pair, query_u = addresses.query[i][b][t]
    _, key_pair, key_u = addresses.key[i][b][s]
    _, position_pair, position_u = addresses.position[i][t - s]
    row = addresses.row(i, b, t, s)
    position_is_nearest = abs(position_u) < abs(query_u) and abs(position_u) < abs(key_u)

    if not (position_is_nearest and position_gradient == "nearest"):
        if abs(query_u) < abs(key_u):
            bit, u, position = addresses.n_position_bits + addresses.n_key_bits + query_pair, query_u, t
            neuron_a, neuron_b = addresses.query_anchors[i][query_pair]
        else:
            bit, u, position = addresses.n_position_bits + key_pair, key_u, s
            neuron_a, neuron_b = addresses.key_anchors[i][key_pair]
        g = dot(v, difference(table[row ^ (1 << bit)], table[row]))
        dx[b][position][neuron_a] += surrogate_slope(u) * g
        dx[b][position][neuron_b] -= surrogate_slope(u) * g

    if position_is_nearest:
        g = dot(v, difference(table[row ^ (1 << position_pair)], table[row]))
        dposition_code[i][t - s][position_pair] += surrogate_slope(position_u) * g


def pair_lookup_backward(
    x, tables, anchors, position_code, v, key_anchors=None, window=None, position_gradient="additional"
):
    """(dL/dx, dL/dposition_code, reads) for v = dL/dy; reads as in `lookup_backward`."""
    addresses = PairAddresses(x, anchors, position_code, key_anchors)
    dx = zeros_like(x)
    dposition_code = zeros_like(position_code)
    reads = []
    for i in range(len(tables)):
        for b in range(len(x)):
            for t in range(len(x[b])):
                for s in earlier(t, window):
                    pair_gradient(addresses, tables[i], i, b, t, s, v[b][t], position_gradient, dx, dposition_code)
                    reads.append((i, addresses.row(i, b, t, s), v[b][t]))
    return dx, dposition_code, reads


def pair_lookup_online(
    x, tables, anchors, position_code, v, rate, key_anchors=None, window=None, position_gradient="additional"
):
    """(dL/dx, dL/dposition_code), with `tables` updated in place as the reference program does.

    For each table the pairs come in the order t ascending, then s ascending; a pair reads its gradient from
    the table as it is, then takes S[row] -= rate v, and later pairs see it.
    """
    addresses = PairAddresses(x, anchors, position_code, key_anchors)
    dx = zeros_like(x)
    dposition_code = zeros_like(position_code)
    for i in range(len(tables)):
        for b in range(len(x)):
            for t in range(len(x[b])):
                for s in earlier(t, window):
                    pair_gradient(addresses, tables[i], i, b, t, s, v[b][t], position_gradient, dx, dposition_code)
                    row = addresses.row(i, b, t, s)
                    for k in range(len(v[b][t])):
                        tables[i][row][k] -= rate * v[b][t][k]
    return dx, dposition_code


# --- readout --------------------------------------------------------------------------------------------


def softmax(logits):
    """exp(l - max) / sum exp(l - max)."""
    largest = max(logits)
    powers = [math.exp(logit - largest) for logit in logits]
    total = sum(powers)
    return [power / total for power in powers]


def readout_cross_entropy(x, tables, anchors, targets, delays=None, history=None):
    """nats[b][t] = -log softmax(lookup(x))[target]."""
    logits = lookup(x, tables, anchors, delays, history)
    nats = []
    for b in range(len(x)):
        nats.append([])
        for t in range(len(x[b])):
            largest = max(logits[b][t])
            total = sum(math.exp(logit - largest) for logit in logits[b][t])
            nats[b].append(math.log(total) + largest - logits[b][t][targets[b][t]])
    return nats


def readout_cross_entropy_backward(x, tables, anchors, targets, dnats, delays=None, history=None):
    """(dL/dx, reads) for dnats = dL/dnats: v = dnats (softmax - onehot), then as in `lookup_backward`."""
    logits = lookup(x, tables, anchors, delays, history)
    v = []
    for b in range(len(x)):
        v.append([])
        for t in range(len(x[b])):
            v[b].append([dnats[b][t] * p for p in softmax(logits[b][t])])
            v[b][t][targets[b][t]] -= dnats[b][t]
    return lookup_backward(x, tables, anchors, v, delays, history)


# --- updates of rows ------------------------------------------------------------------------------------


def merge_rows(reads):
    """{(table, row): G}, G the sum of v over all positions that read the row, in the order of the reads."""
    merged = {}
    for i, row, v in reads:
        total = merged.setdefault((i, row), [0.0] * len(v))
        for k in range(len(v)):
            total[k] += v[k]
    return merged


def dense_gradient(tables, reads):
    """dL/dS as a whole: G in the rows that were read, 0 elsewhere."""
    gradient = zeros_like(tables)
    for (i, row), total in merge_rows(reads).items():
        gradient[i][row] = total
    return gradient


def sgd_update(tables, reads, rate):
    """In place: S_j <- S_j - rate G_j."""
    for (i, row), total in merge_rows(reads).items():
        for k in range(len(total)):
            tables[i][row][k] -= rate * total[k]


def adagrad_update(tables, state, reads, rate, eps=1e-8):
    """In place: state_j += mean_k G_jk^2;  S_j <- S_j - rate G_j / (sqrt(state_j) + eps) (row-wise)."""
    for (i, row), total in merge_rows(reads).items():
        state[i][row] += sum(g * g for g in total) / len(total)
        for k in range(len(total)):
            tables[i][row][k] -= rate * total[k] / (math.sqrt(state[i][row]) + eps)


def adam_update(tables, state, reads, rate, betas, eps):
    """In place, row-wise and lazy; state_j is m_j and then v_j, 1 - beta1^n, 1 - beta2^n, n steps that read the row.

    S_j <- S_j - rate (m_j / (1 - beta1^n)) / (sqrt(v_j / (1 - beta2^n)) + eps).
    """
    beta1, beta2 = betas
    for (i, row), total in merge_rows(reads).items():
        own, K = state[i][row], len(total)
        for k in range(K):
            own[k] = beta1 * own[k] + (1 - beta1) * total[k]
        own[K] = beta2 * own[K] + (1 - beta2) * sum(g * g for g in total) / K
        for at, beta in ((K + 1, beta1), (K + 2, beta2)):
            n = 1 + round(math.log(1 - own[at]) / math.log(beta))
            own[at] = 1 - beta**n
        for k in range(K):
            tables[i][row][k] -= rate * (own[k] / own[K + 1]) / (math.sqrt(own[K] / own[K + 2]) + eps)


# --- vectors as lists -----------------------------------------------------------------------------------


def dot(left, right):
    """sum_k left_k right_k."""
    return sum(p * q for p, q in zip(left, right, strict=True))


def difference(left, right):
    """left_k - right_k."""
    return [p - q for p, q in zip(left, right, strict=True)]


def zeros_like(nested):
    """The same nesting, every number 0.0."""
    return [zeros_like(inner) for inner in nested] if isinstance(nested, list) else 0.0
