"""The topics as other programs see them: what is promised, who writes and who reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from everstep_schemas.documents.lifecycle import KINDS
from everstep_schemas.names import Topics
from everstep_schemas.wire import ActivitiesRenewed, ActivityResult, AnySubmission, InboxMessage

TOPICS = Topics()
_HOUR_MS = 3600 * 1000
_UNTIL_CONSUMED = "Records stay until they are consumed, and then for EVERSTEP_INPUT_RETENTION (24 h)."

SUBMISSIONS = [str(member.__struct_config__.tag) for member in get_args(AnySubmission)]
ANSWERS = [str(member.__struct_config__.tag) for member in (*get_args(ActivityResult), ActivitiesRenewed)]
INBOX = [str(member.__struct_config__.tag) for member in get_args(InboxMessage)]
FACTS = [kind.type for kind in KINDS]


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic with the names of its messages; `retention_ms` -1 keeps records until they are deleted as consumed."""

    address: str
    description: str
    messages: Sequence[str]
    retention_ms: int = -1
    partitions: int | None = None


@dataclass(frozen=True, slots=True)
class Operation:
    """What a role does with a topic's messages: all of them, or the named ones."""

    role: Literal["client", "worker", "orchestrator"]
    action: Literal["send", "receive"]
    topic: str
    summary: str
    messages: Sequence[str] = ()


CHANNELS = {
    "submissions": Topic(
        TOPICS.submissions,
        "What clients ask for. Any key, any partitioner, and headers only for who wants them. Submissions for one id"
        " keep their order if they lie in one partition: give them the id as key. One that lies in another partition"
        " than its id belongs to is handed on. What cannot be understood goes to the dead letters; what is understood"
        f" and impossible is rejected on the lifecycle topic. {_UNTIL_CONSUMED}",
        [*SUBMISSIONS, "structured_submission"],
    ),
    "inbox": Topic(
        TOPICS.inbox,
        "What belongs to a run: workers' answers, in the partition that the command names, what runs say to each"
        f" other, and submissions that orchestrators hand to each other. {_UNTIL_CONSUMED}",
        INBOX,
    ),
    "activities": Topic(
        TOPICS.activities("{queue}"),
        "Commands for the workers of one queue, in no particular order. A worker commits a command's offset only after"
        f" its answer is acknowledged; a command may come again, with the same token. {_UNTIL_CONSUMED}",
        ["activity_command"],
    ),
    "control": Topic(
        TOPICS.control,
        "What all workers are told; each reads it without a group, from its end on. Missing it costs work, not"
        " correctness. Records stay for an hour.",
        ["control"],
        retention_ms=_HOUR_MS,
        partitions=1,
    ),
    "lifecycle": Topic(
        TOPICS.lifecycle,
        "The facts about runs that matter outside, typed by `ce_type`, keyed by workflow id, published after they are"
        " committed. A record may come again with the same `ce_id`, and across a fail-over an older one may follow a"
        " newer: readers keep the highest `(run, seq)`. Records stay for 7 days.",
        FACTS,
        retention_ms=7 * 24 * _HOUR_MS,
    ),
    "dlq": Topic(
        TOPICS.dlq,
        "What could not be understood or published: the original bytes, key and headers, and `everstep_*` headers that"
        " say what was wrong and where it stood. Records stay until they are dropped by hand.",
        ["dead_letter"],
        partitions=1,
    ),
}

OPERATIONS = {
    "submit": Operation("client", "send", "submissions", "Starts and steers runs."),
    "follow": Operation("client", "receive", "lifecycle", "Learns what became of submissions and runs."),
    "inspect": Operation("client", "receive", "dlq", "Looks at what went wrong."),
    "work": Operation("worker", "receive", "activities", "Executes attempts and answers each."),
    "obey": Operation("worker", "receive", "control", "Stops or skips attempts that nobody waits for."),
    "set_aside_commands": Operation("worker", "send", "dlq", "Sets aside what is no command."),
    "apply_submissions": Operation("orchestrator", "receive", "submissions", "Applies each to its run."),
    "apply_inbox": Operation("orchestrator", "receive", "inbox", "Applies each to its run."),
    "hand_on": Operation("orchestrator", "send", "inbox", "Hands a submission to its run's owner.", ["forwarded"]),
    "relate": Operation(
        "orchestrator",
        "send",
        "inbox",
        "Passes on what parents and children say to each other.",
        ["child_start", "child_end", "child_completed", "child_failed", "request_answered"],
    ),
    "command": Operation("orchestrator", "send", "activities", "Has an attempt executed."),
    "call_off": Operation("orchestrator", "send", "control", "Calls off an attempt."),
    "announce": Operation("orchestrator", "send", "lifecycle", "Announces what is committed."),
    "set_aside_inputs": Operation("orchestrator", "send", "dlq", "Sets aside what it cannot use."),
}
