-- A token is nowhere stored; only that it was revoked, until it would have expired.
create table gateway_token_revoked (
    token      blob   not null primary key,
    expires_at bigint not null
);
create index gateway_token_revoked_expires on gateway_token_revoked (expires_at);
