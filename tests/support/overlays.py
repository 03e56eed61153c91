"""The overlays of ``k8s/``, and one with every component."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

K8S: Final = Path(__file__).parents[2] / "k8s"
NAMES: Final = ("local", "production", "canary")
NAMESPACE: Final = "malgil"
FOLDERS: Final = ("base", *(f"overlays/{name}" for name in NAMES))


def overlay_with(parent: Path, overlay: str, *components: str) -> Path:
    """A copy of ``k8s/`` below ``parent``, in which this overlay has these components: the folder to render."""
    copy = parent / "k8s"
    shutil.copytree(K8S, copy)
    folder = copy / "overlays" / "with-components"
    folder.mkdir()
    of_components = ", ".join(f"../../components/{each}" for each in components)
    (folder / "kustomization.yaml").write_text(
        f"namespace: {NAMESPACE}\nresources: [../{overlay}]\ncomponents: [{of_components}]\n"
    )
    return folder


def complete(parent: Path) -> Path:
    """The overlay ``canary`` with monitoring and routes."""
    return overlay_with(parent, "canary", "monitoring", "route", "canary-route")
