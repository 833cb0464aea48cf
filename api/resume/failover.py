"""Going on with a resumable stream whose worker has died.

Its journal has the request and the tokens that were sent. The request runs again here: it takes those tokens first,
which gives the same events, and then the engine goes on behind them. A reader notices a pause.
"""

import asyncio
import logging
from contextlib import suppress

from ...engine.frames import FrameError
from ..http.connection import Application, Connection
from .detached import DetachedRun
from .event_log import EventLog
from .journal import Journal
from .registry import StreamRegistry

logger = logging.getLogger(__name__)


def claim(streams: StreamRegistry, stream_id: str, owner: int) -> None:
    """Make a stream this worker's own whose worker doesn't have it, unless another worker was faster."""
    with suppress(FileNotFoundError):
        streams.journal_path(stream_id, owner).rename(streams.journal_path(stream_id, streams.worker))


def take_over(streams: StreamRegistry, stream_id: str, connection: Connection, app: Application) -> EventLog | None:
    """Run the request of a stream again that has a journal of this worker's; None if it has none.

    Args:
        connection: of the client that came back; it has shown the key.
        app: answers requests.
    """
    path = streams.journal_path(stream_id, streams.worker)
    try:
        journal = Journal.read(path)
    except FileNotFoundError:
        return None
    except (OSError, FrameError) as error:
        logger.warning("resumable stream: its journal can't be read: %s", error)
        path.unlink(missing_ok=True)
        return None
    logger.info("resumable stream: taken over from a worker that has died")
    over = asyncio.Event()
    return DetachedRun(streams, streams.adopt(stream_id, over, journal), journal, over).begin(app, connection)
