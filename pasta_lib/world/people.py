"""Synthetic people: hidden tastes, judged from pixels through the rater's eye. All of it is ours.

A person belongs to one of eight hidden types, deviates from it, and chooses with noise. People are
not built like the model that studies them: what they value is what the *eye* reads off a picture,
which no model sees; a column is worth its two best pictures, not the mean; and some things please
only together ("animals in watercolour"), which no linear head holds. Populations are drawn from a
seed and frozen; no constant here was chosen by how well a model does on it.

    value of a picture   taste · x + Σ_cl together[c, l] x_c x_l + faithfulness · asked(p_0) · x
    value of a column    the mean of its two best pictures
    choice               softmax(steadiness · values), "none of these" being worth `NONE`
    judgement            better where value + noise exceeds the last pick's by `indifference`, worse
                         where it falls short by as much, else same; noise logistic, / steadiness

x `[88]` holds the probabilities that the eye gives the values of subject, colour, style, background
and count.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import logit

from pasta_lib.seeds import gumbels, uniforms
from pasta_lib.world.bank import Bank
from pasta_lib.world.eye import Reading
from pasta_lib.world.scenes import ATTRIBUTES, IDEA, STYLE_NAMES, SUBJECT, VALUES, idea_weights
from pasta_lib.world.vocabulary import CATEGORIES, STYLES_WITHOUT_COLOUR, SUBJECTS

N_TYPES = 8
BEST = 2  # pictures of a column that count
# Medians and spreads of the logarithm, over people.
FAITHFULNESS, FAITHFULNESS_SPREAD = 1.0, 0.4
INDIFFERENCE, INDIFFERENCE_SPREAD = 0.3, 0.3
STEADINESS_SPREAD = 0.3
STEADINESS = 2.3  # set once, so that who knows a person's taste predicts .70 of their picks
NONE = 0.6  # what "none of these" is worth
LIKED = {"subject": 1.5, "colour": 0.5, "style": 1.0, "background": 0.7, "count": 0.4}
DISLIKED = -2 / 3  # times as much as what is liked
DEVIATION = 0.5  # a person's spread around the type, in units of the spread between types

_WIDTHS = [len(values) for _, values in VALUES.values()]
_ENDS = np.cumsum(_WIDTHS)
PART = {a: slice(e - w, e) for a, e, w in zip(ATTRIBUTES, _ENDS, _WIDTHS, strict=True)}  # of x
WIDTH = int(_ENDS[-1])
# A taste is about categories of subjects, not about each subject: [88] from [32].
CATEGORY_OF = np.array([CATEGORIES.index(s.category) for s in SUBJECTS.values()])
_N_CATEGORIES = len(CATEGORIES)
_SPREAD_OUT = np.concatenate([CATEGORY_OF, np.arange(_N_CATEGORIES, _N_CATEGORIES + WIDTH - 64)])


@dataclass(frozen=True)
class Population:
    """U people. The truth about them: only evaluation may read it.

    `type` int `[U]`; `taste` `[U, 32]`, for 8 categories of subjects, 6 colours, 6 styles, 8
    backgrounds, 4 numbers; `together` `[U, 8, 14]`, what category pleases in what
    style (first six) or on what background; `faithfulness`, `steadiness`, `indifference` `[U]`.
    """

    type: np.ndarray
    taste: np.ndarray
    together: np.ndarray
    faithfulness: np.ndarray
    steadiness: np.ndarray
    indifference: np.ndarray

    def __len__(self) -> int:
        return len(self.type)


@dataclass(frozen=True)
class Law:
    """What a population is drawn from: `share` `[8]`, `taste` `[8, 32]`, `deviation` `[32]` and
    `together` `[8, 8, 14]`. The first eight of the 32 are categories of subjects."""

    share: np.ndarray
    taste: np.ndarray
    deviation: np.ndarray
    together: np.ndarray


def draw_law(seed: int) -> Law:
    """The types of a population.

    Each likes one category of subjects (but for the last, of its own), some of them a second one;
    one or two styles, two backgrounds, a colour and a number; and dislikes one of each. Four pairs
    of a category and a style or background please or displease each type beyond that. The last two
    types differ in style alone.
    """
    rng = np.random.default_rng([seed, 1])
    first = rng.permutation(_N_CATEGORIES)
    taste, together = np.zeros((N_TYPES, 32)), np.zeros((N_TYPES, _N_CATEGORIES, 14))
    starts = dict(zip(ATTRIBUTES, (0, 8, 14, 20, 28), strict=True))
    for k in range(N_TYPES):
        for attribute, liked in LIKED.items():
            n = _N_CATEGORIES if attribute == "subject" else len(VALUES[attribute][1])
            order = rng.permutation(n)
            if attribute == "subject":
                order = np.concatenate([first[[k]], order[order != first[k]]])
            often = {"subject": 1 + k % 2, "style": 1 + k // 2 % 2, "background": 2}.get(
                attribute, 1
            )
            here = taste[k, starts[attribute] : starts[attribute] + n]
            here[order[:often]], here[order[-1]] = liked, DISLIKED * liked
        pairs = rng.permutation(together[k].size)[:4]
        together[k].ravel()[pairs] = rng.choice([-1.0, 1.0], 4)
    style = slice(starts["style"], starts["background"])
    other = np.roll(taste[-2, style], 1 + rng.integers(5))
    taste[-1], together[-1] = taste[-2], together[-2]
    taste[-1, style] = other
    share = rng.dirichlet(np.full(N_TYPES, 20.0))
    spread = np.concatenate(
        [
            np.full(e - s, taste[:, s:e].std(0).mean())
            for s, e in zip(starts.values(), (8, 14, 20, 28, 32), strict=True)
        ]
    )
    return Law(share, taste, DEVIATION * spread, together)


def draw_population(law: Law, n: int, seed: int) -> Population:
    """`n` people. Faithfulness, steadiness and indifference are log-normal. All are drawn at once:
    what the first are like depends on `n`."""
    rng = np.random.default_rng([seed, 2])
    member = rng.choice(N_TYPES, n, p=law.share)
    taste = law.taste[member] + law.deviation * rng.standard_normal((n, len(law.deviation)))
    faithfulness = FAITHFULNESS * np.exp(FAITHFULNESS_SPREAD * rng.standard_normal(n))
    steadiness = STEADINESS * np.exp(STEADINESS_SPREAD * rng.standard_normal(n))
    indifference = INDIFFERENCE * np.exp(INDIFFERENCE_SPREAD * rng.standard_normal(n))
    return Population(member, taste, law.together[member], faithfulness, steadiness, indifference)


def perceived(source: Bank | Reading) -> np.ndarray:
    """What the eye sees, x: float32 `[members, 4, 88]` of a bank, `[B, 88]` of a reading.

    A colour counts as far as the style lets it be seen.
    """
    if isinstance(source, Bank):
        parts = {a: source.probability(a) for a in ATTRIBUTES if a != "subject"}
        parts["subject"] = source.subject
    else:
        parts = {a: getattr(source, a).numpy() for a in ATTRIBUTES}
    hiding = [STYLE_NAMES.index(style) for style in STYLES_WITHOUT_COLOUR]
    shows = 1 - parts["style"][..., hiding].sum(-1, keepdims=True)
    parts["colour"] = parts["colour"] * shows
    return np.concatenate([parts[a] for a in ATTRIBUTES], -1).astype(np.float32)


def asked(scenes: np.ndarray) -> np.ndarray:
    """How much a picture's x meets what was asked for: weights `[B, 88]` of scenes int `[B, 7]`.

    Half goes to the subject (of an idea: to all that it stands for), half is shared by whatever
    else is said; a natural colour and the number one go without saying. In full: 1.
    """
    weights = np.zeros((len(scenes), WIDTH), np.float32)
    idea = scenes[:, IDEA] >= 0
    stands_for = idea_weights()[SUBJECT] > 0
    weights[idea, PART["subject"]] = stands_for[scenes[idea, IDEA]]
    rows = np.flatnonzero(~idea)
    weights[rows, scenes[rows, SUBJECT]] = 1
    said = {}
    for attribute in ATTRIBUTES[1:]:
        codes = scenes[:, VALUES[attribute][0]] - (attribute == "count")
        said[attribute] = codes >= (attribute in ("colour", "count"))
    n_said = np.sum(list(said.values()), 0)
    weights[n_said > 0] /= 2
    for attribute, here in said.items():
        rows = np.flatnonzero(here)
        codes = scenes[rows, VALUES[attribute][0]] - (attribute == "count")
        weights[rows, PART[attribute].start + codes] = 0.5 / n_said[rows]
    return weights


def picture_values(
    people: Population, who: np.ndarray, x: np.ndarray, initial: np.ndarray
) -> np.ndarray:
    """v of pictures, `[B, ...]`, to persons `who` `[B]`, from x `[B, ..., 88]`; `initial` `[B, 7]`:
    the scenes that were asked for."""
    linear = each_subject(people.taste[who]) + people.faithfulness[who, None] * asked(initial)
    flat = x.reshape(len(x), -1, WIDTH)
    category, setting = category_and_setting(flat)
    both = np.einsum("bnc,bcl,bnl->bn", category, people.together[who], setting, optimize=True)
    return (np.einsum("bnd,bd->bn", flat, linear) + both).reshape(x.shape[:-1])


def category_and_setting(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What interacts: of x `[..., 88]` the categories of subjects `[..., 8]`, and the styles and
    backgrounds `[..., 14]`."""
    category = x[..., PART["subject"]] @ np.eye(_N_CATEGORIES, dtype=np.float32)[CATEGORY_OF]
    return category, np.concatenate([x[..., PART["style"]], x[..., PART["background"]]], -1)


