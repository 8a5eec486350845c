-- How workers follow: what changed since an epoch, and how far each of them has come.

-- The epoch that the model's last change made.
ALTER TABLE models ADD COLUMN changed_epoch bigint NOT NULL DEFAULT 0;

CREATE INDEX models_by_change ON models (changed_epoch);

-- A worker renews its row at least once a second while it lives, and takes it away when it ends.
CREATE TABLE worker_leases (
    worker text NOT NULL,
    boot_id text NOT NULL,
    -- Every answer from now on is by the registry as of this epoch or a later one,
    epoch bigint NOT NULL,
    -- except for these models: {model: why it stays on an older route here}.
    behind jsonb NOT NULL,
    renewed_at timestamptz NOT NULL,
    PRIMARY KEY (worker, boot_id)
);
