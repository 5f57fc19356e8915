"""The best prediction possible with the same information: what Bayes' rule makes of it. Ours.

The predictor knows the law that people are drawn from, the types' tastes and the eye; of a person,
only what a model may see: what they picked and judged so far. Tastes are continuous, so there is no
closed form. For each person, particles (a type, a deviation, the rest) are drawn from the law and
weighted by each answer in turn; where the weights degenerate, they are drawn anew and moved
(sequential Monte Carlo; Chopin 2002). A move is a preconditioned Crank-Nicolson step (Cotter et al.
2013), which leaves the Gaussian law as it is, so that likelihoods alone are compared; at the same
time some propose another type.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from pasta_lib.choices import BadData
from pasta_lib.datasets.pasta import Turns
from pasta_lib.sessions import UNJUDGED, Sessions
from pasta_lib.world import people
from pasta_lib.world.bank import prompts as bank_prompts
from pasta_lib.world.bank import rows_of
from pasta_lib.world.people import Law
from pasta_lib.world.reachable import reachable


@dataclass(frozen=True)
class Answers:
    """What U people saw and answered in T turns, in order, padded at the end.

    `x` float `[U, T, L, M, 32]`: what the eye reads off every picture, subjects summed by category;
    `asked` `[U, T, L, M]`: how far it shows what was asked for; `together` `[U, T, L, M, 8]`: what
    each type's interactions add to it. `chosen` long `[U, T]`: the column, -1: none. `versus` long
    `[U, T]`: 1 better, 0 same, -1 worse than turn `last` `[U, T]`, or UNJUDGED.
    """

    x: Tensor
    asked: Tensor
    together: Tensor
    chosen: Tensor
    versus: Tensor
    last: Tensor

    def turns(self, which: slice | Tensor) -> "Answers":
        return Answers(*(part[:, which] for part in vars(self).values()))


@dataclass(frozen=True)
class Particles:
    """N guesses of who each person is: `type` long `[U, N]`, `z` float `[U, N, 35]`, standard
    normal under the law (deviations; faithfulness, steadiness, indifference), `log_weight`
    `[U, N]`."""

    type: Tensor
    z: Tensor
    log_weight: Tensor

    @property
    def weight(self) -> Tensor:
        return self.log_weight.softmax(1)


@dataclass(frozen=True)
class Prediction:
    """Before each answer, a pick coming before its judgement: `pick` `[U, T, L]`, `judgement`
    `[U, T, 3]` (worse, same, better). After each turn: `types` `[U, T, 8]`, the posterior over
    types. After all of them: `particles`."""

    pick: Tensor
    judgement: Tensor
    types: Tensor
    particles: Particles


def predict(
    law: Law, answers: Answers, n: int, generator: torch.Generator, moves: int = 4
) -> Prediction:
    """One person's answers predicted one by one, each from those before; all persons at once.

    `n` particles a person. Memory: U n T L M numbers, a few times over.
    """
    n_people, n_turns = answers.chosen.shape
    particles = _draw(law, n_people, n, generator)
    picks, judgements, types, step = [], [], [], 0.5
    for t in range(n_turns):
        pick, judgement = _turn(law, particles, answers, t)  # [U, N, L], [U, N, 3], logs
        gain = _taken(pick, answers.chosen[:, t], answers.chosen[:, t] >= 0)
        before, after = (
            weight.log_softmax(1)[..., None]
            for weight in (particles.log_weight, particles.log_weight + gain)
        )
        picks.append((before + pick).logsumexp(1).exp())
        judgements.append((after + judgement).logsumexp(1).exp())  # the pick is known by then
        judged = answers.versus[:, t] != UNJUDGED
        gain = gain + _taken(judgement, answers.versus[:, t] + 1, judged)
        particles = Particles(particles.type, particles.z, particles.log_weight + gain)
        effective = 1 / particles.weight.square().sum(1)
        if (effective < n / 2).any():
            particles = _resample(particles, effective < n / 2, generator)
            so_far = answers.turns(slice(0, t + 1))
            for _ in range(moves):
                particles, accepted = _move(law, particles, so_far, step, generator)
                step = min(max(step * (1.1 if accepted > 0.3 else 0.9), 0.02), 0.9)
        member = torch.nn.functional.one_hot(particles.type, people.N_TYPES)
        types.append((particles.weight[..., None] * member).sum(1))
    return Prediction(*(torch.stack(each, 1) for each in (picks, judgements, types)), particles)


def values(law: Law, particles: Particles, answers: Answers) -> Tensor:
    """What every column is worth to every particle, `[U, N, T, L]`."""
    shape = answers.asked.shape
    shown = (answers.x.flatten(1, 3), answers.asked.flatten(1), answers.together.flatten(1, 3))
    value = picture_values(law, particles, *shown).unflatten(2, shape[1:])
    return value.topk(people.BEST, -1).values.mean(-1)


def picture_values(
    law: Law, particles: Particles, x: Tensor, asked: Tensor, together: Tensor
) -> Tensor:
    """What P pictures are worth to every particle, `[U, N, P]`; from `[U, P, 32]`, `[U, P]` and
    `[U, P, 8]` as in `Answers`."""
    z, kind = particles.z, particles.type
    taste = torch.as_tensor(law.taste, dtype=z.dtype)[kind]
    taste = taste + torch.as_tensor(law.deviation, dtype=z.dtype) * z[..., :32]
    faithfulness = people.FAITHFULNESS * (people.FAITHFULNESS_SPREAD * z[..., 32]).exp()
    value = taste @ x.mT + faithfulness[..., None] * asked[:, None]
    return value + together.mT.gather(1, kind[..., None].expand(-1, -1, x.shape[1]))


def seen(law: Law, x: np.ndarray, asked_for: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
    """What counts of pictures x `[..., 88]` under the scenes `asked_for` int `[..., 7]`: `x`
    `[..., 32]`, `asked` `[...]` and `together` `[..., 8]` of `Answers`."""
    meets = (people.asked(asked_for.reshape(-1, 7)) * x.reshape(-1, x.shape[-1])).sum(1)
    category, setting = people.category_and_setting(x)
    law_together = law.together.astype(np.float32)
    both = np.einsum("...c,kcs,...s->...k", category, law_together, setting, optimize=True)
    small = np.concatenate([category, x[..., people.PART["subject"].stop :]], -1)
    return tuple(torch.tensor(v) for v in (small, meets.reshape(x.shape[:-1]), both))


def answers_of(turns: Turns, law: Law, x: np.ndarray) -> tuple[Answers, np.ndarray]:
    """What the people of `turns` saw and answered, and their ids `[U]`. `x` `[36064, 88]`: what the
    eye sees in the bank's pictures. Raises `BadData` for an initial prompt that the bank does not
    hold."""
    frame = turns.frame
    person, ids = pd.factorize(frame["person_id"])
    place = frame.groupby(person).cumcount().to_numpy(copy=True)
    session = pd.factorize(frame["session_id"])[0]
    picked = frame["chosen"].to_numpy() >= 0
    last = pd.Series(np.where(picked, place, np.nan)).groupby(session).ffill()
    last = last.groupby(session).shift().fillna(-1).to_numpy(int)
    prompt = pd.Index(bank_prompts()).get_indexer(frame["initial_prompt"])
    if (prompt < 0).any():
        row = int((prompt < 0).argmax())
        raise BadData(
            f"{turns.source}, row {row}: {frame['initial_prompt'].iloc[row]!r} is no prompt of the "
            "image bank; only sessions that begin from one of its prompts can be predicted here."
        )
    pictures = rows_of(turns.images.ravel()).reshape(turns.images.shape)
    asked_for = np.broadcast_to(reachable()[prompt][:, None, None], (*pictures.shape, 7))

    def spread(values: np.ndarray | Tensor, empty: float) -> Tensor:
        values = torch.as_tensor(values)
        out = torch.full((len(ids), place.max() + 1, *values.shape[1:]), empty, dtype=values.dtype)
        out[person, place] = values
        return out

    versus = frame["versus"].fillna(UNJUDGED).to_numpy(int)
    versus = np.where(picked & (last >= 0), versus, UNJUDGED)
    parts = [spread(part, 0.0) for part in seen(law, x[pictures], asked_for)]
    chosen = frame["chosen"].to_numpy(copy=True)
    told = (spread(chosen, -1), spread(versus, UNJUDGED), spread(last, -1))
    return Answers(*parts, *told), ids.to_numpy()


def answers_in(sessions: Sessions, law: Law, x: np.ndarray) -> Answers:
    """The same of S sessions, each as if it were all that is known of its person. `x`
    `[9016, 4, 88]`."""
    pictures = x[sessions.member]
    asked_for = reachable()[sessions.initial][:, None, None, None]
    parts = seen(law, pictures, np.broadcast_to(asked_for, (*pictures.shape[:-1], 7)))
    last = sessions.last_pick()[:, :-1]
    versus = np.where((sessions.chosen >= 0) & (last >= 0), sessions.versus_last, UNJUDGED)
    told = (torch.as_tensor(part) for part in (sessions.chosen, versus, last))
    return Answers(*parts, *told)


def steadiness(particles: Particles) -> Tensor:
    return people.STEADINESS * (people.STEADINESS_SPREAD * particles.z[..., 33]).exp()


def indifference(particles: Particles) -> Tensor:
    return people.INDIFFERENCE * (people.INDIFFERENCE_SPREAD * particles.z[..., 34]).exp()


def log_judgement(gap: Tensor, steady: Tensor, indifferent: Tensor) -> Tensor:
    """log P of worse, same and better, `[..., 3]`, as `people.judge` draws them."""
    better = logsigmoid(steady * (gap - indifferent))
    worse = logsigmoid(steady * (-gap - indifferent))
    same = torch.log1p(-(better.exp() + worse.exp()).clamp(max=1 - 1e-6))
    return torch.stack([worse, same, better], -1)


def _turn(law: Law, particles: Particles, answers: Answers, t: int) -> tuple[Tensor, Tensor]:
    """log P of each column and of each judgement in turn t, `[U, N, L]`, `[U, N, 3]`."""
    rows, last = torch.arange(len(answers.chosen)), answers.last[:, t].clamp(min=0)
    both = Answers(*(torch.stack([p[:, t], p[rows, last]], 1) for p in vars(answers).values()))
    value = values(law, particles, both)
    pick = (steadiness(particles)[..., None] * value[:, :, 0]).log_softmax(-1)
    now, before = (
        _taken(value[:, :, i], both.chosen[:, i], both.chosen[:, i] >= 0) for i in (0, 1)
    )
    judgement = log_judgement(now - before, steadiness(particles), indifference(particles))
    return pick, judgement


def _log_likelihood(law: Law, particles: Particles, answers: Answers) -> Tensor:
    """log P(all answers | particle), `[U, N]`."""
    value = values(law, particles, answers)  # [U, N, T, L]
    steady = steadiness(particles)[..., None]
    there = (answers.chosen >= 0)[:, None]
    chosen = answers.chosen.clamp(min=0)[:, None, :, None].expand(*value.shape[:3], 1)
    pick = (steady[..., None] * value).log_softmax(-1).gather(3, chosen)[..., 0]
    picked = value.gather(3, chosen)[..., 0]  # [U, N, T]
    last = answers.last.clamp(min=0)[:, None].expand_as(picked)
    logs = log_judgement(
        picked - picked.gather(2, last), steady, indifference(particles)[..., None]
    )
    versus = (answers.versus + 1).clamp(min=0)[:, None, :, None].expand(*picked.shape, 1)
    judged = (answers.versus != UNJUDGED)[:, None]
    return (pick * there + logs.gather(3, versus)[..., 0] * judged).sum(2)


def _taken(values: Tensor, which: Tensor, there: Tensor) -> Tensor:
    """`values` `[U, N, C]` of each person's `which` `[U]`; 0 where it is not `there`."""
    index = which.clamp(min=0)[:, None, None].expand(-1, values.shape[1], 1)
    return values.gather(2, index)[..., 0] * there[:, None]


