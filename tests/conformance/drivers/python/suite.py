"""What a Python program does with PostgreSQL, printed line by line, for psycopg 3 and asyncpg.

Run once direct and once through the proxy: both must print the same. It takes a libpq connection string and
changes only tables of its own.
"""

import asyncio
import ssl
import sys

import asyncpg
import psycopg


def show(step, *values):
    print(step, *[repr(value) for value in values], flush=True)


def error(step, exc):
    show(step, type(exc).__name__, exc.sqlstate)


def psycopg_suite(conninfo):
    with psycopg.connect(conninfo, autocommit=True) as conn:
        show("parameters", conn.execute("select %s::int + 1, %s::text, %s::bool", (41, "ä'\"\\", None)).fetchall())
        show("binary", conn.execute("select %b::int8, %b::bytea", (2**40, b"\x00\xff"), binary=True).fetchall())
        show("many", len(conn.execute("select g, repeat('x', 1000) from generate_series(1, 5000) g").fetchall()))
        conn.execute("create table py (id int primary key, note text)")
        try:
            with conn.cursor() as cur:
                cur.executemany("insert into py values (%s, %s)", [(n, f"note {n}") for n in range(200)])
                show("executemany", cur.rowcount)
            with conn.cursor() as cur, cur.copy("copy py from stdin") as copy:
                for n in range(200, 400):
                    copy.write_row((n, "copied\tin"))
            with conn.cursor() as cur, cur.copy("copy (select * from py order by id) to stdout") as copy:
                rows = list(copy.rows())
                show("copy out", len(rows), rows[0], rows[-1])
            try:
                with conn.cursor() as cur, cur.copy("copy py from stdin") as copy:
                    copy.write(b"not a number\tx\n")
            except psycopg.Error as exc:
                error("copy in, bad row", exc)
            try:
                with conn.cursor() as cur, cur.copy("copy py from stdin") as copy:
                    copy.write(b"900\tx\n")
                    raise RuntimeError("the client gives up")
            except (RuntimeError, psycopg.Error):
                show("copy in, given up", conn.execute("select count(*) from py where id = 900").fetchall())
            for statement in ("select 1/0", "selec", "select * from nowhere", "insert into py values (1, 'twice')"):
                try:
                    conn.execute(statement)
                except psycopg.Error as exc:
                    error(statement, exc)
            try:
                with conn.transaction():
                    conn.execute("delete from py")
                    with conn.transaction():
                        conn.execute("select 1/0")
            except psycopg.Error as exc:
                error("transaction", exc)
            show("rolled back", conn.execute("select count(*) from py").fetchall(), conn.info.transaction_status)
            with conn.transaction(), conn.cursor(name="c") as cur:
                cur.execute("select id from py order by id")
                show("server cursor", cur.fetchmany(3), cur.fetchmany(2))
            with conn.pipeline():
                results = [conn.execute("select %s::int", (n,)) for n in range(50)]
            show("pipeline", [cur.fetchone()[0] for cur in results])
            try:
                with conn.pipeline() as pipe:
                    conn.execute("select 1")
                    bad = conn.execute("select 1/0")
                    conn.execute("select 2")
                    pipe.sync()
            except psycopg.Error as exc:
                error("pipeline error", exc)
            show("after the pipeline", conn.execute("select 3").fetchall())
            for _ in range(8):
                conn.execute("select count(*) from py where id < %s", (10,), prepare=True).fetchall()
            show("multi", [r[0] for r in psycopg.ClientCursor(conn).execute("select 1; select 2").fetchall()])
            notices = []
            conn.add_notice_handler(lambda diag: notices.append(diag.message_primary))
            conn.execute("do $$ begin raise notice 'hello'; end $$")
            show("notice", notices)
            conn.execute("listen ch")
            conn.execute("notify ch, 'payload'")
            show("notify", [n.payload for n in conn.notifies(timeout=5, stop_after=1)])
            conn.execute("set statement_timeout = 200")
            try:
                conn.execute("select pg_sleep(10)")
            except psycopg.Error as exc:
                error("timeout", exc)
        finally:
            conn.execute("drop table py")


async def asyncpg_suite(dsn, context):
    conn = await asyncpg.connect(dsn, ssl=context)
    show("asyncpg", await conn.fetch("select $1::int + 1 as n, $2::text[] as t", 41, ["a", "b"]))
    statement = await conn.prepare("select g from generate_series(1, $1) g")
    show("asyncpg prepared", len(await statement.fetch(1000)), statement.get_parameters()[0].name)
    async with conn.transaction():
        rows = [row["g"] async for row in conn.cursor("select g from generate_series(1, 100) g", prefetch=7)]
        show("asyncpg cursor", len(rows))
    try:
        async with conn.transaction():
            await conn.execute("select 1/0")
    except asyncpg.PostgresError as exc:
        error("asyncpg error", exc)
    try:
        await conn.fetch("select pg_sleep(10)", timeout=0.2)
    except asyncio.TimeoutError:
        show("asyncpg cancel", await conn.fetchval("select 5"))
    await conn.close()


def main():
    conninfo, dsn, ca, cert, key = sys.argv[1:6]
    psycopg_suite(conninfo)
    context = ssl.create_default_context(cafile=ca)
    if cert:
        context.load_cert_chain(cert, key)
    asyncio.run(asyncpg_suite(dsn, context))


main()
