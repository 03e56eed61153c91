"""Answers requests with exported models; imports ``model_export.contract`` and nothing else of ``model_export``."""
