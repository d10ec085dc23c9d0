"""From root directories to files: entries joined level by level, within bounds."""

import duckdb

from cairn.sources.heritage.tables import Export, load
from cairn.sources.record import MOST_FILES

MOST_PATH = 4096  # bytes: Linux takes no more
EMPTY = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"  # the one folder without entries

_ENTRY = """
    CREATE TABLE entry AS SELECT unhex(directory_id) AS folder, name, type,
        unhex(target) AS target, perms
    FROM rows
"""
_BEGIN = """
    CREATE TABLE here AS SELECT DISTINCT directory AS root, directory AS folder, ''::BLOB AS path
    FROM root WHERE directory IS NOT NULL
"""
# How much each root would name after this level: known before any of it is joined.
_GROWN = """
    CREATE OR REPLACE TABLE named AS
    SELECT root, sum(entries)::BIGINT AS entries FROM (
        SELECT root, entries FROM named UNION ALL
        SELECT root, entries FROM here JOIN (
            SELECT folder, count(*) AS entries FROM entry SEMI JOIN here USING (folder)
            GROUP BY folder
        ) AS size USING (folder)
    ) GROUP BY root
"""
_HOLES = f"""
    INSERT INTO trouble SELECT root, 'missing', count(*), min(path)
    FROM here ANTI JOIN entry USING (folder)
    WHERE folder <> unhex('{EMPTY}') GROUP BY root
"""
_LONG = f"""
    INSERT INTO trouble SELECT root, 'long', count(*), min(path)
    FROM here JOIN entry USING (folder)
    WHERE octet_length(path) + octet_length(name) > {MOST_PATH} GROUP BY root
"""
_FILES = f"""
    INSERT INTO file SELECT root, path || name, target, perms
    FROM here JOIN entry USING (folder)
    WHERE type = 'file' AND octet_length(path) + octet_length(name) <= {MOST_PATH}
"""
_DOWN = f"""
    CREATE OR REPLACE TABLE here AS
    SELECT root, target AS folder, path || name || '/'::BLOB AS path
    FROM here JOIN entry USING (folder)
    WHERE type = 'dir' AND octet_length(path) + octet_length(name) <= {MOST_PATH}
"""
_CONTENT = """
    CREATE TABLE blob AS SELECT DISTINCT ON (target) unhex(sha1_git) AS target, sha1, length,
        status, NULL::VARCHAR AS reason
    FROM rows WHERE unhex(sha1_git) IN (SELECT target FROM file)
"""
_SKIPPED = """
    INSERT INTO blob SELECT DISTINCT ON (target) unhex(sha1_git) AS target, sha1, length,
        'absent', coalesce(reason, 'for no reason that is told')
    FROM rows WHERE sha1_git IS NOT NULL AND unhex(sha1_git) IN (SELECT target FROM file)
        AND unhex(sha1_git) NOT IN (SELECT target FROM blob)
"""


def walk(connection: duckdb.DuckDBPyConnection, export: Export, depth: int) -> None:
    """The tables `file` (of each root: path, target, perms) and `blob` (of each target).

    The table `trouble` says of a root what was left out: why, how often, and a path. Folders more
    than `depth` levels deep are left out, and all of a root that names more than MOST_FILES.
    """
    load(connection, export, "directory_entry", _ENTRY)
    connection.execute(_BEGIN)
    connection.execute("CREATE TABLE named (root BLOB, entries BIGINT)")
    connection.execute("CREATE TABLE file (root BLOB, path BLOB, target BLOB, perms BIGINT)")
    connection.execute("CREATE TABLE trouble (root BLOB, why VARCHAR, times BIGINT, path BLOB)")
    for _ in range(depth):
        connection.execute(_GROWN)
        _strike(connection)
        for step in (_HOLES, _LONG, _FILES, _DOWN):
            connection.execute(step)
        if not connection.execute("SELECT 1 FROM here LIMIT 1").fetchall():
            break
    connection.execute(
        "INSERT INTO trouble SELECT root, 'deep', count(*), min(path) FROM here GROUP BY root"
    )
    for table in ("entry", "here", "named"):
        connection.execute(f"DROP TABLE {table}")
    load(connection, export, "content", _CONTENT)
    if export.has("skipped_content"):
        load(connection, export, "skipped_content", _SKIPPED)


def _strike(connection: duckdb.DuckDBPyConnection) -> None:
    """Give up roots that name too much: a few folders that hold each other name billions."""
    too_many = f"SELECT root FROM named WHERE entries > {MOST_FILES}"
    connection.execute(
        f"INSERT INTO trouble SELECT root, 'many', entries, NULL FROM named "
        f"WHERE entries > {MOST_FILES} AND root IN (SELECT root FROM here)"
    )
    for table in ("here", "file"):
        connection.execute(f"DELETE FROM {table} WHERE root IN ({too_many})")
