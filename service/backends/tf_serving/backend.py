"""The backend itself: finds replicas, sums up what they say, and sends each call to one of them."""

from __future__ import annotations

import asyncio
import functools
import logging
import random
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from service.backend import Arrays, ModelVersion, VersionState
from service.backends.tf_serving.addresses import Address, Endpoint, parse_addresses, resolve
from service.backends.tf_serving.agreement import Agreement, Key, agree
from service.backends.tf_serving.channels import connector
from service.backends.tf_serving.replica import Replica, decode, encode
from service.certificate import MostRows
from service.errors import BackendUnavailable, DeadlineExceeded, ModelNotFound, Overloaded, ServiceError
from service.settings import Settings
from service.telemetry import log_event

PATIENCE_S: Final = 10.0
"""``start`` waits so long for a TF Serving that is not there yet."""
RESOLVE_S: Final = 2.0
"""Time between two resolutions of the names."""
MAX_TRIES: Final = 2
"""Of one call on one replica that could not be reached: its connection may have been a stale one."""
RETRY_PAUSE_S: Final = 0.1
GRACE_S: Final = 120.0
"""For calls that run on a replica whose address is no longer among those of its name."""


class TfServingBackend:
    """Runs models in one TF Serving or several that hold the same."""

    def __init__(self, settings: Settings, most_rows: MostRows) -> None:
        """Nothing is connected before ``start``. ``most_rows``: of the batches to warm up for.

        Raises:
            BackendUnavailable: no model is named, an address makes no sense, or a file of TLS cannot be read.
        """
        self._models = tuple(dict.fromkeys(filter(None, map(str.strip, settings.tf_serving_models.split(",")))))
        if not self._models:
            raise BackendUnavailable("TF Serving does not list its models: name them in --tf-serving-models")
        self._addresses = parse_addresses(settings.tf_serving_addresses)
        self._connect = connector(settings)
        self._runs = settings.tf_serving_concurrent_runs
        self._replica = functools.partial(
            Replica,
            models=self._models,
            most_rows=most_rows,
            poll_s=settings.version_poll_s,
            changed=self._changed,
        )
        self._resolved: dict[Address, list[Endpoint]] = {}
        self._unresolved: set[Address] = set()  # now
        self._replicas: dict[str, Replica] = {}  # by address
        self._retired: set[Replica] = set()  # that still run calls
        self._agreement = Agreement()
        self._listeners: list[Callable[[], None]] = []
        self._waiting: set[asyncio.Future[None]] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def slots(self) -> int:
        """As in ``Backend``: of the replicas that may answer now."""
        return self._runs * max(1, len({address for each in self._agreement.ready.values() for address in each}))

    async def start(self) -> None:
        """As in ``Backend``."""
        for address in self._addresses:
            self._begin(self._follow(address))
        patience = asyncio.get_running_loop().time() + PATIENCE_S
        while not self._is_settled():
            left_s = patience - asyncio.get_running_loop().time()
            if left_s <= 0 and not any(replica.is_examining for replica in self._replicas.values()):
                log_event("TF Serving is not ready yet", logging.WARNING)
                break
            await self._change(max(left_s, RETRY_PAUSE_S))

    async def close(self) -> None:
        """As in ``Backend``."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        replicas = [*self._replicas.values(), *self._retired]
        self._replicas = {}
        self._changed()
        await asyncio.gather(*(replica.close() for replica in replicas))

    def versions(self) -> Sequence[ModelVersion]:
        """As in ``Backend``."""
        return self._agreement.versions

    def subscribe(self, listener: Callable[[], None]) -> None:
        """As in ``Backend``."""
        self._listeners.append(listener)

    def keep(self, versions: Mapping[str, frozenset[int]]) -> None:
        """As in ``Backend``: what is loaded is TF Serving's choice."""

    async def predict(
        self, name: str, version: int, signature: str, inputs: Arrays, timeout_s: float | None = None
    ) -> dict[str, NDArray[np.generic]]:
        """As in ``Backend``."""
        request, rows = encode((name, version), signature, inputs)
        return decode(signature, await self._answer((name, version), request, timeout_s), rows)

    # --- calls --------------------------------------------------------------------------------------------------------

    async def _answer(self, key: Key, request: bytes, timeout_s: float | None) -> bytes:
        """The answer of the least loaded replica, or of another one where that cannot be reached or is full.

        Generation has no side effects, and nothing of an answer has been passed on: to ask again is safe.
        """
        deadline = None if timeout_s is None else asyncio.get_running_loop().time() + timeout_s
        tries: Counter[str] = Counter()
        error: ServiceError | None = None
        while address := await self._free_replica(key, tries, deadline):
            tries[address] += 1
            try:
                return await self._replicas[address].predict(key, request, _left_s(deadline))
            except BackendUnavailable as caught:
                error = caught
                if all(tries[each] for each in self._agreement.ready.get(key, ())):
                    await asyncio.sleep(RETRY_PAUSE_S)
            except (Overloaded, ModelNotFound) as caught:
                error = caught
                tries[address] = MAX_TRIES
            finally:
                self._wake()
        raise error or self._absence(key)

    async def _free_replica(self, key: Key, tries: Mapping[str, int], deadline: float | None) -> str | None:
        """The address of the replica to ask next, once one has room; None if there is none left to ask."""

        def load(address: str) -> tuple[float, ...]:
            replica = self._replicas[address]
            return tries[address], replica.running, replica.failures, random.random()

        while left := [each for each in self._agreement.ready.get(key, ()) if tries[each] < MAX_TRIES]:
            free = [each for each in left if self._replicas[each].running < self._runs]
            if free:
                return min(free, key=load)
            await self._change(_left_s(deadline))
        return None

    def _absence(self, key: Key) -> ServiceError:
        for each in self.versions():
            if (each.name, each.version, each.state) == (*key, VersionState.LOADING):
                return BackendUnavailable(f"version {key[1]} of model {key[0]!r} is not ready: {each.reason}")
        return ModelNotFound(f"no version {key[1]} of a model {key[0]!r} is ready")

    # --- replicas -----------------------------------------------------------------------------------------------------

    async def _follow(self, address: Address) -> None:
        """Follow a name to its replicas, which come and go; no name waits for another one's resolution."""
        while True:
            await self._resolve(address)
            self._take_replicas()
            await asyncio.sleep(RESOLVE_S)

    def _take_replicas(self) -> None:
        """Have exactly the replicas to which the names lead now."""
        known = [each for address in self._addresses for each in self._resolved.get(address, ())]
        found = {str(each.address): each for each in known}
        for gone in self._replicas.keys() - found.keys():
            self._retired.add(replica := self._replicas.pop(gone))
            self._begin(self._retire(replica))
        for new in found.keys() - self._replicas.keys():
            self._replicas[new] = self._replica(self._connect(found[new]))
        self._changed()

    async def _retire(self, replica: Replica) -> None:
        """Close a replica that is asked no more, once its calls have ended."""
        end = asyncio.get_running_loop().time() + GRACE_S
        while replica.running and asyncio.get_running_loop().time() < end:
            await asyncio.sleep(RETRY_PAUSE_S)
        await replica.close()
        self._retired.discard(replica)

    async def _resolve(self, address: Address) -> None:
        try:
            self._resolved[address] = await resolve(address)
        except (OSError, UnicodeError) as error:
            # The last answer stands: replicas that are gone are noticed anyway.
            if address not in self._unresolved:
                log_event("a name of TF Serving cannot be resolved", logging.WARNING, reason=str(error))
            self._unresolved.add(address)
        else:
            self._unresolved.discard(address)

    def _is_settled(self) -> bool:
        """Whether all replicas are found and looked at, one answers, and no version is LOADING on those that do."""
        replicas = self._replicas.values()
        up = [replica for replica in replicas if replica.is_up]
        words = [word for replica in up for word in replica.words.values()]
        return (
            bool(up)
            and self._resolved.keys() | self._unresolved >= set(self._addresses)
            and all(replica.was_looked_at for replica in replicas)
            and not any(replica.is_examining for replica in up)
            and not any(word.state is VersionState.LOADING for word in words)
        )

    def _changed(self) -> None:
        """Sum up anew what the replicas say, and tell who listens if that makes a difference."""
        before = self._agreement, self.slots
        said = {address: replica.words for address, replica in sorted(self._replicas.items())}
        self._agreement = agree(said, self._agreement)
        self._wake()
        if before != (self._agreement, self.slots):
            for listener in self._listeners:
                listener()

    # --- waiting ------------------------------------------------------------------------------------------------------

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _change(self, timeout_s: float | None) -> None:
        """Until a call has ended or a replica says something else, or the time is over."""
        waiting = asyncio.get_running_loop().create_future()
        self._waiting.add(waiting)
        await asyncio.wait([waiting], timeout=timeout_s)
        self._waiting.discard(waiting)

    def _wake(self) -> None:
        for each in self._waiting:
            if not each.done():
                each.set_result(None)


def _left_s(deadline: float | None) -> float | None:
    """Seconds until the deadline. Raises DeadlineExceeded if it has passed."""
    if deadline is None:
        return None
    left_s = deadline - asyncio.get_running_loop().time()
    if left_s <= 0:
        raise DeadlineExceeded("the model did not answer within the time of the request")
    return left_s
