-- One row per Idempotency-Key in use. id is the keyed hash of the caller's key
-- id, the route and the Idempotency-Key; request that of path, query and body.
-- answer is null while the first request is being answered, then the sealed
-- first answer.
create table idempotency (
  id blob not null primary key,
  request blob not null,
  claimed_at bigint not null,
  expires_at bigint not null,
  answer blob
);

create index idempotency_expires_at on idempotency (expires_at);
