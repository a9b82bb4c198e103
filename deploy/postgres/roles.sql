-- Roles with the least that each part of pushq needs. Run it as a superuser in pushq's database, after `pushq db upgrade`, and again
-- after an upgrade of pushq:
--
--     psql --dbname pushq --set ON_ERROR_STOP=1 --file deploy/postgres/roles.sql
--
-- The roles may log in and have no password: nobody gets in before you set one (\password pushq_deliver) or allow certificates in
-- pg_hba.conf. Safe to repeat while everybody works: what is taken away and given again changes at once, or, after an error, not at all.
-- Tested by tests/integration/test_database_roles.py and tests/e2e/test_observed_send.py: a send with every role at its work.
--
--   pushq_deliver   pushq worker apns, pushq worker fcm, pushq worker hms
--   pushq_core      pushq worker core
--   pushq_operator  the commands: tokens, segments, send, pause, replay, export, cache, keys, users...
--   pushq_web       pushq web; makes no users
--   pushq_observer  pushq exporter, dashboards; sees no push token
--
-- Migrations (pushq db upgrade) run as the owner of the tables, and nothing else does.

BEGIN;
-- New partitions change their owner, which waits for whoever reads them and lets nobody past meanwhile: rather fail, and be run again.
SET LOCAL lock_timeout = '10s';

DO $$
DECLARE
    role text;
BEGIN
    FOREACH role IN ARRAY ARRAY['pushq_deliver', 'pushq_core', 'pushq_operator', 'pushq_web', 'pushq_observer'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role) THEN
            EXECUTE format('CREATE ROLE %I LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE', role);
        END IF;
        EXECUTE format('REVOKE ALL ON ALL TABLES IN SCHEMA public FROM %I', role);
        EXECUTE format('REVOKE ALL ON ALL SEQUENCES IN SCHEMA public FROM %I', role);
        EXECUTE format('GRANT CONNECT ON DATABASE %I TO %I', current_database(), role);
        EXECUTE format('GRANT USAGE ON SCHEMA public TO %I', role);
        EXECUTE format('GRANT SELECT ON alembic_version TO %I', role);
    END LOOP;
    -- Owns the dead letters and nothing else: whoever attaches and drops their monthly partitions has to be their owner.
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'pushq_dead_letters') THEN
        CREATE ROLE pushq_dead_letters NOLOGIN NOSUPERUSER;
    END IF;
    SELECT tableowner INTO role FROM pg_tables WHERE schemaname = 'public' AND tablename = 'sends';
    EXECUTE format('GRANT pushq_dead_letters TO %I', role);  -- whoever migrates
    -- What PostgreSQL gives to everybody.
    EXECUTE format('REVOKE ALL ON DATABASE %I FROM PUBLIC', current_database());
    EXECUTE format('GRANT TEMPORARY ON DATABASE %I TO pushq_operator, pushq_web', current_database());
END
$$;
REVOKE CREATE ON SCHEMA public FROM PUBLIC;

-- Deliver: read devices, work on batches, write dead letters; may pause, stop and finish a send.
GRANT SELECT ON device_tokens TO pushq_deliver;
GRANT SELECT, UPDATE ON sends, send_shards, send_batches TO pushq_deliver;
GRANT SELECT, INSERT ON dead_letters TO pushq_deliver;
GRANT USAGE ON SEQUENCE dead_letters_id_seq TO pushq_deliver;

-- Core: accept and plan, deactivate tokens, sweep, clean up.
GRANT SELECT, UPDATE ON device_tokens TO pushq_core;
GRANT SELECT ON segments, segment_members TO pushq_core;
GRANT SELECT, INSERT, UPDATE, DELETE ON sends, send_shards, send_batches TO pushq_core;
GRANT pushq_dead_letters TO pushq_core;
GRANT CREATE, USAGE ON SCHEMA public TO pushq_dead_letters;
GRANT CREATE ON SCHEMA public TO pushq_core;
GRANT USAGE ON SEQUENCE dead_letters_id_seq TO pushq_core;
GRANT SELECT (token_hash, seen_at, ends_at), DELETE ON console_sessions TO pushq_core;
GRANT SELECT (token_hash, ends_at), DELETE ON login_links TO pushq_core;
GRANT SELECT (id, at), DELETE ON audit_log TO pushq_core;

