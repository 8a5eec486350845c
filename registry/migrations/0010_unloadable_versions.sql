-- What a worker reports of versions that it cannot load, and of older routes that it serves meanwhile.

ALTER TABLE worker_heartbeats
    ADD COLUMN unloadable jsonb NOT NULL DEFAULT '{}',
    ADD COLUMN older_revisions jsonb NOT NULL DEFAULT '{}';
