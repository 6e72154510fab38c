"""The tables, and the numbered steps that lead to them. Knows SQL only; what the rows mean to a chat is said elsewhere.

A step that has been released is never edited: a change is a new step at the end. All times are UTC, in milliseconds
since 1970; order is told by ids, since clocks jump.
"""

from __future__ import annotations

import sqlite3

from app.errors import StorageError

_CONVERSATIONS_AND_AUDIT = """
CREATE TABLE sessions (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    owner TEXT NOT NULL,             -- name of the key that made it; the same name for another owner is another session
    name TEXT NOT NULL,              -- the session_id that clients send
    head INTEGER REFERENCES messages(id),  -- last answer of the active branch; NULL: the branch is empty
    created_ms INTEGER NOT NULL,
    updated_ms INTEGER NOT NULL,
    UNIQUE (owner, name)
) STRICT;

CREATE TABLE turns (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    session INTEGER NOT NULL REFERENCES sessions(id) ON DELETE CASCADE,
    status TEXT NOT NULL CHECK (status IN ('open', 'done', 'cancelled', 'failed', 'interrupted')),
    model TEXT NOT NULL,
    leaf INTEGER REFERENCES messages(id),  -- the turn's last message so far: what it says next goes below this
    started_ms INTEGER NOT NULL,
    ended_ms INTEGER,
    error TEXT,
    detail TEXT,                     -- JSON object
    CHECK ((status = 'open') = (ended_ms IS NULL))
) STRICT;

CREATE TABLE messages (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    session INTEGER NOT NULL REFERENCES sessions(id) ON DELETE CASCADE,
    parent INTEGER REFERENCES messages(id),
    anchor INTEGER REFERENCES messages(id),  -- nearest visible ancestor: tool rounds between the two do not count
    digest BLOB,                     -- of role and stripped text; NULL: part of a tool round, which clients do not hold
    turn INTEGER NOT NULL REFERENCES turns(id) ON DELETE CASCADE,  -- the turn that stored it; later ones may reuse it
    role TEXT NOT NULL CHECK (role IN ('user', 'assistant', 'tool')),
    content TEXT NOT NULL,
    tool_calls TEXT,                 -- JSON list of [id, name, arguments]
    tool_call_id TEXT,
    reasoning TEXT,
    tokens INTEGER,
    counted_by TEXT,                 -- whose tokenizer counted: other models count differently
    created_ms INTEGER NOT NULL,
    CHECK ((digest IS NULL) = (role = 'tool' OR tool_calls IS NOT NULL)),
    CHECK ((tokens IS NULL) = (counted_by IS NULL))
) STRICT;

CREATE TABLE audit (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    at_ms INTEGER NOT NULL,
    actor TEXT NOT NULL,
    session TEXT,                    -- names, no references: what was done outlives the session it was done in
    turn INTEGER,
    tool TEXT NOT NULL,
    arguments TEXT NOT NULL,
    verdict TEXT NOT NULL,
    reason TEXT NOT NULL,
    status TEXT CHECK (status IN ('ok', 'error', 'denied')),  -- NULL: no result was ever recorded
    duration_s REAL,
    result_bytes INTEGER
) STRICT;

-- Finds the children that continue a conversation. The anchor leads, so that its foreign key can use this index too.
CREATE INDEX messages_by_anchor ON messages (anchor, digest, session);
CREATE INDEX messages_by_parent ON messages (parent);
CREATE INDEX messages_by_session ON messages (session);
CREATE INDEX messages_by_turn ON messages (turn);
CREATE INDEX turns_by_session ON turns (session);
-- Turns of one session run one after another.
CREATE UNIQUE INDEX one_open_turn ON turns (session) WHERE status = 'open';
-- Without these two, deleting a message would read every turn and every session.
CREATE INDEX turns_by_leaf ON turns (leaf);
CREATE INDEX sessions_by_head ON sessions (head);
CREATE INDEX audit_by_time ON audit (at_ms);
"""

_APPROVALS = """
ALTER TABLE audit ADD COLUMN approved_by TEXT;  -- name of the key that said yes to a call that needed a person's word
-- Ids follow by themselves in an index, so that the last calls of one tool or session are found at once.
CREATE INDEX audit_by_tool ON audit (tool);
CREATE INDEX audit_by_session ON audit (session);
"""

