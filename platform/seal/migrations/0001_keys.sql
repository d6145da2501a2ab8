-- What the keyring itself needs: the master's fingerprint, the wrapped index
-- and system keys, and a mark that bytes of destroyed keys await a scrub.
create table keys_meta (
    name  text not null primary key,
    value blob not null
);

-- One row per person. Every column keeps its width for ever (16, 60, 1 and 8
-- bytes), so that an erasure overwrites the key where it lies.
-- state: 2 live, 3 erased.
create table keys_subject (
    subject    blob    not null primary key,
    wrapped    blob    not null,
    state      integer not null,
    changed_at bigint  not null
);

-- Who is called what: many to many. hash is the blind index of (kind, value).
-- home = 1 marks the subject an alias was born with; there is at most one.
create table keys_alias (
    hash       blob    not null,
    subject    blob    not null,
    kind       text    not null,
    home       integer not null,
    created_at bigint  not null,
    primary key (hash, subject)
);
create unique index keys_alias_home on keys_alias (hash) where home = 1;
create index keys_alias_subject on keys_alias (subject);

-- Rotating keys of data whose person is not known.
create table keys_transit (
    id           blob   not null primary key,
    scope        text   not null,
    period_start bigint not null,
    period_end   bigint not null,
    expires_at   bigint not null,
    wrapped      blob   not null,
    unique (scope, period_start, period_end, expires_at)
);
create index keys_transit_expires_at on keys_transit (expires_at);
