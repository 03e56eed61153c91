"""Searches over any model that speaks ``DecoderStep``."""

from __future__ import annotations

from model_export.decoding.beam import beam_search
from model_export.decoding.greedy import greedy_search
from model_export.decoding.hypotheses import Hypotheses
from model_export.decoding.options import DecodingOptions, TokenIds
from model_export.decoding.step import DecoderStep

__all__ = ["DecoderStep", "DecodingOptions", "Hypotheses", "TokenIds", "beam_search", "greedy_search"]
