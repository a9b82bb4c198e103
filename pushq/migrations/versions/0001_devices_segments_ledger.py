"""Device tokens in 16 hash partitions, segments, the ledger, the dead letters, and who may do what over HTTP."""

from __future__ import annotations

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

SHARDS = 16

DEVICE_TOKENS = """
CREATE SEQUENCE device_tokens_id_seq AS bigint;

CREATE TABLE device_tokens (
    id                  bigint      NOT NULL DEFAULT nextval('device_tokens_id_seq'),
    user_id             bigint      NOT NULL,
    app                 text        NOT NULL,
    platform            text        NOT NULL CHECK (platform IN ('apns', 'fcm', 'hms')),
    environment         text        NOT NULL DEFAULT 'production' CHECK (environment IN ('production', 'sandbox')),
    token               text        NOT NULL,
    token_hash          uuid        NOT NULL,
    created_at          timestamptz NOT NULL DEFAULT now(),
    registered_at       timestamptz NOT NULL DEFAULT now(),
    last_seen           timestamptz NOT NULL DEFAULT now(),
    is_active           boolean     NOT NULL DEFAULT true,
    deactivated_at      timestamptz,
    deactivation_reason text,
    language            text,
    country             text,
    timezone            text,
    app_version         text,
    tags                jsonb       NOT NULL DEFAULT '[]',
    attributes          jsonb       NOT NULL DEFAULT '{}',
    CHECK (is_active = (deactivated_at IS NULL)),
    PRIMARY KEY (token_hash, user_id)
) PARTITION BY HASH (user_id);

COMMENT ON COLUMN device_tokens.token_hash IS
    'first 16 bytes of sha256(app, platform, environment, token joined by NUL): identity of a token, and what logs show of it';
"""

# The planner walks this index and nothing else; user look-ups use its first column.
ACTIVE_INDEX = """
CREATE INDEX device_tokens_active ON device_tokens (user_id, id) INCLUDE (app, platform) WHERE is_active
"""

VERSION_FUNCTION = r"""
CREATE FUNCTION pushq_version(version text) RETURNS integer[]
    LANGUAGE sql IMMUTABLE PARALLEL SAFE STRICT
    RETURN string_to_array(substring(version FROM '^\d{1,9}(?:\.\d{1,9})*'), '.')::integer[]
"""

SEGMENTS = """
CREATE TABLE segments (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    app        text        NOT NULL,
    name       text        NOT NULL,
    kind       text        NOT NULL CHECK (kind IN ('static', 'filter')),
    filter     jsonb,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (app, name),
    CHECK ((kind = 'filter') = (filter IS NOT NULL))
);

CREATE TABLE segment_members (
    segment_id bigint NOT NULL REFERENCES segments ON DELETE CASCADE,
    user_id    bigint NOT NULL,
    PRIMARY KEY (segment_id, user_id)
);
"""

