"""A plain aiohttp server: JSON by POST over a Unix socket.

Usage: http_server.py PATH
"""
import asyncio
import sys

import server
from aiohttp import web


async def predict(request: web.Request) -> web.Response:
    """Answers with twice the value."""
    body = await request.json()
    return web.json_response({"result": body["value"] * 2})


async def serve(path: str) -> None:
    """For ever."""
    app = web.Application()
    app.add_routes([web.post("/predict", predict)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.UnixSite(runner, path).start()
    server.say_ready()
    await asyncio.Event().wait()


if __name__ == "__main__":
    server.end_with_input()
    asyncio.run(serve(sys.argv[1]))
