"""Counts the requests and the replies of app_messages: has every request exactly one?

    python -m examples.count_answers

Reads what is there when it starts, requests of all programs included. Two requests with the same
request_id need two replies. The exit code is 1 if a reply is missing, or if there is one too many.
"""

from collections import Counter
from contextlib import closing

from utils.console import say
from utils.kafka_client.consumer import make_consumer
from utils.kafka_client.positions import assign_all, records_up_to_now
from utils.kafka_client.topics import APP_MESSAGES, prepare_topics
from utils.messages import InvalidMessage, decode_reply, decode_request
from utils.script import command_line, run

SHOWN = 10  # request_ids, at most


def id_of_request(value: bytes) -> str | None:
    """Return the request_id of a request, valid or not; None for any other message."""
    try:
        request = decode_request(value)
    except InvalidMessage as invalid:
        return invalid.request_id  # None: nobody can be answered, there is only a dead letter
    return request.request_id if request else None


def count() -> tuple[Counter, Counter]:
    """Return how many requests there are of each request_id, and how many replies."""
    requests, replies = Counter(), Counter()
    # The consumer returns committed records only: the replies of a transaction that was aborted,
    # because a predictor was killed for example, do not exist for it.
    with closing(make_consumer()) as consumer:
        consumer.seek_to_beginning(*assign_all(consumer, APP_MESSAGES))  # reading removes nothing
        for record in records_up_to_now(consumer):
            if reply := decode_reply(record.value):
                replies[reply.request_id] += 1
            elif request_id := id_of_request(record.value):
                requests[request_id] += 1
    return requests, replies


def main() -> None:
    """Print the counts, and the request_ids that are not right."""
    command_line(__doc__, "examples.count_answers").parse_args()
    prepare_topics(read=[APP_MESSAGES])
    requests, replies = count()
    surplus = Counter({each: replies[each] - number for each, number in requests.items()})
    missing, repeated = -surplus, +surplus  # the counts below zero, and those above
    counts = f"{requests.total()} requests, {missing.total()} not answered"
    say(f"{counts}, {repeated.total()} answered twice", "bold")
    for what, found in ("not answered", missing), ("answered twice", repeated):
        for request_id in list(found)[:SHOWN]:
            say(f"{what}: {request_id}", "yellow")
    if missing or repeated:
        raise SystemExit(1)


if __name__ == "__main__":
    run(main)