SENDS = """
CREATE TABLE sends (
    id              uuid        PRIMARY KEY,
    kind            text        NOT NULL CHECK (kind IN ('broadcast', 'transactional')),
    app             text        NOT NULL,
    guarantee       text        NOT NULL CHECK (guarantee IN ('at_least_once', 'at_most_once')),
    idempotency_key text,
    fingerprint     text        NOT NULL,
    notification    jsonb       NOT NULL,
    audience        jsonb       NOT NULL,
    options         jsonb       NOT NULL DEFAULT '{}',
    rate            integer     CHECK (rate > 0),
    version         integer     NOT NULL DEFAULT 0,
    state           text        NOT NULL
                    CHECK (state IN ('scheduled', 'planning', 'sending', 'paused', 'done', 'failed', 'cancelled')),
    error           text,
    called_at       timestamptz NOT NULL,
    created_at      timestamptz NOT NULL DEFAULT now(),
    send_at         timestamptz,
    expires_at      timestamptz,
    planned_at      timestamptz,
    finished_at     timestamptz,
    UNIQUE (app, idempotency_key)
);
COMMENT ON COLUMN sends.rate IS 'requests per second of all workers together; null: no limit of its own';
COMMENT ON COLUMN sends.version IS 'changes with whatever a worker may have kept of the row: expires_at, options';
CREATE INDEX sends_open ON sends (created_at) WHERE state IN ('scheduled', 'planning', 'sending', 'paused');
CREATE INDEX sends_recent ON sends (created_at DESC, id);
CREATE INDEX sends_broadcasts ON sends (created_at DESC, id) WHERE kind = 'broadcast';
CREATE INDEX sends_ended ON sends (finished_at) WHERE state IN ('done', 'failed', 'cancelled');

CREATE TABLE send_shards (
    send_id       uuid     NOT NULL REFERENCES sends ON DELETE CASCADE,
    shard_no      smallint NOT NULL,
    after_user    bigint   NOT NULL DEFAULT -9223372036854775808,
    after_device  bigint   NOT NULL DEFAULT -9223372036854775808,
    next_seq      integer  NOT NULL DEFAULT 0,
    scan_limit    integer  NOT NULL,
    scanned       bigint   NOT NULL DEFAULT 0,
    matched       bigint   NOT NULL DEFAULT 0,
    done          boolean  NOT NULL DEFAULT false,
    updated_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (send_id, shard_no)
);
CREATE INDEX send_shards_open ON send_shards (updated_at) WHERE NOT done;

CREATE TABLE send_batches (
    send_id      uuid        NOT NULL REFERENCES sends ON DELETE CASCADE,
    batch_no     integer     NOT NULL,
    platform     text        NOT NULL,
    state        text        NOT NULL DEFAULT 'planned'
                 CHECK (state IN ('planned', 'queued', 'running', 'retry', 'done', 'parked')),
    recipients   integer     NOT NULL CHECK (recipients > 0),
    user_ids     bigint[]    NOT NULL,
    device_ids   bigint[]    NOT NULL,
    outcomes     bytea,
    attempts     bytea,
    attempt      integer     NOT NULL DEFAULT 0,
    crashes      integer     NOT NULL DEFAULT 0,
    waits        integer[],
    publishes    integer     NOT NULL DEFAULT 0,
    runs         integer     NOT NULL DEFAULT 0,
    lease_token  uuid,
    retry_at     timestamptz,
    due_at       timestamptz,
    accepted     integer     NOT NULL DEFAULT 0,
    dead         integer     NOT NULL DEFAULT 0,
    rejected     integer     NOT NULL DEFAULT 0,
    exhausted    integer     NOT NULL DEFAULT 0,
    expired      integer     NOT NULL DEFAULT 0,
    suppressed   integer     NOT NULL DEFAULT 0,
    cancelled    integer     NOT NULL DEFAULT 0,
    unknown      integer     NOT NULL DEFAULT 0,
    error        text,
    created_at   timestamptz NOT NULL DEFAULT now(),
    settled_at   timestamptz,
    PRIMARY KEY (send_id, batch_no),
    CHECK (cardinality(user_ids) = recipients AND cardinality(device_ids) = recipients),
    CHECK (outcomes IS NULL OR length(outcomes) = recipients),
    CHECK (attempts IS NULL OR length(attempts) = recipients),
    CHECK (waits IS NULL OR cardinality(waits) = recipients)
);
-- Compressing a million recipients costs a second of CPU for 9 MB, more than all the rest of planning them.
ALTER TABLE send_batches ALTER COLUMN user_ids SET STORAGE EXTERNAL, ALTER COLUMN device_ids SET STORAGE EXTERNAL;
COMMENT ON COLUMN send_batches.outcomes IS 'one byte per recipient, see pushq.ledger.outcomes; null: all are pending';
COMMENT ON COLUMN send_batches.attempts IS 'one byte per recipient: how many times it was tried; null: all 0';
COMMENT ON COLUMN send_batches.waits IS
    'milliseconds after settled_at before which a pending recipient is not to be tried; null: all may be at retry_at';
COMMENT ON COLUMN send_batches.crashes IS 'holders that vanished since the last settlement';
COMMENT ON COLUMN send_batches.due_at IS
    'when the sweeper looks at it: queued = publish again, running = the lease is over, retry = publish again';
CREATE INDEX send_batches_planned ON send_batches (send_id, platform, batch_no) WHERE state = 'planned';
CREATE INDEX send_batches_flight  ON send_batches (send_id, platform) WHERE state IN ('queued', 'running', 'retry');
CREATE INDEX send_batches_open    ON send_batches (send_id) WHERE state NOT IN ('done', 'parked');
CREATE INDEX send_batches_due     ON send_batches (due_at) WHERE state IN ('queued', 'running', 'retry');
"""

