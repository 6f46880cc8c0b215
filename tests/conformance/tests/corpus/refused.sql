-- Statements that the README's policy (read orders and customers, write orders with WHERE) must refuse, one a line.
-- Lines that begin with two dashes are comments.
-- reading another table, in every clause that takes an expression or a relation
select * from secrets
select * from public.secrets
select * from postgres.public.secrets
SELECT value FROM "secrets"
select * from U&"\0073ecrets"
select * from U&"!0073ecrets" uescape '!'
select * from SeCrEtS
select/**/*/**/from/**/secrets
select /* nested /* comment */ */ * from -- end of line
table secrets
table only secrets
select * from only secrets
select * from only (secrets)
select * from secrets *
select 1 from orders, secrets
select 1 from orders join secrets on true
select 1 from orders natural join secrets
select 1 from (orders cross join secrets) x
select 1 from orders, lateral (select value from secrets where secrets.id = orders.id) s
select 1 from orders left join lateral (table secrets) s on true
select (select value from secrets)
select (table secrets limit 1)
select s from secrets s
select s.* from secrets s
select (s).value from secrets s
select (select s from secrets s)::text
select row(s.*)::text from secrets s
select array(select value from secrets)
select exists (select from secrets)
select id from orders where note in (select value from secrets)
select id from orders where note = any (select value from secrets)
select id from orders where note = (select value from secrets)
select id from orders where exists (select 1 from secrets where value like 'd%')
select id from orders where (id, note) in (select id, value from secrets)
select id from orders limit (select count(*) from secrets)
select id from orders offset (select count(*) from secrets)
select id from orders fetch first (select count(*) from secrets) rows only
select id from orders order by (select value from secrets)
select count(*) from orders group by (select value from secrets)
select count(*) from orders group by grouping sets ((id), ((select id from secrets)))
select count(*) from orders group by rollup ((select value from secrets))
select count(*) from orders group by cube ((select value from secrets))
select count(*) from orders having (select true from secrets)
select count(*) filter (where (select true from secrets)) from orders
select string_agg(note, (select value from secrets)) from orders
select string_agg(note, ',' order by (select value from secrets)) from orders
select percentile_cont((select 0.5 from secrets)) within group (order by id) from orders
select sum(id) over (partition by (select value from secrets)) from orders
select sum(id) over (order by (select value from secrets)) from orders
select sum(id) over w from orders window w as (partition by (select value from secrets))
select sum(id) over (order by id rows between (select count(*) from secrets) preceding and current row) from orders
select distinct on ((select value from secrets)) id from orders
select case when (select true from secrets) then 1 end
select case (select value from secrets) when 'x' then 1 else 2 end
select coalesce(null, (select value from secrets))
select nullif('x', (select value from secrets))
select greatest('x', (select value from secrets))
select array[(select value from secrets)]
select (array[1,2])[(select id from secrets)]
select (array[1,2])[1:(select id from secrets)]
select row((select value from secrets))
select cast((select value from secrets) as text)
select (select value from secrets) collate "C"
select (select value from secrets) at time zone 'utc'
select (select value from secrets) is null
select (select value from secrets) is distinct from 'x'
select 'a' like (select value from secrets)
select 'a' between 'b' and (select value from secrets)
select overlay('abc' placing (select value from secrets) from 1)
select substring((select value from secrets) from 1)
select extract(year from (select now() from secrets))
select xmlelement(name x, (select value from secrets))
select xmlforest((select value from secrets) as x)
select xmlserialize(content (select value::xml from secrets) as text)
select * from xmltable('/x' passing (select value::xml from secrets) columns a text path 'a')
select * from xmltable('/x' passing '<x/>'::xml columns a text path (select value from secrets))
select * from generate_series(1, (select id from secrets))
select * from rows from (generate_series(1, (select id from secrets))) x
select * from orders tablesample bernoulli ((select id from secrets))
select * from orders tablesample system (10) repeatable ((select id from secrets))
select * from secrets tablesample system (100)
values ((select value from secrets))
values (1), ((select id from secrets))
select id from orders union select id from secrets
select id from orders union all (select id from secrets limit 1)
select id from orders except all table secrets
select id from orders intersect (select id from orders union select id from secrets)
(select id from secrets)
((table secrets))
select format('%s', s) from secrets s
select json_agg(s) from secrets s
select row_to_json(s) from secrets s
select string_agg(s::text, '') from secrets s
-- names of WITH queries
with x as (select * from secrets) select * from x
with x as materialized (table secrets) select 1
with recursive x as (select id from secrets union all select id + 1 from x where id < 3) select * from x
with orders as (select * from secrets) select * from orders
with secrets as (select * from secrets) select * from secrets
with secrets as (select 1) select * from public.secrets
with a as (select * from b), b as (select 1) select * from a, secrets
with a as (with secrets as (select 1) select * from secrets) select * from a, secrets
select (with secrets as (select 1 as v) select v from secrets), (select value from secrets)
with secrets as (select 1 as id) delete from secrets
with secrets as (select 1 as id) update secrets set value = 'x'
with secrets as (select 1 as id) insert into secrets values (9, 'x')
with recursive orders as (select id from orders union select id from public.secrets) select * from orders
with x as (select 1) select * from x search depth first by a set b, secrets
-- writing where only reading is allowed
insert into customers (name) values ('x')
update customers set name = 'x' where id = 1
delete from customers where id = 1
insert into secrets values (2, 'x')
update secrets set value = 'x' where id = 1
delete from secrets where id = 1
with x as (delete from customers where id = 1 returning *) select * from x
with x as (update secrets set value = 'x' where id = 1 returning *) select * from x
with x as (insert into secrets values (3, 'x') returning *) select * from x
with x as (delete from secrets) select 1
with x as (delete from orders) select 1
with x as (update orders set note = 'x') select 1
with x as (with y as (delete from secrets returning *) select * from y) select * from x
select * from (with x as (delete from secrets returning *) select * from x) y
insert into orders (note) with x as (delete from secrets returning value) select value from x
explain analyze delete from orders
explain (analyze) delete from secrets where id = 1
explain (analyze, format json) with x as (delete from secrets returning *) select * from x
explain delete from secrets
explain select * from secrets
explain (analyze) select * from secrets
explain analyze create table x as select 1
explain analyze execute p
explain analyze declare c cursor for select * from secrets
insert into orders (note) select value from secrets
insert into orders (note) values ((select value from secrets))
insert into orders (note) table secrets
insert into orders (note) values ('x') returning (select value from secrets)
insert into orders (id, note) values (1, 'x') on conflict (id) do update set note = (select value from secrets)
insert into orders (id, note) values (1, 'x') on conflict (id) do update set note = 'x' where (select true from secrets)
insert into orders (id, note) values (1, 'x') on conflict (id) where (select true from secrets) do nothing
update orders set note = (select value from secrets) where id = 1
update orders set (note, amount) = (select value, 1 from secrets) where id = 1
update orders set note = s.value from secrets s where orders.id = 1
update orders set note = 'x' where id = (select id from secrets)
update orders set note = 'x' where id = 1 returning (select value from secrets)
delete from orders using secrets where orders.id = secrets.id
delete from orders where id = 1 returning (select value from secrets)
delete from orders where id in (select id from secrets)
select * into copied from secrets
select * into copied from orders
select * into temp copied from orders
select id into temp table orders from customers
create table copied as select * from orders
create table copied as table secrets
create temp table copied as select * from orders
create temporary table orders as select * from secrets
create unlogged table copied as values (1)
create table if not exists copied as execute p
create materialized view v as select * from secrets
create view v as select * from secrets
create temp view orders as select * from secrets
create or replace recursive view v (a) as select value from secrets
create temp table orders (id int)
create table pg_temp.orders (like secrets including all)
create table x (like secrets)
create table x () inherits (secrets)
create table x partition of secrets default
create table x (a int default (touch()))
create schema x create view v as select * from public.secrets
-- writes without an effective WHERE; a condition over a column of the target counts as one, however wide it is
delete from orders
update orders set note = 'x'
delete from orders where true
delete from orders where 1 = 1
delete from orders where not false
delete from orders where 1 in (1)
delete from orders where null is null
delete from orders where 'a' like 'a'
delete from orders where 2 > 1 or id = 1
delete from orders where id = 1 or true
delete from orders where id = id
delete from orders where orders.id = id
delete from orders where (select true)
delete from orders where exists (select 1)
delete from orders where exists (select 1 from customers)
delete from orders where now() > '2000-01-01'
delete from orders where random() >= 0
delete from orders where current_user is not null
delete from orders where coalesce(true)
delete from orders where length('x') = 1
delete from orders where 1 = any (array[1])
delete from orders where (1, 2) = (1, 2)
delete from orders where true = true and 1 = 1
delete from orders where $$a$$ = 'a'
delete from orders where not (id = 1 and false)
delete from orders using customers where customers.id = 1
delete from orders o using customers c
update orders set note = 'x' where true is not false
update orders o set note = 'x' from customers c where c.id = 1
update orders set note = 'x' where (select count(*) from orders) > 0
truncate orders
truncate table only orders restart identity cascade
merge into orders using customers on true when matched then delete
merge into orders o using (select 1 as id) s on o.id = s.id when matched then update set note = 'x'
merge into orders o using secrets s on o.id = s.id when not matched then insert (note) values (s.value)
-- COPY
copy secrets to stdout
copy (select * from secrets) to stdout
copy (table secrets) to stdout
copy (with x as (delete from secrets returning *) select * from x) to stdout
copy (delete from secrets returning *) to stdout
copy (update orders set note = 'x' returning *) to stdout
copy (values ((select value from secrets))) to stdout
copy orders to stdout
copy orders from stdin
copy orders to '/tmp/sallyport-bypass'
copy (select 1) to '/tmp/sallyport-bypass'
copy (select 1) to program 'cat > /tmp/sallyport-bypass'
copy orders to program 'true'
copy orders from program 'id'
copy orders (note) from '/etc/passwd'
copy orders from stdin where (select true from secrets)
copy secrets from stdin
copy pg_authid to stdout
-- functions
select touch()
select public.touch()
select postgres.public.touch()
select U&"\0074ouch"()
select * from touch()
select * from rows from (touch()) with ordinality
select id from orders where touch() = 1
select id from orders order by touch()
select id from orders limit touch()
select sum(touch()) over () from orders
values (touch())
select x.touch from generate_series(1, 1) x
select (1).touch
insert into orders (note) values (touch()::text)
update orders set amount = touch() where id = 1
delete from orders where id = touch()
call touch()
do $$ begin delete from secrets; end $$
do language plpgsql 'begin perform touch(); end'
select pg_read_file('/etc/passwd')
select pg_catalog.pg_read_file('/etc/passwd')
select pg_read_binary_file('/etc/passwd')
select ('/etc/passwd'::text).pg_read_file
select (select '/etc/passwd'::text).pg_read_file
select x.pg_read_file from unnest(array['/etc/passwd']) x
select x.pg_read_file from (select '/etc/passwd'::text) x
select pg_ls_dir('/')
select * from pg_ls_waldir()
select pg_stat_file('/etc/passwd')
select pg_current_logfile()
select lo_import('/etc/passwd')
select lo_export(1, '/tmp/sallyport-bypass')
select lo_create(0)
select lo_from_bytea(0, 'x')
select lo_get(1)
select lo_put(1, 0, 'x')
select lo_unlink(1)
select loread(lo_open(1, 262144), 10)
select dblink('host=127.0.0.1', 'select 1')
select query_to_xml('select * from secrets', true, true, '')
select query_to_xmlschema('select * from secrets', true, true, '')
select query_to_xml_and_xmlschema('select * from secrets', true, true, '')
select table_to_xml('secrets', true, true, '')
select schema_to_xml('public', true, true, '')
select database_to_xml(true, true, '')
select cursor_to_xml('c', 1, true, true, '')
select ts_stat('select to_tsvector(value) from secrets')
select * from ts_stat('select to_tsvector(value) from secrets')
select ts_rewrite('a'::tsquery, 'select ''a''::tsquery, value::tsquery from secrets')
select set_config('search_path', 'evil', false)
select set_config('role', 'postgres', false)
select set_config('log_statement', 'none', false)
select pg_terminate_backend(pg_backend_pid())
select pg_cancel_backend(1)
select pg_reload_conf()
select pg_rotate_logfile()
select pg_switch_wal()
select pg_create_restore_point('x')
select pg_promote()
select pg_backup_start('x')
select pg_export_snapshot()
select pg_advisory_lock(1)
select pg_try_advisory_lock_shared(1)
select pg_notify('x', 'y')
select pg_sleep(0)
select pg_sleep_for('1 ms')
select nextval('orders_id_seq')
select setval('orders_id_seq', 1000)
select lastval()
select pg_stat_reset()
select * from pg_stat_get_activity(null)
select pg_logical_emit_message(false, 'a', 'b')
select pg_create_logical_replication_slot('a', 'test_decoding')
select pg_create_physical_replication_slot('a')
select pg_drop_replication_slot('a')
select pg_log_backend_memory_contexts(pg_backend_pid())
select pg_import_system_collations('public')
select pg_extension_config_dump('orders', '')
select pg_show_all_file_settings()
select pg_hba_file_rules()
select brin_summarize_new_values('orders_pkey')
select gin_clean_pending_list('orders_pkey')
select binary_upgrade_set_next_pg_type_oid(1)
select amvalidate(1)
select currtid2('secrets', '(0,1)')
select pg_prepared_statement()
select pg_nextoid('pg_class', 'oid', 'pg_class_oid_index')
select 1 operator(public.+) 1
select * from orders tablesample public.touch (1)
-- catalogs that hold secrets or data, and views
select * from pg_authid
select rolpassword from pg_catalog.pg_authid
select * from pg_shadow
select * from pg_user_mapping
select * from pg_stats
select * from pg_statistic
select * from pg_largeobject
select * from pg_stat_activity
select * from pg_hba_file_rules
select * from pg_toast.pg_toast_2619
select * from order_totals
update pg_catalog.pg_settings set setting = 'x' where name = 'search_path'
update pg_settings set setting = 'off' where name = 'standard_conforming_strings'
insert into pg_authid (rolname) values ('x')
delete from pg_class where relname = 'secrets'
-- names that stand for statements
prepare p as select * from secrets
prepare p as delete from orders
prepare p (int) as select value from secrets where id = $1
execute unknown
execute unknown (1, (select 2))
declare c cursor for select * from secrets
declare c cursor with hold for select value from secrets
declare c binary insensitive no scroll cursor for table secrets
fetch all from unknown
move all in unknown
-- settings that change what statements mean or whose rights they have
set search_path = evil
set search_path to 'evil', public
set local search_path = evil
set session search_path = evil
set schema 'evil'
set "search_path" = evil
set SEARCH_PATH to default
reset search_path
reset all
discard all
discard temp
set role postgres
set role none
reset role
set session authorization postgres
set session authorization default
reset session authorization
set standard_conforming_strings = off
set standard_conforming_strings to false
reset standard_conforming_strings
set backslash_quote = on
set escape_string_warning = off
set client_encoding = 'SJIS'
set names 'latin1'
reset client_encoding
set session_replication_role = replica
set transform_null_equals = on
set quote_all_identifiers = on
set log_statement = 'none'
set check_function_bodies = off
set default_transaction_read_only = off
set session characteristics as transaction read write
set local_preload_libraries = 'x'
set session_preload_libraries = 'x'
set work_mem = '10GB'
set plpgsql.extra_warnings = 'all'
set custom.setting = 'x'
set search_path from current
set xml option document
set lc_messages = 'C'
set default_tablespace = 'x'
set temp_tablespaces = 'x'
set array_nulls = off
set dynamic_library_path = '/tmp'
alter system set log_statement = 'none'
alter system reset all
alter role postgres set search_path = evil
alter role all set search_path = evil
alter database postgres set search_path = evil
alter user postgres password 'x'
-- definitions
drop table secrets
drop table if exists orders cascade
drop owned by postgres
drop schema public cascade
drop function touch()
drop view order_totals
drop database postgres
alter table secrets rename to visible
alter table orders add column x int
alter table orders inherit secrets
alter table orders enable row level security
alter table secrets set schema pg_temp
alter table orders disable trigger all
alter index orders_pkey rename to x
alter sequence orders_id_seq restart
alter function touch() owner to postgres
alter view order_totals rename to orders2
alter schema public rename to x
alter type x add value 'y'
alter default privileges grant all on tables to public
create function f() returns int language sql as 'select 1'
create or replace function lower(text) returns text language sql as 'select $1'
create procedure f() language sql as 'delete from secrets'
create aggregate a (int) (sfunc = int4pl, stype = int)
create operator + (leftarg = text, rightarg = text, function = touch)
create cast (text as int) with inout
create domain d as int check (touch() = 1)
create type t as (a int)
create trigger t before insert on orders for each row execute function touch()
create rule r as on select to orders do instead select * from secrets
create policy p on orders using (true)
create index on orders ((touch()))
create index concurrently on secrets (value)
create sequence s
create role evil superuser
create user evil
create database evil
create extension dblink
create extension if not exists plpython3u
create language evil
create server s foreign data wrapper x
create publication p for all tables
create subscription s connection 'host=127.0.0.1' publication p
create event trigger e on ddl_command_start execute function touch()
create statistics st on id, note from orders
create schema evil
create tablespace t location '/tmp'
create collation c from "C"
create text search configuration c (copy = simple)
import foreign schema public from server s into public
grant all on secrets to public
grant select on all tables in schema public to public
grant pg_read_server_files to postgres
revoke all on orders from postgres
reassign owned by postgres to postgres
comment on table secrets is 'x'
security label on table secrets is 'x'
-- names in other spellings: escapes of identifiers and strings, nested comments, quotes, whole names
select * from U&"secr\0065ts"
select * from public.U&"\0073\0065\0063\0072\0065\0074\0073"
select * from U&"pub\006Cic".U&"secret\0073"
SeLeCt VALUE fRoM SECRETS
select * from orders /* /* */ , secrets */ , secrets
select * from /**/secrets/**/
select * from--
select U&"pg\005Fread_file"('/etc/passwd')
select pg_catalog."pg_read_file"('/etc/passwd')
select E'\x73elect' from secrets
select $x$ $y$ $x$, value from secrets where $q$'$q$ <> value
select 'a' || E'\\' || value from secrets
select n'x', value from secrets
-- operators: of another schema, of nobody's, by every construct that names one
select 1 operator(evil.=) 1
select id from orders where note operator(public.~~~) 'x'
select id from orders where id @@@@ 1
select id from orders order by id using @@@@
select id from orders where id @@@@ any (array[1, 2])
select id from orders where id @@@@ all (select 1)
select @@@@ id from orders
select 1 operator("public".@@@@) 1
-- casts, and functions that take names
select 'secrets'::regclass::oid::text, (table secrets)
select ('secrets'::regclass, pg_ls_dir('.'))
select cast(row(pg_read_file('/etc/passwd')) as text)
select pg_get_expr(pg_read_file('x')::pg_node_tree, 0)
select json_populate_record(null::secrets, (select row_to_json(s) from secrets s))
select * from json_to_recordset((select json_agg(s) from secrets s)) as x(id int)
select jsonb_path_query((select to_jsonb(s) from secrets s), '$.value')
select xpath('//text()', query_to_xml('table secrets', true, true, ''))
select table_to_xml_and_xmlschema('secrets'::regclass, true, true, '')
select schema_to_xml_and_xmlschema('public', true, true, '')
select cursor_to_xmlschema('c', true, true, '')
select database_to_xmlschema(true, true, '')
select * from xmltable(xmlnamespaces('x' as y), '/x' passing query_to_xml('table secrets', true, true, '') columns a text path 'a')
select xmlparse(document pg_read_file('/etc/passwd'))
select xmlpi(name x, (select value from secrets))
select xmlroot((select xmlelement(name a, value) from secrets), version '1.0')
select pg_file_write('/tmp/sallyport-bypass', 'x', false)
select pg_catalog.pg_file_read('/etc/passwd', 0, 10)
select pg_ls_logdir()
select pg_ls_tmpdir()
select pg_ls_archive_statusdir()
select pg_ls_replslotdir('x')
select pg_ls_logicalmapdir()
select * from pg_get_wal_stats('0/0', '0/1')
select get_raw_page('secrets', 0)
select * from heap_page_items(get_raw_page('secrets', 0))
select * from pg_logical_slot_get_changes('s', null, null)
select * from pg_logical_slot_peek_binary_changes('s', null, null)
select pg_replication_slot_advance('s', '0/0')
select pg_replication_origin_create('x')
select pg_copy_logical_replication_slot('a', 'b')
select pg_sequence_last_value('orders_id_seq')
select currval('orders_id_seq')
select pg_try_advisory_xact_lock(1)
select pg_advisory_unlock(1)
select setseed(0.1)
select pg_stat_reset_shared('wal')
select pg_stat_get_backend_activity(1)
select pg_stat_statements_reset()
select * from dblink('dbname=postgres', 'table secrets') as t(a int, b text)
select dblink_exec('dbname=postgres', 'drop table secrets')
select dblink_connect_u('x')
select * from crosstab('table secrets') as t(a int, b text)
select * from ts_stat($$ select to_tsvector(value) from secrets $$, 'a')
select pg_stat_file('postgresql.conf', true)
select pg_relation_check_pages('secrets', 'main')
select pg_size_pretty(lo_import('/etc/passwd')::bigint)
select inet_server_port(), pg_read_file('/etc/passwd')
select lo_creat(-1)
select lo_truncate(lo_open(1, 131072), 0)
select lo_open(16384, x'40000'::int)
select txid_current()
select pg_current_xact_id()
-- values of data in catalogs
select most_common_vals from pg_stats where tablename = 'secrets'
select histogram_bounds::text from pg_catalog.pg_stats
select stavalues1 from pg_statistic
select * from pg_stats_ext
select * from pg_stats_ext_exprs
select stxdmcv from pg_statistic_ext_data
select * from pg_mcv_list_items((select stxdmcv from pg_statistic_ext_data limit 1))
select query from pg_stat_activity
select query from pg_catalog.pg_stat_activity where pid <> pg_backend_pid()
select * from pg_stat_statements
select statement from pg_prepared_statements
select statement from pg_cursors
select data from pg_largeobject
select subconninfo from pg_subscription
select * from pg_db_role_setting
select * from pg_user_mappings
select srvoptions from pg_foreign_server
select * from information_schema.user_mapping_options
select * from information_schema._pg_user_mappings
select * from information_schema.foreign_server_options
select * from information_schema._pg_foreign_servers
select * from pg_stat_replication
select * from pg_replication_slots
select * from pg_prepared_xacts
select * from pg_stat_wal_receiver
select * from pg_file_settings
select * from pg_ident_file_mappings
select * from pg_backend_memory_contexts
select chunk_data from pg_toast.pg_toast_1262
select * from pg_temp_3.orders
select * from pg_toast_temp_3.x
-- more ways to run what was not said
explain analyze select touch()
explain (analyze) values (touch())
explain (analyze, verbose) execute p (touch())
explain analyze refresh materialized view v
explain analyze create materialized view v as select touch()
explain declare c cursor for select 1; fetch all from c
explain (analyze) declare c cursor for select 1; fetch all from c
explain declare c cursor with hold for select 1; move all in c
create table x as execute p (touch())
prepare p (int) as select $1; execute p (touch())
prepare p (int) as select $1; execute p ((select id from secrets))
begin; declare c cursor for select 1; rollback to s; fetch c
begin; declare c cursor for select 1; commit; fetch c
declare c cursor for select touch()
copy (select touch()) to stdout
copy orders from stdin where touch() = 1
copy (select id from orders) to program 'cat'
copy (explain analyze delete from orders) to stdout
copy orders (id, note) from program 'curl x' with (format csv)
values (pg_read_file('/etc/passwd'))
select id from orders group by rollup (touch())
select id from orders window w as (order by touch())
select count(*) filter (where touch() = 1) from orders
select id from orders fetch first (select touch()) rows only
select id from orders where (id, 1) in (select touch(), 1)
select id from orders tablesample bernoulli (touch())
select id from orders, lateral touch() t
select id from orders left join lateral (select touch()) t on true
select (touch()).* from orders
select array[touch()], row(touch()), (array[1])[touch()]
select case touch() when 1 then 1 end
select coalesce(null, touch()), nullif(touch(), 1), greatest(touch(), 1)
select xmlelement(name a, xmlattributes(touch() as b))
select xmlforest(touch() as a), xmlconcat(xmlelement(name a, touch()))
select extract(epoch from (select now() where touch() = 1))
select json_object_agg(touch(), 1)
with x as (select touch()) select 1
with x as not materialized (select touch() as t) select t from x
with recursive x as (select touch() union all select 1 from x) cycle t set a using b select 1
insert into orders (note) select touch()::text
insert into orders (id, note) values (1, 'x') on conflict (id) do update set note = touch()::text
insert into orders (id) values (1) on conflict ((touch())) do nothing
insert into orders (note) values ('x') returning touch()
update orders set note = 'x' from touch() t where id = 1
update orders set (note, amount) = row(touch(), 1) where id = 1
delete from orders using touch() t where id = 1
merge into orders o using (select touch() as id) s on o.id = s.id when matched then delete
merge into orders o using (select 1 as id) s on o.id = s.id when not matched and touch() = 1 then insert (note) values ('x')
-- roles, settings and sessions in other spellings
set local role postgres
set session role postgres
set local session authorization postgres
set session session authorization default
set "role" to 'postgres'
set ROLE to default
set local "search_path" to evil
set pg_catalog.search_path = evil
set search_path = pg_temp, public
set Session_Authorization = postgres
set plpgsql.variable_conflict = use_column
set createrole_self_grant = 'set'
set default_table_access_method = 'x'
set default_transaction_isolation = 'serializable'
set transaction_read_only = off
set transaction snapshot '00000003-0000001B-1'
set is_superuser = on
set session_replication_role to 'local'
set allow_system_table_mods = on
set ignore_system_indexes = on
set zero_damaged_pages = on
set lo_compat_privileges = on
set backtrace_functions = 'x'
set debug_print_parse = on
set log_min_messages = panic
set log_min_duration_statement = -1
set track_activities = off
set event_triggers = off
set gin_fuzzy_search_limit = 1
set xmlbinary = hex
set xmloption = document
set default_text_search_config = 'evil.x'
set max_parallel_workers_per_gather = 100
set maintenance_work_mem = '10GB'
set temp_buffers = '10GB'
set hash_mem_multiplier = 1000
set vacuum_cost_delay = 0
set parallel_setup_cost = 0
select set_config('session_authorization', 'postgres', true)
select set_config(setting_name => 'search_path', new_value => 'evil', is_local => false)
select set_config((select 'search_path'), 'evil', false)
select set_config('search' || '_path', 'evil', false)
select set_config(name, 'evil', false) from (values ('search_path')) v (name)
select set_config('application_name', (select value from secrets), false)
select set_config('application_name', touch()::text, false)
select set_config(E'search\x5fpath', 'evil', false)
select pg_catalog.set_config('standard_conforming_strings', 'off', false)
select id from orders where set_config('log_statement', 'off', false) is not null
insert into orders (note) values (set_config('role', 'postgres', false))
alter role current_user set role postgres
alter role postgres in database postgres set search_path = evil
alter role postgres reset all
alter user current_user nosuperuser
alter group x add user postgres
set constraints all immediate; select touch()
-- definitions in other spellings
create temp sequence s
create temp table x (id int default touch())
create table x (id int generated always as (touch()) stored)
create table x (id int, exclude using gist (touch() with =))
create table x partition of orders for values from (touch()) to (5)
create global temporary table x (id int)
create unlogged table x as select * from orders
create foreign table x (id int) server s
create table x of pair
create type x as range (subtype = int, canonical = touch)
create domain x as text default touch()::text
create function pg_temp.f() returns int language sql as 'table secrets'
create function pg_temp.lower(text) returns text language sql as 'select $1'
create or replace procedure pg_temp.p() begin atomic delete from secrets; end
create access method x type table handler heap_tableam_handler
create transform for int language sql (from sql with function touch())
create operator class x for type int using btree as function 1 touch()
create text search dictionary x (template = thesaurus, dictfile = '/etc/passwd', dictionary = simple)
create text search parser x (start = touch, gettoken = touch, end = touch, lextypes = touch)
create conversion x for 'UTF8' to 'LATIN1' from touch
create constraint trigger t after insert on orders for each row execute function touch()
create or replace rule "_RETURN" as on select to orders do instead select * from secrets
create user mapping for postgres server s options (password 'x')
alter table orders attach partition secrets default
alter table orders detach partition secrets
alter table orders alter note set default touch()
alter table orders alter note type text using (select value from secrets)
alter table orders add constraint c check (touch() = 1) not valid
alter table orders add generated column x int
alter table orders replica identity full
alter table orders owner to evil
alter table orders no force row level security
alter table all in tablespace pg_default set tablespace x
alter view order_totals owner to evil
alter materialized view v set schema evil
alter foreign data wrapper x options (add a 'b')
alter server s options (set host 'x')
alter user mapping for postgres server s options (set password 'x')
alter event trigger e disable
alter extension plpgsql update
alter extension plpgsql add function touch()
alter publication p add table secrets
alter subscription s disable
alter procedure f() security definer
alter routine touch() reset all
alter operator + (int, int) owner to postgres
alter operator family integer_ops using btree add function 1 (int, int) touch()
alter domain d add check (touch() = 1)
alter policy p on orders using (touch() = 1)
alter trigger t on orders rename to u
alter statistics st set statistics 1
alter sequence orders_id_seq owned by secrets.id
alter large object 1 owner to postgres
alter system set archive_command = 'id'
alter database postgres rename to x
alter tablespace pg_default rename to x
drop trigger t on orders
drop rule r on orders
drop policy p on orders
drop index orders_pkey
drop sequence orders_id_seq cascade
drop cast (text as int)
drop operator + (int, int)
drop extension plpgsql
drop publication if exists p
drop subscription if exists s
drop server if exists s cascade
drop user mapping if exists for postgres server s
drop event trigger if exists e
drop tablespace if exists t
drop role if exists evil
grant usage on foreign server s to public
grant set on parameter log_statement to postgres
grant execute on function touch() to public
grant all on large object 1 to public
revoke all on database postgres from public
comment on column secrets.value is 'x'
comment on function touch() is 'x'
comment on index orders_pkey is 'x'
lock orders, secrets in share mode nowait
select * from orders, customers for update of orders
select * from (select * from customers for share) x
with x as (select * from customers for update) select * from x
listen "secrets"; unlisten secrets
notify orders
reindex index orders_pkey
reindex (concurrently) schema public
cluster orders using orders_pkey
analyze
vacuum (analyze) orders
declare c scroll cursor with hold for update secrets set value = 'x' returning *
import foreign schema x limit to (secrets) from server s into public
prepare transaction 'evil'
call public.touch()
call pg_catalog.pg_sleep(0)
do 'begin end'
load '/tmp/x.so'
discard all; select 1
begin; set local role postgres; commit
start transaction; table secrets; end
savepoint s; delete from orders; release s
-- the rest
lock table orders
lock table secrets in access exclusive mode
select * from customers for update
select * from orders for share
select * from customers for no key update of customers skip locked
listen x
notify x, 'y'
vacuum
vacuum full secrets
analyze secrets
cluster
reindex table secrets
reindex database postgres
checkpoint
load 'auto_explain'
refresh materialized view v
prepare transaction 'x'
commit prepared 'x'
rollback prepared 'x'
-- several statements in one text, one of them refused
select 1; delete from orders
select 1; select 2; drop table secrets
begin; delete from orders; commit
update orders set note = 'x' where id = 1; select * from secrets
;;; table secrets ;;;
commit; begin; select * from secrets
prepare p as select 1; deallocate p; prepare p as select * from secrets; execute p
begin; declare c cursor for select 1; close c; declare c cursor for table secrets; fetch c; commit
-- text that could be read in two ways
select 'a' 'b'; select * from secrets
select E'\'' from secrets --'
select 'a\' from secrets --'
select '\'; select * from secrets; --'
select E'a\'; drop table secrets; --'' from secrets
select $a$ $b$ $a$ from secrets
select $$ $$, value from secrets --$$
select "a""b" from secrets
select U&'d\0061ta' from secrets
select B'101', X'1F', value from secrets
select * from "public"."secrets"
select * from "secrets "
select * from "Secrets"
select * from secrets/*
select 1 /* ; */ ; /* */ table secrets
