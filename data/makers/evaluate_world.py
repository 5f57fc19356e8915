"""Measure every part of the miniature world, on scenes and combinations it was not trained on.

    python data/makers/evaluate_world.py                   # every section
    python data/makers/evaluate_world.py --sections eye,clip

Each section is written to data/world/evaluation.json as it ends: every value with its standard
error and number. Notebook 00 shows them. The pictures take about a sixth of a second each on one
CPU core.
"""

import json
import time
from dataclasses import dataclass, replace

import numpy as np
import torch
from common import batches, configure
from scipy.linalg import sqrtm
from torch import Tensor

from pasta_lib.encoders import ClipEncoder
from pasta_lib.generator import GeneratorConfig, generate, load_pipeline
from pasta_lib.world import captions
from pasta_lib.world.eye import Eye, load_eye, right
from pasta_lib.world.renderer import render_seeded
from pasta_lib.world.scenes import (
    ATTRIBUTES,
    BACKGROUND,
    COLOUR,
    COUNT,
    SECOND,
    STYLE,
    SUBJECT,
    UNSAID,
    Scene,
    from_array,
    own_colours,
    sample_scenes,
)
from pasta_lib.world.vocabulary import BACKGROUNDS, COLOURS, COUNTS, STYLES, SUBJECTS
from pasta_lib.world.weights import MEASURED, WORLD_DIR, write_atomically

OUT = WORLD_DIR / MEASURED
CONTROL = 10**7  # seeds of the evaluation start here; no maker uses them


@dataclass(frozen=True)
class EvaluationConfig:
    """How much is measured."""

    sections: str = "eye,clip,fidelity,steps,frechet,diversity,speed"
    renders: int = 4000  # held-out renders for the eye
    zero_shot: int = 1000  # held-out renders for CLIP, each against 88 captions
    seen: int = 2000  # generated pictures of seen combinations
    unseen: int = 1000  # and of unseen ones
    steps: int = 500  # pictures drawn with the fast and with the 50-step setting
    frechet: int = 5000  # pictures on each side of a Fréchet distance
    diversity: int = 100  # captions, four pictures each
    threads: int = 1  # CPU threads (the speed section uses two)


def share(hits: np.ndarray) -> dict:
    """A proportion with its standard error."""
    p, n = float(np.mean(hits)), len(hits)
    return {"value": round(p, 5), "se": round((p * (1 - p) / n) ** 0.5, 5), "n": n}


def mean(values: np.ndarray) -> dict:
    """A mean with its standard error."""
    n = len(values)
    return {
        "value": round(float(values.mean()), 5),
        "se": round(float(values.std(ddof=1) / n**0.5), 5),
        "n": n,
    }


def to_pixels(pictures: np.ndarray) -> Tensor:
    """uint8 `[N, H, W, 3]` → float `[N, 3, H, W]` in 0..1."""
    return torch.from_numpy(pictures).movedim(-1, 1).float() / 255


def to_pictures(pixels: Tensor) -> np.ndarray:
    """The inverse of `to_pixels`, rounded."""
    return (pixels.clamp(0, 1) * 255).round().byte().movedim(1, -1).numpy()


def fresh_renders(scenes: np.ndarray, seed: int) -> Tensor:
    """Renders of many scenes, through 8 bits as a stored picture would be."""
    parts = [render_seeded(scenes[rows], seed + rows.start) for rows in batches(len(scenes), 250)]
    return to_pixels(to_pictures(torch.cat(parts)))


def evaluate_eye(config: EvaluationConfig) -> dict:
    """Accuracy by attribute, and calibration, on renders of held-out combinations."""
    scenes = sample_scenes(config.renders, np.random.default_rng(CONTROL), held_out=True)
    reading = load_eye().read(fresh_renders(scenes, CONTROL))
    hits = right(reading.labels(), scenes)
    confidence = reading.subject.max(1).values.numpy()
    return {name: share(h) for name, h in hits.items()} | {
        "subject_calibration_error": calibration_error(confidence, hits["subject"])
    }


def calibration_error(confidence: np.ndarray, hits: np.ndarray, bins: int = 10) -> float:
    """Expected calibration error: mean gap between confidence and accuracy over equal bins."""
    bin_ = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = [
        abs(hits[bin_ == b].mean() - confidence[bin_ == b].mean()) * (bin_ == b).mean()
        for b in range(bins)
        if (bin_ == b).any()
    ]
    return round(float(sum(gaps)), 5)


