"""How an adapter is fitted: every number with its source. A base model's folder may carry overrides (``likeness.json``, "recipe")."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel as PydanticModel
from pydantic import ConfigDict, Field, ValidationError

from core.errors import UserError
from diffusion.loading import BaseModel


class Recipe(PydanticModel):
    """Frozen: what a card says of its recipe is what was done."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    # The adapter
    rank: int = Field(32, ge=1, le=256, description="16–32 is usual for a subject (ai-toolkit, BFL's API); the product promises 32.")
    alpha: int = Field(32, ge=1, le=512, description="Equal to the rank, so that lora_scale 1 is the trained strength (ai-toolkit).")
    target_set: Literal["image", "compact", "single", "attention", "blocks"] = Field(
        "image",
        description="What carries the image: 149 MB on FLUX.1-dev. All linear layers (ai-toolkit, sd-scripts) are 261 MB.",
    )

    # The data
    resolution: int = Field(0, ge=0, description="Side of the training pictures in pixels; 0: the base model's own resolution.")
    caption_dropout: float = Field(0.05, ge=0, le=1, description="Share of steps with an empty caption (ai-toolkit).")
    held_out: int = Field(2, ge=0, le=5, description="Photos kept out of the fit, to measure what real photos score (the ceiling).")

    # The steps
    steps: int = Field(0, ge=0, description="Optimizer steps; 0: steps_per_photo times the photos, within min_steps and max_steps.")
    steps_per_photo: int = Field(50, ge=1, description="27–50 a photo in published recipes; 50 is the upper end, selection stops earlier.")
    min_steps: int = Field(500, ge=1, description="Below this a rank-32 adapter of FLUX.1-dev at 1e-4 does not know its subject.")
    max_steps: int = Field(1500, ge=1, description="The pet portrait services train 1,000–1,500 steps.")
    batch_size: int = Field(1, ge=1, le=64, description="Pictures a step over all GPUs: FLUX.1-dev at 1024² is compute-bound at 1.")
    gradient_accumulation_steps: int = Field(1, ge=1, description="Micro-batches an optimizer step, where memory is short.")
    gradient_checkpointing: Literal["auto", "on", "off"] = Field(
        "auto", description="auto: only if activations would not fit (39 % slower)."
    )

    # The optimizer
    learning_rate: float = Field(1e-4, gt=0, le=1e-1, description="ai-toolkit, sd-scripts and BFL's API agree on 1e-4 for FLUX.1.")
    lr_schedule: Literal["constant", "cosine"] = Field("constant", description="Constant: checkpoints are comparable at any step.")
    warmup_steps: int = Field(20, ge=0, description="Adam's second moment is unreliable at first (Ma & Yarats 2021).")
    optimizer: Literal["auto", "adamw", "adamw8bit"] = Field(
        "auto", description="auto: AdamW8bit on CUDA for large adapters, where it saves 0.75 of the state."
    )
    beta2: float = Field(0.99, gt=0, lt=1, description="Runs of a few hundred steps: 0.999 averages over more steps than there are.")
    weight_decay: float = Field(1e-4, ge=0, description="ai-toolkit's default for FLUX.1.")
    max_grad_norm: float = Field(1.0, gt=0, description="diffusers' DreamBooth scripts.")
    ema_decay: float = Field(0.99, ge=0, lt=1, description="ai-toolkit's default; the averaged weights become the adapter. 0: off.")

    saved_scale: float = Field(
        1.0, gt=0, le=1, description="The adapter is saved weakened by this: on the miniature 0.8 keeps likeness and gains prompt fidelity."
    )

    # Flow matching
    guidance: float = Field(1.0, ge=0, description="Guidance embedding while training a guidance-distilled base (diffusers, ai-toolkit).")
    sigma_mean: float = Field(0.0, description="Logit-normal mean (Esser et al. 2024: 0).")
    sigma_std: float = Field(1.0, gt=0, description="Logit-normal deviation (Esser et al. 2024: 1).")
    sigma_shift: bool = Field(True, description="Apply the family's resolution shift to training noise levels, as in sampling.")

    # What the loss is of
    background_weight: float = Field(
        1.0,
        ge=0,
        le=1,
        description="Weight of what is around the subject; below 1 photos are masked (published: 0.1). 1: no masks.",
    )
    class_preservation: float = Field(
        0.0, ge=0, le=10, description="Weight of the base's own pictures of the class (DreamBooth: 1); doubles the work of a step. 0: off."
    )
    class_images: int = Field(16, ge=1, le=256, description="The base's own pictures of the class word, rendered once and kept.")
    divergence_limit: float = Field(
        0.8, gt=0, description="Stop when the loss, relative to that of a blind guess, stays above this; working models have 0.2–0.5."
    )
    divergence_window: int = Field(25, ge=5, description="Steps whose median loss is judged: single losses are noise.")

    # Checkpoints and their choice
    checkpoint_every: int = Field(250, ge=1, description="Steps between resumable checkpoints (avatar pipelines: 250).")
    candidates: tuple[float, ...] = Field((0.5, 0.75, 1.0), description="Shares of the steps whose adapters compete in selection.")
    validation_images: int = Field(6, ge=1, le=64, description="Pictures a candidate is judged on; the same prompts and seeds for all.")
    validation_steps: int = Field(20, ge=1, le=100, description="Denoising steps of a validation picture; 20 ranks as 28 does.")
    validation_guidance: float = Field(3.5, ge=0, description="FluxPipeline's default for FLUX.1-dev.")

    @classmethod
    def for_run(cls, photo_count: int, base: BaseModel, overrides: Mapping[str, Any] | None = None) -> Recipe:
        """The recipe of one run: defaults, then the base model's own overrides, then the client's; resolution and steps made definite."""
        try:
            recipe = cls(**{**base.facts.get("recipe", {}), **(overrides or {})})
        except ValidationError as error:
            fields = {".".join(map(str, item["loc"])): item["msg"] for item in error.errors()}
            raise UserError("training/bad-recipe", "This recipe cannot be used", str(fields), extra={"fields": fields}) from error
        steps = recipe.steps or min(max(recipe.steps_per_photo * photo_count, recipe.min_steps), recipe.max_steps)
        return recipe.model_copy(update={"steps": steps, "resolution": recipe.resolution or base.resolution})

    @property
    def candidate_steps(self) -> tuple[int, ...]:
        """Steps after which a candidate adapter is kept, ascending; the last step is always one."""
        return tuple(sorted({max(1, round(share * self.steps)) for share in self.candidates} | {self.steps}))
