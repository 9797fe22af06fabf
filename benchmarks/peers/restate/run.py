import asyncio
import json
import os
import sys
from importlib.metadata import version
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[3]))
import aiohttp
from benchmarks.harness import measure, peer, workloads

BASE = int(os.environ.get("PEER_RESTATE_PORT", 18080))          # ingress; then admin, node, app
TUNED = os.environ.get("PEER_MODE") == "tuned"
INGRESS, ADMIN, NODE, APP = BASE, BASE + 1, BASE + 2, BASE + 3


class Client(workloads.Client):
    """Plain HTTP calls to the ingress: one request per workflow, answered when the workflow completes."""

    def __init__(self, http):
        self.http = http

    async def _post(self, path, body):
        async with self.http.post(f"http://127.0.0.1:{INGRESS}/{path}", data=json.dumps(body),
                                  headers={"content-type": "application/json"}) as r:
            if r.status >= 300:
                raise RuntimeError(f"{path}: {r.status} {(await r.text())[:200]}")
            text = await r.text()
            return json.loads(text) if text else None

    async def start(self, kind, wid, arg):
        return asyncio.create_task(self._post(f"{kind}/{wid}/run", arg))

    async def result(self, task):
        return await task

    async def signal(self, wid, payload):
        await self._post(f"wait/{wid}/go", payload)


class Restate(peer.Peer):
    name = "restate" + ("-tuned" if TUNED else "")

    async def up(self):
        exe = next(self.here.glob("node_modules/@restatedev/restate-server-*/bin/restate-server"))
        env = {**os.environ, "RESTATE_BIND_IP": "127.0.0.1", "RESTATE_LISTEN_MODE": "tcp",
               "RESTATE_INGRESS__BIND_PORT": str(INGRESS), "RESTATE_ADMIN__BIND_PORT": str(ADMIN),
               "RESTATE_BIND_PORT": str(NODE), "RESTATE_BASE_DIR": str(self.dir / "data"),
               "RESTATE_NODE_NAME": "bench", "RESTATE_DISABLE_TELEMETRY": "true"}
        self.spawn("server", [exe, "--no-logo"], env=env)
        self.http = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0),
                                          timeout=aiohttp.ClientTimeout(total=None))
        for _ in range(300):
            try:
                async with self.http.get(f"http://127.0.0.1:{ADMIN}/health") as r:
                    if r.status == 200:
                        break
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.1)

    async def start_worker(self):
        first = "app" not in self.dead_cpu
        if TUNED:
            self.spawn("app", [Path(sys.executable).parent / "granian", "--interface", "asgi", "--http", "2",
                               "--host", "127.0.0.1", "--port", APP, "--workers", "1", "--loop", "uvloop", "app:app"],
                       cwd=self.here, env={**os.environ, "PEER_RESTATE_CHUNK": "100"})
        else:
            self.spawn("app", [sys.executable, self.here / "app.py", APP])
        await self.wait_port(APP)
        if first:
            for _ in range(100):
                async with self.http.post(f"http://127.0.0.1:{ADMIN}/deployments",
                                          json={"uri": f"http://127.0.0.1:{APP}"}) as r:
                    if r.status < 300:
                        return
                    why = await r.text()
                await asyncio.sleep(0.1)
            raise RuntimeError(f"deployment not accepted: {why[:200]}")

    async def make_client(self):
        return Client(self.http)

    def versions(self):
        pkg = json.loads((self.here / "node_modules/@restatedev/restate-server/package.json").read_text())
        return {"restate-server": pkg["version"], "restate-sdk": version("restate-sdk"),
                **{s: version(s) for s in (["granian"] if TUNED else ["hypercorn"])}}


measure.main(Restate())
