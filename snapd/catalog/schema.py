"""The catalog's tables, each column explained where it is made.

Times are microseconds since 1970 in UTC (`_us`), sizes bytes, uids UUID4 text, labels and errors JSON. A revision is
the number of the event that last changed a row: it orders all changes, and an etag is made of it. What a table
refers to by uid without a foreign key may be gone: snapshots outlive volumes, points outlive environments.
"""

TABLES = """
-- One row: what the database as a whole is.
CREATE TABLE identity (
    host TEXT NOT NULL                 -- this host's prefix in the archive, made once
) STRICT;

-- The tenant boundary.
CREATE TABLE environments (
    uid TEXT PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,           -- chosen by the caller; can be used again after a delete
    display_name TEXT NOT NULL,
    labels TEXT NOT NULL,
    retention_us INTEGER,              -- of rapid snapshots; NULL takes the daemon's default
    created_us INTEGER NOT NULL,
    updated_us INTEGER NOT NULL,
    revision INTEGER NOT NULL
) STRICT;

-- One qcow2 file of the pool each; the row is there before the file and after it.
CREATE TABLE layers (
    uid TEXT PRIMARY KEY,              -- also the file's name
    parent TEXT REFERENCES layers,     -- its backing file
    size_bytes INTEGER NOT NULL,       -- virtual size
    state TEXT NOT NULL,               -- model.LayerState
    created_us INTEGER NOT NULL
) STRICT;
CREATE INDEX layers_by_parent ON layers (parent) WHERE parent IS NOT NULL;
CREATE INDEX layers_doomed ON layers (state) WHERE state IN ('DOOMED', 'CREATING', 'FOLDING');

-- Immutable moments of a volume's contents.
CREATE TABLE points (
    uid TEXT PRIMARY KEY,
    environment_uid TEXT NOT NULL,     -- whose contents these are
    parent TEXT REFERENCES points,     -- the moment before it
    layer TEXT UNIQUE REFERENCES layers, -- the frozen layer that shows it; NULL when it has left primary storage
    size_bytes INTEGER NOT NULL,
    delta_recorded INTEGER NOT NULL,   -- 1: point_deltas holds its delta; 0: the layer's allocation is the delta
    created_us INTEGER NOT NULL
) STRICT;
CREATE INDEX points_by_parent ON points (parent) WHERE parent IS NOT NULL;

-- Deltas of points relative to their parents, a window of the address space each.
CREATE TABLE point_deltas (
    point TEXT NOT NULL REFERENCES points ON DELETE CASCADE,
    start INTEGER NOT NULL,            -- guest offset of the window
    delta BLOB NOT NULL,               -- blockmap.encode_delta
    PRIMARY KEY (point, start)
) STRICT, WITHOUT ROWID;

CREATE TABLE volumes (
    uid TEXT PRIMARY KEY,
    environment_uid TEXT NOT NULL REFERENCES environments,
    id TEXT NOT NULL,
    display_name TEXT NOT NULL,
    labels TEXT NOT NULL,
    role TEXT NOT NULL,                -- model.VolumeRole
    instance TEXT NOT NULL,            -- which instance it belongs to, or ''
    size_bytes INTEGER NOT NULL,
    activity TEXT NOT NULL,            -- CREATING, REVERTING, DESTROYING, FAILED, or '' when nothing is under way
    error TEXT,                        -- why it FAILED
    source_snapshot TEXT NOT NULL,     -- resource name of what it was made from, or ''
    head_layer TEXT UNIQUE REFERENCES layers,
    parent_point TEXT REFERENCES points,
    created_us INTEGER NOT NULL,
    updated_us INTEGER NOT NULL,
    revision INTEGER NOT NULL,
    UNIQUE (environment_uid, id)
) STRICT;
CREATE INDEX volumes_by_time ON volumes (environment_uid, created_us, uid);
CREATE INDEX volumes_by_point ON volumes (parent_point) WHERE parent_point IS NOT NULL;

CREATE TABLE snapshots (
    uid TEXT PRIMARY KEY,
    environment_uid TEXT NOT NULL REFERENCES environments,
    id TEXT NOT NULL,
    display_name TEXT NOT NULL,
    labels TEXT NOT NULL,
    volume TEXT NOT NULL,              -- id of the volume it was taken of
    volume_uid TEXT NOT NULL,
    point TEXT NOT NULL REFERENCES points,
    size_bytes INTEGER NOT NULL,
    state TEXT NOT NULL,               -- model.SnapshotState
    error TEXT,
    requested_rapid INTEGER NOT NULL,
    rapid INTEGER NOT NULL,            -- 1 until it is archived
    retention_us INTEGER,              -- its own; NULL takes the environment's
    archive_state TEXT NOT NULL,       -- model.ArchiveState
    archive_due_us INTEGER,            -- when its retention is over
    archive_next_us INTEGER,           -- when the archiver takes it up; NULL: never
    archived_us INTEGER,
    archive_attempts INTEGER NOT NULL,
    archive_error TEXT,
    stored_bytes INTEGER NOT NULL,     -- what the archive grew by
    health TEXT NOT NULL,              -- model.HealthState
    captured_us INTEGER NOT NULL,
    created_us INTEGER NOT NULL,
    updated_us INTEGER NOT NULL,
    revision INTEGER NOT NULL,
    UNIQUE (environment_uid, id)
) STRICT;
CREATE INDEX snapshots_by_time ON snapshots (environment_uid, created_us, uid);
CREATE INDEX snapshots_by_point ON snapshots (point);
CREATE INDEX snapshots_in_progress ON snapshots (volume_uid) WHERE state = 'IN_PROGRESS';
CREATE INDEX snapshots_by_next_attempt ON snapshots (archive_next_us) WHERE archive_next_us IS NOT NULL;

-- What callers can watch of accepted work.
CREATE TABLE operations (
    uid TEXT PRIMARY KEY,
    environment_uid TEXT NOT NULL,
    environment TEXT NOT NULL,         -- its id, since the operation may outlive it
    id TEXT NOT NULL,
    method TEXT NOT NULL,
    target TEXT NOT NULL,              -- resource name
    target_uid TEXT NOT NULL,
    done INTEGER NOT NULL,
    error TEXT,
    created_us INTEGER NOT NULL,
    ended_us INTEGER,
    UNIQUE (environment, id)
) STRICT;
CREATE INDEX operations_by_time ON operations (environment_uid, created_us, uid);
CREATE INDEX operations_by_target ON operations (target_uid) WHERE done = 0;
CREATE INDEX operations_ended ON operations (ended_us) WHERE ended_us IS NOT NULL;

-- Request ids that were used, so that a retry names what the first try made.
CREATE TABLE requests (
    identity TEXT NOT NULL,
    method TEXT NOT NULL,
    parent TEXT NOT NULL,
    request_id TEXT NOT NULL,
    digest BLOB NOT NULL,              -- of the whole request
    resource_uid TEXT NOT NULL,
    operation_uid TEXT NOT NULL,       -- or ''
    created_us INTEGER NOT NULL,
    PRIMARY KEY (identity, method, parent, request_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX requests_by_time ON requests (created_us);

-- The journal: multi-step changes that were begun and not ended.
CREATE TABLE intents (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    kind TEXT NOT NULL,
    subject TEXT NOT NULL,             -- uid of the resource
    operation TEXT NOT NULL,           -- uid of its operation, or ''
    payload TEXT NOT NULL,             -- JSON object of strings: uids of layers and points, and the like
    created_us INTEGER NOT NULL
) STRICT;
CREATE INDEX intents_by_subject ON intents (subject);

-- Imports that have not ended.
CREATE TABLE uploads (
    volume_uid TEXT PRIMARY KEY REFERENCES volumes ON DELETE CASCADE,
    format TEXT NOT NULL,              -- model.ImageFormat
    upload_bytes INTEGER NOT NULL,     -- length of the stream
    durable_offset INTEGER NOT NULL,   -- what came before it is safe
    expires_us INTEGER NOT NULL
) STRICT;

-- The change log; its numbers are the revisions.
CREATE TABLE events (
    revision INTEGER PRIMARY KEY AUTOINCREMENT,
    resource_type TEXT NOT NULL,       -- environment, volume, snapshot or operation
    uid TEXT NOT NULL,
    environment_uid TEXT NOT NULL,
    removed INTEGER NOT NULL,          -- 1: it is gone
    created_us INTEGER NOT NULL
) STRICT;
CREATE INDEX events_by_time ON events (created_us);
"""

