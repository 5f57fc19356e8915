"""People who deviate from their types, one after another and with inverses in their place: what
`pasta_lib.deviations` says, from its docstring alone."""

import math

import numpy as np
import torch


def seen(types, concepts, data, n, k, m):
    """R and F of observation n to type k at the mean m: [L] and [L, C + 1], ties last; R is -inf
    where there is no alternative."""
    text, utility = data.context_table[data.context[n]][None].float(), types.utility
    h = math.exp(10 * utility.tenth_log_share.item())
    r, f = [], []
    for items in data.items[n]:
        image = data.table[items[items >= 0]].float()
        if not len(image):
            r.append(-math.inf)
            f.append(np.full(len(m), math.nan))
            continue
        mine = types.order[k]
        met = utility.meets(image, text)[:, mine, None].double().numpy()
        x = np.concatenate([image[:, concepts].double().numpy(), met], 1)
        own = utility(image, text)[:, mine].double().numpy() + x @ m
        count = 1 + h * (len(own) - 1)
        weight = np.empty(len(own))
        weight[np.argsort(-own, kind="stable")] = np.clip(count - np.arange(len(own)), 0, 1) / count
        r.append(weight @ own)
        f.append(weight @ x)
    r, f = np.array(r), np.array(f)
    there = np.isfinite(r)
    f = np.where(there[:, None], f - f[there].mean(0), 0.0)
    if data.tie is not None:
        r = np.append(r, r[there].mean() + utility.log_tie.item())
        f = np.append(f, np.zeros((1, len(m))), 0)
    return r, f


def softmax(r):
    wide = np.exp(r - r.max())
    return wide / wide.sum()


@torch.no_grad()
def by_hand(types, spread, history, mean=None):
    """One person. `history`: (data, n) in order. Returns P(c) of every observation before it was
    seen, and γ [K], m [K, C + 1], C [K, C + 1, C + 1] after all of them."""
    sigma = spread.deviation.double().numpy()
    k_types = types.n_types
    m = np.zeros((k_types, len(sigma))) if mean is None else np.tile(mean, (k_types, 1))
    c = np.tile(np.diag(sigma**2), (k_types, 1, 1))
    joint, out = types.log_prior.numpy().copy(), []
    for data, n in history:
        y, w = data.target[n].numpy(), data.weight[n].item()
        if data.tie is not None:
            y = np.append(y, data.tie[n].item())
        gamma, p = softmax(joint), []
        for k in range(k_types):
            r, f = seen(types, spread.concepts, data, n, k, m[k])
            there = np.isfinite(r)
            v = np.diag(f @ c[k] @ f.T)[there].mean()
            p.append(softmax(r / math.sqrt(1 + math.pi * v / 8)))
            joint[k] += w * (y[there] @ np.log(p[k][there]))
            q = softmax(r)
            information = f.T @ (w * (np.diag(q) - np.outer(q, q))) @ f
            c[k] = np.linalg.inv(np.linalg.inv(c[k]) + information)
            m[k] = m[k] + c[k] @ f.T @ (w * (y - q))
        out.append(gamma @ np.array(p))
    return out, softmax(joint), m, c
