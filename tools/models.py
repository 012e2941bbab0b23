"""Lists the models, shows their cards, and makes one of them the champion by hand.

    python -m tools.models list          # all models: * is the champion, anchor the best before it
    python -m tools.models show 3        # its card: data, parameters, figures, decision
    python -m tools.models promote 3     # every predictor changes to it within a second
    python -m tools.models sign          # sign all cards that are not signed with MODELS_KEY

promote works with older models too, archived ones among them: it is the way back. Before the first
`sign`, look at the models (list, show): with MODELS_KEY set, what it signs can be loaded, and
nothing else.
"""

import json
from contextlib import closing, suppress

from train.judge import PROMOTED
from utils.console import print_table, say, warn
from utils.datasets import dataset
from utils.model_store.archive import Archive
from utils.model_store.card import Card, encode_card
from utils.model_store.registry import ChampionChanged, ModelError, Registry, Seen
from utils.script import command_line, run
from utils.settings import settings


def show_list(registry: Registry) -> None:
    """Print one line for each model: its data, what it costs, and what the judge decided."""
    columns = "model", "created (UTC)", "rows", "trees", "us/row", "kB", "decision"
    cards, problems = _read_cards(registry)
    champion = registry.champion_id()
    marks = {champion: " *"}
    if cards.get(champion):
        marks.setdefault(cards[champion].anchor, " anchor")
    rows = [(f"{each}{marks.get(each, '')}", *_figures(card)) for each, card in cards.items()]
    print_table(columns, rows, box=None, pad_edge=False)
    for problem in problems:
        warn(problem)


def _read_cards(registry: Registry) -> tuple[dict[int, Card | None], list[str]]:
    """Return the card of each model, None for one that can't be read, and the reasons."""
    cards, problems = {}, []
    for model_id in registry.ids():
        cards[model_id] = None
        try:
            cards[model_id] = registry.card(model_id)
        except ModelError as error:
            problems.append(str(error))
    return cards, problems


def _figures(card: Card | None) -> tuple[str, ...]:
    if card is None:
        return "", "", "", "", "", "not usable, see below"
    known = card.trees or card.file_bytes  # not in the cards of older versions
    return (
        card.created[:16].replace("T", " "),
        f"{card.rows:,}",
        f"{card.trees:,}" if known else "",
        f"{card.us_per_row:.1f}" if known else "",
        f"{card.file_bytes / 1000:,.0f}" if known else "",
        _decision(card),
    )


def _decision(card: Card) -> str:
    """Return the decision with what the judge found, such as "promoted: better by 0.0031"."""
    if not (card.judge and card.judge.finding):
        return card.decision
    if (card.decision == "promoted") != (card.judge.finding in PROMOTED):  # it was overruled
        return f"{card.decision}: {card.why.partition(';')[0]}"
    found = card.judge.finding
    size = f" by {dataset.target.shown(abs(card.judge.estimate))}"
    return f"{card.decision}: {found}" + (size if found in ("better", "worse") else "")


def show(registry: Registry, model_id: int) -> None:
    """Print a model's card as JSON, without its long lists; SystemExit if it can't be read.

    Of a deleted model it is that in the archive; if several had the id, that of the last one.
    """
    archived = () if model_id in registry.ids() else [*Archive(registry.place).cards(model_id)]
    try:
        found = archived[-1] if archived else registry.card(model_id)
    except ModelError as error:
        raise SystemExit(str(error)) from None
    card = json.loads(encode_card(found))
    for name in ("reference", "learning_curve"):  # hundreds of lines
        card.pop(name, None)
    print(json.dumps(card, indent=2))  # ASCII: all else is escaped


