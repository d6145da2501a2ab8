-- kind is a hash of the other three, so that two instances need not agree on a number.
create table collector_kind (
    kind     bigint not null primary key,
    category text   not null,
    name     text   not null,
    app      text   not null
);
create index collector_kind_category on collector_kind (category, name, app);
create index collector_kind_name on collector_kind (name);
create index collector_kind_app on collector_kind (app);

create table collector_session (
    session          blob   not null primary key,
    subject          blob   not null,
    sealed           blob   not null,
    first_at         bigint not null,
    last_at          bigint not null,
    last_received_at bigint not null,
    events           bigint not null
);
create index collector_session_first on collector_session (first_at, session);
create index collector_session_received on collector_session (last_received_at);

create table collector_session_kind (
    session blob   not null,
    kind    bigint not null,
    primary key (session, kind)
);

-- grain is the length of the bucket in seconds: 60 or 3600.
create table collector_stat (
    grain  bigint not null,
    bucket bigint not null,
    kind   bigint not null,
    events bigint not null,
    primary key (grain, bucket, kind)
);

create table collector_reject (
    id          blob   not null primary key,
    app         text   not null,
    category    text   not null,
    name        text   not null,
    reason      text   not null,
    received_at bigint not null,
    retried_at  bigint,
    sealed      blob   not null
);
create index collector_reject_received on collector_reject (received_at, id);
create index collector_reject_app on collector_reject (app, received_at, id);

-- A version without a body is a deletion.
create table collector_schema (
    category   text   not null,
    name       text   not null,
    version    bigint not null,
    body       text,
    created_at bigint not null,
    primary key (category, name, version)
);
