"""Text: files of pairs, tokenizers, and batches of ids."""