def _draw(law: Law, n_people: int, n: int, generator: torch.Generator) -> Particles:
    share = torch.as_tensor(law.share, dtype=torch.float32).expand(n_people, -1)
    kind = torch.multinomial(share, n, replacement=True, generator=generator)
    z = torch.randn(n_people, n, len(law.deviation) + 3, generator=generator)
    return Particles(kind, z, torch.zeros(n_people, n))


def _resample(particles: Particles, which: Tensor, generator: torch.Generator) -> Particles:
    """Systematic resampling of the people `which` bool `[U]`."""
    n_people, n = particles.type.shape
    start = torch.rand(n_people, 1, generator=generator)
    ticks = (torch.arange(n) + start) / n
    index = torch.searchsorted(particles.weight.cumsum(1), ticks).clamp(max=n - 1)
    index = torch.where(which[:, None], index, torch.arange(n))
    log_weight = torch.where(which[:, None], 0.0, particles.log_weight)
    z = particles.z.gather(1, index[..., None].expand_as(particles.z))
    return Particles(particles.type.gather(1, index), z, log_weight)


def _move(
    law: Law, particles: Particles, answers: Answers, step: float, generator: torch.Generator
) -> tuple[Particles, float]:
    """One Metropolis step for every particle; also the share that was accepted."""
    fresh = _draw(law, *particles.type.shape, generator)
    z = (1 - step**2) ** 0.5 * particles.z + step * fresh.z
    jump = torch.rand(particles.type.shape, generator=generator) < 0.2
    kind = torch.where(jump, fresh.type, particles.type)
    proposed = Particles(kind, z, particles.log_weight)
    gain = _log_likelihood(law, proposed, answers) - _log_likelihood(law, particles, answers)
    accept = torch.rand(gain.shape, generator=generator).log() < gain
    moved = Particles(
        torch.where(accept, kind, particles.type),
        torch.where(accept[..., None], z, particles.z),
        particles.log_weight,
    )
    return moved, float(accept.float().mean())
