"""Recovered types against true ones, by loops over people."""

import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_rand_score

from pasta_lib.choices import ChoiceData
from pasta_lib.datasets.pasta import Sat
from pasta_lib.recovery import MANY, SEEN, recovery
from pasta_lib.user_model import LinearUtility
from pasta_lib.user_types import UserTypes

D, K, PEOPLE = 4, 3, 40


def world(seed=0):
    """People of three tastes, each with 3 to 30 picks, and a judgement after about half of them."""
    rng = np.random.default_rng(seed)
    taste, kind = rng.normal(size=(K, D)), rng.integers(K, size=PEOPLE)
    table = rng.normal(size=(200, D))
    person = np.repeat(np.arange(PEOPLE), rng.integers(3, 31, size=PEOPLE))
    when = 2 * np.arange(len(person))
    judges = np.flatnonzero(rng.random(len(person)) < 0.5)

    def said(who, columns):
        items = rng.integers(200, size=(len(who), columns, 1))
        worth = (table[items[..., 0]] * taste[kind[who]][:, None]).sum(2)
        chosen = (worth + rng.gumbel(size=worth.shape)).argmax(1)
        names = np.char.add("p", who.astype(str)).astype(object)
        return ChoiceData.from_arrays(items=items, table=table, target=chosen, person=names)

    sat = Sat(said(person, 4), said(person[judges], 2), (when, when[judges] + 1))
    utility = LinearUtility(D, K)
    utility.weight.data.copy_(torch.as_tensor(taste))
    types = UserTypes.of(utility, torch.full((K,), 1 / K).double().log(), sat.picks, None)
    return types, sat, {f"p{u}": int(kind[u]) for u in range(PEOPLE)}


def test_agreement_after_n_choices_is_that_of_what_was_seen_until_then():
    types, sat, truth = world()
    got = recovery(types, sat, truth)
    each = [types.observation_log_likelihood(part).numpy() for part in (sat.picks, sat.judgements)]
    names = [part.person_ids[part.person] for part in (sat.picks, sat.judgements)]
    for n in (*SEEN, None):
        true, found = [], []
        for person, kind in truth.items():
            times = sat.when[0][names[0] == person]
            if len(times) < (MANY if n is None else n):
                continue
            until = np.inf if n is None or len(times) == n else times[n]
            total = sum(
                e[(name == person) & (when < until)].sum(0)
                for e, name, when in zip(each, names, sat.when, strict=True)
            )
            true.append(kind)
            found.append(int(total.argmax()))
        want = adjusted_rand_score(true, found)
        have = got["adjusted_rand_index"] if n is None else got["adjusted_rand_index_after"][n]
        assert have == pytest.approx(want)
    assert got["adjusted_rand_index"] > 0.8 > got["adjusted_rand_index_after"][1]


def test_what_types_are_called_does_not_matter():
    types, sat, truth = world()
    renamed = {person: (kind + 1) % K for person, kind in truth.items()}
    assert recovery(types, sat, renamed) == recovery(types, sat, truth)


def test_of_nobody_nothing_is_said():
    types, sat, truth = world()
    first = sat.picks.first.numpy()[sat.picks.person.numpy()]
    few = np.arange(sat.picks.n_observations) - first < 3
    picks = sat.picks.select(torch.as_tensor(few))
    none = np.zeros(sat.judgements.n_observations, bool)
    none[0] = True  # and one judgement alone
    judged = sat.judgements.select(torch.as_tensor(none))
    found = recovery(types, Sat(picks, judged, (sat.when[0][few], sat.when[1][none])), truth)
    assert np.isnan(found["adjusted_rand_index"]) and found["people"] == 0
    assert list(found["adjusted_rand_index_after"]) == [1, 2, 3]
