"""The gateway inside somebody else's FastAPI application, under uvicorn as it comes: ``python -m tests.kit.mounted --config FILE``."""

from __future__ import annotations

import logging
import socket
import sys

import uvicorn
from fastapi import FastAPI

from gateway.app import create_app
from gateway.config import load


class Server(uvicorn.Server):
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        print(f"gateway is ready at http://127.0.0.1:{self.servers[0].sockets[0].getsockname()[1]}", flush=True)


def main() -> None:
    config = load(sys.argv[2])
    logging.basicConfig(level=config.log_level.upper(), stream=sys.stderr)
    for logger in ("uvicorn.error", "uvicorn.access"):  # its words, not ours: every frame and every query
        logging.getLogger(logger).setLevel("WARNING")
    application = create_app(config)
    outer = FastAPI(lifespan=application.lifespan, openapi_url=None)
    outer.mount("/", application)
    Server(uvicorn.Config(outer, port=config.port, http="h11", ws="websockets-sansio", loop="asyncio", log_config=None)).run()


if __name__ == "__main__":
    main()
