"""The overlays of ``k8s/``, and one with every component."""

from __future__ import annotations

import re
import shutil
import textwrap
from pathlib import Path
from typing import Final

K8S: Final = Path(__file__).parents[2] / "k8s"
NAMES: Final = ("local", "production", "canary")
NAMESPACE: Final = "malgil"
PAGE: Final = K8S.parent / "docs" / "deployment.md"
OWN_MODEL: Final = "mine"
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


def told(parent: Path, above: str) -> Path:
    """An overlay of one's own above this one, as the page shows it: the folder to render."""
    (shown,) = re.findall(r"^```yaml\n(namespace: .*?)^```", PAGE.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    folder = overlay_with(parent, above)
    assert shown.count("../production\n") == 1
    (folder / "kustomization.yaml").write_text(shown.replace("../production\n", f"../{above}\n"))
    return folder


def told_with_own_models(parent: Path, above: str) -> Path:
    """As ``told``, with a model of one's own in place of those that ship."""
    (shown,) = re.findall(r"  ```yaml\n(  namespace: .*?)  ```", PAGE.read_text("utf-8"), re.DOTALL)
    folder = overlay_with(parent, above)
    labels = ["labels.yaml", "labels-canary.yaml"] if above == "canary" else ["labels.yaml"]
    shown = textwrap.dedent(shown).replace("[labels.yaml]", f"[{', '.join(labels)}]")
    (folder / "kustomization.yaml").write_text(f"resources: [../{above}]\n{shown}")
    (folder / "models.config").write_text(f'model_config_list {{ config {{ name: "{OWN_MODEL}" }} }}')
    for name in labels:
        (folder / name).write_text(f"{OWN_MODEL}: {{stable: 1}}")
    return folder
