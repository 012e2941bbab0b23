"""How the web shop in examples/journey joins events, and what it keeps for browsers: no Kafka."""

import asyncio
from contextlib import ExitStack

from hypothesis import given
from hypothesis import strategies as st

from examples.journey import sessions as journey_sessions
from examples.journey.events import REACTIONS, Arrived, Left, Reacted, Tick, Viewed
from examples.journey.sessions import MAX_VIEWS, Sessions
from examples.journey.states import decode_state, encode_state
from examples.journey.streams import MAX_MESSAGES, Streams

AT = 1_800_000_000.0  # Unix time of the first event


def apply(sessions: Sessions, *events) -> tuple[list, list]:
    """Apply (seconds, event) pairs; return the requests and outcomes that they make due."""
    for seconds, event in events:
        sessions.apply(event, AT + seconds)
    due = list(sessions.requests), list(sessions.outcomes)
    sessions.clear()
    return due


def test_the_events_of_a_session_become_one_request_per_view():
    sessions = Sessions({}, patience=120)
    requests, outcomes = apply(
        sessions,
        (0, Arrived("s", "phone", "mail", "new")),
        (5, Viewed("s", "s-1", "item-02")),
        (5.04, Viewed("s", "s-1", "item-02")),  # delivered twice
        (47.5, Viewed("s", "s-2", "item-39")),
        (50, Viewed("other", "other-1", "item-39")),
    )
    first, second, other = (data for _, _, data in requests)
    assert [request_id for _, request_id, _ in requests] == ["s-1", "s-2", "other-1"]
    assert first == {
        "price": 59.32,
        "discount": 0.3,
        "views": 1,
        "seconds": 5,
        "hour": 8,
        "item": "item-02",
        "category": "trousers",
        "device": "phone",
        "source": "mail",
        "visitor": "new",
    }
    assert (second["views"], second["seconds"], second["category"]) == (2, 47, "socks")
    assert (other["views"], other["seconds"], other["source"]) == (1, 0, "direct")
    assert outcomes == []


def test_a_view_has_one_outcome_the_strongest_reaction():
    sessions = Sessions({}, patience=120)
    views = [(0, Viewed("s", f"s-{n}", "item-00")) for n in range(4)]
    _, outcomes = apply(
        sessions,
        *views,
        (1, Reacted("s", "s-0", "basket")),
        (2, Reacted("s", "s-0", "liked")),
        (3, Reacted("s", "s-1", "bought")),
        (4, Reacted("s", "s-1", "liked")),
        (5, Reacted("thief", "s-2", "bought")),  # of another session
        (6, Reacted("s", "unknown", "bought")),
    )
    assert outcomes == [("s", "s-1", "bought")]  # nothing stronger can follow
    _, outcomes = apply(sessions, (7, Left("s")), (8, Left("s")), (9, Left("nobody")))
    assert outcomes == [("s", "s-0", "basket"), ("s", "s-2", "ignored"), ("s", "s-3", "ignored")]
    assert apply(sessions, (10, Reacted("s", "s-0", "bought")), (999, Tick())) == ([], [])


def test_a_silent_visitor_has_ignored_the_item_and_is_forgotten():
    sessions = Sessions({}, patience=120)
    apply(sessions, (0, Viewed("s", "s-0", "item-00")))
    assert apply(sessions, (119, Tick())) == ([], [])
    assert apply(sessions, (120, Tick())) == ([], [("s", "s-0", "ignored")])
    apply(sessions, (journey_sessions.IDLE, Tick()))
    assert sessions.by_id == {}


def test_sessions_and_their_views_are_bounded(monkeypatch):
    monkeypatch.setattr(journey_sessions, "MAX_SESSIONS", 3)
    sessions = Sessions({}, patience=120)
    views = [(n, Viewed("s", f"s-{n}", "item-00")) for n in range(MAX_VIEWS + 2)]
    requests, outcomes = apply(sessions, *views)
    assert requests[-1][2]["views"] == MAX_VIEWS + 2
    assert outcomes == [("s", "s-0", "ignored"), ("s", "s-1", "ignored")]
    _, outcomes = apply(sessions, *((99, Arrived(name)) for name in "abc"))
    assert list(sessions.by_id) == ["a", "b", "c"]
    assert len(outcomes) == MAX_VIEWS
    assert len(encode_state(sessions.by_id["a"])) < 500


names = st.sampled_from(["a", "b"])
views = st.sampled_from(["1", "2", "3"])
events = st.one_of(
    st.builds(Arrived, names),
    st.builds(lambda name, view: Viewed(name, f"{name}-{view}", "item-07"), names, views),
    st.builds(
        lambda name, view, reaction: Reacted(name, f"{name}-{view}", reaction),
        names,
        views,
        st.sampled_from(REACTIONS[1:]),
    ),
    st.builds(Left, names),
    st.just(Tick()),
)


@given(st.lists(st.tuples(events, st.booleans()), max_size=30))
def test_an_aggregator_that_begins_with_stored_states_does_what_the_first_one_did(steps):
    """The state is stored after each event; where the flag is set, another one takes over."""
    one, other, stored = Sessions({}, 60), Sessions({}, 60), {}
    for number, (event, restarted) in enumerate(steps):
        if restarted:
            states = {name: decode_state(state) for name, state in stored.items() if state}
            by_time = dict(sorted(states.items(), key=lambda each: each[1].seen))
            other = Sessions(by_time, 60)
        for sessions in (one, other):
            sessions.apply(event, AT + 20 * number)
        stored |= {name: encode_state(other.by_id.get(name)) for name in other.changed}
        assert (one.requests, one.outcomes) == (other.requests, other.outcomes)
        assert one.by_id == other.by_id
        one.clear()
        other.clear()


def test_streams_are_bounded_and_the_last_message_is_for_a_new_stream_too():
    async def push_and_read():
        streams = Streams()
        with streams.opened("s") as slow:
            for number in range(1_000):
                streams.push("s", str(number))
            assert slow.qsize() == MAX_MESSAGES
            with ExitStack() as stack:
                queues = [stack.enter_context(streams.opened("s")) for _ in range(4)]
                assert [queue.get_nowait() for queue in queues] == ["999"] * 4
                ended = [slow.get_nowait() for _ in range(slow.qsize())][-1]
                assert ended is None  # the fifth stream of the session has replaced it
            with streams.opened("other") as other:
                assert other.empty()
        assert streams.number == 0

    asyncio.run(push_and_read())
