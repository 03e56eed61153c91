"""Dockerfiles, as far as tests look into them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
OURS = ("exporter", "gateway", "standalone")


@dataclass(frozen=True)
class Instruction:
    """One instruction; ``text`` is what follows its keyword, on one line."""

    keyword: str
    text: str


@dataclass(frozen=True)
class Stage:
    """From one FROM to the next."""

    name: str  # empty: the last stage of ours has none
    base: str
    instructions: tuple[Instruction, ...]

    def texts(self, keyword: str) -> list[str]:
        return [each.text for each in self.instructions if each.keyword == keyword]

    @property
    def environment(self) -> dict[str, str]:
        return {name: value for text in self.texts("ENV") for name, value in re.findall(r"(\w+)=(\S+)", text)}

    @property
    def labels(self) -> dict[str, str]:
        return {name: value for text in self.texts("LABEL") for name, value in re.findall(r'([\w.]+)="([^"]*)"', text)}


def read_stages(name: str) -> list[Stage]:
    """The stages of ``docker/NAME.Dockerfile``, the image last."""
    text = (REPOSITORY / "docker" / f"{name}.Dockerfile").read_text(encoding="utf-8")
    lines = "\n".join(line for line in text.splitlines() if not line.startswith("#")).replace("\\\n", " ")
    instructions = [
        Instruction(*re.sub(r" +", " ", line).split(" ", maxsplit=1)) for line in lines.splitlines() if line.strip()
    ]
    defaults = dict(each.text.split("=") for each in instructions if each.keyword == "ARG" and "=" in each.text)
    starts = [place for place, each in enumerate(instructions) if each.keyword == "FROM"]
    stages = []
    for start, end in zip(starts, [*starts[1:], len(instructions)], strict=True):
        base, _, stage = instructions[start].text.partition(" AS ")
        for argument, value in defaults.items():
            base = base.replace(f"${{{argument}}}", value)
        stages.append(Stage(stage, base, tuple(instructions[start + 1 : end])))
    return stages