def evaluate_clip(config: EvaluationConfig) -> dict:
    """Zero-shot accuracy by attribute, among captions that differ in that attribute alone, and
    retrieval in batches of 64, on renders of held-out combinations."""
    encoder = ClipEncoder()
    rng = np.random.default_rng(CONTROL + 1)
    scenes = sample_scenes(config.zero_shot, rng, held_out=True)
    scenes[:, SECOND] = UNSAID
    image = encoder.encode_images(to_pictures(fresh_renders(scenes, CONTROL + 1)))
    tables = {
        "subject": (SUBJECT, SUBJECTS), "colour": (COLOUR, COLOURS), "style": (STYLE, STYLES),
        "background": (BACKGROUND, BACKGROUNDS), "count": (COUNT, COUNTS),
    }  # fmt: skip
    out = {}
    for name, (column, values) in tables.items():
        options = np.repeat(scenes[:, None], len(values), 1)
        options[..., column] = np.arange(len(values)) + (column == COUNT)
        texts = [captions.write(s) for s in from_array(options.reshape(-1, 7))]
        text = encoder.encode_texts(texts).reshape(len(scenes), len(values), -1)
        score = np.einsum("nd,nvd->nv", image, text)
        # A subject's own colour is the same caption as "natural": not an alternative.
        own = own_colours()[options[..., SUBJECT]] == options[..., COLOUR]
        labels = scenes.copy()
        labels[:, column] = np.where(own, -9, score).argmax(1) + (column == COUNT)
        out[name] = share(right(labels, scenes)[name])
    alone = encoder.encode_texts([captions.write(Scene(s)) for s in SUBJECTS])
    out["subject_named_alone"] = share((image @ alone.T).argmax(1) == scenes[:, SUBJECT])
    return out | _retrieval(encoder, rng)


def _retrieval(encoder: ClipEncoder, rng: np.random.Generator, n: int = 30) -> dict:
    to_text, to_image = [], []
    for batch in range(n):
        scenes = np.unique(sample_scenes(80, rng, held_out=True), axis=0)
        scenes = rng.permutation(scenes)[:64]
        image = encoder.encode_images(to_pictures(fresh_renders(scenes, CONTROL + 2 + batch)))
        text = encoder.encode_texts([captions.write(s, rng) for s in from_array(scenes)])
        similarity = image @ text.T
        to_text.append(similarity.argmax(1) == np.arange(64))
        to_image.append(similarity.argmax(0) == np.arange(64))
    return {
        "image_to_text": share(np.concatenate(to_text)),
        "text_to_image": share(np.concatenate(to_image)),
    }


def drawn(scenes: np.ndarray, drawing: GeneratorConfig, seed: int) -> np.ndarray:
    """Generated pictures of fully specified scenes, captions in varied wordings."""
    rng = np.random.default_rng(seed)
    prompts = [captions.write(s, rng) for s in from_array(scenes)]
    return generate(load_pipeline(drawing), prompts, range(seed, seed + len(prompts)), drawing)


def evaluate_fidelity(config: EvaluationConfig) -> dict:
    """What the eye reads in generated pictures, of combinations seen and unseen in training."""
    out = {}
    for name, n, held_out in (("seen", config.seen, False), ("unseen", config.unseen, True)):
        scenes = sample_scenes(n, np.random.default_rng(CONTROL + 3), held_out=held_out)
        pictures = drawn(scenes, GeneratorConfig(), CONTROL)
        hits = right(load_eye().read(to_pixels(pictures)).labels(), scenes)
        out[name] = {attribute: share(h) for attribute, h in hits.items()}
    return out


def evaluate_steps(config: EvaluationConfig) -> dict:
    """Subject accuracy of the fast setting beside 50 steps, the same prompts and seeds."""
    scenes = sample_scenes(config.steps, np.random.default_rng(CONTROL + 4))
    out = {}
    for steps in (GeneratorConfig().steps, 50):
        drawing = replace(GeneratorConfig(), steps=steps)
        pictures = drawn(scenes, drawing, 2 * CONTROL)
        hits = right(load_eye().read(to_pixels(pictures)).labels(), scenes)
        out[str(steps)] = {a: share(hits[a]) for a in ATTRIBUTES}
    return out


