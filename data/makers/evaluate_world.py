"""Measure every part of the miniature world, on scenes it was not trained on.

    python data/makers/evaluate_world.py                   # every section
    python data/makers/evaluate_world.py --sections eye,clip

Each section is written to data/world/evaluation.json as it ends: every estimate as {"value", "se",
"n"}, and "models", which says what was measured. A section measured on other weights than those
now there is dropped. Notebook 00 shows them. The eye, its calibration, CLIP and half of fidelity
are measured on combinations that no training showed; the other half, steps, the Fréchet distance,
diversity and the scheduler on combinations that it did. Most of the time goes into drawing: some
31,000 pictures in the fast setting and 1,000 in 50 steps.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from common import batches, configure, to_pictures, to_pixels
from diffusers import DDIMScheduler
from make_eye import wear

from pasta_lib.encoders import ClipEncoder
from pasta_lib.generator import GeneratorConfig, generate, load_pipeline
from pasta_lib.world import captions
from pasta_lib.world.autoencoder import PatchAutoencoder
from pasta_lib.world.bank import BANK_FILE, load_bank
from pasta_lib.world.eye import EYE_FILE, Eye, Reading, load_eye, right
from pasta_lib.world.reachable import reachable
from pasta_lib.world.renderer import render_seeded
from pasta_lib.world.scenes import (
    ATTRIBUTES,
    COLOUR,
    COUNT,
    IDEA,
    IDEA_NAMES,
    STYLE,
    SUBJECT,
    SUBJECT_NAMES,
    VALUES,
    Scene,
    from_array,
    idea_weights,
    own_colours,
    resolve,
    sample_scenes,
    shows_colour,
    to_array,
)
from pasta_lib.world.scheduler import LAST_NOISE, QuietDDIMScheduler
from pasta_lib.world.vocabulary import STYLES, SUBJECTS
from pasta_lib.world.weights import MEASURED, WORLD_DIR, read_manifest, require, write_atomically

CONTROL = 10**7  # seeds of the evaluation start here; no maker uses them
_DRAWING = ("text_to_image/", "steps", "guidance", "last_noise")
_CLIP, _SPRITES = "clip/", "sprites.png"
NEEDS = {  # section → what of `models` it depends on, as beginnings of keys
    "eye": (EYE_FILE, _SPRITES),
    "calibration": (EYE_FILE, _SPRITES, "text_to_image/vae/"),
    "clip": (_CLIP, _SPRITES),
    "fidelity": (*_DRAWING, EYE_FILE),
    "steps": (*_DRAWING, EYE_FILE),
    "frechet": (*_DRAWING, EYE_FILE, _SPRITES),
    "diversity": (*_DRAWING, _CLIP, _SPRITES),
    "scheduler": (*_DRAWING, _CLIP, EYE_FILE, _SPRITES),
    "speed": (*_DRAWING, _SPRITES),
    "bank": (BANK_FILE,),
    "open": (BANK_FILE,),
    "audit": (*_DRAWING, EYE_FILE),  # measured by make_audit.py
}


@dataclass(frozen=True)
class EvaluationConfig:
    """How much is measured."""

    sections: str = (
        "eye,calibration,clip,fidelity,steps,frechet,diversity,scheduler,speed,bank,open"
    )
    renders: int = 4000  # held-out renders for the eye, and for its calibration
    zero_shot: int = 1000  # held-out renders for CLIP, each against 88 captions
    seen: int = 2000  # generated pictures of seen combinations
    unseen: int = 1000  # and of unseen ones
    steps: int = 1000  # pictures drawn with the fast and with the 50-step setting
    frechet: int = 5000  # pictures on each side of a Fréchet distance
    diversity: int = 5000  # captions, four pictures each; 1,000 leave an error of .02 in the ratio
    scheduler: int = 250  # captions, four pictures each by either scheduler
    threads: int = 1  # CPU threads (the speed section uses two)


def main() -> None:
    config = configure(EvaluationConfig(), __doc__)
    sections = config.sections.split(",")
    measures = {section: globals()[f"evaluate_{section}"] for section in sections}
    for section, measure in measures.items():
        if NEEDS[section] == (BANK_FILE,) and BANK_FILE not in read_manifest():
            print(f"{section}: skipped, data/makers/make_bank.py has not built it yet")
            continue
        torch.set_num_threads(config.threads)
        started, now = time.monotonic(), models()
        result = measure(config)
        if section in outdated([section], now, models()):
            raise RuntimeError(f"{section}: the weights changed while measured; run it again")
        record(section, result, now)
        print(section, f"{time.monotonic() - started:.0f} s", json.dumps(result), flush=True)


# --- what was measured, and on what -----------------------------------------------------------


def models(world_dir: Path = WORLD_DIR) -> dict[str, str | float]:
    """What there is to measure: the digest of every file, and how pictures are drawn."""
    drawing = GeneratorConfig()
    return read_manifest(world_dir) | {
        "steps": drawing.steps, "guidance": drawing.guidance, "last_noise": LAST_NOISE,
    }  # fmt: skip


def needed(section: str, now: dict) -> dict:
    """The part of `models()` that a section depends on."""
    return {k: v for k, v in now.items() if k.startswith(NEEDS[section])}


def outdated(sections: list[str], before: dict, now: dict) -> list[str]:
    """Those sections that what changed between two `models()` may have changed."""
    return [s for s in sections if needed(s, before) != needed(s, now)]


def record(section: str, result: dict, now: dict, world_dir: Path = WORLD_DIR) -> None:
    """Write one section, measured on `now`; drop those that were measured on something else."""
    path = world_dir / MEASURED
    known = json.loads(path.read_text()) if path.exists() else {"models": now}
    others = [name for name in known if name not in ("models", section)]
    for name in outdated(others, known["models"], now):
        print(f"{name}: dropped, it was measured on other weights; run it again")
        del known[name]
    known |= {section: result, "models": now}
    write_atomically(path, json.dumps(known, indent=1).encode() + b"\n")


# --- estimates --------------------------------------------------------------------------------


def share(hits: np.ndarray) -> dict:
    """A proportion with its standard error.

    The error is that of (k + 1/2) / (n + 1), so that it is not zero where all or none are hits.
    """
    k, n = int(np.sum(hits)), len(hits)
    p = (k + 0.5) / (n + 1)
    return {"value": round(k / n, 5), "se": round((p * (1 - p) / n) ** 0.5, 5), "n": n}


def mean(values: np.ndarray) -> dict:
    """A mean with its standard error."""
    n = len(values)
    se = values.std(ddof=1) / n**0.5
    return {"value": round(float(values.mean()), 5), "se": round(float(se), 5), "n": n}


def jackknife(statistic: Callable, *samples: np.ndarray, blocks: int = 20) -> dict:
    """A statistic of one or more samples, with the standard error of a block jackknife.

    The statistic is taken again without the b-th of `blocks` blocks of every sample, for each b;
    paired samples of one length lose the same rows. `n` is the size of the smallest sample.
    """
    cuts = [np.array_split(np.arange(len(s)), blocks) for s in samples]
    without = [
        statistic(*(np.delete(s, cut[b], 0) for s, cut in zip(samples, cuts, strict=True)))
        for b in range(blocks)
    ]
    se = ((blocks - 1) * np.var(without)) ** 0.5
    return {
        "value": round(float(statistic(*samples)), 5),
        "se": round(float(se), 5),
        "n": min(map(len, samples)),
    }


# --- pictures ---------------------------------------------------------------------------------


def renders(scenes: np.ndarray, seed: int) -> np.ndarray:
    """Fresh renders of many scenes, uint8 `[N, 64, 64, 3]`."""
    rows = batches(len(scenes), 250)
    return np.concatenate([to_pictures(render_seeded(scenes[r], seed + r.start)) for r in rows])


def worded(scenes: np.ndarray, seed: int) -> list[str]:
    """Captions of scenes `[N, 7]` in varied wordings."""
    rng = np.random.default_rng(seed)
    return [captions.write(scene, rng) for scene in from_array(scenes)]


def drawn(prompts: list[str], drawing: GeneratorConfig, seed: int) -> np.ndarray:
    """Generated pictures, uint8 `[N, 64, 64, 3]`, of seeds from `seed` on."""
    return generate(load_pipeline(drawing), prompts, range(seed, seed + len(prompts)), drawing)


# --- the eye ----------------------------------------------------------------------------------


def evaluate_eye(config: EvaluationConfig) -> dict:
    """Accuracy by attribute on renders of held-out combinations."""
    scenes = sample_scenes(config.renders, np.random.default_rng(CONTROL), held_out=True)
    hits = right(load_eye().read(renders(scenes, CONTROL)).labels(), scenes)
    return {attribute: share(h) for attribute, h in hits.items()}


def evaluate_calibration(config: EvaluationConfig) -> dict:
    """Expected calibration error by attribute, on renders of held-out combinations, and on the
    same worn as generation wears pictures."""
    scenes = sample_scenes(config.renders, np.random.default_rng(CONTROL), held_out=True)
    clean = renders(scenes, CONTROL)
    vae = PatchAutoencoder.from_pretrained(require("text_to_image/vae"), dtype=torch.float32)
    generator = torch.Generator().manual_seed(CONTROL)
    worn = torch.cat([wear(part, vae, generator) for part in to_pixels(clean).split(250)])
    eye = load_eye()
    return {
        "clean": calibration(eye.read(clean), scenes),
        "worn": calibration(eye.read(to_pictures(worn)), scenes),
    }


def calibration(reading: Reading, scenes: np.ndarray) -> dict:
    """Expected calibration error by attribute; of colour, where the style shows it."""
    hits = right(reading.labels(), scenes)
    shown = shows_colour(scenes)
    out = {}
    for attribute in ATTRIBUTES:
        confidence = getattr(reading, attribute).max(1).values.numpy()
        confidence = confidence[shown] if attribute == "colour" else confidence
        out[attribute] = jackknife(calibration_error, confidence, hits[attribute])
    return out


def calibration_error(confidence: np.ndarray, hits: np.ndarray, bins: int = 10) -> float:
    """Mean gap between confidence and accuracy over equal bins of confidence, by their size."""
    bin_ = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = np.bincount(bin_, weights=hits - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(hits))


# --- CLIP -------------------------------------------------------------------------------------


def evaluate_clip(config: EvaluationConfig) -> dict:
    """Zero-shot accuracy by attribute, among captions that differ in that attribute alone: whole
    ones, and "short" ones that say the subject and this attribute and no more; the subject, by its
    bare name, also of pictures of which a bare name says no wrong (one, in its own colour). Then
    retrieval in batches of 64. All that on renders of held-out combinations; ideas' bare names on
    renders of what they stand for."""
    encoder = ClipEncoder()
    rng = np.random.default_rng(CONTROL + 1)
    scenes = sample_scenes(config.zero_shot, rng, held_out=True, second=0)
    image = encoder.encode_images(renders(scenes, CONTROL + 1))
    out = {a: share(h) for a, h in zero_shot(image, scenes, encoder.encode_texts).items()}
    out |= _retrieval(encoder, rng)

    hits = zero_shot(image, scenes, encoder.encode_texts, short=True)
    out |= {f"{attribute}, short": share(h) for attribute, h in hits.items()}
    many = sample_scenes(10 * config.zero_shot, rng, held_out=True, second=0)
    plain = many[(many[:, COLOUR] == 0) & (many[:, COUNT] == 1)][: config.zero_shot]
    image = encoder.encode_images(renders(plain, CONTROL + 40))
    hits = zero_shot(image, plain, encoder.encode_texts, short=True)
    out["subject, short, of one in its own colour"] = share(hits["subject"])
    return out | _ideas_named(encoder, rng)


def zero_shot(
    image: np.ndarray, scenes: np.ndarray, encode_texts: Callable, short: bool = False
) -> dict:
    """Whether the right value's caption lies nearest, bool `[N]` by attribute.

    `image`: embeddings `[N, D]` of pictures of `scenes` `[N, 7]`, none with a second subject.
    `short`: captions say the subject and the attribute alone, whatever else pictures show.
    """
    out = {}
    for attribute, (column, values) in VALUES.items():
        said = scenes.copy()
        if short:
            said[:] = to_array([Scene(SUBJECT_NAMES[0])])
            said[:, SUBJECT] = scenes[:, SUBJECT]
        options = np.repeat(said[:, None], len(values), 1)
        options[..., column] = np.arange(len(values)) + (column == COUNT)
        texts = [captions.write(s) for s in from_array(options.reshape(-1, 7))]
        text = encode_texts(texts).reshape(len(scenes), len(values), -1)
        score = np.einsum("nd,nvd->nv", image, text)
        if column == COLOUR:  # a subject's own colour means "natural": no alternative to it
            own = own_colours()[scenes[:, SUBJECT], None] == np.arange(len(values))
            score[own] = -np.inf
        labels = scenes.copy()
        labels[:, column] = score.argmax(1) + (column == COUNT)
        out[attribute] = right(labels, scenes)[attribute]
    return out


def _retrieval(encoder: ClipEncoder, rng: np.random.Generator, n: int = 30) -> dict:
    to_text, to_image = [], []
    for batch in range(n):
        scenes = np.unique(sample_scenes(80, rng, held_out=True), axis=0)
        scenes = rng.permutation(scenes)[:64]
        image = encoder.encode_images(renders(scenes, CONTROL + 2 + batch))
        text = encoder.encode_texts([captions.write(s, rng) for s in from_array(scenes)])
        similarity = image @ text.T
        to_text.append(similarity.argmax(1) == np.arange(64))
        to_image.append(similarity.argmax(0) == np.arange(64))
    return {
        "image_to_text": share(np.concatenate(to_text)),
        "text_to_image": share(np.concatenate(to_image)),
    }


def _ideas_named(encoder: ClipEncoder, rng: np.random.Generator, each: int = 40) -> dict:
    """Whether an idea's bare name lies nearest of all to renders of what it stands for; and what
    could be told who sees without fault and knows by what weights ideas choose scenes."""
    idea = np.repeat(np.arange(len(IDEA_NAMES)), each)
    asked = to_array([Scene.of_idea(IDEA_NAMES[i]) for i in idea])
    scenes = resolve(asked, rng, training=True)
    image = encoder.encode_images(renders(scenes, CONTROL + 50))
    nearest = (image @ encoder.encode_texts(list(IDEA_NAMES)).T).argmax(1)
    weights = {c: w[:-1] / w[:-1].sum(1, keepdims=True) for c, w in idea_weights().items()}
    chance = np.prod(
        [w[:, scenes[:, column] - (column == COUNT)] for column, w in weights.items()], 0
    )
    return {
        "idea, short": share(nearest == idea),
        "idea, best possible": share(chance.argmax(0) == idea),
    }


# --- text to image ----------------------------------------------------------------------------


def evaluate_fidelity(config: EvaluationConfig) -> dict:
    """What the eye reads in generated pictures, of combinations seen and unseen in training."""
    out = {}
    for name, n, held_out in (("seen", config.seen, False), ("unseen", config.unseen, True)):
        scenes = sample_scenes(n, np.random.default_rng(CONTROL + 3), held_out=held_out)
        pictures = drawn(worded(scenes, CONTROL), GeneratorConfig(), CONTROL)
        hits = right(load_eye().read(pictures).labels(), scenes)
        out[name] = {attribute: share(h) for attribute, h in hits.items()}
    return out


def evaluate_steps(config: EvaluationConfig) -> dict:
    """Accuracy of the fast setting beside 50 steps, the same prompts and seeds; the difference
    (fast - 50 steps) is that of pairs."""
    scenes = sample_scenes(config.steps, np.random.default_rng(CONTROL + 4))
    prompts = worded(scenes, 2 * CONTROL)

    def hits(drawing: GeneratorConfig) -> dict[str, np.ndarray]:
        found = right(load_eye().read(drawn(prompts, drawing, 2 * CONTROL)).labels(), scenes)
        return {attribute: found[attribute].astype(float) for attribute in ATTRIBUTES}

    fast, slow = hits(GeneratorConfig()), hits(replace(GeneratorConfig(), steps=50))
    return {
        "fast": {a: share(fast[a]) for a in ATTRIBUTES},
        "50": {a: share(slow[a]) for a in ATTRIBUTES},
        "difference": {a: mean(fast[a] - slow[a]) for a in ATTRIBUTES},
    }


def evaluate_frechet(config: EvaluationConfig) -> dict:
    """Fréchet distances in the eye's features: to renders of the same law, from generated pictures,
    reconstructed renders, other renders; and between renders of two disjoint halves of the styles.

    Each side has `config.frechet` pictures, the halves about as many: the distance of finite
    samples is too large by an amount that depends on their size.
    """
    eye, n = load_eye(), config.frechet
    scenes = [sample_scenes(n, np.random.default_rng(CONTROL + 5 + i)) for i in range(2)]
    first, second = (renders(s, CONTROL * (5 + i)) for i, s in enumerate(scenes))
    again = reconstructed(second)
    generated = drawn(worded(scenes[1], 3 * CONTROL), GeneratorConfig(), 3 * CONTROL)
    reference, other = features(eye, first), features(eye, second)
    both = np.concatenate([reference, other])
    half = np.concatenate(scenes)[:, STYLE] < len(STYLES) // 2
    return {
        "renders": jackknife(frechet, reference, other),
        "reconstructed": jackknife(frechet, reference, features(eye, again)),
        "generated": jackknife(frechet, reference, features(eye, generated)),
        "halves_of_styles": jackknife(frechet, both[half], both[~half]),
        "renders_subject": share(right(eye.read(second).labels(), scenes[1])["subject"]),
        "reconstructed_subject": share(right(eye.read(again).labels(), scenes[1])["subject"]),
    }


@torch.no_grad()
def reconstructed(pictures: np.ndarray) -> np.ndarray:
    """Pictures compressed to the autoencoder's latents and back, uint8 `[N, 64, 64, 3]`."""
    vae = PatchAutoencoder.from_pretrained(require("text_to_image/vae"), dtype=torch.float32)
    parts = []
    for rows in batches(len(pictures), 250):
        latents = vae.encode(to_pixels(pictures[rows]) * 2 - 1).latent_dist.sample()
        parts.append(to_pictures(vae.decode(latents).sample / 2 + 0.5))
    return np.concatenate(parts)


