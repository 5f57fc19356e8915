"""What the makers share: pictures to learn from, and one training loop that can be resumed.

Every maker is a script with a configuration, a seed, checkpoints and a training curve. The same
script runs on a CPU (in pieces) or on a GPU: `accelerate` places model and batches.
"""

import argparse
import csv
import hashlib
import json
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from diffusers import DDPMScheduler
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from pasta_lib.world.autoencoder import PatchAutoencoder
from pasta_lib.world.denoiser import SCHEDULE
from pasta_lib.world.renderer import IMAGE_SIZE, render
from pasta_lib.world.scenes import sample_prompts

NOISE = DDPMScheduler(**SCHEDULE)


@dataclass(frozen=True)
class PoolConfig:
    """Rendered scenes that the models learn from; drawn once, reused by every maker."""

    folder: str = "/tmp/pasta-pool"  # on local disk, not shipped: this script makes it again
    size: int = 40_000
    seed: int = 1
    chunk: int = 500  # scenes rendered at a time


@dataclass(frozen=True)
class Pool:
    """`images` uint8 `[N, 64, 64, 3]` (memory-mapped), `said` and `shown` int64 `[N, 7]`."""

    images: np.ndarray
    said: np.ndarray
    shown: np.ndarray

    def batch(self, rows: np.ndarray, device: str | torch.device) -> Tensor:
        """float `[B, 3, 64, 64]` in 0..1."""
        return to_pixels(np.array(self.images[rows])).to(device)


def load_pool(config: PoolConfig, device: str = "cpu") -> Pool:
    """The pool, rendered first where it does not exist yet."""
    folder = Path(config.folder) / f"{config.size}-{config.seed}"
    if not (folder / "shown.npy").exists():
        _render_pool(config, folder, device)
    return Pool(
        np.load(folder / "images.npy", mmap_mode="r"),
        np.load(folder / "said.npy"),
        np.load(folder / "shown.npy"),
    )


