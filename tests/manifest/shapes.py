"""A schema of every shape that the manifest's may take one day, for tests of what reads it."""

from __future__ import annotations

from enum import Enum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Colour(Enum):
    RED, BLUE = "red", "blue"


class Rules(BaseModel):
    """Rules."""

    gpu: str | None = Field(None, description="A GPU.")


class Docker(BaseModel):
    """In a container."""

    kind: Literal["docker"] = Field(description="The kind.")
    image: str = Field(description="The image.", max_length=10)


class Native(BaseModel):
    """A process."""

    kind: Literal["native"] = Field("native", description="The kind.")
    fallback: Native | None = Field(None, description="What else.")


class Open(BaseModel):
    """Some names are known, others are free."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Annotated[Docker | Native, Field(discriminator="kind")]]

    builtin: Literal["all"] | list[Colour] = Field("all", description="Those that are there.")


class Shapes(BaseModel):
    """Every shape."""

    match: Literal["any"] | Rules = Field("any", description="Which.")
    on: dict[str, Rules] = Field({}, description="By name.")
    roots: list[Rules] = Field([], description="Several.")
    one_or_more: Rules | list[Rules] | None = Field(None, description="One, or several.")
    engine: Annotated[Docker | Native, Field(discriminator="kind")] | None = Field(None, description="What runs.")
    tools: Open = Field(Open(), description="Some names are known, others are free.")
    variables: dict[str, str] = Field({}, description="Texts by name.")
    by_two: dict[str, dict[str, Rules]] = Field({}, description="By name, twice.")
    colour: Colour = Field(Colour.RED, description="A colour.")
    anything: Any = Field(None, description="Whatever.")
    positive: float = Field(1, gt=0, description="A number.")
    share: float = Field(0.5, gt=0, le=1, description="A share.")
    most: int = Field(1, le=9, description="A count.")
    pinned: Literal[True] = Field(default=True, description="Always.")
    told: str = Field("", description="A text.", examples=["like this"])
