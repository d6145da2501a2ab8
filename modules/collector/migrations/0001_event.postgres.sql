create table collector_event (
    arrival     bigint primary key,
    event_id    blob   not null unique,
    session     blob   not null,
    kind        bigint not null,
    occurred_at bigint not null,
    received_at bigint not null,
    subject     blob   not null,
    sealed      blob   not null
);
create index collector_event_session on collector_event (session, occurred_at, arrival);
create index collector_event_kind on collector_event (kind, occurred_at, arrival);
create index collector_event_time on collector_event (occurred_at, arrival);
