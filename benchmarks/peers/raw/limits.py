"""What this machine can do at best: Postgres commits, asyncpg rows, msgspec, asyncio steps.  One JSON line."""
import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[3]))
import asyncpg
import msgspec
import uvloop
from benchmarks.harness.measure import rounded
from benchmarks.harness.peer import Peer, start_postgres

SECONDS = float(os.environ.get("RAW_SECONDS", 3))
TABLE = """create table ev (wf text not null, seq bigint not null, kind smallint not null, data bytea not null,
           primary key (wf, seq))"""
UNNEST = "insert into ev select * from unnest($1::text[], $2::bigint[], $3::smallint[], $4::bytea[])"


class Event(msgspec.Struct):
    instance: str
    seq: int
    kind: str
    name: str
    ts: float
    attempt: int
    input: dict


EVENT = Event("order-7f3a9c1e52d84b6f", 17, "activity_completed", "charge_credit_card", 1795190400.123456, 1,
              {"city": "Tokyo", "amount": 129.95, "items": [1, 2, 3], "note": "Hello Tokyo!"})


async def rate(op, per_op, peer=None):
    """ops/s, rows/s and, given a peer, the CPU microseconds per row spent in client and server"""
    await op()
    n, t, own, srv = 0, time.perf_counter(), time.process_time(), peer.cpu()["postgres"] if peer else 0
    while (el := time.perf_counter() - t) < SECONDS:
        await op()
        n += 1
    out = {"ops_per_s": n / el, "rows_per_s": n * per_op / el}
    if peer:
        out["client_us_per_row"] = (time.process_time() - own) / (n * per_op) * 1e6
        out["server_us_per_row"] = (peer.cpu()["postgres"] - srv) / (n * per_op) * 1e6
    return out


async def postgres(peer, out):
    url, out["postgres"] = start_postgres(peer, int(os.environ.get("PEER_PG_PORT", 55432)), "raw")
    conn = await asyncpg.connect(url)
    for s in ("fsync", "synchronous_commit", "wal_sync_method", "full_page_writes"):
        out[s] = await conn.fetchval(f"show {s}")
    data, ids = msgspec.json.encode(EVENT), iter(range(10**9))

    def rows(k):
        wf = f"wf-{next(ids):012d}"
        return [(wf, i, 1, data) for i in range(k)]

    async def fresh():
        await conn.execute("drop table if exists ev")
        await conn.execute(TABLE)
        await conn.execute("checkpoint")

    await fresh()
    insert = await conn.prepare("insert into ev values ($1, $2, $3, $4)")
    out["select_1"] = await rate(lambda: conn.fetchval("select 1"), 1, peer)
    out["insert_1"] = await rate(lambda: insert.fetch(*rows(1)[0]), 1, peer)
    await conn.execute("set synchronous_commit = off")
    out["insert_1_sync_commit_off"] = await rate(lambda: insert.fetch(*rows(1)[0]), 1, peer)
    await conn.execute("set synchronous_commit = on")
    for k in (10, 100, 1000):
        await fresh()
        st = await conn.prepare(UNNEST)
        out[f"unnest_{k}"] = await rate(lambda: st.fetch(*map(list, zip(*rows(k)))), k, peer)
        await fresh()
        out[f"copy_{k}"] = await rate(lambda: conn.copy_records_to_table("ev", records=rows(k)), k, peer)
    for c in (4, 16):                                    # group commit across connections
        await fresh()
        pool = [await asyncpg.connect(url) for _ in range(c)]
        sts = [await p.prepare("insert into ev values ($1, $2, $3, $4)") for p in pool]
        out[f"insert_1_x{c}_connections"] = await rate(
            lambda: asyncio.gather(*[s.fetch(*rows(1)[0]) for s in sts]), c, peer)
        for p in pool:
            await p.close()
    await fresh()
    await conn.copy_records_to_table("ev", records=[(f"wf-{i % 5000:012d}", i // 5000, 1, data) for i in range(100_000)])
    await conn.execute("vacuum analyze ev")
    out["fetch_100k"] = await rate(lambda: conn.fetch("select wf, seq, kind, data from ev"), 100_000, peer)
    st = await conn.prepare("select seq, kind, data from ev where wf = $1 order by seq limit 20")
    out["fetch_20_by_key"] = await rate(lambda: st.fetch(f"wf-{next(ids) * 7919 % 5000:012d}"), 20, peer)
    await conn.close()


def per_second(f, batch=1000):
    f()
    n, t = 0, time.perf_counter()
    while (el := time.perf_counter() - t) < min(SECONDS, 2):
        for _ in range(batch):
            f()
        n += batch
    return n / el


async def steps(n=200_000):
    async def body():
        await asyncio.sleep(0)

    async def nothing():
        pass
    out = {}
    t = time.perf_counter()
    for _ in range(n):
        await asyncio.sleep(0)
    out["sleep0_us"] = (time.perf_counter() - t) / n * 1e6
    t = time.perf_counter()
    await asyncio.gather(*[body() for _ in range(n)])
    out["gather_task_one_step_us"] = (time.perf_counter() - t) / n * 1e6
    t = time.perf_counter()
    for _ in range(n):
        await asyncio.create_task(nothing())
    out["create_and_await_task_us"] = (time.perf_counter() - t) / n * 1e6
    loop = asyncio.get_running_loop()
    t = time.perf_counter()
    for _ in range(n):
        f = loop.create_future()
        loop.call_soon(f.set_result, None)
        await f
    out["future_hop_us"] = (time.perf_counter() - t) / n * 1e6
    t = time.perf_counter()
    for _ in range(20_000):
        await asyncio.to_thread(int)
    out["to_thread_us"] = (time.perf_counter() - t) / 20_000 * 1e6
    return out


def main():
    peer, out = Peer(), {}
    peer.name, peer.dir = "raw", peer.dir.with_name(f"raw-{os.getpid()}")
    peer.dir.mkdir(parents=True)
    os.chmod(peer.dir, 0o777)
    bindir = Path(os.environ.get("PGBIN") or subprocess.check_output(["pg_config", "--bindir"], text=True).strip())
    text = subprocess.run([bindir / "pg_test_fsync", "-s", "1", "-f", peer.dir / "fsync"], text=True,
                          capture_output=True).stdout.split("Compare file sync methods using two")[0]
    out["pg_test_fsync_us"] = {m: int(us) for m, us in re.findall(r"^\s+(\w+)\s+[\d.]+ ops/sec\s+(\d+) usecs", text, re.M)}
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as r:
            r.run(postgres(peer, out))
    finally:
        peer.down()
        shutil.rmtree(peer.dir, ignore_errors=True)
    raw = msgspec.json.encode(EVENT)
    enc, dec, any_dec = msgspec.json.Encoder(), msgspec.json.Decoder(Event), msgspec.json.Decoder()
    out["json_bytes"] = len(raw)
    out["msgspec_encode_per_s"] = per_second(lambda: enc.encode(EVENT))
    out["msgspec_decode_struct_per_s"] = per_second(lambda: dec.decode(raw))
    out["msgspec_decode_untyped_per_s"] = per_second(lambda: any_dec.decode(raw))
    out["stdlib_json_loads_per_s"] = per_second(lambda: json.loads(raw))
    obj = json.loads(raw)
    out["stdlib_json_dumps_per_s"] = per_second(lambda: json.dumps(obj))
    for name, factory in (("asyncio", None), ("uvloop", uvloop.new_event_loop)):
        with asyncio.Runner(loop_factory=factory) as r:
            out[name] = r.run(steps())
    print(json.dumps(rounded({"peer": "raw", "ok": True, **out})))


main()
