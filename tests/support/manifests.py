"""Everything that is checked of manifests, for one version of Kubernetes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from tests.support.kustomize import Manifest, key
from tests.support.manifest_links import link_problems
from tests.support.manifest_schemas import schema_problems, value_problems
from tests.support.network_policies import reach_problems
from tests.support.pod_security import security_problems


def problems(manifests: Sequence[Manifest], version: str) -> list[str]:
    """What is wrong, each with the object that it is wrong with; those of the schemas alone where there are any."""
    found = [f"{_told(each)}: {problem}" for each in manifests for problem in schema_problems(each, version)]
    if found:
        return found  # the other checks take the shape of things for granted
    found += [f"{kind}/{name}: is there twice" for (kind, _, name), n in Counter(map(key, manifests)).items() if n > 1]
    for each in manifests:
        found += [f"{_told(each)}: {problem}" for problem in (*value_problems(each), *security_problems(each))]
    between = (*link_problems(manifests), *reach_problems(manifests))
    return found + [f"{_told(each)}: {problem}" for each, problem in between]


def _told(manifest: Manifest) -> str:
    return f"{manifest.get('kind')}/{manifest.get('metadata', {}).get('name')}"
