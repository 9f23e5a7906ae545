"""Between aiohttp and our values: read a call, put a reply on the wire."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from http import HTTPStatus

from aiohttp import web
from attrs import evolve

from .call import Call
from .credentials import certificate_fingerprint
from .messages import Reply
from .wire import AS_USUAL, Wire


def reception(answer: Callable[[Call], tuple[Reply, Wire]]) -> web.Application:
    """Make the web application that takes every request over mutual TLS.

    Args:
        answer: Decides on a call.
    """

    async def handle(request: web.Request) -> web.StreamResponse:
        reply, wire = answer(await _receive(request))
        return await deliver(request, reply, wire)

    application = web.Application()
    application.router.add_route("*", "/{path:.*}", handle)
    return application


async def _receive(request: web.Request) -> Call:
    body = await request.read()
    assert request.transport is not None
    peer = request.transport.get_extra_info("ssl_object").getpeercert(binary_form=True)
    headers = tuple(request.headers.items())
    return Call(request.method, request.path, headers, body, certificate_fingerprint(peer))


async def deliver(request: web.Request, reply: Reply, wire: Wire = AS_USUAL) -> web.StreamResponse:
    """Send a reply.

    Args:
        request: The request that it answers.
        reply: What is to be sent.
        wire: How it is to be sent.
    """
    response = web.Response(status=reply.status, reason=_reason(reply.status), body=reply.body)
    response.headers.extend(reply.headers)
    if wire.silent:
        # aiohttp cancels this as soon as the client goes away or the server stops.
        await asyncio.get_running_loop().create_future()
    if wire.after:
        await asyncio.sleep(wire.after)
    transport = request.transport
    if evolve(wire, after=0.0) == AS_USUAL or transport is None:
        return response
    if wire.reset:
        _reset(transport)
        return response
    head, body = _head(reply), reply.body[: int(len(reply.body) * wire.body_fraction)]
    await _drip(transport, head, wire.head_interval, wire.pieces)
    await _drip(transport, body, wire.body_interval, wire.pieces)
    # aiohttp wants a response from every handler, and drops it as the connection is closing.
    transport.close()
    return response


def _reset(transport: asyncio.Transport) -> None:
    """End the connection with a TCP reset: what lingers is thrown away."""
    connection = transport.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


async def _drip(transport: asyncio.Transport, data: bytes, interval: float, pieces: int) -> None:
    """Write at once, or in so many pieces; a sandbox that stops cancels the pause."""
    size = -(-len(data) // pieces) if interval else len(data)
    for start in range(0, len(data), size or 1):
        transport.write(data[start : start + size])
        await asyncio.sleep(interval)
        if transport.is_closing():
            return


def _head(reply: Reply) -> bytes:
    lines = [f"HTTP/1.1 {reply.status} {_reason(reply.status)}"]
    lines += [f"{name}: {value}" for name, value in reply.headers]
    lines += [f"Content-Length: {len(reply.body)}", "Connection: close", "", ""]
    return "\r\n".join(lines).encode("latin-1")


def _reason(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unassigned"
