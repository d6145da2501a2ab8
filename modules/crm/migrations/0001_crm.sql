-- What the CRM should show: the newest event of each user and each trip. entity
-- is the blind index of an id. log, seq and happened_at tell which event it was;
-- sealed holds the event.
create table crm_user (
    entity      blob   not null primary key,
    subject     blob   not null,
    sealed      blob   not null,
    log         blob   not null,
    seq         bigint not null,
    happened_at bigint not null
);
create index crm_user_subject on crm_user (subject);

-- owner is the user's entity, or that of the trip if it has no user. unit is its
-- first owner: whoever works on that unit is the only one to send the trip, also
-- when it goes to another user. started is the start in steps of 100 ns since
-- 1970, as fine as the platform's clock.
create table crm_trip (
    entity      blob   not null primary key,
    unit        blob   not null,
    owner       blob   not null,
    subject     blob   not null,
    sealed      blob   not null,
    started     bigint not null,
    log         blob   not null,
    seq         bigint not null,
    happened_at bigint not null
);
create index crm_trip_last on crm_trip (owner, started, happened_at, seq);
create index crm_trip_subject on crm_trip (subject);

-- What the CRM shows, as far as it is known. kind is 0 for a user, 1 for a trip;
-- state 1: its creation was tried, 2: it is there. digest is of what was sent
-- last. Where the CRM gave an id of its own, remote is its index; sealed holds
-- it, or what a creation was tried with.
create table crm_copy (
    entity  blob   not null primary key,
    kind    bigint not null,
    state   bigint not null,
    subject blob   not null,
    digest  blob   not null,
    remote  blob,
    sealed  blob   not null,
    sent_at bigint not null
);
create unique index crm_copy_remote on crm_copy (kind, remote) where remote is not null;
create index crm_copy_subject on crm_copy (subject);

-- Which users and trips may have to be sent. mark is another one each time: who
-- sent what he had read settles only the mark that he had read.
create table crm_dirty (
    unit   blob   not null,
    entity blob   not null,
    mark   bigint not null,
    since  bigint not null,
    primary key (unit, entity)
);
create index crm_dirty_since on crm_dirty (since);

-- A unit of work: a user and trips of that user. While a worker has it, due_at is
-- when it is taken for lost.
create table crm_unit (
    unit       blob   not null primary key,
    due_at     bigint not null,
    claim      bigint not null,
    attempts   bigint not null,
    last_error text   not null
);
create index crm_unit_due on crm_unit (due_at, unit);

-- How far each log was read.
create table crm_position (
    log         blob   not null primary key,
    seq         bigint not null,
    happened_at bigint not null,
    events      bigint not null,
    folded_at   bigint not null
);

-- What needs a person. kind event: it could not be understood, and sealed holds
-- it; user, trip: the CRM refuses it, and entity is whose.
create table crm_dead_letter (
    id         blob   not null primary key,
    kind       text   not null,
    topic      text   not null,
    log        blob   not null,
    seq        bigint not null,
    entity     blob,
    subject    blob,
    reason     text   not null,
    sealed     blob   not null,
    created_at bigint not null,
    happened_at bigint not null
);
create unique index crm_dead_letter_event on crm_dead_letter (log, seq) where entity is null;
create unique index crm_dead_letter_entity on crm_dead_letter (entity) where entity is not null;