def each_subject(taste: np.ndarray) -> np.ndarray:
    """Tastes for 8 categories of subjects and the rest, `[B, 32]`, as ones for x, `[B, 88]`."""
    return taste[:, _SPREAD_OUT]


def column_values(picture_values: np.ndarray, best: int = BEST) -> np.ndarray:
    """`[..., L, M]` → `[..., L]`: the mean of each column's `best` best pictures."""
    return np.sort(picture_values, -1)[..., -best:].mean(-1)


def choose(
    people: Population, who: np.ndarray, values: np.ndarray, seed: int, keys: list[np.ndarray]
) -> np.ndarray:
    """The column each person picks, int `[B]`; -1: none of these. `values` `[B, L]`, `keys` name
    the occasion (see `seeds`)."""
    worth = np.concatenate([values, np.full((len(values), 1), NONE)], 1)
    noisy = people.steadiness[who, None] * worth + gumbels(seed, "choice", keys, worth.shape[1])
    picked = noisy.argmax(1)
    return np.where(picked == values.shape[1], -1, picked)


def judge(
    people: Population,
    who: np.ndarray,
    value: np.ndarray,
    last: np.ndarray,
    seed: int,
    keys: list[np.ndarray],
) -> np.ndarray:
    """1 better, 0 same, -1 worse, int `[B]`: the picked column's `value` against that of the
    `last` pick."""
    noise = logit(uniforms(seed, "judgement", keys, 1)[:, 0]) / people.steadiness[who]
    gap = value - last + noise
    return np.sign(gap).astype(int) * (np.abs(gap) > people.indifference[who])