QUEUE = """
-- The archiver's queue, as catalog/queue.py has its rule.
ALTER TABLE snapshots ADD COLUMN archive_urgent INTEGER NOT NULL DEFAULT 0;  -- 1: a caller waits for it
ALTER TABLE snapshots ADD COLUMN archive_estimated_bytes INTEGER NOT NULL DEFAULT 0; -- what a run will have to read
ALTER TABLE snapshots ADD COLUMN archive_rank_us INTEGER;    -- its place; NULL as archive_next_us is
UPDATE snapshots SET archive_rank_us = archive_next_us, archive_urgent = (state = 'IN_PROGRESS');
CREATE INDEX snapshots_queue ON snapshots (environment_uid, archive_urgent, archive_rank_us, archive_next_us)
    WHERE archive_rank_us IS NOT NULL;
"""
"""Schema 2: who is archived next is decided by more than the due time."""

PAUSES = """
-- Background work that somebody has paused.
CREATE TABLE pauses (
    worker TEXT PRIMARY KEY,           -- model.Worker
    reason TEXT NOT NULL,              -- for people, or ''
    paused_by TEXT NOT NULL,           -- the identity that asked for it
    since_us INTEGER NOT NULL,
    until_us INTEGER                   -- it is over then; NULL: when somebody resumes it
) STRICT, WITHOUT ROWID;
"""
"""Schema 3: a pause outlives the daemon."""

