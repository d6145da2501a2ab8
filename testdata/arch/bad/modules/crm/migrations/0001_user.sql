create table crm_user (id text not null primary key);
create table deal (id text not null primary key);
create table crm_trip (id text not null primary key);
