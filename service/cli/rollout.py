"""``malgil rollout``: a version of a model into use step by step, and back."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from service.cli.console import Debug, notes, one_line_errors
from service.errors import InvalidRequest

if TYPE_CHECKING:
    from service.engine.labels import Labels
    from service.rollout import LabelsStore
    from service.rollout.moving import Step

HERE: Final = "http://127.0.0.1:8000"

rollout = typer.Typer(
    name="rollout",
    help="Bring a version of a model into use step by step, and back, by moving its labels.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

ModelName = Annotated[str, typer.Argument(metavar="MODEL", help="Its name.")]
LabelsFile = Annotated[
    Path | None, typer.Option("--labels", metavar="FILE", help="The YAML file of labels that gateways read.")
]
ConfigMapName = Annotated[
    str | None, typer.Option("--configmap", metavar="NAME", help="The ConfigMap of labels, changed through kubectl.")
]
Namespace = Annotated[str | None, typer.Option("--namespace", "-n", help="With --configmap: where it is.")]
Context = Annotated[str | None, typer.Option("--context", help="With --configmap: of which cluster.")]
Urls = Annotated[
    list[str] | None,
    typer.Option(
        "--url", "--server", help=f"A gateway; a name may stand for several. May be given again. [default: {HERE}]"
    ),
]
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until every gateway has moved the labels.")]
Timeout = Annotated[
    float, typer.Option("--timeout", min=0.0, metavar="S", help="Longest wait; a ConfigMap may take a minute.")
]


@rollout.command()
@one_line_errors
def status(
    model: Annotated[str | None, typer.Argument(metavar="[MODEL]", help="Its name; all without.")] = None,
    labels: LabelsFile = None,
    configmap: ConfigMapName = None,
    namespace: Namespace = None,
    context: Context = None,
    url: Urls = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
    debug: Debug = False,
) -> None:
    """Show which versions are ready, what each label stands for, and what has not moved yet, at each gateway.

    Ends with 1 while a label does not stand for what it is to stand for, or not for what --labels or --configmap says.

    \b
    Examples:
      malgil rollout status
      malgil rollout status en-fr --labels labels.yaml --url http://malgil-gateway-pods:8000
    """
    from service.rollout import look, summary

    unreachable: list[str] = []
    gateways = look(url or [HERE], unreachable)
    written = None
    if labels is not None or configmap is not None or namespace is not None or context is not None:
        written = _store(labels, configmap, namespace, context).read()
    found = summary(gateways, written, model, unreachable)
    if as_json:
        typer.echo(json.dumps(found, ensure_ascii=False))
    else:
        for line in _lines(found):
            typer.echo(line)
    if any(each["missing"] for each in found["models"].values()) or found["errors"]:
        raise typer.Exit(1)


@rollout.command()
@one_line_errors
def promote(
    model: ModelName,
    version: Annotated[
        int | None, typer.Argument(metavar="[VERSION]", min=1, help="To stable: by default the canary.")
    ] = None,
    to: Annotated[str, typer.Option("--to", metavar="canary|stable", help="The step.")] = "stable",
    share: Annotated[
        float, typer.Option("--share", metavar="PERCENT", help="To canary: of requests that name no version.")
    ] = 0.0,
    labels: LabelsFile = None,
    configmap: ConfigMapName = None,
    namespace: Namespace = None,
    context: Context = None,
    url: Urls = None,
    wait: Wait = True,
    timeout_s: Timeout = 180.0,
    debug: Debug = False,
) -> None:
    """Take a version one step on: to canary, with more and more of the requests, then to stable.

    Refused unless the version is ready at every gateway, and all of them read the labels that are to move.

    \b
    Examples:
      malgil rollout promote en-fr 4 --to canary --labels labels.yaml
      malgil rollout promote en-fr 4 --to canary --share 10 --labels labels.yaml
      malgil rollout promote en-fr --configmap malgil-labels --namespace malgil
    """
    from service.rollout import to_canary, to_stable

    if to not in ("canary", "stable"):
        raise InvalidRequest(f"--to is canary or stable, not {to!r}")
    if to == "canary" and version is None:
        raise InvalidRequest("which version is to be the canary? name it behind the model")
    if to == "stable" and share:
        raise InvalidRequest("--share is that of a canary: give --to canary too")

    def step(now: Any, answering: int | None) -> Any:
        return (
            to_stable(now, version, answering) if version is None or to == "stable" else to_canary(now, version, share)
        )

    _move(model, step, _store(labels, configmap, namespace, context), url or [HERE], timeout_s if wait else None)


@rollout.command()
@one_line_errors
def rollback(
    model: ModelName,
    labels: LabelsFile = None,
    configmap: ConfigMapName = None,
    namespace: Namespace = None,
    context: Context = None,
    url: Urls = None,
    wait: Wait = True,
    timeout_s: Timeout = 180.0,
    debug: Debug = False,
) -> None:
    """Give up the canary where there is one; else go back to what was stable before.

    It does not wait: gateways that do not answer, have not read the labels yet, or do not have the version ready are
    told, and it goes back all the same as long as one has it ready.

    \b
    Examples:
      malgil rollout rollback en-fr --labels labels.yaml
      malgil rollout rollback en-fr --configmap malgil-labels --namespace malgil
    """
    from service.rollout import back

    store = _store(labels, configmap, namespace, context)
    _move(model, lambda now, answering: back(now), store, url or [HERE], timeout_s if wait else None, doubts=[])


@rollout.command()
@one_line_errors
def remove(
    model: ModelName,
    version: Annotated[int, typer.Argument(metavar="VERSION", min=1, help="Which nothing is answered by.")],
    models: Annotated[Path, typer.Option("--models", metavar="DIR", help="The folder of models.")],
    labels: LabelsFile = None,
    configmap: ConfigMapName = None,
    namespace: Namespace = None,
    context: Context = None,
    url: Urls = None,
    debug: Debug = False,
) -> None:
    """Delete a version from the folder of models; refused while a label stands for it or it answers requests.

    \b
    Examples:
      malgil rollout remove en-fr 2 --models build/models --labels labels.yaml
    """
    from service.rollout import remove as removed

    removed(_store(labels, configmap, namespace, context), url or [HERE], model, version, models)
    typer.echo(f"removed version {version} of {model}")


def _store(labels: Path | None, configmap: str | None, namespace: str | None, context: str | None) -> LabelsStore:
    from service.rollout import ConfigMap, YamlFile

    if labels is not None and configmap is None:
        if namespace is not None or context is not None:
            raise InvalidRequest("--namespace and --context go with --configmap")
        return YamlFile(labels)
    if configmap is None or labels is not None:
        raise InvalidRequest("where are the labels? give --labels FILE or --configmap NAME, one of them")
    return ConfigMap(configmap, namespace, context)


def _move(
    model: str,
    step: Step,
    store: LabelsStore,
    urls: Sequence[str],
    timeout_s: float | None,
    doubts: list[str] | None = None,
) -> None:
    from service.rollout import move, waiting_for
    from service.rollout.steps import told

    labels: Labels = move(store, urls, model, step, doubts)
    for each in doubts or ():
        notes().print(f"warning: {each}", highlight=False, markup=False, soft_wrap=True)
    typer.echo(f"written to {store}: " + ", ".join(f"{label} {told(each)}" for label, each in labels[model].items()))
    if timeout_s is None:
        return
    with notes().status("waiting for the gateways") as shown:
        count = waiting_for(
            urls, labels, model, timeout_s, lambda missing: shown.update(f"waiting for {'; '.join(missing)}")
        )
    typer.echo(f"in force at {count} gateway{'' if count == 1 else 's'}")


def _lines(found: Mapping[str, Any]) -> Iterator[str]:
    for name, model in found["models"].items():
        yield name
        for version, states in model["versions"].items():
            yield f"  version {version}: {'; '.join(_at(states, len(found['gateways'])))}"
        for label, stands_for in model["labels"].items():
            yield f"  {label}: {'; '.join(_at(stands_for, len(found['gateways'])))}"
        yield from (f"  not yet: {each}" for each in model["missing"])
        if model["unused"]:
            yield f"  may be removed: {', '.join(map(str, model['unused']))}"
    yield from (f"error: {each}" for each in found["errors"])


def _at(said: Mapping[str, Sequence[str]], count: int) -> Iterator[str]:
    """What is said, with who says it where not all do."""
    for what, addresses in said.items():
        yield what if len(addresses) == count else f"{what} ({', '.join(addresses)})"