DEAD_LETTERS = """
CREATE SEQUENCE dead_letters_id_seq AS bigint;

CREATE TABLE dead_letters (
    id           bigint      NOT NULL DEFAULT nextval('dead_letters_id_seq'),
    created_at   timestamptz NOT NULL DEFAULT now(),
    send_id      uuid        NOT NULL,
    batch_no     integer     NOT NULL,
    position     integer     NOT NULL,
    user_id      bigint      NOT NULL,
    device_id    bigint      NOT NULL,
    app          text        NOT NULL,
    platform     text        NOT NULL,
    outcome      text        NOT NULL,
    status       integer,
    reason       text        NOT NULL,
    attempt      integer     NOT NULL,
    invalid_since timestamptz,
    due_at       timestamptz NOT NULL DEFAULT now() + interval '30 s',
    processed_at timestamptz,
    invalidated  boolean,
    PRIMARY KEY (created_at, id)
) PARTITION BY RANGE (created_at);
COMMENT ON COLUMN dead_letters.invalid_since IS
    'the token is dead unless it was registered after this time; null: the failure does not speak about the token';
COMMENT ON COLUMN dead_letters.due_at IS 'when the sweeper publishes its batch again, unless it has been processed';
CREATE INDEX dead_letters_send ON dead_letters (send_id, batch_no);
CREATE INDEX dead_letters_waiting ON dead_letters (due_at) WHERE processed_at IS NULL;
CREATE TABLE dead_letters_default PARTITION OF dead_letters DEFAULT;
"""

ACCESS = """
CREATE TABLE api_keys (
    id           text        PRIMARY KEY,
    name         text        NOT NULL,
    secret_hash  bytea       NOT NULL CHECK (length(secret_hash) = 32),
    scopes       text[]      NOT NULL CHECK (cardinality(scopes) > 0),
    apps         text[]      CHECK (cardinality(apps) > 0),
    rate         integer     CHECK (rate > 0),
    created_at   timestamptz NOT NULL DEFAULT now(),
    expires_at   timestamptz,
    last_used_at timestamptz,
    revoked_at   timestamptz
);
COMMENT ON COLUMN api_keys.secret_hash IS 'sha256: the secret is random and long, nobody can try them all';
COMMENT ON COLUMN api_keys.apps IS 'null: all apps';
COMMENT ON COLUMN api_keys.rate IS 'requests per second; null: PUSHQ_WEB_KEY_RATE';

CREATE TABLE console_users (
    name          text        PRIMARY KEY,
    password_hash text        NOT NULL,
    scopes        text[]      NOT NULL CHECK (cardinality(scopes) > 0),
    apps          text[]      CHECK (cardinality(apps) > 0),
    created_at    timestamptz NOT NULL DEFAULT now(),
    password_at   timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE console_sessions (
    token_hash bytea       PRIMARY KEY CHECK (length(token_hash) = 32),
    user_name  text        NOT NULL REFERENCES console_users ON DELETE CASCADE,
    created_at timestamptz NOT NULL DEFAULT now(),
    seen_at    timestamptz NOT NULL DEFAULT now(),
    ends_at    timestamptz NOT NULL
);
CREATE INDEX console_sessions_user ON console_sessions (user_name);

CREATE TABLE login_links (
    token_hash bytea       PRIMARY KEY CHECK (length(token_hash) = 32),
    user_name  text        NOT NULL REFERENCES console_users ON DELETE CASCADE,
    ends_at    timestamptz NOT NULL
);

CREATE TABLE audit_log (
    id         bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at         timestamptz NOT NULL DEFAULT now(),
    actor_kind text        NOT NULL CHECK (actor_kind IN ('key', 'user', 'local')),
    actor      text        NOT NULL,
    actor_id   text        NOT NULL,
    action     text        NOT NULL,
    app        text,
    object_id  text,
    remote     text,
    detail     jsonb       NOT NULL DEFAULT '{}'
);
COMMENT ON TABLE audit_log IS 'rows are added, and removed by age; holds no secret, token or notification';
COMMENT ON COLUMN audit_log.object_id IS 'what it was done to: the id of a send, a key, a user, a segment';
CREATE INDEX audit_log_at ON audit_log (at);
CREATE INDEX audit_log_object ON audit_log (object_id, id) WHERE object_id IS NOT NULL;
"""


def upgrade() -> None:
    op.execute(DEVICE_TOKENS)
    for shard in range(SHARDS):
        op.execute(
            f"CREATE TABLE device_tokens_p{shard:02d} PARTITION OF device_tokens"
            f" FOR VALUES WITH (MODULUS {SHARDS}, REMAINDER {shard})"
        )
    op.execute(ACTIVE_INDEX)
    op.execute(VERSION_FUNCTION)
    op.execute(SEGMENTS)
    op.execute(SENDS)
    op.execute(DEAD_LETTERS)
    op.execute(ACCESS)


def downgrade() -> None:
    op.execute("DROP TABLE audit_log, login_links, console_sessions, console_users, api_keys")
    op.execute(
        "DROP TABLE dead_letters, send_batches, send_shards, sends, segment_members, segments, device_tokens"
    )
    op.execute("DROP SEQUENCE dead_letters_id_seq, device_tokens_id_seq")
    op.execute("DROP FUNCTION pushq_version(text)")
