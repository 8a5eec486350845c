-- A worker's row grants it nothing, so it is a heartbeat and not a lease.

ALTER TABLE worker_leases RENAME TO worker_heartbeats;
ALTER TABLE worker_heartbeats RENAME COLUMN renewed_at TO sent_at;
ALTER TABLE worker_heartbeats RENAME CONSTRAINT worker_leases_pkey TO worker_heartbeats_pkey;
