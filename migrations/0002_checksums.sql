-- A checksum of each row's content: SQLite does not notice a flipped byte inside a value. The program fills them in.
ALTER TABLE document ADD COLUMN sum INTEGER NOT NULL DEFAULT 0;
ALTER TABLE claim ADD COLUMN sum INTEGER NOT NULL DEFAULT 0;
ALTER TABLE event ADD COLUMN sum INTEGER NOT NULL DEFAULT 0;

-- All rows' checksums in one number, so that a row that vanished is missed.
ALTER TABLE revision ADD COLUMN digest INTEGER NOT NULL DEFAULT 0;
ALTER TABLE revision ADD COLUMN sum INTEGER NOT NULL DEFAULT 0;