_SESSIONS_WORTH_KEEPING = """
ALTER TABLE sessions ADD COLUMN title TEXT;  -- its name for people; from the first user message until somebody sets it
ALTER TABLE sessions ADD COLUMN titled INTEGER NOT NULL DEFAULT 0 CHECK (titled IN (0, 1));  -- 1: somebody set it
ALTER TABLE sessions ADD COLUMN pinned INTEGER NOT NULL DEFAULT 0 CHECK (pinned IN (0, 1));
ALTER TABLE sessions ADD COLUMN settings TEXT NOT NULL DEFAULT '{}';  -- JSON object of a SessionSettings
ALTER TABLE sessions ADD COLUMN version INTEGER NOT NULL DEFAULT 1;   -- grows with every change that a page shows
ALTER TABLE sessions ADD COLUMN messages INTEGER NOT NULL DEFAULT 0;  -- how many visible ones it has, for lists
ALTER TABLE turns ADD COLUMN asked TEXT NOT NULL DEFAULT '{}';  -- what the request itself set, as a SessionSettings
CREATE INDEX sessions_by_change ON sessions (owner, updated_ms, id);

UPDATE sessions SET messages = (
    SELECT count(*) FROM messages AS m WHERE m.session = sessions.id AND digest IS NOT NULL
);
UPDATE sessions SET title = (
    SELECT substr(trim(replace(content, char(10), ' ')), 1, 60) FROM messages AS m
    WHERE m.session = sessions.id AND role = 'user' ORDER BY id LIMIT 1
);

-- The index holds words only; texts stay where they are. Tool rounds are not searched.
CREATE VIEW visible_messages AS SELECT id, content FROM messages WHERE digest IS NOT NULL;
CREATE VIRTUAL TABLE messages_fts USING fts5 (
    content, content = 'visible_messages', content_rowid = 'id', tokenize = 'unicode61 remove_diacritics 2'
);
CREATE VIRTUAL TABLE titles_fts USING fts5 (
    title, content = 'sessions', content_rowid = 'id', tokenize = 'unicode61 remove_diacritics 2'
);
INSERT INTO messages_fts (messages_fts) VALUES ('rebuild');
INSERT INTO titles_fts (titles_fts) VALUES ('rebuild');
CREATE TRIGGER message_added AFTER INSERT ON messages WHEN new.digest IS NOT NULL BEGIN
    INSERT INTO messages_fts (rowid, content) VALUES (new.id, new.content);
    UPDATE sessions SET messages = messages + 1 WHERE id = new.session;
END;
CREATE TRIGGER message_removed AFTER DELETE ON messages WHEN old.digest IS NOT NULL BEGIN
    INSERT INTO messages_fts (messages_fts, rowid, content) VALUES ('delete', old.id, old.content);
END;
CREATE TRIGGER session_added AFTER INSERT ON sessions BEGIN
    INSERT INTO titles_fts (rowid, title) VALUES (new.id, new.title);
END;
CREATE TRIGGER session_renamed AFTER UPDATE OF title ON sessions WHEN old.title IS NOT new.title BEGIN
    INSERT INTO titles_fts (titles_fts, rowid, title) VALUES ('delete', old.id, old.title);
    INSERT INTO titles_fts (rowid, title) VALUES (new.id, new.title);
END;
CREATE TRIGGER session_removed AFTER DELETE ON sessions BEGIN
    INSERT INTO titles_fts (titles_fts, rowid, title) VALUES ('delete', old.id, old.title);
END;

CREATE TABLE answers (               -- what was answered under an Idempotency-Key, so that a retry is not a second turn
    owner TEXT NOT NULL,
    key TEXT NOT NULL,
    request BLOB NOT NULL,           -- digest of what was asked
    session INTEGER NOT NULL REFERENCES sessions(id) ON DELETE CASCADE,
    message INTEGER NOT NULL REFERENCES messages(id) ON DELETE CASCADE,  -- the answer
    events TEXT NOT NULL,            -- what the turn told, as JSON
    at_ms INTEGER NOT NULL,
    PRIMARY KEY (owner, key)
) STRICT;
CREATE INDEX answers_by_time ON answers (owner, at_ms);
CREATE INDEX answers_by_session ON answers (session);
CREATE INDEX answers_by_message ON answers (message);
"""

MIGRATIONS = (_CONVERSATIONS_AND_AUDIT, _APPROVALS, _SESSIONS_WORTH_KEEPING)


def migrate(connection: sqlite3.Connection) -> None:
    """Bring the tables up to date, each step in a transaction of its own.

    Raises:
        StorageError: The file was written by a newer AirLab, whose tables this one does not know.
        sqlite3.Error: A step failed; it left nothing behind once the connection is closed.
    """
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > len(MIGRATIONS):
        raise StorageError(
            f"its tables have version {version}, this AirLab knows {len(MIGRATIONS)}\n"
            "  to fix:  start the newer AirLab that wrote it, or restore a copy made before the update"
        )
    for number, step in enumerate(MIGRATIONS[version:], start=version + 1):
        connection.executescript(f"BEGIN IMMEDIATE;\n{step}\nPRAGMA user_version = {number};\nCOMMIT;")
