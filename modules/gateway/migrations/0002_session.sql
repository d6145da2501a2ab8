-- pid is a blind index. life counts the connections that have had the session, so
-- that what an old one writes late cannot undo what a newer one wrote.
create table gateway_session (
    pid        blob   not null primary key,
    life       bigint not null,
    sealed     blob   not null,
    since      bigint not null,
    instance   text   not null,
    updated_at bigint not null,
    left_at    bigint
);
create index gateway_session_left on gateway_session (left_at);
create index gateway_session_instance on gateway_session (instance, updated_at);

create table gateway_instance (
    instance text   not null primary key,
    seen_at  bigint not null
);
