"""What all schemas have in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Closed(BaseModel):
    """Nothing but the named fields."""

    model_config = ConfigDict(extra="forbid")
