-- arrival is the rowid: appended in order, so rows of one time lie together
-- and retention removes them from one end.
create table collector_event (
    arrival     integer primary key,
    event_id    blob    not null unique,
    session     blob    not null,
    kind        integer not null,
    occurred_at integer not null,
    received_at integer not null,
    subject     blob    not null,
    sealed      blob    not null
);
create index collector_event_session on collector_event (session, occurred_at, arrival);
create index collector_event_kind on collector_event (kind, occurred_at, arrival);
create index collector_event_time on collector_event (occurred_at, arrival);
