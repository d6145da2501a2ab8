-- reschedule is the next message whose time is to be found anew since the end
-- or the window was edited; 0 is none. reschedule_again is 1 if all have to be
-- looked at once more then.
alter table mailing_campaign add column reschedule bigint not null default 0;
alter table mailing_campaign add column reschedule_again bigint not null default 0;
create index mailing_campaign_turn on mailing_campaign (status, id);
