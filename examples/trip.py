"""A trip booked as a saga: what was booked is cancelled, in reverse, when a later step fails.

everstep dev examples.trip:app
everstep start book_trip '{"traveller": "ann", "city": "Rome"}' --id trip-1 --wait
everstep start book_trip '{"traveller": "ann", "city": "Atlantis"}' --id trip-2 --wait
"""

from dataclasses import dataclass

from everstep import App, CompensationError, Context, Retry, activity

app = App("trips", retry=Retry(max_attempts=3))


@dataclass
class Trip:
    traveller: str
    city: str


@dataclass
class Booking:
    ref: str


class SoldOut(Exception):
    """There is no room."""


@app.activity
async def book_flight(trip: Trip) -> Booking:
    return Booking(f"flight-{activity.info().idempotency_key}")


@app.activity(raises=[SoldOut])
async def book_hotel(trip: Trip) -> Booking:
    if trip.city == "Atlantis":
        raise SoldOut("no hotel above the water")
    return Booking(f"hotel-{activity.info().idempotency_key}")


@app.activity
async def cancel_flight(booking: Booking) -> str:
    return f"cancelled {booking.ref}"


@app.activity
async def cancel_hotel(booking: Booking) -> str:
    return f"cancelled {booking.ref}"


@app.activity
async def release_hold(traveller: str, *, why: str) -> str:
    if traveller == "nobody":
        raise LookupError("there is no such traveller")
    return f"released {traveller}: {why}"


@app.workflow
async def book_trip(ctx: Context, trip: Trip) -> str:
    try:
        async with ctx.saga() as saga:
            # Before a step whose outcome may stay unknown; undone last.
            saga.on_failure(release_hold, trip.traveller, why="the trip failed")
            flight = await saga.step(book_flight(trip), undo=cancel_flight)
            hotel = await saga.step(book_hotel(trip), undo=cancel_hotel)
            return f"booked {flight.ref} and {hotel.ref}"
    except SoldOut as error:
        return f"not booked: {error}"
    except CompensationError as error:
        return f"somebody must look: {[name for name, _ in error.failures]} failed after {error.cause}"
