"""The connection pool to PostgreSQL, and the one place where its errors become pushq's.

``ledger/``, ``tokens/`` and ``audience/`` share this pool; every statement runs under a timeout that the server enforces.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import orjson
from sqlalchemy import Connection, Engine, create_engine, exc
from sqlalchemy.engine import URL, make_url

from pushq.errors import ServiceUnavailable
from pushq.service_urls import ServiceUrl

#: A page of the planner or a settlement takes milliseconds; what takes this long is stuck.
STATEMENT_TIMEOUT_S = 60
CONNECT_TIMEOUT_S = 10
#: Connections for :meth:`Database.alone`: its statements are short, and who shares a round needs one for many.
MOST_ALONE = 6


class Database:
    """A pool of connections. Safe for many greenlets or threads; create one per process, after any fork.

    Args:
        url: where PostgreSQL is (``PUSHQ_DATABASE_URL``).
        pool_size: connections at most: at least the number of greenlets that work on the database at once.
    """

    def __init__(self, url: ServiceUrl, *, pool_size: int = 20, application_name: str = "pushq") -> None:
        parsed = make_url(url.reveal()).set(drivername="postgresql+psycopg")
        self.url = url
        self.engine = _engine(parsed, pool_size, application_name)
        # Connections of their own, made when first needed: a session's way to plan is for everything that it runs. Each statement is planned
        # once, perhaps while its tables are empty, and a plan that reads a whole table would be kept while the table grows.
        self._each = _engine(
            parsed,
            min(pool_size, MOST_ALONE),
            application_name,
            " -c plan_cache_mode=force_generic_plan -c enable_seqscan=off",
        ).execution_options(isolation_level="AUTOCOMMIT")

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        """One transaction: committed at the end, rolled back on an exception.

        Raises:
            ServiceUnavailable: PostgreSQL cannot be reached, or went away in mid-transaction.
        """
        with _translated(), self.engine.begin() as connection:
            yield connection

    @contextmanager
    def alone(self) -> Iterator[Connection]:
        """For one statement that is a transaction by itself, and always the same whatever its parameters.

        BEGIN and COMMIT would be two more round trips; and it is planned once for a connection, not each time, which takes longer than it
        runs (intake of one call: 1.2 to 0.4 ms of the server's CPU).

        Raises:
            ServiceUnavailable: as :meth:`begin`.
        """
        with _translated(), self._each.connect() as connection:
            yield connection

    def ping(self) -> None:
        """Ask for an answer.

        Raises:
            ServiceUnavailable: there is none.
        """
        with self.begin() as connection:
            connection.exec_driver_sql("SELECT 1")

    def close(self) -> None:
        self.engine.dispose()
        self._each.dispose()


def _engine(url: URL, pool_size: int, application_name: str, options: str = "") -> Engine:
    return create_engine(
        url,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=30,
        # Those used last are used first: a worker that needs three of its connections keeps three warm, in the server as well.
        pool_use_lifo=True,
        pool_pre_ping=False,
        # A pooled connection may have died with the server: the first use raises, the pool is emptied, `begin` says so.
        pool_recycle=1800,
        hide_parameters=True,  # of an error's text: it is logged, and they are tokens and notifications
        json_serializer=lambda value: orjson.dumps(value).decode(),
        json_deserializer=orjson.loads,
        connect_args={
            "connect_timeout": CONNECT_TIMEOUT_S,
            "application_name": application_name,
            "keepalives": 1,
            "keepalives_idle": 15,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "tcp_user_timeout": 30_000,
            "options": f"-c statement_timeout={STATEMENT_TIMEOUT_S}s -c idle_in_transaction_session_timeout=120s"
            f" -c lock_timeout=20s -c timezone=UTC -c jit=off{options}",
        },
    )


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except exc.OperationalError as error:
        if error.connection_invalidated or _is_connect_failure(error):
            raise ServiceUnavailable("PostgreSQL", "PUSHQ_DATABASE_URL", _detail(error)) from error
        raise
    except exc.TimeoutError as error:
        raise ServiceUnavailable(
            "PostgreSQL", "PUSHQ_DATABASE_URL", "no free connection in the pool within 30 s"
        ) from error


def _is_connect_failure(error: exc.OperationalError) -> bool:
    # psycopg raises its plain OperationalError, without an SQLSTATE, when it cannot connect or loses the connection;
    # 57P0x are the server's own shutdown messages, 53300 is "too many connections".
    sqlstate = getattr(error.orig, "sqlstate", None)
    return sqlstate is None or sqlstate.startswith(("57P", "08")) or sqlstate == "53300"


def _detail(error: exc.OperationalError) -> str:
    text = str(error.orig).strip().splitlines()
    return text[0][:300] if text else "connection failed"
