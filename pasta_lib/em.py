"""EM for latent user types, from many random starts.

The likelihood of K types has many local maxima, so EM is started many times and the best is kept.
Restarts come in small waves that run together as one batch. They race: one that is behind the best
so far by many times its latest gain is stopped. Waves follow until several of them have found the
best likelihood: easy problems end soon, hard ones get more restarts. On the way SQUAREM
(Varadhan and Roland 2008, scheme S3) extrapolates each pair of EM passes, and a step that would
lower the likelihood is taken back: it never falls, but for mini-batch noise.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm.auto import tqdm

from pasta_lib.choices import BadData, ChoiceData
from pasta_lib.em_steps import GradientStep, NewtonStep
from pasta_lib.panel import Panel
from pasta_lib.user_model import LinearUtility, hard_posterior, posterior, sum_by_person
from pasta_lib.user_types import Restarts, UserTypes

SAME_MAXIMUM = 1e-6  # two ends are one maximum if this near, in nats per observation


@dataclass(frozen=True)
class EMConfig:
    """How EM is run. All of it is ours: the PASTA paper publishes none."""

    wave: int = 4  # random starts that run together; waves double from 1 up to this
    screening: int = 8  # passes over the data before the race begins
    horizon: int = 10  # a restart is stopped if it is behind by so many times its latest gain
    confirmations: int = 3  # waves that must find the best before the search ends
    min_waves: int = 20  # 75 restarts
    max_waves: int = 60  # 235 restarts
    max_passes: int = 2000  # over the data, in one wave
    tolerance: float = 1e-9  # a pair of passes that gains less is quiet; nats per observation
    patience: int = 2  # a restart has arrived after so many quiet pairs in a row
    accelerate: bool = True  # SQUAREM; never for mini-batches, whose passes are noisy
    ridge: float = 1e-8  # precision of a prior around the start (`LinearUtility`: around zero)
    learning_rate: float = 1e-2  # other modules: Adam's
    batch: int = 4096  # other modules: observations in a mini-batch
    hard: bool = False  # each person wholly in one type, as k-means does; a baseline


def fit_user_types(
    data: ChoiceData | Panel,
    utility: nn.Module,
    n_types: int,
    *,
    seed: int,
    config: EMConfig = EMConfig(),
    start: Tensor | None = None,
    checkpoint: str | Path | None = None,
    progress: bool = True,
) -> UserTypes:
    """Find `n_types` latent types of people by maximum likelihood.

    `utility` maps features [..., D] to scores [..., K]; it is not changed. Its parameters are where
    every restart begins (the heads of a network best at zero; a `LinearUtility` begins at zero
    whatever it holds); types are told apart at first by a
    random division of people among them; with `start` [U, K], the first restart by these γ of the
    people. Types are returned by falling prior.

    With `checkpoint`, the search is written there as it goes, and a call with the same data, seed
    and config goes on from it, to the same result as without the interruption.

    Raises `BadData` for more types than people, a utility that does not fit the data, a checkpoint
    of another fit, or NaN in all restarts of a wave. Warns when a type's choices are perfectly
    predictable (its part-worths are then bounded by `ridge` alone), or when `max_passes` was not
    enough.
    """
    if not 1 <= n_types <= data.n_people:
        raise BadData(
            f"Cannot find {n_types} types among {data.n_people} people: "
            "choose K between 1 and the number of people."
        )
    _check_shape(utility, data, n_types)
    if start is not None and start.shape != (data.n_people, n_types):
        raise BadData(
            f"`start` must be [{data.n_people}, {n_types}], a row for each person of the data, not "
            f"{list(start.shape)}."
        )
    generator = torch.Generator().manual_seed(seed)
    e_step = hard_posterior if config.hard else posterior
    if isinstance(utility, LinearUtility):
        em = NewtonStep(data, n_types, config.ridge, e_step)
    else:
        em = GradientStep(
            utility, data, n_types, config.learning_rate, config.batch, config.ridge, generator,
            e_step,
        )  # fmt: skip
    fingerprint = checkpoint and _fingerprint(data, utility, n_types, seed, config, start)
    search = _load(checkpoint, fingerprint, generator)
    with tqdm(disable=not progress, unit="step", desc=f"EM, {n_types} types") as bar:
        while not (search and _is_over(search, n_types, data, config)):
            if not search or not search["running"].any():
                ended = len(search.get("winners", ()))
                restarts = 1 if n_types == 1 else min(2**ended, config.wave)
                search |= _new_wave(
                    em, data, n_types, restarts, generator, None if ended else start
                )
            _two_passes(search, em, data, config)
            _stop_some(search, data, config)
            if not search["running"].any():
                _end_wave(search)
            _save(search, checkpoint, fingerprint, generator)
            _show(bar, search)
    return _result(search, utility, data, n_types, config)


def _check_shape(utility: nn.Module, data: ChoiceData, n_types: int) -> None:
    """One item through the utility, so that a misfit is told in words."""
    if isinstance(utility, LinearUtility) and isinstance(data, Panel):
        raise BadData("A LinearUtility takes one kind of answers, not a panel: give its part.")
    for kind, name in (("tie", "log_tie"), ("rating", "rating_terms")):
        told = any(getattr(part, kind) is not None for part in data.parts)
        if told and not hasattr(utility, name):
            raise BadData(f"Data with {kind}s need a utility with `{name}`, as `ClipUtility` is.")
    part, dtype = data.parts[0], next(utility.parameters()).dtype
    tables = [part.table] if part.context is None else [part.table, part.context_table]
    try:
        with torch.no_grad():
            scores = utility(*(table[:1].to(dtype) for table in tables)).shape[-1]
    except (RuntimeError, IndexError, TypeError) as error:
        widths = " and ".join(str(table.shape[1]) for table in tables)
        raise BadData(f"The utility cannot take the data's {widths} features: {error}") from error
    if scores != n_types:
        raise BadData(f"The utility gives {scores} scores for {n_types} types: make them equal.")


Search = dict[str, Tensor]
"""Where the search stands, in tensors alone, so that it can be saved and resumed.