@torch.no_grad()
def features(eye: Eye, pictures: np.ndarray) -> np.ndarray:
    """The eye's features, float `[N, 352]`."""
    rows = batches(len(pictures), 250)
    return torch.cat([eye.features(to_pixels(pictures[r])) for r in rows]).numpy()


def frechet(a: np.ndarray, b: np.ndarray) -> float:
    """Squared Fréchet distance between Gaussians fitted to features `[n, D]` and `[m, D]`:
    |mean_a - mean_b|² + tr(A + B - 2 (A^½ B A^½)^½) (Dowson and Landau 1982)."""
    ca, cb = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    values, vectors = np.linalg.eigh(ca)
    root = vectors * np.sqrt(values.clip(0)) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ cb @ root).clip(0)).sum()
    return float(np.square(a.mean(0) - b.mean(0)).sum() + np.trace(ca + cb) - 2 * cross)


def evaluate_diversity(config: EvaluationConfig) -> dict:
    """Mean CLIP distance among four pictures of one caption: generated from four seeds, and
    rendered four times; and the ratio of the two, paired over captions.

    Once by cosine distance, which the bar is held to, and once by the Euclidean distance of the
    unit vectors: the first is half the square of the second; by cosine distance, the ratio of each
    style as well.
    """
    scenes = sample_scenes(config.diversity, np.random.default_rng(CONTROL + 6))
    prompts = np.repeat(worded(scenes, 4 * CONTROL), 4).tolist()
    encoder = ClipEncoder()
    generated, rendered = (
        within_captions(encoder, pictures)
        for pictures in (
            drawn(prompts, GeneratorConfig(), 4 * CONTROL),
            renders(np.repeat(scenes, 4, 0), 4 * CONTROL),
        )
    )
    g, r = (pairs.mean(1) for pairs in (generated, rendered))  # by caption
    euclidean = (np.sqrt(2 * pairs).mean(1) for pairs in (generated, rendered))
    result = {}
    for suffix, (above, below) in (("", (g, r)), (", Euclidean", euclidean)):
        result |= {
            f"generated{suffix}": mean(above),
            f"renders{suffix}": mean(below),
            f"ratio{suffix}": jackknife(ratio_of_means, above, below),
        }
    for style, name in enumerate(STYLES):
        mask = scenes[:, STYLE] == style
        result[f"ratio, {name}"] = jackknife(ratio_of_means, g[mask], r[mask])
    return result


