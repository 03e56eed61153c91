"""Which versions of a model to load and which to retire: a function of what lies on disk and what is in memory."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass

from service.backends.model_folders import Fingerprint


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do with one model. What is neither loaded nor retired stays as it is."""

    load: tuple[int, ...]  # in this order: newest first, then those that were only asked to be kept
    retire: frozenset[int]  # READY ones that nobody needs any more
    forget: frozenset[int]  # REFUSED ones that are not worth a word any more: gone, changed, or older than what serves


def plan_versions(
    on_disk: Mapping[int, Fingerprint],
    ready: Mapping[int, Fingerprint],
    refused: Mapping[int, Fingerprint],
    *,
    served: int,
    keep: Set[int],
) -> Plan:
    """The way to the newest ``served`` good versions and those in ``keep``, on which a READY one always answers.

    A version is refused as it was on disk then: once its files change it may be good, and is loaded as a new one. One
    that is READY stays until all that are newer, or take its place, are READY or REFUSED.

    Args:
        on_disk: versions that there are.
        ready: what the versions in memory were when they were loaded.
        refused: what those that were refused were then.
        served: how many of the newest good versions are wanted.
        keep: versions that are wanted besides.
    """
    good = [version for version in sorted(on_disk, reverse=True) if refused.get(version) != on_disk[version]]
    newest = good[:served]
    wanted = newest + [version for version in good[served:] if version in keep]
    load = tuple(version for version in wanted if ready.get(version) != on_disk[version])
    retire: frozenset[int] = frozenset()
    if not set(newest) & set(load):
        # One whose files became bad under its number stays where nothing else can take its place.
        needed = {version for version in on_disk if version in keep or not newest}
        retire = frozenset(ready.keys() - set(wanted) - needed)
    oldest = min(newest) if len(newest) == served else 0
    told = {version for version in on_disk if version not in good and (version > oldest or version in keep)}
    return Plan(load, retire, frozenset(refused.keys() - told))
