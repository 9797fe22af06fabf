import os
import sys
from importlib.metadata import version
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[3]))
from benchmarks.harness import measure, peer

PORT = int(os.environ.get("PEER_PG_PORT", 55432))


class Dbos(peer.Peer):
    name = "-".join(filter(None, ["dbos", os.environ.get("PEER_MODE")]))
    embedded = True

    async def up(self):
        os.environ["PEER_DB"], self.pg = peer.start_postgres(self, PORT, "bench")

    async def start_worker(self):
        await self.spawn_embedded([sys.executable, self.here / "app.py"])

    def versions(self):
        return {"dbos": version("dbos"), "postgres": self.pg}


measure.main(Dbos())
