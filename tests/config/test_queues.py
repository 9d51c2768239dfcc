"""``QUEUE_OPTIONS``: what it takes, and which options a queue gets."""

from __future__ import annotations

from typing import Any

import pytest

from aiorpc import ConfigurationError, Queue
from aiorpc.config import from_mapping, load, options_for
from aiorpc.wire.message import Exchange
from aiorpc.wire.names import delay_queue, parked_queue
from aiorpc.wire.protocol import Wire
from aiorpc.wire.queues import configured, of_same_type


def arguments(options: dict[str, Any], queue: str = "rpc-shop", **flags: Any) -> dict[str, Any]:
    settings = from_mapping({"QUEUE_OPTIONS": options})
    return dict(configured(Queue(queue, **flags), settings.queue_options).arguments)


def test_options_become_the_arguments_of_rabbitmq(tmp_path: Any) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(
        """
QUEUE_OPTIONS:
  rpc-shop:
    type: classic
    message_ttl: 1.5
    max_length: 1000
    max_length_bytes: 1000000
    overflow: reject-publish
    single_active_consumer: true
    max_priority: 10
    dead_letter_exchange: dead
    arguments: {x-consumer-timeout: 60000}
"""
    )
    queue = Wire.of(load(path)).rpc_queue("shop")
    assert queue.arguments == {
        "x-queue-type": "classic",
        "x-message-ttl": 1500,
        "x-max-length": 1000,
        "x-max-length-bytes": 1000000,
        "x-overflow": "reject-publish",
        "x-single-active-consumer": True,
        "x-max-priority": 10,
        "x-dead-letter-exchange": "dead",
        "x-consumer-timeout": 60000,
    }
    assert queue.accept_existing
    assert Wire.of(load(path)).rpc_queue("other").arguments == {}


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"rpc-x": {"typ": "quorum"}}, r"unknown key 'typ' in QUEUE_OPTIONS\['rpc-x'\]: did you"),
        ({"rpc-x": {"x-max-length": 5}}, "did you mean max_length"),
        ({"rpc-x": {"type": "stream"}}, "one of classic, quorum or null, got str 'stream'"),
        ({"rpc-x": {"message_ttl": -1}}, "must be number >= 0"),
        ({"rpc-x": {"message_ttl": "1h"}}, "got str '1h'"),
        ({"rpc-x": {"max_length": True}}, "max_length must be int >= 0"),
        ({"rpc-x": {"max_priority": 256}}, "int >= 1 and <= 255"),
        ({"rpc-x": {"passive": "yes"}}, "passive must be true or false or null"),
        ({"rpc-x": None}, "must be mapping with"),
        ({"rpc-x": []}, "must be mapping with"),
        ([], "QUEUE_OPTIONS must be mapping"),
    ],
)
def test_a_mistake_names_its_place_and_the_likely_spelling(options: Any, error: str) -> None:
    with pytest.raises(ConfigurationError, match=error):
        from_mapping({"QUEUE_OPTIONS": options})


def test_a_misspelt_key_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="did you mean QUEUE_OPTIONS"):
        from_mapping({"QUEUE_OPTION": {}})


def test_later_patterns_override_earlier_ones_option_by_option() -> None:
    options = {
        "*": {"type": "quorum", "max_length": 10, "arguments": {"a": 1, "b": 1}},
        "rpc-*": {"max_length": 20, "arguments": {"b": 2}},
        "rpc-shop": {"delivery_limit": 5, "single_active_consumer": False},
        "rpc-shop-2": {"max_length": 30},
    }
    assert arguments(options) == {
        "x-queue-type": "quorum",
        "x-delivery-limit": 5,
        "x-max-length": 20,
        "a": 1,
        "b": 2,
    }
    assert arguments(options, "evt-a-b") == {
        "x-queue-type": "quorum",
        "x-max-length": 10,
        "a": 1,
        "b": 1,
    }
    assert options_for("evt-a-b", from_mapping({}).queue_options) is None


def test_only_a_durable_shared_queue_can_be_a_quorum_queue() -> None:
    options = {"*": {"type": "quorum", "delivery_limit": 5, "max_length": 10}}
    for flags in ({"exclusive": True}, {"auto_delete": True}, {"durable": False}):
        assert arguments(options, **flags) == {"x-max-length": 10}


def test_a_quorum_queue_with_a_highest_priority_is_refused() -> None:
    options = {"*": {"max_priority": 5}, "rpc-shop": {"type": "quorum"}}
    assert arguments(options, "evt-a") == {"x-max-priority": 5}
    with pytest.raises(ConfigurationError, match="'rpc-shop' is a quorum queue and has a max_prio"):
        arguments(options)


def test_a_passive_queue_has_a_passive_exchange_or_none() -> None:
    queue = Queue("rpc-shop", Exchange("nameko-rpc", "topic"), "shop.*")

    def made(**options: Any) -> Queue:
        settings = from_mapping({"QUEUE_OPTIONS": {"rpc-shop": options}})
        return configured(queue, settings.queue_options)

    assert made(passive=True).passive
    assert made(passive=True).exchange.passive
    assert made(passive=True, bind=False).exchange.name == ""
    assert made(bind=False) == Queue("rpc-shop", routing_key="shop.*")
    assert made(bind=True) == queue
    assert not made(passive=False).passive


def test_the_exchange_of_calls_may_be_declared_by_others() -> None:
    assert not Wire.of(from_mapping({})).rpc_exchange.passive
    assert Wire.of(from_mapping({"DECLARE_RPC_EXCHANGE": False})).rpc_exchange.passive


def test_queues_beside_a_queue_have_its_type_and_no_other_option() -> None:
    options = from_mapping(
        {"QUEUE_OPTIONS": {"rpc-*": {"type": "quorum", "message_ttl": 5, "passive": True}}}
    ).queue_options
    parked = of_same_type(parked_queue("rpc-shop"), "rpc-shop", options)
    assert (parked.arguments, parked.passive) == ({"x-queue-type": "quorum"}, False)
    delayed = delay_queue(configured(Queue("rpc-shop"), options), 1000)
    assert delayed.arguments["x-queue-type"] == "quorum"
    assert delayed.arguments["x-message-ttl"] == 1000
    wire = Wire.of(from_mapping({"QUEUE_OPTIONS": {"*": {"type": "quorum", "max_length": 5}}}))
    assert wire.reply_queue("shop", "id").arguments == {"x-queue-type": "quorum"}
    other = parked_queue("evt-a")
    assert of_same_type(other, "evt-a", options) is other
