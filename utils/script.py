"""What every script does first and last: its command line, and how it ends."""

import argparse
import os
from collections.abc import Callable

from kafka.errors import KafkaError, RetriableError

from utils.kafka_client.rights import refusal
from utils.process import restart_process


def command_line(description: str | None, module: str | None = None) -> argparse.ArgumentParser:
    """Return the parser of a script whose docstring is shown by --help as it is written.

    module : the name after `python -m`, for a script that is started so.
    """
    return argparse.ArgumentParser(
        prog=f"python -m {module}" if module else None,
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def run(main: Callable[[], None], restart: bool = False) -> None:
    """Run a script's main(); an error of Kafka or the disk becomes one sentence and exit code 1.

    With `restart`, a script that loses the broker while it starts is restarted. The files that it
    writes, personal data and models, are readable by its own user only.
    """
    os.umask(0o077)
    try:
        main()
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except (KafkaError, OSError) as error:
        refused = refusal(error)
        if restart and isinstance(error, RetriableError) and not refused:
            restart_process(f"Kafka: {error}")
        raise SystemExit(str(refused or f"{type(error).__name__}: {error}")) from None
