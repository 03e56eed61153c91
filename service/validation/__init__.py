"""Raw fields and limits -> requests, which exist only if their fields are valid.

Fields come JSON-decoded from any transport. Types are exact: a boolean is no integer, 1.0 is none either, while an
integer is a number. Every refusal is an ``InvalidRequest`` that names the field and says what would be right; it quotes
no text.
"""

from service.validation.requests import (
    parse_detokenize,
    parse_generate,
    parse_score,
    parse_timeout_ms,
    parse_tokenize,
    refit,
)

__all__ = ["parse_detokenize", "parse_generate", "parse_score", "parse_timeout_ms", "parse_tokenize", "refit"]
