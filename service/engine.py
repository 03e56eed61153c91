"""The one core that every transport calls."""

from __future__ import annotations

from collections.abc import Sequence

from service.backend import Backend, ModelVersion
from service.generation import DetokenizeRequest, Generation, GenerationRequest, Tokenization, TokenizeRequest
from service.settings import Settings
from service.telemetry import Telemetry


class Engine:
    """Answers requests with the models of one backend."""

    def __init__(self, backend: Backend, settings: Settings, telemetry: Telemetry) -> None:
        self._backend = backend
        self._settings = settings
        self._telemetry = telemetry

    async def start(self) -> None:
        """Load the models; returns once every one is READY or REFUSED."""
        await self._backend.start()

    @property
    def ready(self) -> bool:
        """Whether requests are answered now: at least one version of every model is READY, and nothing drains."""
        raise NotImplementedError

    def models(self) -> Sequence[ModelVersion]:
        """Every version of every model, by name, newest first."""
        return self._backend.versions()

    def resolve(self, model: str | None, version: int | None) -> ModelVersion:
        """The READY version that answers a request for ``model`` (None: the only one) and ``version`` (None: newest).

        Raises:
            InvalidRequest: no model named and several served.
            ModelNotFound: no such model or version. BackendUnavailable: it is still loading.
        """
        raise NotImplementedError

    async def generate(
        self, request: GenerationRequest, *, request_id: str, timeout_s: float | None = None
    ) -> Generation:
        """Generate from every text of the request.

        Args:
            request: from ``validation.parse_generate``.
            request_id: for the logs.
            timeout_s: time until the answer; None: the server's default; more than its maximum: the maximum.

        Raises:
            InvalidRequest, ModelNotFound, Overloaded, Draining, DeadlineExceeded, BackendFailed, BackendUnavailable.
            asyncio.CancelledError: the caller hung up; the rows' places are free again.
        """
        raise NotImplementedError

    async def tokenize(self, request: TokenizeRequest) -> list[Tokenization]:
        """Ids and pieces of every text."""
        raise NotImplementedError

    async def detokenize(self, request: DetokenizeRequest) -> list[str]:
        """The text of every sequence of ids."""
        raise NotImplementedError

    async def drain(self, timeout_s: float) -> bool:
        """Refuse new requests and finish the accepted; False if some were left after ``timeout_s`` (they get Draining)."""
        raise NotImplementedError

    async def close(self) -> None:
        """Fail what is left with Draining and close the backend."""
        raise NotImplementedError
