"""What a client may change of a training's recipe. The names are the trainer's; whatever is left out is the recipe's own choice."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class RecipeOverrides(BaseModel):
    model_config = ConfigDict(extra="forbid")

    steps: int | None = Field(None, ge=10, le=10_000, description="Optimizer steps.")
    rank: int | None = Field(None, ge=1, le=128)
    alpha: int | None = Field(None, ge=1, le=256)
    learning_rate: float | None = Field(None, gt=0, le=1e-2)
    batch_size: int | None = Field(None, ge=1, le=16)
    background_weight: float | None = Field(None, ge=0, le=1, description="Weight of what is around the subject; below 1: masks.")
    class_preservation: float | None = Field(None, ge=0, le=10, description="Weight of the base's pictures of the class; twice the work.")
