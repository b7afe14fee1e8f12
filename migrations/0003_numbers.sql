-- A document has a number: its body lies in one page with it, and a new one goes to the end. In a table that is ordered by
-- key a body of a kilobyte takes a page of its own, and a new row moves its neighbours: twice the pages of each commit.
ALTER TABLE document RENAME TO former;
CREATE TABLE document (
    number   INTEGER PRIMARY KEY,
    kind     TEXT NOT NULL,
    key      TEXT NOT NULL,
    revision INTEGER NOT NULL,
    body     TEXT NOT NULL,
    sum      INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX document_key ON document (kind, key);
INSERT INTO document (kind, key, revision, body, sum) SELECT kind, key, revision, body, sum FROM former ORDER BY kind, key;
DROP TABLE former;
