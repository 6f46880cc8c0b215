with b as (select array(select oid from pg_type where typname in ('internal','cstring','_cstring','trigger','event_trigger','language_handler','fdw_handler','index_am_handler','table_am_handler','tsm_handler','pg_ddl_command')) as a),
o as (select proname,
  prorettype = any(a) or exists (select 1 from unnest(proargtypes) t where t = any(a)) as internal,
  prokind in ('f','a','w') and (provolatile in ('i','s') or proname in (
      'random','random_normal','array_sample','array_shuffle','uuidv4','uuidv7','clock_timestamp','timeofday','gen_random_uuid','pg_relation_size','pg_table_size','pg_total_relation_size',
      'pg_indexes_size','pg_database_size','pg_tablespace_size','pg_is_in_recovery','pg_partition_tree','pg_partition_root',
      'pg_partition_ancestors','pg_relation_is_publishable'))
    and proname !~ '^(pg_read_|pg_ls_|pg_stat_|lo_|set_config$|pg_sleep|pg_advisory|pg_try_advisory|pg_create_|pg_drop_|pg_copy_|pg_replication|pg_logical|pg_wal|pg_switch|pg_reload|pg_rotate|pg_promote|pg_backup|pg_event_trigger|pg_import|pg_extension|pg_control|pg_last_|pg_get_wal|pg_get_shmem|pg_get_backend|pg_get_replication|pg_current_wal|pg_current_logfile|pg_show_all_file|pg_hba|pg_ident_file|pg_sequence|pg_available_extension|pg_lock_status|pg_cursor|pg_prepared|pg_config$|pg_tablespace_location|pg_listening|pg_mcv_list|pg_notify|pg_current_xact|pg_snapshot|pg_current_snapshot|pg_visible_in|txid_|currtid|ts_stat|ts_rewrite|binary_upgrade|dblink|nextval|setval|currval|lastval|pg_nextoid|pg_stop|pg_start|fmgr_|postgresql_fdw|query_to_|table_to_|cursor_to_|database_to_|schema_to_)'
  as calm from pg_proc, b where pronamespace='pg_catalog'::regnamespace),
f as (select proname,
  case when bool_and(internal) or proname ~ '(_handler|_support|_transfn|_finalfn|_accum|_combine|_serialize|_deserialize|_accum_inv|sel|send)$' and bool_and(calm) then 'internal'
       when bool_and(calm and not internal) then 'harmless'
       when bool_and(calm or internal) then 'internal'
       else 'effect' end as class
  from o group by proname)
select class || ' ' || proname from f order by proname collate "C";
