"""What PostgreSQL is asked when bytes must go: which tables to write anew, whether it helped, and what is left.

The promise itself is in `plumbline.stores.postgresql`.
"""

# Every table but those that triggers keep as they are (they refuse UPDATE, and TRUNCATE as they refuse DELETE, under
# no condition): what can be erased lies in these. One with no page, nor more than one in an index, holds nothing.
CHANGING = """
    SELECT quote_ident(c.relname) FROM pg_class c
    WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind = 'r' AND NOT (
        EXISTS (SELECT 1 FROM pg_trigger t WHERE t.tgrelid = c.oid AND t.tgtype & 32 != 0)
        AND EXISTS (SELECT 1 FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid
            WHERE t.tgrelid = c.oid AND t.tgtype & 18 = 18 AND t.tgqual IS NULL AND t.tgattr = ''
                AND NOT p.prosrc ~ ' IF ')
    ) AND (pg_relation_size(c.oid) > 0 OR c.reltoastrelid != 0 AND pg_relation_size(c.reltoastrelid) > 0
        OR EXISTS (SELECT 1 FROM pg_index i WHERE i.indrelid = c.oid
            AND pg_relation_size(i.indexrelid) > current_setting('block_size')::bigint))
"""
# VACUUM FULL leaves rows that some snapshot still sees, and says so by how far it could freeze the table.
HELD = f"{CHANGING} AND age(c.relfrozenxid) > age(CAST(? AS xid))"
# ANALYZE keeps the old statistics of a table that has become empty. Giving a column the type it has drops them.
STALE = """
    SELECT quote_ident(c.relname), quote_ident(a.attname),
        CASE a.atttypid WHEN 'text'::regtype THEN 'TEXT COLLATE "C"' ELSE 'BYTEA' END
    FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.atttypid IN ('text'::regtype, 'bytea'::regtype)
    JOIN pg_stats s ON s.schemaname = current_schema() AND s.tablename = c.relname AND s.attname = a.attname
    WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind = 'r' AND c.reltuples = 0
"""
MAY = """
    SELECT pg_has_role(current_user, d.datdba, 'USAGE') AS statistics,
        pg_has_role(current_user, 'pg_checkpoint', 'USAGE') AS checkpoint,
        has_function_privilege('pg_switch_wal()', 'EXECUTE') AS switch
    FROM pg_database d WHERE d.datname = current_database()
"""
REMAINS = f"""
    WITH may AS ({MAY}), setting AS (SELECT name, setting FROM pg_settings)
    SELECT 'log segments are recycled with their bytes (set wal_recycle=off)' FROM setting
        WHERE name = 'wal_recycle' AND setting = 'on'
    UNION ALL SELECT 'old log segments are kept (set wal_keep_size=0)' FROM setting
        WHERE name = 'wal_keep_size' AND setting != '0'
    UNION ALL SELECT 'log segments are archived outside the database (archive_mode); expire the archive' FROM setting
        WHERE name = 'archive_mode' AND setting != 'off'
    UNION ALL SELECT 'statements are written to the server log (log_statement, log_min_duration_statement)'
        WHERE EXISTS (SELECT 1 FROM setting WHERE name = 'log_statement' AND setting IN ('mod', 'all')
            OR name = 'log_min_duration_statement' AND setting != '-1')
    UNION ALL SELECT 'a replication slot or standby keeps a copy (pg_replication_slots, pg_stat_replication)'
        WHERE EXISTS (SELECT 1 FROM pg_replication_slots) OR EXISTS (SELECT 1 FROM pg_stat_replication)
    UNION ALL SELECT 'statistics keep sampled values (make this user the owner of the database)' FROM may
        WHERE NOT statistics
    UNION ALL SELECT 'the log lives until the next checkpoint'
        || ' (GRANT pg_checkpoint and EXECUTE ON FUNCTION pg_switch_wal() to this user)' FROM may
        WHERE NOT (checkpoint AND switch)
"""