def evaluate_scheduler(config: EvaluationConfig) -> dict:
    """What less noise before the last step changes: the same captions and seeds, four pictures
    each, by plain DDIM and by the pipeline's scheduler; by each the ratio of `evaluate_diversity`
    and what the eye reads, and the differences, of pairs."""
    scenes = sample_scenes(config.scheduler, np.random.default_rng(CONTROL + 9))
    four, seed = np.repeat(scenes, 4, 0), 8 * CONTROL
    prompts = np.repeat(worded(scenes, seed), 4).tolist()
    encoder, eye, pipeline = ClipEncoder(), load_eye(), load_pipeline(GeneratorConfig())
    rendered = within_captions(encoder, renders(four, seed)).mean(1)
    distances, hits, out = {}, {}, {}
    for name, kind in (("DDIM", DDIMScheduler), ("ours", QuietDDIMScheduler)):
        pipeline.scheduler = kind.from_config(pipeline.scheduler.config)
        pictures = generate(pipeline, prompts, range(seed, seed + len(prompts)))
        distances[name] = within_captions(encoder, pictures).mean(1)
        found = right(eye.read(pictures).labels(), four)
        hits[name] = {a: found[a].reshape(-1, 4).mean(1) for a in ATTRIBUTES}
        out[name] = {"ratio": jackknife(ratio_of_means, distances[name], rendered)}
        out[name] |= {a: mean(hits[name][a]) for a in ATTRIBUTES}
    less = distances["ours"] - distances["DDIM"]
    out["difference"] = {"ratio": jackknife(ratio_of_means, less, rendered)}
    out["difference"] |= {a: mean(hits["ours"][a] - hits["DDIM"][a]) for a in ATTRIBUTES}
    return out


