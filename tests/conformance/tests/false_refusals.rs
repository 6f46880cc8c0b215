//! What must not be refused: the questions that stock clients ask by themselves, under a policy that only reads.
//! The rules are the operator's built-in ones, from its own file, and one for two tables; a mark in the corpus says
//! what is refused on purpose.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

#[allow(unreachable_pub, reason = "the operator's own file")]
#[path = "../../../operator/src/derive/builtin.rs"]
mod builtin;
mod wire;

use std::process::Command;

use sallyport_conformance::clients::{python, run, rust, texts};
use sallyport_conformance::{Guarded, Way, policy};
use sallyport_policy::{Effect, PolicyEntry};
use wire::{Wire, bind, describe, execute, parse, sync};

const CORPUS: &str = include_str!("corpus/allowed.sql");
const REFUSED: &str = " -- refused";

fn read_only() -> Vec<PolicyEntry> {
    let mut entry = policy::policy("read-orders", Vec::new());
    entry.rules = builtin::rules();
    let tables = ["public.orders", "public.customers"];
    entry.rules.push(policy::tables(policy::rule("read-orders", Effect::Allow, &["Select"]), &tables));
    vec![entry]
}

#[tokio::test]
async fn what_clients_ask_by_themselves_passes_a_policy_that_only_reads() {
    let guarded = Guarded::start(read_only()).await.unwrap();
    let mut wrong = Vec::new();
    for line in CORPUS.lines().filter(|line| !line.is_empty() && !line.starts_with("--")) {
        let (sql, allowed) = line.strip_suffix(REFUSED).map_or((line, true), |sql| (sql, false));
        let mut session = Wire::open(&guarded).await;
        let simple = session.query(sql).await;
        let mut session = Wire::open(&guarded).await;
        let extended = session.ask(&[parse("", sql), bind("", ""), describe(b'P', ""), execute(""), sync()]).await;
        // Of several statements only a simple query may consist.
        for said in [simple].into_iter().chain((!sql.contains("; ")).then_some(extended)) {
            let refused = said.errors().iter().any(|error| error.starts_with("42501"));
            // SAVEPOINT and its like fail at the server for want of a transaction: that is its own affair.
            let failed = said.errors().iter().any(|error| !["42501", "25P01", "3B001"].contains(&&error[..5]));
            if refused == allowed || failed {
                wrong.push(format!("{sql}\n    {:?}", said.errors()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn psql_describes_the_database_as_it_does_direct() {
    let guarded = Guarded::start(read_only()).await.unwrap();
    let commands = "\\pset pager off\n\\d\n\\dt\n\\d orders\n\\d+ orders\n\\d customers_email_key\n\\d order_totals\n\
        \\d+ order_totals\n\\d orders_id_seq\n\\dn\n\\dn+\n\\df\n\\df+ touch\n\\df lower\n\\l\n\\du\n\\dg\n\\di\n\\dv\n\\ds\n\\dm\n\
        \\dT\n\\dT+\n\\dx\n\\dD\n\\dp\n\\z orders\n\\dd\n\\da\n\\dc\n\\dC\n\\do\n\\dO\n\\dF\n\\dFd\n\\dFp\n\\dFt\n\
        \\dL\n\\dy\n\\dRp\n\\dP\n\\ddp\n\\dA\n\\dAc\n\\dAf\n\\sf touch\n\\sv order_totals\n\\dconfig datestyle\n\\encoding\n";
    let (direct, direct_errors) = texts(&guarded.psql(Way::Direct, commands).unwrap());
    let (proxied, proxied_errors) = texts(&guarded.psql(Way::Proxied, commands).unwrap());
    assert_eq!(proxied_errors, direct_errors);
    assert!(direct.lines().count() > 500, "the commands did their work: {direct}");
    let (proxied, direct): (Vec<_>, Vec<_>) = (proxied.lines().collect(), direct.lines().collect());
    let differs: Vec<_> = proxied.iter().zip(&direct).filter(|(proxied, direct)| proxied != direct).collect();
    assert!(differs.is_empty() && proxied.len() == direct.len(), "{differs:#?}");
    // Not these, on purpose: large objects, settings of roles, places of files, other servers.
    let (_, refused) = texts(&guarded.psql(Way::Proxied, "\\dl\n\\drds\n\\db\n\\det\n").unwrap());
    assert_eq!(refused.matches("42501: no rule allows").count(), 4, "{refused}");
}

#[tokio::test]
async fn drivers_find_out_about_types_under_a_policy_that_only_reads() {
    let guarded = Guarded::start(read_only()).await.unwrap();
    guarded.server.exec_sql("create type mood as enum ('sad', 'happy'); create type pair as (a int, b mood); alter table orders add mood mood default 'sad', add pair pair default (1, 'happy'), add many mood[] default '{sad}', add span int4range default '[1,2)'").await.unwrap();
    // tokio-postgres asks for every type it does not know.
    let (client, _ended) = rust::connect(&guarded).await.unwrap();
    let statement = client.prepare("select mood, pair, many, span, o from orders o where id = $1").await.unwrap();
    assert_eq!(statement.columns().len(), 5);
    assert_eq!(client.query(&statement, &[&1_i32]).await.unwrap().len(), 1);
    let script = r#"
import asyncio, ssl, sys, asyncpg, psycopg
from psycopg.types import TypeInfo
from psycopg.types.enum import EnumInfo
from psycopg.types.composite import CompositeInfo
from psycopg.types.range import RangeInfo
conn = psycopg.connect(sys.argv[1], autocommit=True)
for kind, name in ((EnumInfo, 'mood'), (CompositeInfo, 'pair'), (TypeInfo, 'int4'), (RangeInfo, 'int4range')):
    print(kind.fetch(conn, name).name)
print(len(conn.execute('select * from orders').fetchall()))
context = ssl.create_default_context(cafile=sys.argv[3])
context.load_cert_chain(sys.argv[4], sys.argv[5])
async def main():
    conn = await asyncpg.connect(sys.argv[2], ssl=context)
    row = await conn.fetchrow('select mood, pair, many, span, o from orders o where id = $1', 1)
    print(row['mood'], row['pair'], row['many'])
    async with conn.transaction():
        print(len([1 async for _ in conn.cursor('select id from customers', prefetch=7)]))
    await conn.reload_schema_state()
    await conn.close()
asyncio.run(main())
"#;
    let mut command = Command::new(python().unwrap());
    command.args(["-c", script]).arg(guarded.conninfo(Way::Proxied));
    command.arg(format!("postgresql://default@localhost:{}/postgres", guarded.port()));
    command.arg(guarded.dir().join("tls/ca.crt")).arg(&guarded.agent.cert).arg(&guarded.agent.key);
    let (out, errors) = texts(&run(command, "").unwrap());
    let lines: Vec<_> = out.lines().collect();
    assert_eq!(
        lines,
        ["mood", "pair", "int4", "int4range", "100", "sad <Record a=1 b='happy'> ['sad']", "20"],
        "{errors}"
    );
}

#[tokio::test]
async fn sqlalchemy_reflects_the_same_as_direct() {
    let guarded = Guarded::start(read_only()).await.unwrap();
    guarded.server.exec_sql("create type mood as enum ('sad', 'happy'); alter table orders add mood mood, add check (amount >= 0); comment on table orders is 'what was ordered'; create index on orders (lower(note)) where amount > 1").await.unwrap();
    let script = "
import sys, sqlalchemy
engine = sqlalchemy.create_engine('postgresql+psycopg://', creator=lambda: __import__('psycopg').connect(sys.argv[1]))
look = sqlalchemy.inspect(engine)
print(look.default_schema_name, sorted(look.get_schema_names()), look.get_enums(), look.get_sequence_names())
for name in sorted(look.get_table_names()) + look.get_view_names():
    print(name, look.get_columns(name), look.get_pk_constraint(name), look.get_foreign_keys(name), look.get_indexes(name))
    print(look.get_unique_constraints(name), look.get_check_constraints(name), look.get_table_comment(name))
print(look.get_view_definition('order_totals'), look.has_table('orders'))
data = sqlalchemy.MetaData()
data.reflect(engine, views=True)
orders = data.tables['orders']
with engine.connect() as conn:
    print(conn.execute(sqlalchemy.select(sqlalchemy.func.count()).select_from(orders)).scalar())
";
    let reflect = |way: Way| {
        let mut command = Command::new(python().unwrap());
        command.args(["-c", script]).arg(guarded.conninfo(way));
        let output = run(command, "").unwrap();
        let (out, errors) = texts(&output);
        assert!(output.status.success(), "{way:?}: {errors}");
        out
    };
    let direct = reflect(Way::Direct);
    assert!(direct.lines().count() > 10, "{direct}");
    assert_eq!(reflect(Way::Proxied), direct);
}
