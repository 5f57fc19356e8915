"""The miniature's noise scheduler: DDIM whose last step begins from half of the noise.

In few steps, DDIM's guess of the noise is also a guess of what the denoiser could not tell apart
from it, and the last step keeps some of it as texture: four pictures of one prompt then differ by
more than four renders do. Halving what noise is left before that step takes more than a quarter of
this away in six steps, and changes what the eye reads by some thousandths at most (notebook 00).
The step is Song, Meng & Ermon (2021), "Denoising diffusion implicit models", eq. 12; less noise
than a model was trained on is known from GANs and flows as truncation, or a low temperature; where
it is done here is ours. In more steps the last one is shorter, and so there is less to halve.
"""

import torch
from diffusers import DDIMScheduler, SchedulerMixin  # noqa: F401 - from_pretrained seeks it here
from diffusers.schedulers.scheduling_ddim import DDIMSchedulerOutput
from torch import Tensor

LAST_NOISE = 0.5  # of the noise that DDIM leaves before the last step; 1 is DDIM itself


class QuietDDIMScheduler(DDIMScheduler):
    """As `diffusers.DDIMScheduler`, with its configuration, but for the last step.

    `DDIMScheduler.from_config(pipeline.scheduler.config)` gives the plain one, whose steps are what
    DDIM's log-probabilities are of.
    """

    def step(
        self,
        model_output: Tensor,
        timestep: int,
        sample: Tensor,
        eta: float = 0.0,
        use_clipped_model_output: bool = False,
        generator: torch.Generator | list[torch.Generator] | None = None,
        variance_noise: Tensor | None = None,
        return_dict: bool = True,
    ) -> DDIMSchedulerOutput | tuple:
        """DDIM's step; if only one step follows, with `LAST_NOISE` of the noise that is left."""
        out = super().step(
            model_output, timestep, sample, eta, use_clipped_model_output, generator, variance_noise
        )
        if len(self.timesteps) > 1 and timestep == self.timesteps[-2]:
            before = timestep - self.config.num_train_timesteps // self.num_inference_steps
            if before >= 0:  # else there is no noise left to halve
                signal = self.alphas_cumprod[before].sqrt() * out.pred_original_sample
                out.prev_sample = signal + LAST_NOISE * (out.prev_sample - signal)
        return out if return_dict else (out.prev_sample, out.pred_original_sample)
