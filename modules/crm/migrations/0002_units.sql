-- Marks without a unit, which an earlier program could leave behind on PostgreSQL,
-- are looked at again. Those that wait for their user are left again at once.
insert into crm_unit (unit, due_at, claim, attempts, last_error)
    select distinct d.unit, 0, 0, 0, '' from crm_dirty d where not exists (select 1 from crm_unit u where u.unit = d.unit);
