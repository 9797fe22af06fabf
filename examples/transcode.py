"""Long activities: heartbeats that the next attempt goes on from, work in a process of its own, cancellation.

everstep dev examples.transcode:app
everstep start publish '{"path": "cat.mov", "frames": 100}' --id v-1 --wait
"""

import asyncio
import contextlib
from dataclasses import dataclass

from everstep import App, Context, Retry, Signal, activity, hours, minutes, seconds

app = App("video")
stop = Signal[str]("stop")


@dataclass
class Progress:
    frame: int


@dataclass
class Video:
    path: str
    frames: int
    seconds_per_frame: float = 0.0


@app.activity(timeout=hours(6), heartbeat_timeout=seconds(30), retry=Retry(max_attempts=4))
async def transcode(video: Video, profile: str) -> str:
    resumed = activity.last_heartbeat(Progress)
    frame = resumed.frame if resumed else 0
    while frame < video.frames:  # cancelled: CancelledError at the await
        frame += 1
        activity.heartbeat(Progress(frame))
        await asyncio.sleep(video.seconds_per_frame)
    return f"{video.path}.{profile}"


@app.activity(executor="process", timeout=minutes(10))
def thumbnail(path: str) -> str:
    return f"{path}.{sum(ord(letter) for letter in path)}.jpg"


@app.activity
async def discard(path: str) -> None:
    """Would remove what was written so far."""


@app.workflow
async def publish(ctx: Context, video: Video) -> list[str]:
    try:
        async with asyncio.TaskGroup() as group:
            jobs = [group.create_task(transcode(video, profile)) for profile in ("1080p", "720p")]
            picture = group.create_task(thumbnail(video.path))
    except asyncio.CancelledError:
        await discard(video.path)
        raise
    return [job.result() for job in jobs] + [picture.result()]


@app.workflow
async def publish_unless_stopped(ctx: Context, video: Video) -> str:
    work, stopped = transcode(video, "1080p"), ctx.wait_for_signal(stop)
    done, _ = await asyncio.wait({work, stopped}, return_when=asyncio.FIRST_COMPLETED)
    if work in done:
        stopped.cancel()
        return work.result()
    work.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await work
    return f"stopped: {stopped.result()}"
