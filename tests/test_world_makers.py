"""The makers: exact components, and training that resumes where it stopped, at a tiny size."""

import json
import shutil
import sys
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, DiffusionPipeline
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput
from torch import nn
from transformers import CLIPTokenizer

MAKERS = Path(__file__).resolve().parents[1] / "data" / "makers"
sys.path.insert(0, str(MAKERS))  # the makers are scripts, not a package

import make_denoiser  # noqa: E402
from common import Pool, TrainConfig, fit, step_rng, to_latents  # noqa: E402
from make_clip import ClipConfig, _Loss, near_misses  # noqa: E402
from make_denoiser import DenoiserConfig  # noqa: E402
from make_eye import estrange, targets, wear  # noqa: E402
from make_sketch import PLAIN, Lessons, learn_meanings, plain  # noqa: E402
from make_styling import StylingConfig, copy_readings, learn_usual, losses  # noqa: E402
from make_text_encoder import VALUES, build, token_ids  # noqa: E402
from make_tokenizer import learn  # noqa: E402

from pasta_lib.world.autoencoder import PatchAutoencoder  # noqa: E402
from pasta_lib.world.denoiser import SCHEDULE, PatchTransformer  # noqa: E402
from pasta_lib.world.renderer import render, render_seeded  # noqa: E402
from pasta_lib.world.scenes import (  # noqa: E402
    BACKGROUND,
    BACKGROUND_NAMES,
    COLOUR,
    COLOUR_NAMES,
    COUNT,
    IDEA,
    SECOND,
    STYLE,
    STYLE_NAMES,
    SUBJECT,
    SUBJECT_NAMES,
    Scene,
    is_held_out,
    sample_scenes,
    to_array,
)
from pasta_lib.world.scheduler import QuietDDIMScheduler  # noqa: E402
from pasta_lib.world.sketch import Meanings, Styling, moved  # noqa: E402
from pasta_lib.world.vocabulary import BACKGROUNDS, STYLES  # noqa: E402
from pasta_lib.world.weights import WORLD_DIR  # noqa: E402

quiet = pytest.mark.filterwarnings("ignore")


class _Regression:
    """Learn y = 2x from noisy draws."""

    def __call__(self, model, rng, generator):
        x = torch.from_numpy(rng.standard_normal((16, 4)).astype(np.float32))
        y = 2 * x + 0.1 * torch.randn(x.shape, generator=generator)
        loss = (model(x) - y).square().mean()
        return loss, {"double": 2 * loss.detach()}


def _train(folder, inputs=(), **changes):
    torch.manual_seed(0)
    blocks = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 4))
    model = nn.Sequential(OrderedDict(blocks=blocks))
    curve = folder / "curve.csv"
    config = TrainConfig(
        steps=60, lr=1e-2, warmup=5, ema=0.9, log_every=10, checkpoint_every=7,
        folder=str(folder), curve=str(curve),
    )  # fmt: skip
    fitted = fit(model, _Regression(), replace(config, **changes), inputs)
    state = None if fitted is None else fitted.state_dict()
    return state, curve.read_text() if curve.exists() else ""


@quiet
@pytest.mark.parametrize("muon", [0.0, 0.02])
def test_resumed_training_equals_uninterrupted(tmp_path, capsys, muon):
    whole, curve = _train(tmp_path / "whole", muon=muon)
    for _ in range(5):  # each piece is cut off at once, having taken at least one step
        cut_off, _ = _train(tmp_path / "pieces", muon=muon, max_seconds=1e-9)
        assert cut_off is None  # nothing to save yet
    resumed, pieces = _train(tmp_path / "pieces", muon=muon)
    assert all(torch.equal(whole[k], resumed[k]) for k in whole)
    steps = [[line.split(",")[0] for line in text.splitlines()] for text in (curve, pieces)]
    assert steps[0] == steps[1] == ["step", *map(str, range(10, 61, 10))]


@quiet
def test_muon_takes_the_matrices_of_blocks_alone(tmp_path, capsys):
    plain, _ = _train(tmp_path / "plain", steps=1)
    muon, _ = _train(tmp_path / "muon", muon=0.02, steps=1)
    differs = {name: not torch.equal(plain[name], muon[name]) for name in plain}
    assert differs == {name: name.endswith("weight") for name in plain}


