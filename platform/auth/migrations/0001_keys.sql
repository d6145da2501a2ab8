-- API keys. Secrets are kept as SHA-256 only. old_hash is the secret before a
-- rotation, good until old_until. Times are UTC microseconds, 0 = none.
-- source: api (made by a caller), admin (made at the first start of an
-- instance), preset (APP_ADMIN_KEY). signing is sealed by the system key.
create table auth_key (
    id           text   not null primary key,
    name         text   not null,
    scopes       text   not null,
    app          text   not null,
    origins      text   not null,
    source       text   not null,
    hash         blob   not null,
    old_hash     blob   not null,
    old_until    bigint not null,
    signing      blob   not null,
    created_at   bigint not null,
    expires_at   bigint not null,
    last_used_at bigint not null,
    revoked_at   bigint not null
);
create index auth_key_created_at on auth_key (created_at, id);
