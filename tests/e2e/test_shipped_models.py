"""The models of ``models/`` are what their cards say."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path

import pytest

from model_export.generation import generate, opened
from model_export.text.tokenizers import UNK_ID
from service.tokenization import SentencePieceTokenizer

MODELS = Path(__file__).parents[2] / "models"
MOST_BYTES = 14_000_000
CARDS = {"en-fr": ("English", "French", 12), "korean-chat": ("remark", "answer", 31)}
"""The headings of the tables that show answers, and how many answers there are at least."""


def _shown_answers(name: str) -> dict[str, str]:
    """Sources and answers of the card's tables; what stands in brackets speaks of the source."""
    card = (MODELS / name / "README.md").read_text(encoding="utf-8")
    source, target, _ = CARDS[name]
    tables = re.findall(rf"^\| {source} \| {target} \|\n\|[-|]+\|\n((?:\|.*\|\n)+)", card, re.MULTILINE)
    rows = [row.strip("|").split("|") for table in tables for row in table.splitlines()]
    return {re.sub(r" \(.*\)$", "", asked.strip()): answer.strip() for asked, answer in rows}


def test_every_model_is_held_to_its_card() -> None:
    assert {folder.name for folder in MODELS.iterdir()} == set(CARDS)


@pytest.mark.parametrize("name", sorted(CARDS))
def test_a_model_is_small_and_says_what_its_card_shows(name: str) -> None:
    assert sum(file.stat().st_size for file in (MODELS / name).iterdir()) <= MOST_BYTES
    shown = _shown_answers(name)
    assert len(shown) >= CARDS[name][2]
    with opened(MODELS / name) as model:
        answers = [answer.sentences[0] for answer in generate(model.generate, list(shown), {})]
    assert dict(zip(shown, answers, strict=True)) == shown


def test_the_twenty_remarks_get_answers_of_their_own() -> None:
    card = (MODELS / "korean-chat" / "README.md").read_text(encoding="utf-8")
    table = card.split("\n## Twenty remarks")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (.+) \| (.+) \|$", table, re.MULTILINE)[1:]
    assert len({remark for remark, _ in rows}) == len({answer for _, answer in rows}) == 20


@pytest.mark.parametrize(
    ("written", "same_as"),
    [
        (unicodedata.normalize("NFD", "기분이 참 좋아요!"), "기분이 참 좋아요!"),
        ("ﾡﾤﾧ", unicodedata.normalize("NFKC", "ﾡﾤﾧ")),
        ("ＰＣ방　가자！", "PC방 가자!"),
        ("ｶﾗｵｹ 가고 싶어", "カラオケ 가고 싶어"),
    ],
    ids=["decomposed", "half-width Hangul", "full-width Latin", "half-width Katakana"],
)
def test_korean_reads_alike_however_it_is_written(written: str, same_as: str) -> None:
    tokenizer = SentencePieceTokenizer((MODELS / "korean-chat" / "tokenizer.model").read_bytes())
    assert written != same_as
    one, other = tokenizer.encode([written, same_as])
    assert one == other
    assert UNK_ID not in one


@pytest.mark.parametrize(
    "text", ["심심하다 🥲🥲", "SNS에서 카톡으로 hello", "漢字 한자 かんじ", "ㅋㅋㅋㅠㅠ", "👩‍👩‍👧"]
)
def test_nothing_is_unknown_to_the_korean_model(text: str) -> None:
    tokenizer = SentencePieceTokenizer((MODELS / "korean-chat" / "tokenizer.model").read_bytes())
    (ids,) = tokenizer.encode([text])
    assert ids
    assert UNK_ID not in ids
    assert tokenizer.decode([ids]) == [unicodedata.normalize("NFKC", text)]
