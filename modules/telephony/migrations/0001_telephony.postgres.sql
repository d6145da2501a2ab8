-- The call log: append-only, and the truth. id counts without gaps in the
-- order of commits. kind 0 is a type that nobody knows; the type itself is in
-- the sealed body. call and code are blind indexes.
create table telephony_event (
    id           bigint primary key,
    event_id     blob    not null unique,
    call         blob,
    code         blob,
    kind         bigint  not null,
    occurred_at  bigint  not null,
    received_at  bigint  not null,
    subject      blob    not null,
    sealed       blob    not null,
    actor        blob,
    actor_sealed blob
);
create index telephony_event_call on telephony_event (call, id) where call is not null;
create index telephony_event_code on telephony_event (code, id) where code is not null;
