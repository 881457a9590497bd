create table t (a integer primary key, b text, c blob);
with recursive n(i) as (select 1 union all select i + 1 from n where i < 200000)
    insert into t select i, printf('row %d of a table', i), zeroblob(40) from n;
create index x on t (b);
select count(*), sum(length(b)) from t;
update t set b = b || 'x' where a % 3 = 0;
delete from t where a % 5 = 0;
select group_concat(b) from (select b from t order by b limit 20);
select sum(a * length(b)) from t where b like '%x';
pragma integrity_check;