Of the S restarts of this wave: `state`, `next` [S, W], a state and EM(state); `log_likelihood` [S]
of `state`; `running`, `arrived`, `lost` [S]; `gain` [S] of the last pair of passes;
`quiet` [S], how many pairs in a row gained nothing; `passes` [1]; `trace` [pairs of passes, S],
log-likelihoods. Of the waves that ended: `winners` [waves], the best log-likelihood of each;
`ends`, those of all restarts that arrived; `best` [W], `best_trace`, `best_arrived`, of the best;
`all_passes` [1]; `tried` [1], restarts.
"""


def _new_wave(em, data: ChoiceData, n_types: int, restarts: int, generator, start) -> Search:
    """Divide the people among the types at random, once for each restart; the first by `start`."""
    member = torch.randint(n_types, (data.n_people, restarts), generator=generator)
    gamma = nn.functional.one_hot(member, n_types).double()
    if start is not None:
        gamma[:, 0] = start
    state = em.start(gamma)
    log_likelihood, following = em(state)
    return {
        "state": state,
        "next": following,
        "log_likelihood": log_likelihood,
        "running": torch.ones(restarts, dtype=torch.bool),
        "arrived": torch.zeros(restarts, dtype=torch.bool),
        "lost": torch.zeros(restarts, dtype=torch.bool),
        "gain": torch.zeros(restarts, dtype=log_likelihood.dtype),
        "quiet": torch.zeros(restarts, dtype=torch.long),
        "passes": torch.ones(1, dtype=torch.long),
        "trace": log_likelihood[None].clone(),
    }


def _two_passes(search: Search, em, data: ChoiceData, config: EMConfig) -> None:
    """Take every running restart one or two EM passes on, and not down.

    From x and y = EM(x): if y is no worse, SQUAREM extrapolates from x, y and EM(y); if it is
    worse (a Newton or gradient step too long), the middle between x and y is tried.
    """
    on = search["running"].nonzero()[:, 0]
    x, y, at_x = (search[name][on] for name in ("state", "next", "log_likelihood"))
    at_y, z = em(y)
    fell = ~(at_y >= at_x - em.noise * data.n_observations)  # NaN falls too
    own = em.n_types + em.n_parameters  # columns; what lies beyond is Adam's memory
    middle = torch.cat([torch.lerp(x, y, 0.5)[:, :own], y[:, own:]], 1)
    state, following = _pick(fell, x, y), _pick(fell, middle, z)
    now = _pick(fell, at_x, at_y)
    search["passes"] += 1
    if config.accelerate and em.extrapolates:
        w = _pick(fell, following, _squarem(x, y, z, em.n_types))
        at_w, after_w = em(w)
        better = at_w >= now
        state, following = _pick(better, w, state), _pick(better, after_w, following)
        now = _pick(better, at_w, now)
        search["passes"] += 1
    gain = now - at_x
    quiet = torch.where(gain > config.tolerance * data.n_observations, 0, search["quiet"][on] + 1)
    search["quiet"][on] = torch.where(fell, search["quiet"][on], quiet)  # a fall tells nothing
    search["gain"][on] = torch.where(fell, search["gain"][on], gain.clamp(min=0))
    search["state"][on], search["next"][on], search["log_likelihood"][on] = state, following, now
    search["trace"] = torch.cat([search["trace"], search["log_likelihood"][None]])


def _pick(rows: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    """`yes` in the rows that are true, `no` in the others."""
    return torch.where(rows if no.ndim == 1 else rows[:, None], yes, no)


def _squarem(x: Tensor, y: Tensor, z: Tensor, n_types: int) -> Tensor:
    """x + 2 a r + a² v with r = y - x, v = (z - y) - r, a = |r| / |v|, at least an EM step."""
    r, v = y - x, z - 2 * y + x
    a = (r.norm(dim=1) / v.norm(dim=1)).nan_to_num(1.0).clamp(1, 256)[:, None]
    w = x + 2 * a * r + a.square() * v
    return torch.cat([w[:, :n_types].log_softmax(1), w[:, n_types:]], 1)


def _stop_some(search: Search, data: ChoiceData, config: EMConfig) -> None:
    """Stop the restarts that have arrived, those that have lost the race, and broken ones."""
    running, at = search["running"], search["log_likelihood"]
    broken = ~(at.isfinite() & search["state"].isfinite().all(1))
    if broken.all():
        raise BadData("EM diverged to NaN in all restarts of a wave: lower the learning rate.")
    at[broken] = -torch.inf
    search["lost"] |= broken
    search["arrived"] |= (search["quiet"] >= config.patience) & ~broken
    if int(search["passes"]) >= config.screening:
        best = torch.cat([at, search.get("winners", at[:0])]).max()
        far = (config.horizon * search["gain"]).clamp(min=SAME_MAXIMUM * data.n_observations)
        search["lost"] |= ~search["arrived"] & (best - at > far)
    running &= ~search["arrived"] & ~search["lost"]
    if int(search["passes"]) >= config.max_passes:
        running[:] = False


def _end_wave(search: Search) -> None:
    """Keep what later waves must beat."""
    at = search["log_likelihood"]
    winner = at.argmax()
    before = search.get("winners", at[:0])
    if not len(before) or at[winner] > before.max():
        search["best"] = search["state"][winner].clone()
        search["best_trace"] = search["trace"][:, winner].clone()
        search["best_arrived"] = search["arrived"][winner, None].clone()
    search["winners"] = torch.cat([before, at[winner, None]])
    search["ends"] = torch.cat([search.get("ends", at[:0]), at[search["arrived"]]])
    search["all_passes"] = search.get("all_passes", 0) + search["passes"]
    search["tried"] = search.get("tried", 0) + torch.tensor([len(at)])


def _is_over(search: Search, n_types: int, data: ChoiceData, config: EMConfig) -> bool:
    if search["running"].any():
        return False
    winners, waves = search["winners"], len(search["winners"])
    near = winners > winners.max() - SAME_MAXIMUM * data.n_observations
    enough = int(near.sum()) >= config.confirmations and waves >= config.min_waves
    return enough or waves >= config.max_waves or n_types == 1


def _result(search: Search, utility, data: ChoiceData, n_types: int, config) -> UserTypes:
    if not search["best_arrived"]:
        warnings.warn(
            f"EM used all of its {config.max_passes} passes before it came to rest: "
            "raise max_passes, or the tolerance.",
            stacklevel=3,
        )
    utility = copy.deepcopy(utility)
    best, size = search["best"], sum(p.numel() for p in utility.parameters())
    nn.utils.vector_to_parameters(best[n_types : n_types + size], utility.parameters())
    ends = search["ends"]
    near = SAME_MAXIMUM * data.n_observations
    restarts = Restarts(
        tried=int(search["tried"]),
        finished=len(ends),
        found_best=int((ends > search["winners"].max() - near).sum()),
        passes=int(search["all_passes"]),
        trace=search["best_trace"].numpy(),
    )
    types = UserTypes.of(utility, best[:n_types].double(), data, restarts)
    _warn_if_separable(types, data)
    return types


def _warn_if_separable(types: UserTypes, data: ChoiceData) -> None:
    """A type that chooses without any doubt has part-worths that only the ridge bounds."""
    choices = [part for part in data.parts if part.rating is None]
    if not choices:
        return
    gamma, doubt, number = types.posterior(data), 0.0, 0.0
    for part in choices:
        p = types.log_probabilities(part).exp().double()
        doubt = doubt + sum_by_person((p * (1 - p)).sum(1), part.person, part.n_people)
        number = number + part.first.diff().double()
    doubt = (gamma * doubt).sum(0) / (gamma.T @ number)
    sure = (doubt < 1e-3).nonzero()[:, 0].tolist()
    if sure:
        warnings.warn(
            f"Type {', '.join(map(str, sure))}: choices are perfectly predictable (separable), so "
            "the likelihood has no maximum; the part-worths are bounded by the ridge alone and "
            "their size means nothing. Use fewer types or features, or a larger ridge.",
            stacklevel=4,
        )


def _show(bar: tqdm, search: Search) -> None:
    winners = search.get("winners", search["log_likelihood"])
    best = max(float(winners.max()), float(search["log_likelihood"].max()))
    bar.update()
    bar.set_postfix_str(
        f"wave {len(search.get('winners', [])) + 1}, pass {int(search['passes'])}, "
        f"{int(search['running'].sum())} restarts, best log-likelihood {best:.4f}"
    )


def _fingerprint(
    data: ChoiceData, utility, n_types: int, seed: int, config: EMConfig, start
) -> str:
    digest = hashlib.sha256(json.dumps([n_types, seed, asdict(config)]).encode())
    digest.update(f"{type(utility).__qualname__} {utility}".encode())
    tensors = dict(utility.state_dict()) | ({} if start is None else {"start": start})
    for i, part in enumerate(data.parts):
        tensors |= {f"{i} {k}": v for k, v in vars(part).items() if isinstance(v, Tensor)}
    for name, tensor in tensors.items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _save(search: Search, path: str | Path | None, fingerprint: str, generator) -> None:
    if path is None:
        return
    tensors = {name: tensor.contiguous() for name, tensor in search.items()}
    temporary = Path(f"{path}.part")
    save_file(tensors | {"random": generator.get_state()}, temporary, {"fit": fingerprint})
    os.replace(temporary, path)


def _load(path: str | Path | None, fingerprint: str, generator: torch.Generator) -> Search:
    """The saved search, or an empty one if there is none."""
    if path is None or not Path(path).exists():
        return {}
    try:
        with safe_open(path, "pt") as file:
            saved = file.metadata() or {}
            search = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise BadData(
            f"{path} is not a whole checkpoint ({error}): remove it to begin anew."
        ) from error
    if saved.get("fit") != fingerprint:
        raise BadData(
            f"{path} is the checkpoint of another fit (other data, utility, K, seed or config): "
            "name another file, or remove it to begin anew."
        )
    generator.set_state(search.pop("random"))
    return search
