-- The identity of this installation. Keys and channels in Redis carry it, so several installations may share one Redis.

CREATE TABLE installation (
    is_only_row boolean PRIMARY KEY DEFAULT true CHECK (is_only_row),
    installation_id text NOT NULL CHECK (installation_id ~ '^[0-9a-f]{16}$'),
    -- Authenticates the values that workers put into the prediction cache.
    cache_secret bytea NOT NULL CHECK (length(cache_secret) = 32)
);

-- A UUID of version 4 has 122 bits of the server's cryptographic random source.
INSERT INTO installation (installation_id, cache_secret)
VALUES (
    left(encode(sha256(gen_random_uuid()::text::bytea), 'hex'), 16),
    sha256((gen_random_uuid()::text || gen_random_uuid()::text || gen_random_uuid()::text)::bytea)
);
