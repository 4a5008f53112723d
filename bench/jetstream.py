"""Yardstick: the rate at which one nats-py subscriber is handed messages of a JetStream stream on files.

The stream is filled first, so that the server is never the one waited for and nothing else takes the CPU: the best
that one subscriber can do. Messages are typed flights, as the grid's subscribers get them. Both ways of consuming
are tried, each with and without uvloop, and the best counts:

  push  an ordered consumer with a callback
  pull  a pull consumer, fetching 1,000 at a time, acknowledged by its last message (AckPolicy.ALL)
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import msgpack
import nats
import uvloop
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig, StorageType, StreamConfig

from bench.flights_rows import flight_rows, planes_by_tail, translated
from bench.nats_server import NatsServer, nats_server
from bench.report import Progress

STREAM, SUBJECT = "FLIGHTS", "flights"
MESSAGES = 200_000
FETCH = 1_000
PUBLISHED_AT_ONCE = 2_000
PENDING_BYTES_MAX = 512 * 1024 * 1024  # the callback never drops a message


def delivery_rate(progress: Progress, messages: int = MESSAGES) -> float:
    """Messages per second of one subscriber; the best way."""
    with nats_server() as server:
        progress(f"jetstream: filling a stream with {messages:,} messages")
        uvloop.run(_fill(server, messages))
        rates = []
        for name, consume in (("push", _push), ("pull", _pull)):
            for loop, run in (("asyncio", asyncio.run), ("uvloop", uvloop.run)):
                progress(f"jetstream: one subscriber, {name}, {loop}")
                rates.append(run(_consumed(server, consume, messages)))
        return max(rates)


async def _fill(server: NatsServer, messages: int) -> None:
    planes = planes_by_tail()
    payloads = [msgpack.packb(translated(row, planes)[0]) for row in flight_rows(min(messages, 20_000))]
    client = await nats.connect(server.url)
    try:
        stream = client.jetstream(publish_async_max_pending=PUBLISHED_AT_ONCE)
        await stream.add_stream(StreamConfig(name=STREAM, subjects=[SUBJECT], storage=StorageType.FILE))
        for number in range(messages):
            await stream.publish_async(SUBJECT, payloads[number % len(payloads)])
        await stream.publish_async_completed()
        state = (await stream.stream_info(STREAM)).state
        assert state.messages == messages, f"the stream holds {state.messages} of {messages} messages"
    finally:
        await client.close()


async def _consumed(server: NatsServer, consume: Callable[[Client, int], Awaitable[float]], messages: int) -> float:
    client = await nats.connect(server.url)
    try:
        return messages / await consume(client, messages)
    finally:
        await client.close()


async def _push(client: Client, messages: int) -> float:
    """Seconds until all were handed to the callback."""
    everything = asyncio.get_running_loop().create_future()
    seen = 0

    async def handle(message: Msg) -> None:
        nonlocal seen
        seen += 1
        if seen == messages:
            everything.set_result(None)

    started = time.perf_counter()
    await client.jetstream().subscribe(
        SUBJECT,
        cb=handle,
        ordered_consumer=True,
        pending_msgs_limit=messages + 1,
        pending_bytes_limit=PENDING_BYTES_MAX,
    )
    await everything
    return time.perf_counter() - started


async def _pull(client: Client, messages: int) -> float:
    """Seconds until all were fetched and acknowledged."""
    config = ConsumerConfig(ack_policy=AckPolicy.ALL, max_ack_pending=-1)
    consumer = await client.jetstream().pull_subscribe(SUBJECT, stream=STREAM, config=config)
    seen = 0
    started = time.perf_counter()
    while seen < messages:
        batch = await consumer.fetch(FETCH, timeout=10)
        seen += len(batch)
        await batch[-1].ack()
    return time.perf_counter() - started
