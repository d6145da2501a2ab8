-- A ref is in one index instead of two, and an entry knows its refs, one after
-- the other, so that they can go with it.
alter table eventlog_entry add column refs blob;
update eventlog_entry set refs = (select string_agg(r.ref::bytea, ''::bytea) from eventlog_ref r where r.module = eventlog_entry.module and r.key = eventlog_entry.key);

create table eventlog_about (
	module text not null,
	ref blob not null,
	at bigint not null,
	key blob not null,
	primary key (module, ref, at, key)
);
insert into eventlog_about (module, ref, at, key) select module, ref, at, key from eventlog_ref;
drop table eventlog_ref;
alter table eventlog_about rename to eventlog_ref;
