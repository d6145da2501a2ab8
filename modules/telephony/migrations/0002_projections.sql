-- Where the log ends, and which generation of the projections answers.
-- building is the one that a rebuild fills, 0 if there is none; it has come to
-- position in the log, at built_at.
create table telephony_head (
    one        bigint not null primary key,
    event      bigint not null,
    generation bigint not null,
    building   bigint not null,
    position   bigint not null,
    built_at   bigint not null
);
insert into telephony_head (one, event, generation, building, position, built_at) values (1, 0, 1, 0, 0, 0);

-- Projections of the log, each row of a generation: a rebuild fills the next
-- one beside the present one. id is that of the call's first event in the log.
create table telephony_call (
    generation bigint not null,
    id         bigint not null,
    call       blob   not null,
    name       blob   not null,
    state      bigint not null,
    outcome    bigint not null,
    direction  bigint not null,
    queue      text   not null,
    our        blob,
    their      blob,
    created_at bigint not null,
    updated_at bigint not null,
    facts      blob   not null,
    subject    blob   not null,
    sealed     blob   not null,
    primary key (generation, id)
);
create unique index telephony_call_call on telephony_call (generation, call);
create index telephony_call_created on telephony_call (generation, created_at, id);
create index telephony_call_updated on telephony_call (generation, updated_at, id);
create index telephony_call_state on telephony_call (generation, state, created_at, id);
create index telephony_call_queue on telephony_call (generation, queue, created_at, id);
create index telephony_call_our on telephony_call (generation, our, created_at, id) where our is not null;
create index telephony_call_their on telephony_call (generation, their, created_at, id) where their is not null;

-- A number is a customer's from its first standby on.
create table telephony_customer (
    generation bigint not null,
    their      blob   not null,
    event      bigint not null,
    primary key (generation, their)
);

-- entered tells whether the actor is in the call that it was in last.
create table telephony_actor (
    generation bigint not null,
    actor      blob   not null,
    subject    blob   not null,
    sealed     blob   not null,
    seen_at    bigint not null,
    seen       bigint not null,
    call       blob,
    entered    bigint not null,
    call_at    bigint not null,
    call_event bigint not null,
    primary key (generation, actor)
);
create table telephony_actor_queue (
    generation   bigint not null,
    actor        blob   not null,
    queue        text   not null,
    logged       bigint not null,
    logged_at    bigint not null,
    logged_event bigint not null,
    paused       bigint not null,
    paused_at    bigint not null,
    paused_event bigint not null,
    primary key (generation, actor, queue)
);
create index telephony_actor_queue_queue on telephony_actor_queue (generation, queue, actor);

-- Counters by hour (its beginning), queue and actor; the queue's own row has
-- an empty actor. Times are sums of microseconds.
create table telephony_stat (
    generation bigint not null,
    hour       bigint not null,
    queue      text   not null,
    actor      blob   not null,
    calls      bigint not null,
    offered    bigint not null,
    answered   bigint not null,
    in_time    bigint not null,
    abandoned  bigint not null,
    overflowed bigint not null,
    forwarded  bigint not null,
    unanswered bigint not null,
    waits      bigint not null,
    wait_us    bigint not null,
    talks      bigint not null,
    talk_us    bigint not null,
    rings      bigint not null,
    no_answers bigint not null,
    primary key (generation, hour, queue, actor)
);
create index telephony_stat_actor on telephony_stat (generation, actor, hour);

-- What was asked of the platform for a call that stood by: a fact of ours, not
-- of the log. customer: 0 new, 1 returning. name is the sealed id of the call,
-- destination is sealed too.
create table telephony_delegation (
    call        blob   not null primary key,
    name        blob   not null,
    event       bigint not null,
    customer    bigint not null,
    state       text   not null,
    destination blob   not null,
    attempts    bigint not null,
    due_at      bigint not null,
    tried_at    bigint,
    settled_at  bigint,
    detail      text   not null
);
create index telephony_delegation_event on telephony_delegation (event);
create index telephony_delegation_pending on telephony_delegation (event) where state = 'pending';

-- Recordings that were fetched, in sealed parts.
create table telephony_recording (
    event      bigint not null primary key,
    call       blob   not null,
    state      text   not null,
    attempts   bigint not null,
    size       bigint not null,
    media_type text   not null,
    fetched_at bigint,
    detail     text   not null
);
create index telephony_recording_call on telephony_recording (call, event);
create index telephony_recording_pending on telephony_recording (event) where state = 'pending';
create table telephony_recording_part (
    event  bigint not null,
    part   bigint not null,
    sealed blob   not null,
    primary key (event, part)
);