def _render_pool(config: PoolConfig, folder: Path, device: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    said, shown = sample_prompts(config.size, np.random.default_rng(config.seed))
    generator = torch.Generator().manual_seed(config.seed)
    shape = (config.size, IMAGE_SIZE, IMAGE_SIZE, 3)
    images = np.lib.format.open_memmap(folder / "images.npy", "w+", np.uint8, shape)
    for start in range(0, config.size, config.chunk):
        stop = min(start + config.chunk, config.size)
        picture = render(shown[start:stop], generator, device)
        images[start:stop] = to_pictures(picture)
    images.flush()
    np.save(folder / "said.npy", said)
    np.save(folder / "shown.npy", shown)  # last: its presence says that the pool is whole


@dataclass(frozen=True)
class TrainConfig:
    """How one model is trained. Constant learning rate, then a linear decay to zero."""

    steps: int = 1000
    batch_size: int = 64
    lr: float = 1e-3  # of AdamW
    muon: float = 0.0  # learning rate of Muon for the matrices of `blocks`; 0: AdamW for all
    warmup: int = 100  # steps
    decay: float = 0.3  # share of the steps at the end over which the rate falls to zero
    weight_decay: float = 0.01
    clip: float = 1.0  # largest gradient norm
    ema: float = 0.999  # decay of the moving average of the weights, which is what is shipped
    seed: int = 0
    checkpoint_every: int = 500  # steps
    log_every: int = 50  # steps
    max_seconds: float = 1e9  # stop (with a checkpoint) after this long; run again to go on
    threads: int = 1  # CPU threads
    folder: str = "/tmp/pasta-train"  # checkpoints; not shipped
    curve: str = ""  # CSV of the training curve


def configure(default, description: str):
    """Read `--field value` for the fields of a flat dataclass; return the changed one."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for field in fields(default):
        value = getattr(default, field.name)
        if isinstance(value, bool):
            parser.add_argument(f"--{field.name}", action="store_true")
        else:
            parser.add_argument(f"--{field.name}", type=type(value), default=value)
    return replace(default, **vars(parser.parse_args()))


def step_rng(seed: int, step: int) -> tuple[np.random.Generator, torch.Generator]:
    """Random numbers of one step: a resumed run draws what an uninterrupted one would have."""
    seeds = np.random.SeedSequence([seed, step]).generate_state(2)
    return np.random.default_rng(seeds[0]), torch.Generator().manual_seed(int(seeds[1]))


LEARNING = ("steps", "batch_size", "lr", "muon", "warmup", "decay", "weight_decay", "seed")
LossFunction = Callable[[nn.Module, np.random.Generator, torch.Generator], tuple[Tensor, dict]]


def fit(
    model: nn.Module, loss_function: LossFunction, config: TrainConfig, inputs: Sequence[Path] = ()
) -> nn.Module | None:
    """Train `model`, resuming from its checkpoint; return the moving average of its weights.

    `loss_function(model, rng, generator)` draws its own batch and returns the loss and numbers to
    log. Once `max_seconds` have passed it stops early, with a checkpoint, and returns None: only a
    finished training is saved by its maker. `inputs` are the files it builds on: a checkpoint that
    was trained on others is refused with a ValueError.
    """
    torch.set_num_threads(config.threads)
    accelerator = Accelerator(mixed_precision="bf16" if torch.cuda.is_available() else "no")
    model = model.to(memory_format=torch.channels_last)  # convolutions run 1.4 × as fast on a CPU
    model, *optimizers = accelerator.prepare(model, *_optimizers(model, config))
    bare = accelerator.unwrap_model(model)
    average = AveragedModel(bare, multi_avg_fn=get_ema_multi_avg_fn(config.ema))
    checkpoint = Path(config.folder) / "checkpoint.safetensors"
    digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in inputs}
    step = 0
    if checkpoint.exists():
        step = _load(checkpoint, bare, average, optimizers, config, digests)
    started, log = time.monotonic(), _Curve(config.curve, step)
    while step < config.steps:
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * _rate(step, config)
        loss, numbers = loss_function(model, *step_rng(config.seed, step))
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(model.parameters(), config.clip)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        average.update_parameters(bare)
        step += 1
        log.add(loss, numbers)
        if step % config.log_every == 0:
            log.write(step, step * config.batch_size, time.monotonic() - started)
        over = time.monotonic() - started > config.max_seconds
        if step % config.checkpoint_every == 0 or step == config.steps or over:
            _save(checkpoint, step, bare, average, optimizers, config, digests)
        if over and step < config.steps:
            return None
    log.describe(config)
    return average.module


def _optimizers(model: nn.Module, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """AdamW, and Muon beside it where it is asked for: fewer steps for the same loss."""
    matrices, others = [], []
    for name, weight in model.named_parameters():
        if not weight.requires_grad:
            continue
        muon = config.muon and weight.ndim == 2 and "blocks." in name
        (matrices if muon else others).append(weight)
    adam = {"lr": config.lr, "initial_lr": config.lr, "weight_decay": config.weight_decay}
    optimizers = [torch.optim.AdamW([{"params": others, **adam}], betas=(0.9, 0.99), fused=True)]
    if matrices:
        muon = adam | {"lr": config.muon, "initial_lr": config.muon}
        optimizers.append(torch.optim.Muon([{"params": matrices, **muon}]))
    return optimizers


def _rate(step: int, config: TrainConfig) -> float:
    left = (config.steps - step) / max(1, config.decay * config.steps)
    return min(1.0, (step + 1) / config.warmup, left)


def _save(
    path: Path, step: int, model, average, optimizers: list, config: TrainConfig, digests: dict
) -> None:
    tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
    tensors |= {f"average.{k}": v for k, v in average.state_dict().items()}
    for n, optimizer in enumerate(optimizers):
        for i, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{n}.{i}.{k}": torch.as_tensor(v) for k, v in state.items()}
    tensors = {k: v.detach().cpu().clone() for k, v in tensors.items()}
    metadata = {"step": step, "config": asdict(config), "inputs": digests}
    save_tensors(tensors, path, {k: json.dumps(v) for k, v in metadata.items()})


def _load(path: Path, model, average, optimizers: list, config: TrainConfig, digests: dict) -> int:
    part = {"model": {}, "average": {}, "optimizer": {}}
    with safe_open(path, "pt") as file:
        step = int(file.metadata()["step"])
        before = json.loads(file.metadata().get("config", "{}"))
        built_on = json.loads(file.metadata().get("inputs", "{}"))
        for key in file.keys():  # noqa: SIM118 - a safetensors file, not a dict
            name, rest = key.split(".", 1)
            part[name][rest] = file.get_tensor(key)
    changed = [name for name, digest in digests.items() if built_on.get(name, digest) != digest]
    if changed:
        raise ValueError(
            f"{path} was trained on another {', '.join(changed)} than is there now: move its "
            "folder away to train anew, or bring the old file back to go on"
        )
    model.load_state_dict(part["model"])
    average.load_state_dict(part["average"])
    states: list[dict] = [{} for _ in optimizers]
    for key, value in part["optimizer"].items():
        n, i, name = key.split(".")
        states[int(n)].setdefault(int(i), {})[name] = value
    for optimizer, state in zip(optimizers, states, strict=True):
        optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    for name, value in asdict(config).items():
        if name in LEARNING and before.get(name, value) != value:
            print(f"going on from step {step} with {name} = {value}, it was {before[name]}")
    return step


class _Curve:
    """Means since the last row, appended to a CSV; rows beyond a resumed step are dropped."""

    def __init__(self, path: str, step: int) -> None:
        self.path = Path(path) if path else None
        self.sums: dict[str, float] = {}
        self.n = 0
        self.before = 0.0  # seconds of the earlier pieces
        if self.path and self.path.exists():
            with open(self.path, newline="") as file:
                rows = [row for row in csv.DictReader(file) if step and int(row["step"]) <= step]
            self._rewrite(rows)
            self.before = float(rows[-1]["seconds"]) if rows else 0.0

    def add(self, loss: Tensor, numbers: dict) -> None:
        for key, value in {"loss": loss, **numbers}.items():
            self.sums[key] = self.sums.get(key, 0.0) + float(torch.as_tensor(value).detach())
        self.n += 1

    def write(self, step: int, seen: int, seconds: float) -> None:
        row = {"step": step, "images": seen, "seconds": round(self.before + seconds, 1)}
        row |= {key: f"{value / self.n:.5g}" for key, value in self.sums.items()}
        self.sums, self.n = {}, 0
        print(json.dumps(row), flush=True)
        if self.path:
            new = not self.path.exists()
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "a", newline="") as file:
                writer = csv.DictWriter(file, row)
                if new:
                    writer.writeheader()
                writer.writerow(row)

    def describe(self, config: TrainConfig) -> None:
        """Beside the curve: the configuration of its last piece, and what it ran on."""
        if self.path:
            cuda = torch.cuda.is_available()
            card = {  # the texts of a configuration are places, this machine's affair
                "config": {k: v for k, v in asdict(config).items() if not isinstance(v, str)},
                "device": torch.cuda.get_device_name() if cuda else f"CPU, {platform.machine()}",
                "torch": torch.__version__,
            }
            self.path.with_suffix(".json").write_text(json.dumps(card, indent=1) + "\n")

    def _rewrite(self, rows: list[dict]) -> None:
        self.path.unlink()
        if rows:
            with open(self.path, "w", newline="") as file:
                writer = csv.DictWriter(file, rows[0])
                writer.writeheader()
                writer.writerows(rows)


def save_tensors(tensors: dict[str, Tensor], path: Path, metadata: dict | None = None) -> None:
    """A safetensors file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    save_file({k: v.contiguous() for k, v in tensors.items()}, temporary, metadata)
    temporary.replace(path)


def to_pixels(pictures: np.ndarray) -> Tensor:
    """uint8 `[N, H, W, 3]` → float `[N, 3, H, W]` in 0..1."""
    return torch.from_numpy(pictures).movedim(-1, 1).float() / 255


def to_pictures(pixels: Tensor) -> np.ndarray:
    """The inverse of `to_pixels`, rounded."""
    return (pixels.clamp(0, 1) * 255).round().byte().movedim(1, -1).cpu().numpy()


@torch.no_grad()
def to_latents(images: Tensor, vae: PatchAutoencoder) -> Tensor:
    """Pictures `[B, 3, 64, 64]` in 0..1 → latents at the denoiser's scale, float16."""
    return (vae.encode(images * 2 - 1).latent_dist.sample() * vae.config.scaling_factor).half()


def latents_digest(vae: PatchAutoencoder) -> str:
    """Eight letters for an autoencoder's weights: latents of others lie elsewhere."""
    weights = b"".join(w.cpu().numpy().tobytes() for w in vae.state_dict().values())
    return hashlib.sha256(weights).hexdigest()[:8]


def add_noise(clean: Tensor, timesteps: Tensor, generator: torch.Generator) -> Tensor:
    """Noisy latents at `timesteps` `[B]`, the noise drawn on the CPU."""
    noise = torch.randn(clean.shape, generator=generator).to(clean.device)
    return NOISE.add_noise(clean, noise, timesteps.to(clean.device))


def save_half(module, folder: Path) -> None:
    """Save a diffusers or transformers model in fp16."""
    module.half().save_pretrained(folder, safe_serialization=True)


def batches(n: int, size: int) -> Iterator[slice]:
    """Slices that cut `n` rows into batches."""
    return (slice(i, min(i + size, n)) for i in range(0, n, size))