def within_captions(encoder: ClipEncoder, pictures: np.ndarray) -> np.ndarray:
    """Cosine distances among each caption's four pictures, `[4 N, H, W, 3]` → `[N, 6]`."""
    vectors = encoder.encode_images(pictures)
    return pairwise_distances(vectors.reshape(len(pictures) // 4, 4, -1))


def ratio_of_means(above: np.ndarray, below: np.ndarray) -> float:
    return above.mean() / below.mean()


def pairwise_distances(vectors: np.ndarray) -> np.ndarray:
    """Cosine distances within each row of unit vectors: `[N, M, D]` → `[N, M(M-1)/2]`, 0..2."""
    cosine = np.einsum("nid,njd->nij", vectors, vectors)
    return (1 - cosine[:, *np.triu_indices(vectors.shape[1], 1)]).clip(0)


def evaluate_speed(config: EvaluationConfig) -> dict:
    """Seconds for 16 pictures on two threads, and renders a second on one: each the best of five
    runs after one that does not count, since other work on the machine only slows."""
    scenes = sample_scenes(512, np.random.default_rng(CONTROL + 7))
    drawing, prompts = GeneratorConfig(), worded(scenes[:16], CONTROL)
    pipeline = load_pipeline(drawing)
    torch.set_num_threads(2)
    draw = best_seconds(lambda: generate(pipeline, prompts, range(16), drawing, progress=False))
    torch.set_num_threads(1)
    per_second = len(scenes) / best_seconds(lambda: render_seeded(scenes, 0))
    return {"sixteen_pictures_seconds": round(draw, 2), "renders_a_second": round(per_second)}


def best_seconds(run: Callable, times: int = 5) -> float:
    """Least seconds of several runs, after one that does not count."""
    run()
    seconds = []
    for _ in range(times):
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


# --- the bank ---------------------------------------------------------------------------------


def evaluate_bank(config: EvaluationConfig) -> dict:
    """How often the bank's pictures show what their prompts say, by the parts of `reachable()`."""
    return bank_fidelity(reachable(), load_bank().records)


def bank_fidelity(members: np.ndarray, records: np.ndarray) -> dict:
    """Shares of pictures read as their prompts say, by part and attribute.

    `members` int `[N, 7]`, `records` `[N, 4]` of `bank.RECORD`. What a prompt leaves open is not
    counted, nor colour where the style is open or hides it. An idea's subject is right if it is
    one of the idea's set. A member's four pictures are one observation, so n counts members.
    """
    seen = {a: records[a].argmax(-1) for a in ATTRIBUTES if a != "subject"}
    seen |= {"subject": records["subject"][..., 0], "count": seen["count"] + 1}
    asked = {a: members[:, column] >= 0 for a, (column, _) in VALUES.items()}
    asked["colour"] &= asked["style"] & shows_colour(members)
    hits = {a: seen[a] == members[:, column, None] for a, (column, _) in VALUES.items()}
    idea = members[:, IDEA] >= 0
    allowed = idea_weights()[SUBJECT] > 0
    hits["subject"][idea] = allowed[members[idea, IDEA, None], seen["subject"][idea]]
    asked["subject"] |= idea
    tinted, counted = members[:, COLOUR] > 0, members[:, COUNT] > 1
    parts = {
        "subjects": ~(idea | tinted | counted), "ideas": idea, "tinted": tinted, "counted": counted,
    }  # fmt: skip
    return {
        part: {
            a: mean(hits[a][rows & asked[a]].mean(1)) for a in ATTRIBUTES if (rows & asked[a]).any()
        }
        for part, rows in parts.items()
    }


def evaluate_open(config: EvaluationConfig) -> dict:
    """What the bank's pictures show where their prompts leave it open."""
    return open_choices(reachable(), load_bank().records, np.random.default_rng(CONTROL + 8))


def open_choices(members: np.ndarray, records: np.ndarray, rng: np.random.Generator) -> dict:
    """Shares of the styles where a prompt says none (training had about as many of each), and how
    far an idea's subjects are from those it stands for: total variation distance, 0 to 1, a mean
    over ideas; beside it, how far as many scenes drawn at random are.

    `members` int `[N, 7]`, `records` `[N, 4]` of `bank.RECORD`.
    """
    idea = members[:, IDEA] >= 0
    style = records["style"][~idea & (members[:, STYLE] < 0)].argmax(-1)
    seen = records["subject"][idea, :, 0]
    asked = np.repeat(members[idea], seen.shape[1], 0)

    def shares(asked: np.ndarray, subject: np.ndarray) -> np.ndarray:
        table = np.zeros((len(IDEA_NAMES), len(SUBJECTS)))
        np.add.at(table, (asked[:, IDEA], subject), 1)
        table = table[table.any(1)]
        return table / table.sum(1, keepdims=True)

    many = np.tile(asked, (20, 1))
    stands_for = shares(many, resolve(many, rng, training=True)[:, SUBJECT])
    at_random = shares(asked, resolve(asked, rng, training=True)[:, SUBJECT])
    distance = {
        name: mean(np.abs(found - stands_for).sum(1) / 2)
        for name, found in (("ideas", shares(asked, seen.ravel())), ("ideas_at_random", at_random))
    }
    return {"style": {n: mean((style == i).mean(1)) for i, n in enumerate(STYLES)}} | distance


if __name__ == "__main__":
    main()
