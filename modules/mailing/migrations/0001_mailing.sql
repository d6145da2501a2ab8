-- Numbers that are given out next.
create table mailing_counter (
    name  text   not null primary key,
    value bigint not null
);
insert into mailing_counter (name, value) values ('client', 0), ('campaign', 0), ('message', 0), ('claim', 0);

-- phone is the blind index of the number; sealed holds the number and the
-- attributes.
create table mailing_client (
    id            bigint not null primary key,
    phone         blob   not null unique,
    subject       blob   not null,
    sealed        blob   not null,
    operator_code text   not null,
    tag           text   not null,
    timezone      text   not null,
    created_at    bigint not null,
    updated_at    bigint not null
);
create index mailing_client_operator on mailing_client (operator_code, id);
create index mailing_client_both on mailing_client (operator_code, tag, id);
create index mailing_client_tag on mailing_client (tag, id);
create index mailing_client_subject on mailing_client (subject);

-- expanded is the greatest client that the audience was made of so far.
-- window_from and window_to are minutes of the client's day.
create table mailing_campaign (
    id          bigint not null primary key,
    name        text   not null,
    text        text   not null,
    start_at    bigint not null,
    end_at      bigint not null,
    filter      text   not null,
    window_from bigint,
    window_to   bigint,
    status      text   not null,
    expanded    bigint not null,
    created_at  bigint not null,
    updated_at  bigint not null
);
create index mailing_campaign_end on mailing_campaign (end_at);
create index mailing_campaign_status on mailing_campaign (status, start_at);

-- One row per message. due_at is when it may go next; while it is in the hands
-- of a worker, when it is taken for lost. claim is who has it.
create table mailing_message (
    id         bigint not null primary key,
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
create unique index mailing_message_once on mailing_message (campaign, phone);
create index mailing_message_due on mailing_message (campaign, due_at, id) where status in (0, 1, 3);
create index mailing_message_sent on mailing_message (sent_at, campaign) where sent_at is not null;
create index mailing_message_campaign on mailing_message (campaign, status, id);
create index mailing_message_client on mailing_message (client, id);

-- How many messages of a campaign are in each status.
create table mailing_count (
    campaign bigint not null,
    status   bigint not null,
    messages bigint not null,
    primary key (campaign, status)
);

create index mailing_count_open on mailing_count (status, campaign) where messages > 0;

-- Numbers that get nothing, whatever a campaign says. sealed holds the number.
create table mailing_suppression (
    phone      blob   not null primary key,
    subject    blob   not null,
    sealed     blob   not null,
    reason     text   not null,
    created_at bigint not null
);
create index mailing_suppression_created on mailing_suppression (created_at, phone);

-- Daily reports: who sends a day's claims it first.
create table mailing_report (
    day        text   not null primary key,
    status     text   not null,
    attempts   bigint not null,
    claimed_at bigint not null,
    sent_at    bigint,
    detail     text   not null
);
create index mailing_report_open on mailing_report (day) where status in ('pending', 'sending');
