-- key is the id of the entry, if that is a UUID, or else made from it. sealed
-- holds the id, the text, the refs and the data, receivers the targets.
create table eventlog_entry (
	module text not null,
	key blob not null,
	at bigint not null,
	event text not null,
	target_kind text not null,
	sealed blob not null,
	receivers blob,
	primary key (module, key)
);

create index eventlog_entry_by_time on eventlog_entry (module, at, key);

create index eventlog_entry_by_event on eventlog_entry (module, event, at, key);

-- ref is the blind index of what an entry is about.
create table eventlog_ref (
	module text not null,
	key blob not null,
	ref blob not null,
	at bigint not null,
	primary key (module, key, ref)
);

create index eventlog_ref_by_ref on eventlog_ref (module, ref, at, key);