-- Operator, and the API and console: devices and segments come and go; sends are looked at, held, ended and opened again.
GRANT SELECT, INSERT, UPDATE ON device_tokens TO pushq_operator, pushq_web;
GRANT USAGE ON SEQUENCE device_tokens_id_seq, dead_letters_id_seq TO pushq_operator, pushq_web;
GRANT SELECT, INSERT, UPDATE, DELETE ON segments, segment_members TO pushq_operator, pushq_web;
GRANT SELECT, UPDATE ON sends, send_shards, send_batches TO pushq_operator, pushq_web;
GRANT SELECT, INSERT, DELETE ON dead_letters TO pushq_operator, pushq_web;
GRANT SELECT, INSERT ON audit_log TO pushq_operator, pushq_web;

-- Users and links that sign in are made by the commands alone, keys by an administrator at the console as well. Nobody changes what a key
-- may do, or the audit log.
GRANT SELECT, INSERT, UPDATE (last_used_at, revoked_at) ON api_keys TO pushq_operator;
GRANT SELECT, INSERT, UPDATE, DELETE ON console_users TO pushq_operator;
GRANT SELECT (token_hash, user_name, seen_at, ends_at), DELETE ON console_sessions TO pushq_operator;
GRANT INSERT ON login_links TO pushq_operator;
GRANT SELECT, INSERT, UPDATE (last_used_at, revoked_at) ON api_keys TO pushq_web;
GRANT SELECT ON console_users TO pushq_web;
GRANT SELECT, INSERT, UPDATE (seen_at), DELETE ON console_sessions TO pushq_web;
GRANT SELECT, DELETE ON login_links TO pushq_web;

-- Observer: numbers. Neither tokens nor notifications.
GRANT SELECT (id, user_id, app, platform, environment, created_at, registered_at, last_seen, is_active, deactivated_at,
              deactivation_reason) ON device_tokens TO pushq_observer;
GRANT SELECT (id, kind, app, guarantee, rate, state, called_at, created_at, send_at, expires_at, planned_at, finished_at)
    ON sends TO pushq_observer;
GRANT SELECT ON send_shards TO pushq_observer;
GRANT SELECT (send_id, batch_no, platform, state, recipients, attempt, crashes, publishes, runs, retry_at, due_at, accepted, dead,
              rejected, exhausted, expired, suppressed, cancelled, unknown, created_at, settled_at)
    ON send_batches TO pushq_observer;
GRANT SELECT (created_at, send_id, batch_no, app, platform, outcome, status, reason, attempt, due_at, processed_at, invalidated)
    ON dead_letters TO pushq_observer;

-- Partitions: deliveries, the planner and the imports name those of the devices, the clean-up those of the dead letters.
DO $$
DECLARE
    part regclass;
BEGIN
    FOR part IN SELECT relid FROM pg_partition_tree('device_tokens') WHERE isleaf LOOP
        EXECUTE format('GRANT SELECT ON %s TO pushq_deliver', part);
        EXECUTE format('GRANT SELECT, UPDATE ON %s TO pushq_core', part);
        EXECUTE format('GRANT SELECT, INSERT, UPDATE ON %s TO pushq_operator, pushq_web', part);
    END LOOP;
    FOR part IN SELECT relid FROM pg_partition_tree('dead_letters') JOIN pg_class ON oid = relid
                WHERE relowner <> 'pushq_dead_letters'::regrole LOOP
        EXECUTE format('ALTER TABLE %s OWNER TO pushq_dead_letters', part);
    END LOOP;
END
$$;
COMMIT;
