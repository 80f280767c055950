"""A web application (Starlette) whose requests a worker answers, all over one pooled link.

    python examples/web_application.py

With a server such as uvicorn: WORKER=127.0.0.1:9000 uvicorn --app-dir examples web_application:app
Each request opens a connection of its own, which costs no round trip: answers cannot be mixed up.
Here, the worker is a program with threads; it may be one with an event loop as well.
"""

import asyncio
import json
import os

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

import tcpconn
from tcpconn import aio

REQUESTS = 200


async def count_words(request: Request) -> JSONResponse:
    text = await request.body()
    try:
        async with asyncio.timeout(5), aio.connect(os.environ["WORKER"]) as connection:
            await connection.send(text)
            return JSONResponse(json.loads(await connection.receive()))
    except (tcpconn.TcpconnError, TimeoutError) as error:
        return JSONResponse({"error": str(error)}, status_code=503)


app = Starlette(routes=[Route("/words", count_words, methods=["POST"])])


def work(connection: tcpconn.Connection) -> None:
    """The worker's side: runs in a thread of its own for each connection."""
    for text in connection:
        connection.send(json.dumps({"words": len(text.split())}).encode())


async def ask(client: httpx.AsyncClient, number: int) -> bool:
    response = await client.post("/words", content="word " * number)
    return bool(response.json() == {"words": number})


async def main() -> None:
    # The application is called as a web server would call it.
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://example") as client:
        answers = await asyncio.gather(*(ask(client, number) for number in range(REQUESTS)))
        print(f"{REQUESTS} requests at once, {sum(answers)} with the right answer")
        print(f"sockets dialled: {aio.default_pool().stats().dialled}")
    worker.close()
    async with httpx.AsyncClient(transport=transport, base_url="http://example") as client:
        response = await client.post("/words", content="is anybody there")
        print(f"without a worker: {response.status_code}")


if __name__ == "__main__":
    worker = tcpconn.serve(work, "127.0.0.1:0")
    os.environ["WORKER"] = worker.address
    asyncio.run(main())
