"""Teach the text encoder to read, before the denoiser learns to paint from it.

    python data/makers/make_text_encoder.py

A small `transformers` CLIPTextModel that must name every attribute a caption says (and which it
leaves open) from its last position: a fox is a fox in every wording, and next to a style that it
was never named with. Seven minutes on one CPU core; after two of them it reads .98 of the styles of
unseen pairs, at the end all. Sketch and denoiser then read from it as it is.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from common import TrainConfig, configure, fit, save_half, save_tensors
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from pasta_lib.world import captions
from pasta_lib.world.scenes import COLUMNS, from_array, sample_prompts
from pasta_lib.world.vocabulary import BACKGROUNDS, COLOURS, COUNTS, IDEAS, STYLES, SUBJECTS
from pasta_lib.world.weights import WORLD_DIR

READER = "/tmp/pasta-train/text_encoder/model"  # what this writes and the next makers read
TOKENIZER = WORLD_DIR / "text_to_image" / "tokenizer"
VALUES = tuple(map(len, (SUBJECTS, COLOURS, STYLES, BACKGROUNDS, COUNTS, SUBJECTS, IDEAS)))


@dataclass(frozen=True)
class TextConfig(TrainConfig):
    """Training of the text encoder on its own."""

    steps: int = 2400
    batch_size: int = 128
    lr: float = 1e-3
    ema: float = 0.99
    weight_decay: float = 0.1
    checkpoint_every: int = 200
    folder: str = str(Path(READER).parent)
    curve: str = str(WORLD_DIR / "logs" / "text_encoder.csv")


def build(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """The architecture, with random weights: 0.6 M parameters."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer), hidden_size=128, intermediate_size=512, projection_dim=128,
            num_hidden_layers=2, num_attention_heads=4,
            max_position_embeddings=tokenizer.model_max_length,
            bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )  # fmt: skip


def token_ids(tokenizer: CLIPTokenizer, texts: list[str]) -> torch.Tensor:
    """int64 `[B, 32]`, as the pipeline makes them."""
    padded = tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt")
    return padded.input_ids


class Reader(nn.Module):
    """The encoder and one linear head an attribute, with a class for "not said"."""

    def __init__(self, encoder: CLIPTextModel) -> None:
        super().__init__()
        self.encoder = encoder
        self.heads = nn.Linear(encoder.config.hidden_size, sum(VALUES) + len(VALUES))

    def forward(self, ids: torch.Tensor) -> list[torch.Tensor]:
        pooled = self.encoder(ids).last_hidden_state[:, -1]  # what the denoiser reads
        return list(self.heads(pooled).split([n + 1 for n in VALUES], 1))


def main() -> None:
    config = configure(TextConfig(), __doc__)
    torch.manual_seed(config.seed)
    tokenizer = CLIPTokenizer.from_pretrained(TOKENIZER)
    reader = Reader(build(tokenizer))

    def loss_function(model, rng, generator):
        said, _ = sample_prompts(config.batch_size, rng)
        texts = [captions.write(scene, rng) for scene in from_array(said)]
        device = next(model.parameters()).device
        logits = model(token_ids(tokenizer, texts).to(device))
        target = torch.from_numpy(said).to(device) + 1  # 0 is "not said"
        target[:, 4] -= (target[:, 4] > 0).long()  # counts start at 1
        losses = [F.cross_entropy(part, target[:, i]) for i, part in enumerate(logits)]
        right = torch.stack([p.argmax(1) == target[:, i] for i, p in enumerate(logits)]).all(0)
        return torch.stack(losses).sum(), {"all_right": right.float().mean()}

    assert len(COLUMNS) == len(VALUES)
    reader = fit(reader, loss_function, config)
    if reader is None:
        return
    save_tensors(reader.heads.state_dict(), Path(config.folder) / "heads.safetensors")
    save_half(reader.encoder, Path(config.folder) / "model")


if __name__ == "__main__":
    main()