def frechet(a: np.ndarray, b: np.ndarray) -> float:
    """Fréchet distance between Gaussians fitted to features `[n, D]` and `[m, D]`."""
    ca, cb = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = sqrtm(ca @ cb).real
    distance = np.square(a.mean(0) - b.mean(0)).sum() + np.trace(ca + cb - 2 * root)
    return round(float(distance), 5)


@torch.no_grad()
def eye_features(eye: Eye, pixels: Tensor) -> np.ndarray:
    return torch.cat([eye.features(chunk) for chunk in pixels.split(250)]).numpy()


def evaluate_frechet(config: EvaluationConfig) -> dict:
    """Fréchet distances in the eye's features: to renders of the same law, from generated pictures,
    reconstructed renders, other renders; and between renders of two disjoint halves of the styles.
    """
    eye, n = load_eye(), config.frechet
    scenes = [sample_scenes(n, np.random.default_rng(CONTROL + 5 + i)) for i in range(2)]
    first, second = (fresh_renders(s, CONTROL + 10**5 * i) for i, s in enumerate(scenes))
    reference = eye_features(eye, first)
    vae = load_pipeline(GeneratorConfig()).vae
    with torch.no_grad():
        latents = vae.encode(second * 2 - 1).latent_dist.sample()
        again = to_pixels(to_pictures(vae.decode(latents).sample / 2 + 0.5))
    generated = to_pixels(drawn(scenes[1], GeneratorConfig(), 3 * CONTROL))
    half = scenes[0][:, STYLE] < len(STYLES) // 2
    return {
        "renders": frechet(reference, eye_features(eye, second)),
        "reconstructed": frechet(reference, eye_features(eye, again)),
        "generated": frechet(reference, eye_features(eye, generated)),
        "halves_of_styles": frechet(reference[half], reference[~half]),
        "n": n,
        "reconstructed_subject": share(right(eye.read(again).labels(), scenes[1])["subject"]),
        "renders_subject": share(right(eye.read(second).labels(), scenes[1])["subject"]),
    }


def evaluate_diversity(config: EvaluationConfig) -> dict:
    """Mean pairwise CLIP distance (1 - cosine) among four pictures of one caption."""
    scenes = sample_scenes(config.diversity, np.random.default_rng(CONTROL + 6))
    four = np.repeat(scenes, 4, 0)
    encoder = ClipEncoder()
    out = {}
    for name, pictures in {
        "generated": drawn(four, GeneratorConfig(), 4 * CONTROL),
        "renders": to_pictures(fresh_renders(four, 4 * CONTROL)),
    }.items():
        vectors = encoder.encode_images(pictures).reshape(-1, 4, 64)
        cosine = np.einsum("nid,njd->nij", vectors, vectors)
        out[name] = mean(1 - cosine[:, *np.triu_indices(4, 1)].mean(1))
    return out


def evaluate_speed(config: EvaluationConfig) -> dict:
    """Seconds for 16 pictures on two threads (best of three), and renders a second on one."""
    torch.set_num_threads(2)
    drawing = GeneratorConfig()
    pipeline = load_pipeline(drawing)
    seconds = []
    for seed in range(4):
        started = time.perf_counter()
        generate(pipeline, ["a fox"] * 16, range(seed, seed + 16), drawing, progress=False)
        seconds.append(time.perf_counter() - started)
    torch.set_num_threads(1)
    scenes = sample_scenes(1000, np.random.default_rng(CONTROL + 7))
    render_seeded(scenes[:100], 0)
    started = time.perf_counter()
    fresh_renders(scenes, 0)
    per_second = len(scenes) / (time.perf_counter() - started)
    return {
        "sixteen_pictures_seconds": round(min(seconds[1:]), 2),
        "renders_a_second": round(per_second),
    }


def main() -> None:
    config = configure(EvaluationConfig(), __doc__)
    torch.set_num_threads(config.threads)
    for section in config.sections.split(","):
        started = time.monotonic()
        result = globals()[f"evaluate_{section}"](config)
        known = json.loads(OUT.read_text()) if OUT.exists() else {}
        known[section] = result
        write_atomically(OUT, json.dumps(known, indent=1).encode() + b"\n")
        print(section, f"{time.monotonic() - started:.0f} s", json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