@quiet
def test_going_on_with_other_settings_is_said(tmp_path, capsys):
    _train(tmp_path, max_seconds=1e-9)
    capsys.readouterr()
    _train(tmp_path, lr=2e-2)
    assert "from step 1 with lr = 0.02, it was 0.01" in capsys.readouterr().out
    card = json.loads((tmp_path / "curve.json").read_text())
    assert card["config"]["lr"] == 2e-2
    assert str(tmp_path) not in json.dumps(card)


@quiet
def test_a_checkpoint_trained_on_another_file_is_refused(tmp_path, capsys):
    sketch = tmp_path / "sketch.safetensors"
    sketch.write_bytes(b"one")
    _train(tmp_path, inputs=[sketch], max_seconds=1e-9)
    assert _train(tmp_path, inputs=[sketch], max_seconds=1e-9)[0] is None  # goes on
    sketch.write_bytes(b"another")
    with pytest.raises(ValueError, match=r"another sketch\.safetensors than is there now: move"):
        _train(tmp_path, inputs=[sketch])


@quiet
def test_the_rate_falls_to_zero_and_the_loss_falls(tmp_path, capsys):
    _, curve = _train(tmp_path)
    losses = [float(line.split(",")[3]) for line in curve.splitlines()[1:]]
    assert losses[-1] < losses[0] / 2


def test_step_randomness_depends_on_seed_and_step_alone():
    first, again, other = (step_rng(*pair)[0].random() for pair in ((1, 5), (1, 5), (1, 6)))
    assert first == again != other


def test_components_are_numpys():
    images = render_seeded(sample_scenes(80, np.random.default_rng(0)), 0) * 2 - 1
    model = PatchAutoencoder.fit(images, latent_channels=64)
    latents = model.encode(images).latent_dist.sample()
    assert latents.shape == (80, 64, 8, 8)
    assert latents.square().mean().sqrt() == pytest.approx(1, abs=0.01)
    # the reconstruction is the projection on numpy's own leading singular vectors
    patches = (
        images.unfold(2, 8, 8).unfold(3, 8, 8).permute(0, 2, 3, 1, 4, 5).reshape(-1, 192).numpy()
    )
    mean = patches.mean(0)
    top = np.linalg.svd(patches - mean, full_matrices=False)[2][:64]
    expected = (patches - mean) @ top.T @ top + mean
    again = model.decode(latents).sample
    got = again.unfold(2, 8, 8).unfold(3, 8, 8).permute(0, 2, 3, 1, 4, 5).reshape(-1, 192).numpy()
    assert np.abs(got - expected).max() < 2e-3


def test_near_misses_differ_in_one_attribute_and_stay_in_training():
    scenes = sample_scenes(2000, np.random.default_rng(1))
    others = near_misses(scenes, np.random.default_rng(2))
    assert ((scenes != others).sum(1) == 1).all()
    assert not is_held_out(others).any()
    assert not {row.tobytes() for row in scenes} & {row.tobytes() for row in others}
    pencil = scenes[:, STYLE] == STYLE_NAMES.index("pencil sketch")
    assert (scenes[pencil, COLOUR] == others[pencil, COLOUR]).all()
    assert (others[others[:, SECOND] >= 0][:, COUNT] == 1).all()
    changed = (scenes != others).mean(0)
    assert min(changed[COLOUR], changed[COUNT]) > 0.1


def test_groups_differ_in_the_subject_alone():
    shown = sample_scenes(20_000, np.random.default_rng(5))
    batch = _Loss(Pool(None, shown, shown), None, ClipConfig())
    rows = batch.only_subjects_differ(64, np.random.default_rng(0))
    scenes = shown[rows]
    others = [c for c in range(7) if c != SUBJECT]
    groups = np.unique(scenes[:, others], axis=0, return_inverse=True)[1]
    assert len(rows) == 64
    assert len(np.unique(scenes, axis=0)) == 64  # no picture has a twin
    assert len(np.unique(groups)) < 10
    assert (scenes[:, SECOND] < 0).all()


