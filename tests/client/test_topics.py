"""Topics are created with explicit settings, once, and wrong ones are named."""

from __future__ import annotations

import pytest
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from everstep.admin import topics
from everstep.admin.topics import TopicError, admin_client
from everstep.settings import Settings

pytestmark = pytest.mark.integration


@pytest.fixture
def settings(kafka_bootstrap: str, topic_prefix: str) -> Settings:
    return Settings(kafka_bootstrap=kafka_bootstrap, topic_prefix=topic_prefix, queue_partitions=5)


async def partitions(settings: Settings) -> dict[str, int]:
    async with admin_client(settings) as admin:
        names = [name for name in await admin.list_topics() if name.startswith(settings.topic_prefix)]
        found = await admin.describe_topics(names)
    return {t["topic"].removeprefix(settings.topic_prefix + "."): len(t["partitions"]) for t in found}


async def config(settings: Settings, topic: str) -> dict[str, str]:
    async with admin_client(settings) as admin:
        resource = ConfigResource(ConfigResourceType.TOPIC, f"{settings.topic_prefix}.{topic}")
        (response,) = await admin.describe_configs([resource])
    return {entry[0]: entry[1] for entry in response.resources[0][4]}


async def test_all_topics_once(settings: Settings) -> None:
    created = await topics.create(settings, 3, ["default"])
    assert len(created) == 6
    assert await topics.create(settings, 3, ["default"]) == []
    assert await partitions(settings) == {
        "submissions": 3,
        "inbox": 3,
        "lifecycle": 3,
        "control": 1,
        "dlq": 1,
        "activities.default": 5,
    }


async def test_explicit_settings(settings: Settings) -> None:
    await topics.create(settings, 1, ["q"])
    kept = [await config(settings, name) for name in ("submissions", "inbox", "activities.q", "dlq")]
    assert {found["retention.ms"] for found in kept} == {"-1"}
    assert {found["cleanup.policy"] for found in kept} == {"delete"}
    assert (await config(settings, "control"))["retention.ms"] == str(3600 * 1000)
    assert int(kept[0]["max.message.bytes"]) > settings.max_payload_bytes
    assert int(kept[3]["max.message.bytes"]) > int(kept[0]["max.message.bytes"])


async def test_a_wrong_number_of_partitions_is_named(settings: Settings) -> None:
    await topics.create(settings, 3)
    with pytest.raises(TopicError, match=r"submissions has 3 partitions where 4 are needed.*inbox has 3"):
        await topics.create(settings, 4)
    assert "everstep migrate" in str(await _error(settings, 4))


async def _error(settings: Settings, shards: int) -> TopicError:
    with pytest.raises(TopicError) as caught:
        await topics.create(settings, shards)
    return caught.value


async def test_what_kafka_refuses_is_told(kafka_bootstrap: str, topic_prefix: str) -> None:
    settings = Settings(kafka_bootstrap=kafka_bootstrap, topic_prefix=topic_prefix, topic_replication=9)
    assert "replication factor" in str(await _error(settings, 1))


async def test_a_queue_gets_its_topic_when_it_is_needed(settings: Settings) -> None:
    async with admin_client(settings) as admin:
        assert await topics.ensure_queue(admin, settings, "mail")
        assert not await topics.ensure_queue(admin, settings, "mail")
    assert await partitions(settings) == {"activities.mail": 5}


async def test_a_queue_whose_topic_may_not_be_created(kafka_bootstrap: str, topic_prefix: str) -> None:
    settings = Settings(kafka_bootstrap=kafka_bootstrap, topic_prefix=topic_prefix, create_topics=False)
    async with admin_client(settings) as admin:
        with pytest.raises(TopicError, match="create it with `everstep migrate --queue mail`"):
            await topics.ensure_queue(admin, settings, "mail")
        with pytest.raises(TopicError, match="cannot have a topic"):
            await topics.ensure_queue(admin, settings, "ma il")
