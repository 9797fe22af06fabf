"""Writes `orders.jsonl`: one story a line, that is an order and what its customer or the warehouse does afterwards.

    python -m examples.orders.generate

The file is checked in; the seed makes it the same every time.
"""

import json
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from examples.orders.shop import CATALOGUE, DECLINED, UNRELIABLE

FILE = Path(__file__).with_name("orders.jsonl")
SEED = 20260
KINDS = {
    "ships": 170,
    "ships early": 40,
    "unreliable bank": 45,
    "out of stock": 35,
    "declined": 30,
    "nobody confirms": 25,
    "cancels": 20,
    "cancels at once": 15,
}
OPENING = datetime(2026, 3, 2, 8, 0, tzinfo=UTC)
FIRST = (
    "Ada Amir Ana Björn Chen Dalia Emeka Fatou Giulia Hana Ines Jonas Kofi Lena Mateo Nora Olga Priya Rui Sofia Tariq"
)
LAST = (
    "Abe Baptista Castro Diallo Eriksen Fischer García Haddad Ito Jansen Kowalski Lund Moreau Nkosi Okafor Patel Rossi"
)
CITIES = ["Kraków", "Lisboa", "Nairobi", "Tōkyō", "Montréal", "Zürich", "Reykjavík", "São Paulo", "Oslo", "Leeds"]
CARRIERS = {"DHL": "JD{:012d}", "UPS": "1Z{:014d}", "PostNL": "3S{:011d}", "La Poste": "6A{:011d}"}
REASONS = ["found it cheaper", "ordered the wrong colour", "moved house", "changed my mind"]


def main() -> None:
    FILE.write_text("".join(json.dumps(story, ensure_ascii=False) + "\n" for story in stories()))


def stories() -> Iterator[dict[str, Any]]:
    rng = random.Random(SEED)
    kinds = [kind for kind, count in KINDS.items() for _ in range(count)]
    rng.shuffle(kinds)
    placed_at = OPENING
    for number, kind in enumerate(kinds, 1):
        placed_at += timedelta(seconds=round(rng.expovariate(1 / 90)))
        yield {"order": order(rng, number, kind, placed_at), "afterwards": afterwards(rng, kind)}


def order(rng: random.Random, number: int, kind: str, placed_at: datetime) -> dict[str, Any]:
    first, last = rng.choice(FIRST.split()), rng.choice(LAST.split())
    record: dict[str, Any] = {
        "order_id": f"order-{number:04d}",
        "customer": f"{first} {last}",
        "email": f"customer{number}@example.com",
        "city": rng.choice(CITIES),
        "items": items(rng, sold_out=kind == "out of stock"),
        "card": {"declined": DECLINED, "unreliable bank": UNRELIABLE}.get(kind, f"tok_{rng.randrange(16**8):08x}"),
        "placed_at": placed_at.isoformat(),
    }
    if kind == "nobody confirms":
        record["confirm_within_seconds"] = rng.choice([3, 5, 8])
    return record


def items(rng: random.Random, *, sold_out: bool) -> list[dict[str, Any]]:
    available = [sku for sku, product in CATALOGUE.items() if product.in_stock]
    chosen = {sku: rng.randint(1, min(3, CATALOGUE[sku].in_stock)) for sku in rng.sample(available, rng.randint(1, 3))}
    if sold_out:
        sku = rng.choice(list(CATALOGUE))
        chosen[sku] = CATALOGUE[sku].in_stock + rng.randint(1, 5)
    return [{"sku": sku, "quantity": quantity} for sku, quantity in chosen.items()]


def afterwards(rng: random.Random, kind: str) -> dict[str, Any] | None:
    match kind:
        case "ships" | "unreliable bank":
            return {"act": "ships", "when": "waiting", **parcel(rng)}
        case "ships early":
            return {"act": "ships", "when": "submitted", **parcel(rng)}
        case "cancels":
            return {"act": "cancels", "when": "waiting", "reason": rng.choice(REASONS)}
        case "cancels at once":
            return {"act": "cancels", "when": "started", "reason": rng.choice(REASONS)}
    return None


def parcel(rng: random.Random) -> dict[str, str]:
    carrier = rng.choice(list(CARRIERS))
    return {"carrier": carrier, "tracking": CARRIERS[carrier].format(rng.randrange(10**11))}


if __name__ == "__main__":
    main()
