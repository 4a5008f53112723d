"""The yardsticks alone, against themselves (ratio 1): what this machine does without the grid."""

from __future__ import annotations

from bench import jetstream, redis_puts, redis_worker, tight_loop
from bench.report import Figure, Progress


def run(progress: Progress) -> list[Figure]:
    figures = [_own("tight loop", tight_loop.rate(progress), "rows/s")]
    for shape in redis_worker.Shape:
        name = f"Redis (AOF always) + Streams + worker into SQLite, {shape.value}"
        figures.append(_own(name, redis_worker.rate(shape, progress), "events/s"))
    concurrent, p50 = redis_puts.concurrent(progress), redis_puts.single_p50(progress)
    figures.append(_own("redis.asyncio, 256 concurrent SETs, AOF always", concurrent, "ops/s"))
    figures.append(_own("redis.asyncio, one SET at a time, AOF always, p50", p50 * 1e6, "us"))
    figures.append(_own("one nats-py subscriber on JetStream", jetstream.delivery_rate(progress), "events/s"))
    return figures


def _own(name: str, value: float, unit: str) -> Figure:
    return Figure("yardsticks", value, unit, name, value, at_least=1)
