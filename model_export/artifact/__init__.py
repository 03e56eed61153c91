"""What an artifact is made of (graph, golden cases, warm-up records) and how it is read again."""