def promote(registry: Registry, model_id: int) -> None:
    """Make a model the champion and announce it to the predictors; SystemExit if it can't load.

    An archived model is put back first. Waits for Kafka, as every script that starts does, but not
    for a model that can't be used.
    """
    from kafka.errors import KafkaError

    from utils.kafka_client.sender import Sender
    from utils.kafka_client.topics import RETRAIN_TOPIC, prepare_topics
    from utils.model_store.announcements import announce

    try:
        model = _usable(registry, model_id)
    except ModelError as error:
        raise SystemExit(f"Not promoted: {error}") from None
    prepare_topics(write=(RETRAIN_TOPIC,))
    with closing(Sender()) as sender, registry.locked() as champion:
        try:
            _put_back(registry, model_id, champion, model)
            card = registry.card(model_id)  # it may have been deleted meanwhile
            registry.promote(model_id, champion)
            card.anchor = None  # no earlier champion may undo the choice
            registry.write_card(card)
        except (ModelError, ChampionChanged) as error:
            raise SystemExit(f"Not promoted: {error}") from None
        try:
            announce(sender, model_id, training_completed=True)
        except KafkaError as error:  # predictors look at champion.json without it, too
            warn(f"Model {model_id} is the champion, but could not be announced: {error}")
            return
    say(f"Model {model_id} is the champion, and announced to the predictors.", "bold green")


def _usable(registry: Registry, model_id: int) -> tuple[Card, bytes]:
    """Return a model, or else the one that was archived last; ModelError if it can't be used."""
    from utils.model_store.model import decode

    archive, is_there = Archive(registry.place), model_id in registry.ids()
    cards = [registry.card(model_id)] if is_there else [*archive.cards(model_id)]
    if not cards:
        raise ModelError(f"model {model_id}: its card in the archive can't be read")
    content = (registry if is_there else archive).content(cards[-1])
    decode(cards[-1], content)
    return cards[-1], content


def _put_back(registry: Registry, model_id: int, seen: Seen, model: tuple[Card, bytes]) -> None:
    """Publish an archived model again, unless it is being deleted."""
    if model_id not in (*registry.ids(), *seen.champion.deleting):
        registry.publish(*model)


def sign(registry: Registry) -> None:
    """Sign the cards that are not signed with MODELS_KEY, of archived models too.

    SystemExit if it is not set. A model that is damaged is left as it is.
    """
    if not settings.models_key.get_secret_value():
        raise SystemExit("MODELS_KEY is not set: there is nothing to sign with")
    archive, signed = Archive(registry.place), 0
    trusted = {card.digest for card in archive.cards()}
    found = [(archive, card) for card in archive.cards(verify=False) if card.digest not in trusted]
    for model_id in registry.ids():
        try:
            registry.card(model_id)
        except ModelError:
            with suppress(ModelError):
                found.append((registry, registry.card(model_id, verify=False)))
    for source, card in found:
        try:
            source.content(card)
        except ModelError as error:
            warn(f"Not signed: {error}")
            continue
        source.write_card(card)
        signed += 1
        say(f"Signed model {card.model_id}, made {card.created[:16]}, digest {card.digest[:12]}.")
    say(f"{signed} cards are signed now that were not.")


def main() -> None:
    """Run the command that the command line names."""
    parser = command_line(__doc__, "tools.models")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="all models")
    commands.add_parser("show", help="a model's card").add_argument("model_id", type=int)
    commands.add_parser("sign", help="sign the cards that are not signed with MODELS_KEY")
    promotion = commands.add_parser("promote", help="make a model the champion")
    promotion.add_argument("model_id", type=int)
    arguments, registry = parser.parse_args(), Registry()
    if arguments.command == "list":
        return show_list(registry)
    if arguments.command == "sign":
        return sign(registry)
    if arguments.model_id not in [*registry.ids(), *Archive(registry.place).ids()]:
        raise SystemExit(f"There is no model {arguments.model_id}: see list")
    if arguments.command == "promote":
        return promote(registry, arguments.model_id)
    return show(registry, arguments.model_id)


if __name__ == "__main__":
    run(main)
