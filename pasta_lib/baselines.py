"""The two agents that learn from nobody.

`untrained` is the baseline of every comparison: what a candidate generator alone would show.
`alike` reads the session's own history, as an attentive stranger would.
"""

import numpy as np

from pasta_lib.candidates import CATEGORIES, EACH, Candidates
from pasta_lib.seeds import uniforms
from pasta_lib.sessions import NONE, SLATE, Agent, Sessions


def untrained(seed: int) -> Agent:
    """One random candidate from each of four random categories."""

    def agent(sessions: Sessions, candidates: Candidates) -> np.ndarray:
        chance = uniforms(seed, "untrained", sessions.occasion, 2 * len(CATEGORIES))
        category = np.argsort(chance[:, : len(CATEGORIES)], 1)[:, :SLATE]
        one = (chance[:, -SLATE:] * EACH).astype(np.int64)
        return category * EACH + one

    return agent


def alike(text_embeddings: np.ndarray, seed: int) -> Agent:
    """The best candidate of each category, and of these the best four: those whose text is like the
    picks so far and unlike what was passed over (difference of mean cosines; ours).

    `text_embeddings`: unit vectors `[9016, 6, D]` of `wordings()`. Before the first pick, when all
    are alike, as `untrained`.
    """

    def agent(sessions: Sessions, candidates: Candidates) -> np.ndarray:
        picked = np.arange(SLATE) == sessions.chosen[..., None]  # [S, T, 4]
        passed = ~picked & (sessions.chosen != NONE)[..., None]
        sides = (p / np.maximum(p.sum((1, 2), keepdims=True), 1) for p in (picked, passed))
        for_, against = sides
        past = text_embeddings[sessions.member, sessions.wording]
        direction = np.einsum("stl,stld->sd", for_ - against, past)
        text = text_embeddings[candidates.member, candidates.wording]
        score = np.einsum("scd,sd->sc", text, direction)
        score += 1e-6 * uniforms(seed, "alike", sessions.occasion, score.shape[1])
        return best_slate(score)

    return agent


def best_slate(score: np.ndarray) -> np.ndarray:
    """Positions `[S, 4]` of the slate with the largest sum of scores `[S, 25]`, at most one
    candidate of a category: the best of each category, of these the best four."""
    by_category = score.reshape(len(score), len(CATEGORIES), EACH)
    best = np.argsort(-by_category.max(2), 1, kind="stable")[:, :SLATE]
    return best * EACH + np.take_along_axis(by_category.argmax(2), best, 1)