def test_eye_targets_by_hand():
    scenes = sample_scenes(500, np.random.default_rng(3))
    truth = targets(scenes, "cpu")
    assert (truth["count"].numpy() == scenes[:, COUNT] - 1).all()
    pencil = scenes[:, STYLE] == STYLE_NAMES.index("pencil sketch")
    assert (truth["colour"].numpy()[pencil] == -100).all()
    assert (truth["colour"].numpy()[~pencil] >= 0).all()
    assert (truth["second"].numpy()[scenes[:, SECOND] < 0] == 64).all()


def test_wear_keeps_shape_range_and_likeness():
    images = render_seeded(sample_scenes(60, np.random.default_rng(4)), 1)
    vae = PatchAutoencoder.fit(images * 2 - 1)
    worn = wear(images, vae, torch.Generator().manual_seed(0))
    assert worn.shape == images.shape
    assert worn.min() >= 0
    assert worn.max() <= 1
    gap = (worn - images).abs().mean((1, 2, 3))
    assert gap.min() > 0.002
    assert gap.max() < 0.12


def test_estranged_pictures_are_negatives_in_other_colours():
    images = torch.rand(40, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    strange = 1 - estrange(images, torch.Generator().manual_seed(1))
    assert torch.allclose(strange.sort(1).values, images.sort(1).values, atol=1e-6)
    # one order of the channels holds for a whole picture, and not the same one for all
    orders = (strange[:, :, None] - images[:, None]).abs().amax((3, 4)) < 1e-6
    assert (orders.sum(2) == 1).all()
    assert len(orders.unique(dim=0)) == 6


def test_plain_scenes_keep_their_subjects_and_stay_in_training():
    scenes = sample_scenes(3000, np.random.default_rng(6))
    drawn = plain(scenes)
    kept = [c for c in range(7) if c not in (STYLE, BACKGROUND)]
    assert (drawn[:, kept] == scenes[:, kept]).all()
    assert not is_held_out(drawn).any()
    teal = BACKGROUND_NAMES.index("teal")
    usual = (drawn[:, [STYLE, BACKGROUND]] == [0, teal]).all(1)
    assert 0.7 < usual.mean() < 1
    again = drawn.copy()
    again[:, [STYLE, BACKGROUND]] = 0, teal
    assert is_held_out(again[~usual]).all()  # only where it must be otherwise
    assert {BACKGROUND_NAMES[b] for b in np.unique(drawn[:, BACKGROUND])} <= set(PLAIN)


def test_every_subject_shows_on_the_usual_plain_ground_in_every_colour():
    def contrast(background):
        scenes = [Scene(s, c, "flat", background) for c in COLOUR_NAMES for s in SUBJECT_NAMES]
        pictures = render_seeded(to_array(scenes), 1)
        ground = pictures[:, :, :3].flatten(2).median(2).values[:, :, None, None]
        return (pictures - ground).abs().amax(1)

    by_ground = {name: contrast(name) > 0.12 for name in ("teal", "white", "yellow")}
    subject = torch.stack(list(by_ground.values())).any(0).float()
    shown = {
        name: ((by_ground[name] * subject).sum((1, 2)) / subject.sum((1, 2))).min().item()
        for name in by_ground
    }
    assert shown["teal"] > 0.75
    assert shown["white"] < 0.25  # why it is not white


def test_plain_scenes_forget_the_idea_they_stood_for():
    drawn = plain(np.array([[3, 0, 2, 4, 1, -1, 7]]))
    assert drawn[0, IDEA] == -1
    assert drawn[0, SUBJECT] == 3


def _lessons(n=4000):
    """Two ideas: the first means the thing P (.7) or Q (.3), the second R; and concrete prompts."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    kind = rng.choice(4, n, p=[0.35, 0.15, 0.3, 0.2])  # 1st as P, 1st as Q, 2nd as R, concrete
    states = torch.eye(8)[torch.tensor([0, 0, 1, 2])[kind]] * 4  # what is said
    states[kind == 3] = torch.randn(8) + torch.randn(int((kind == 3).sum()), 8) * 0.3
    things = torch.eye(8)[torch.tensor([4, 5, 6, 7])[kind]] * 5 + torch.randn(n, 8) * 0.05
    said = torch.stack([states + 0.05 * torch.randn(n, 8) for _ in range(2)])
    return Lessons(torch.from_numpy(kind != 3), said, things, torch.zeros(1, 8) - 3, *[None] * 5)


def test_meanings_are_what_the_ideas_stood_for():
    taught = _lessons()
    meanings = Meanings(8, size=3)
    with torch.no_grad():
        learn_meanings(meanings, taught, 0)
        prompts = torch.stack(
            [torch.eye(8)[0] * 4, torch.eye(8)[1] * 4, taught.said[0][~taught.abstract][0]]
        )
        rows, meant, log_weight = meanings(torch.cat([prompts, taught.silence]))
    known = {tuple(row) for row in taught.meant.tolist()}
    assert all(tuple(row) in known for row in meanings.things.tolist())  # real states, no means
    found = {
        (int(row), int(thing.argmax())): float(weight)
        for row, thing, weight in zip(rows, meant, log_weight.exp(), strict=True)
        if row < 2
    }
    assert found == pytest.approx({(0, 4): 0.7, (0, 5): 0.3, (1, 6): 1.0}, abs=0.03)
    assert torch.equal(meant[rows == 2], prompts[2:])  # concrete: itself
    assert torch.equal(meant[rows == 3], taught.silence)


def test_concrete_prompts_are_taught_as_said_and_abstract_ones_as_meant():
    taught = _lessons(500)
    rows = np.arange(500)
    said, meant = taught.words(rows, np.random.default_rng(0), drop=0)
    assert any(torch.equal(said, wording) for wording in taught.said)
    assert torch.equal(meant[taught.abstract], taught.meant[taught.abstract])
    assert torch.equal(meant[~taught.abstract], said[~taught.abstract])
    said, meant = taught.words(rows, np.random.default_rng(0), drop=0.2)
    empty = (said == taught.silence).all(1)
    assert empty.float().mean().item() == pytest.approx(0.2, abs=0.06)
    assert torch.equal(meant[empty], said[empty])


def test_a_cell_to_the_right_is_a_cell_to_the_right():
    """What the renderer calls a move, what the latents show and what the sketch does are one."""
    scenes = to_array([Scene("star", style="flat", background="white")] * 4)
    moves = torch.tensor([[0, 0], [1, 0], [0, 1], [1, 1]])
    vae = PatchAutoencoder.from_pretrained(WORLD_DIR / "text_to_image" / "vae")
    latents = to_latents(render(scenes, torch.Generator().manual_seed(0), moves=moves), vae).float()
    ground = latents[:, :, :, :1].mean((0, 2, 3), keepdim=True)  # the star never reaches the margin
    there = ground + moved(latents[:1] - ground)[0]
    error = (there - latents).square().mean((1, 2, 3))
    wrong = (there[[1, 2, 3, 0]] - latents).square().mean((1, 2, 3))
    assert (error < 0.02 * wrong).all()
    assert ((moves[:, 0] + 2 * moves[:, 1]) == torch.arange(4)).all()


def test_styling_reads_style_and_background_alone():
    style = Styling(8, side=2, channels=3, looks=(len(STYLES), len(BACKGROUNDS)))
    encoder_heads = nn.Linear(8, sum(VALUES) + len(VALUES))
    copy_readings(style, encoder_heads.state_dict())
    states = torch.randn(5, 8)
    parts = encoder_heads(states).split([n + 1 for n in VALUES], 1)
    assert torch.equal(style.read(states), torch.cat([parts[STYLE], parts[BACKGROUND]], 1))


def test_what_is_usual_is_what_was_shown_where_prompts_did_not_say():
    """Prompts of the first kind are shown in style 0 (.8) or 1 (.2), of the second always in 1."""
    rng, n = np.random.default_rng(0), 6000
    kind = rng.integers(2, size=n)
    shown = np.where(kind == 1, 1, rng.random(n) < 0.2).astype(np.int64)
    said = rng.random(n) < 0.5
    shown[said] = 2  # must not count: these prompts say their style
    states = 4 * torch.eye(8)[torch.from_numpy(kind)]
    looks = torch.from_numpy(np.stack([np.where(rng.random(n) < 0.001, 2, shown), shown], 1))
    open_ = torch.from_numpy(np.stack([~said, ~said], 1))
    looks[:3, 1], open_[:3, 1] = torch.arange(3), True
    taught = Lessons(None, states[None], None, None, None, None, None, looks, open_)
    style = Styling(8, side=2, channels=3, looks=(3, 3))
    learn_usual(style, taught)
    usual = style.usual(4 * torch.eye(8)[:2])[:, :3].softmax(1)
    assert usual[0].tolist() == pytest.approx([0.8, 0.2, 0], abs=0.03)
    assert usual[1].tolist() == pytest.approx([0, 1, 0], abs=0.03)
    with pytest.raises(ValueError, match="of 4 values occur"):
        learn_usual(Styling(8, side=2, channels=3, looks=(4, 3)), taught)


def test_styling_losses_of_a_sketch_that_draws_the_pictures():
    """A styling that hands on the drawing; pictures are the drawings, in known places."""
    n, drawings = 30, torch.randn(30, 3, 4, 4)
    drawings[:, :, -1] = drawings[..., -1] = 0
    places = torch.arange(n) % 4
    shown = moved(drawings)[torch.arange(n), places]
    states = torch.eye(n)[None] * 9
    looks = torch.stack([torch.arange(n) % 2, torch.arange(n) % 3], 1)
    taught = Lessons(
        torch.zeros(n, dtype=torch.bool), states, states[0], torch.zeros(1, n),
        drawings.numpy(), shown.numpy(), places, looks, torch.zeros(n, 2, dtype=torch.bool),
    )  # fmt: skip

    class HandOn(nn.Module):
        read, looks = nn.Linear(1, 1), (2, 3)

        def resolve(self, *_):
            return None

        def grounds(self, look):  # the ground's mean is which style, its log variance which ground
            assert (look.sum(1) == 2).all()
            cell = look[:, :, None, None, None].expand(-1, -1, 3, 4, 4)
            return cell[:, 1], None, cell[:, 3] - cell[:, 4]

        def forward(self, drawing, *_):
            nothing = torch.zeros_like(drawing)
            return (nothing, nothing - 3), (drawing, drawing.abs())

    config = StylingConfig(batch_size=200, drop_caption=0)
    stand_in = SimpleNamespace(draw=lambda meant: drawings[meant.argmax(1)], style=HandOn())
    parts = losses(stand_in, taught, config, *step_rng(0, 0))
    assert parts["squares"] < 1e-12
    rows = step_rng(0, 0)[0].integers(n, size=200)
    picture, (style, ground) = shown[rows], looks[rows].T.float()[..., None, None, None]
    variance = (picture.abs() - 3).clamp(max=2)
    assert parts["surprise"].item() == pytest.approx(variance.mean().item() / 2, abs=1e-5)
    variance = (ground == 1).float() - (ground == 2).float()
    want = ((picture - style) ** 2 * (-variance).exp() + variance).mean() / 2
    assert parts["surprise_by_ground"].item() == pytest.approx(want.item(), rel=1e-5)


def test_tokenizer_ends_with_the_highest_id_and_knows_every_byte():
    tokenizer = learn(["two white foxes on a night sky"] * 50, 700)
    ids = tokenizer("two white foxes").input_ids
    assert ids[0] == tokenizer.bos_token_id
    assert ids[-1] == tokenizer.eos_token_id == len(tokenizer) - 1
    assert len(ids) == 5
    assert "ünïcode" in tokenizer.decode(tokenizer("ünïcode").input_ids)


class _Answers(nn.Module):
    """A stand-in for the network: answers what it is told, and keeps what it was asked."""

    def __init__(self, answer):
        super().__init__()
        self.weight, self.answer, self.asked = nn.Parameter(torch.zeros(1)), answer, None

    def forward(self, noisy, timesteps, text):
        self.asked = noisy, timesteps, text
        return UNet2DConditionOutput(sample=self.answer + 0 * self.weight)


def test_denoiser_loss_by_hand():
    tokenizer = CLIPTokenizer.from_pretrained(WORLD_DIR / "text_to_image" / "tokenizer")
    scenes = np.repeat(sample_scenes(1, np.random.default_rng(0)), 5, 0)
    latents = np.ones((5, 64, 8, 8), np.float16)
    pool = Pool(None, scenes, scenes)
    reader = build(tokenizer).eval()
    config = DenoiserConfig(batch_size=400)
    loss_function = make_denoiser._Loss(pool, latents, tokenizer, reader, config)
    right, off = _Answers(torch.ones(400, 64, 8, 8)), _Answers(torch.full((400, 64, 8, 8), 3.0))
    assert loss_function(right, *step_rng(0, 0))[0] == 0
    loss, parts = loss_function(off, *step_rng(0, 0))
    assert parts == {"error_below_300": 4, "error_above_900": 4}
    noisy, timesteps, text = off.asked
    assert np.histogram(timesteps, 40, (0, 1000))[0].tolist() == [10] * 40  # evenly spread
    signal = DDPMScheduler(**SCHEDULE).alphas_cumprod[timesteps]
    # Where the noise counts fully it is the squared error of v = √signal noise - √(1 - signal) x0,
    # with the noise that the answer implies.
    start, answer = torch.ones(400), torch.full((400,), 3.0)
    noise = (noisy[:, 0, 0, 0] - signal.sqrt() * start) / (1 - signal).sqrt()
    implied = (noisy[:, 0, 0, 0] - signal.sqrt() * answer) / (1 - signal).sqrt()
    velocity, guessed = (
        signal.sqrt() * e - (1 - signal).sqrt() * x for e, x in ((noise, start), (implied, answer))
    )
    want = (velocity - guessed).square()
    full = signal < 0.98
    assert full.float().mean() > 0.85
    want[~full] = 4 / 0.02
    assert loss.item() == pytest.approx(want.mean().item(), rel=1e-4)
    # noisy = sqrt(signal) * 1 + sqrt(1 - signal) * standard normal noise
    noise = (noisy - signal.sqrt().view(-1, 1, 1, 1)) / (1 - signal).sqrt().view(-1, 1, 1, 1)
    assert noise.std().item() == pytest.approx(1, abs=0.01)
    assert signal.min() < 1e-4  # pure noise is among what it must learn from
    assert not text.requires_grad  # the text encoder stays as it is
    silence = reader(token_ids(tokenizer, [""])).last_hidden_state
    empty = torch.isclose(text, silence, atol=1e-5).all((1, 2)).float().mean().item()
    assert empty == pytest.approx(0.1, abs=0.05)  # captions dropped for guidance


def test_assembled_pipeline_loads_and_keeps_the_tokenizer(tmp_path):
    shutil.copytree(WORLD_DIR / "text_to_image" / "tokenizer", tmp_path / "tokenizer")
    before = {path.name: path.read_bytes() for path in (tmp_path / "tokenizer").iterdir()}
    tokenizer = CLIPTokenizer.from_pretrained(tmp_path / "tokenizer")
    token_ids(tokenizer, ["a fox"])  # use leaves traces in what it would save
    unet = PatchTransformer(width=32, layers=1)
    vae = PatchAutoencoder.fit(torch.rand(20, 3, 64, 64))
    make_denoiser.assemble(unet, vae, build(tokenizer), tokenizer, tmp_path)
    after = {path.name: path.read_bytes() for path in (tmp_path / "tokenizer").iterdir()}
    assert before == after
    pipeline = DiffusionPipeline.from_pretrained(tmp_path, use_safetensors=True)
    assert type(pipeline.scheduler) is QuietDDIMScheduler
    assert pipeline.scheduler.config.prediction_type == "sample"
    assert not list(tmp_path.rglob("*.bin"))
    assert str(tmp_path) not in "".join(p.read_text() for p in tmp_path.rglob("config.json"))
