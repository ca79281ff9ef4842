"""How log lines look: JSON for machines or aligned text for people, on standard error, whichever library wrote them.

What a tenant sends can end up in a line, so no control character reaches the terminal or starts a line of its own.
"""

import logging
import re
import sys

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def configure(log_format: str, level: str) -> None:
    """Set up logging for the process. `log_format` is 'json' or 'console', `level` a name of the logging module."""
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    ending: list[Processor] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta]
    if log_format == "json":
        # The encoder escapes everything beyond ASCII too, so nothing else has to.
        ending += [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    else:
        console = structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
        ending += [structlog.processors.format_exc_info, escape_controls, console]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=ending))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())


def escape_controls(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Write the control characters of an event's texts as escapes, but for the line ends of a traceback."""
    for key, value in event.items():
        if isinstance(value, str):
            lines = value.split("\n") if key == "exception" else [value]
            event[key] = "\n".join(_CONTROL.sub(_escape, line) for line in lines)
    return event


def _escape(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()
