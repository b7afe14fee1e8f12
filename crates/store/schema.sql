-- Wishes: one JSON document per object, with the revision of its last change.
CREATE TABLE document (
    number   INTEGER PRIMARY KEY,
    kind     TEXT NOT NULL,
    key      TEXT NOT NULL,
    revision INTEGER NOT NULL,
    body     TEXT NOT NULL,
    sum      INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX document_key ON document (kind, key);

-- Things that only one object may have: names, addresses, id ranges, hardware addresses.
CREATE TABLE claim (
    space TEXT NOT NULL,
    value TEXT NOT NULL,
    owner TEXT NOT NULL, sum INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (space, value)
) STRICT, WITHOUT ROWID;
CREATE INDEX claim_owner ON claim (owner);

-- What was told, in order. Old rows are dropped.
CREATE TABLE event (
    sequence INTEGER PRIMARY KEY,
    at_ms    INTEGER NOT NULL,
    body     TEXT NOT NULL
, sum INTEGER NOT NULL DEFAULT 0) STRICT;

-- The last revision that was given out, and all rows' checksums in one number.
CREATE TABLE revision (
    only  INTEGER PRIMARY KEY CHECK (only = 1),
    value INTEGER NOT NULL
, digest INTEGER NOT NULL DEFAULT 0, sum INTEGER NOT NULL DEFAULT 0) STRICT;
INSERT INTO revision (only, value) VALUES (1, 0);
