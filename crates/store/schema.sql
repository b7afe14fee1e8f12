-- Wishes: one JSON document per object, with the revision of its last change.
CREATE TABLE document (
    kind     TEXT NOT NULL,
    key      TEXT NOT NULL,
    revision INTEGER NOT NULL,
    body     TEXT NOT NULL,
    PRIMARY KEY (kind, key)
) STRICT, WITHOUT ROWID;

-- Things that only one object may have: names, addresses, id ranges, hardware addresses.
CREATE TABLE claim (
    space TEXT NOT NULL,
    value TEXT NOT NULL,
    owner TEXT NOT NULL,
    PRIMARY KEY (space, value)
) STRICT, WITHOUT ROWID;
CREATE INDEX claim_owner ON claim (owner);

-- What was told, in order. Old rows are dropped.
CREATE TABLE event (
    sequence INTEGER PRIMARY KEY,
    at_ms    INTEGER NOT NULL,
    body     TEXT NOT NULL
) STRICT;

-- The last revision that was given out.
CREATE TABLE revision (
    only  INTEGER PRIMARY KEY CHECK (only = 1),
    value INTEGER NOT NULL
) STRICT;
INSERT INTO revision VALUES (1, 0);
