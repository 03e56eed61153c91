"""A fake TF Serving as a process of its own, which can be stopped as a whole."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys

from tests.service.backends.tf_serving.fake_server import FakeTfServing


class FakeProcess:
    """As ``FakeTfServing``, for ``running``."""

    port: int

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Returns once it listens."""
        command = [sys.executable, "-m", __name__]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.port = int(await asyncio.to_thread(self._process.stdout.readline))

    async def stop(self) -> None:
        self._process.kill()
        self._process.communicate()

    def freeze(self) -> None:
        """It keeps its connections, and does nothing any more."""
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._process.send_signal(signal.SIGCONT)


async def main(server: FakeTfServing) -> None:
    """Say the port, and serve until the other end of standard input is gone."""
    await server.start()
    print(server.port, flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await server.stop()


if __name__ == "__main__":
    asyncio.run(main(FakeTfServing()))