CHECKS = """
-- When the part of an archived snapshot that was checked longest ago was; NULL if that isn't known.
ALTER TABLE snapshots ADD COLUMN archive_checked_us INTEGER;
"""
"""Schema 5: snapshots tell how long ago their archive copy was checked."""

UPKEEP = """
ALTER TABLE snapshots ADD COLUMN damage TEXT;   -- JSON of what can't be read of it, see model.Damage; NULL: nothing
ALTER TABLE operations ADD COLUMN result TEXT;  -- JSON of what it answers besides its target; NULL: nothing
"""
"""Schema 6: snapshots tell which of their ranges are lost, and operations of the archive's upkeep what they did."""

RECOVERED = """
-- 1: a rebuild of the catalog brought it back and is not sure of something about it, and nobody has updated it since.
ALTER TABLE volumes ADD COLUMN recovered INTEGER NOT NULL DEFAULT 0;
ALTER TABLE snapshots ADD COLUMN recovered INTEGER NOT NULL DEFAULT 0;
"""
"""Schema 7: volumes and snapshots tell that a rebuilt catalog isn't sure of them."""

FIGURES = """
-- What archiving a snapshot took, in bytes of whole blocks; 0 until it is archived. See model.ArchiveFigures.
ALTER TABLE snapshots ADD COLUMN archive_changed_bytes INTEGER NOT NULL DEFAULT 0;
ALTER TABLE snapshots ADD COLUMN archive_read_bytes INTEGER NOT NULL DEFAULT 0;
ALTER TABLE snapshots ADD COLUMN archive_zero_bytes INTEGER NOT NULL DEFAULT 0;
ALTER TABLE snapshots ADD COLUMN archive_deduplicated_bytes INTEGER NOT NULL DEFAULT 0;
ALTER TABLE snapshots ADD COLUMN archive_new_bytes INTEGER NOT NULL DEFAULT 0;
"""
"""Schema 4: snapshots tell what archiving them took."""

LIVE = """
-- Processes that serve attached volumes and snapshots, one for each group.
CREATE TABLE storage_daemons (
    uid TEXT PRIMARY KEY,              -- also the name of the folder of its sockets, and of its unit
    instance TEXT NOT NULL,            -- whose volumes it serves, or '' for the only disk of nobody
    environment_uid TEXT NOT NULL,     -- instances of two environments are never one group
    launcher TEXT NOT NULL,            -- model.Launcher: who started it has to look for it
    generation INTEGER NOT NULL,       -- counts its starts; its sockets are the same in all of them
    boot TEXT NOT NULL,                -- boot id of the kernel that ran it; '' until it is started
    pid INTEGER,
    start_ticks INTEGER                -- field 22 of /proc/<pid>/stat: with boot and pid, one process for all time
) STRICT;
CREATE INDEX storage_daemons_by_instance ON storage_daemons (environment_uid, instance) WHERE instance != '';

-- Volumes, and snapshots to look into, that are lent to somebody.
CREATE TABLE attachments (
    uid TEXT PRIMARY KEY,
    volume_uid TEXT UNIQUE REFERENCES volumes,  -- NULL: it is a snapshot's
    snapshot_uid TEXT UNIQUE,          -- NULL: it is a volume's
    storage_daemon TEXT NOT NULL REFERENCES storage_daemons,
    way TEXT NOT NULL,                 -- model.AttachmentWay
    state TEXT NOT NULL,               -- model.AttachmentState, but for STALLED
    read_only INTEGER NOT NULL,
    writethrough INTEGER NOT NULL,     -- 1: no write is answered before it is durable
    limits TEXT NOT NULL,              -- JSON of model.Limits
    top TEXT REFERENCES layers,        -- a snapshot's layer; NULL: it is a volume's, which has its head
    created_us INTEGER NOT NULL
) STRICT;
CREATE INDEX attachments_by_daemon ON attachments (storage_daemon);
CREATE INDEX attachments_by_top ON attachments (top) WHERE top IS NOT NULL;
"""
"""Schema 8: volumes are lent to guests."""
