"""What every script does first and last: its command line, and how it ends."""

import argparse
import os
from collections.abc import Callable

from utils.console import drop_unwritable_output
from utils.process import restart_process


def command_line(description: str | None, module: str | None = None) -> argparse.ArgumentParser:
    """Return a parser whose --help shows the script's docstring as it is written.

    module : the name after `python -m`, if the script is started that way.
    """
    return argparse.ArgumentParser(
        prog=f"python -m {module}" if module else None,
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def run(main: Callable[[], None], restart: bool = False) -> None:
    """Run a script's main(); an error of Kafka or the disk becomes one sentence and exit code 1.

    The sentence is printable, whatever the error's text contains.
    With `restart`, a script that loses Kafka, or a database, while it starts is restarted. Only its
    own user can read the files that it writes: they hold personal data and models.
    """
    # Not at the top: what needs no Kafka, `python -m tools.local_kafka stop` for example, works
    # without kafka-python and with settings that are wrong.
    from kafka.errors import KafkaError, RetriableError

    from utils.console import printable
    from utils.kafka_client.security import Refused

    drop_unwritable_output()
    os.umask(0o077)
    try:
        main()
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except SystemExit as end:
        if isinstance(end.code, str):
            end.code = printable(end.code)
        raise
    except Refused as refused:
        raise SystemExit(printable(str(refused))) from None
    except (KafkaError, OSError) as error:
        # The client raises a plain KafkaError where the answer to a transaction's request is late.
        is_late = type(error) is KafkaError
        if restart and (is_late or isinstance(error, RetriableError | ConnectionError)):
            restart_process(f"{'Kafka: ' if isinstance(error, KafkaError) else ''}{error}")
        raise SystemExit(printable(f"{type(error).__name__}: {error}")) from None
