-- The id is the rowid: a client or a message is found by one tree instead of two.
alter table mailing_client rename to mailing_client_before;
create table mailing_client (
    id            integer primary key,
    phone         blob   not null unique,
    subject       blob   not null,
    sealed        blob   not null,
    operator_code text   not null,
    tag           text   not null,
    timezone      text   not null,
    created_at    bigint not null,
    updated_at    bigint not null
);
insert into mailing_client (id, phone, subject, sealed, operator_code, tag, timezone, created_at, updated_at)
    select id, phone, subject, sealed, operator_code, tag, timezone, created_at, updated_at from mailing_client_before order by id;
drop table mailing_client_before;
create index mailing_client_operator on mailing_client (operator_code, id);
create index mailing_client_both on mailing_client (operator_code, tag, id);
create index mailing_client_tag on mailing_client (tag, id);
create index mailing_client_subject on mailing_client (subject);

alter table mailing_message rename to mailing_message_before;
create table mailing_message (
    id         integer primary key,
    campaign   bigint not null,
    client     bigint not null,
    phone      blob   not null,
    status     bigint not null,
    attempts   bigint not null,
    due_at     bigint not null,
    claim      bigint not null,
    created_at bigint not null,
    sent_at    bigint,
    delivered  text   not null,
    last_error text   not null
);
insert into mailing_message (id, campaign, client, phone, status, attempts, due_at, claim, created_at, sent_at, delivered, last_error)
    select id, campaign, client, phone, status, attempts, due_at, claim, created_at, sent_at, delivered, last_error from mailing_message_before order by id;
drop table mailing_message_before;
create unique index mailing_message_once on mailing_message (campaign, phone);
create index mailing_message_due on mailing_message (campaign, due_at, id) where status in (0, 1, 3);
create index mailing_message_sent on mailing_message (sent_at, campaign) where sent_at is not null;
create index mailing_message_campaign on mailing_message (campaign, status, id);
create index mailing_message_client on mailing_message (client, id);
