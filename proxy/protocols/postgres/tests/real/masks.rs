//! Masks, judged by every byte that a client receives: whatever it asks for, no seeded value is among them.
//!
//! Owns those claims. Touches loopback. Invariant: each claim says as well that what is not masked does arrive.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use sallyport_policy::{ColumnPattern, Detector, Effect, Mask, MaskMethod};
use serde_json::Value;

use crate::raw::{Raw, execute, message, parse, query, sync, word};
use crate::stage::{Stage, rule};

/// Stands in every value that is to be hidden and in nothing else, in a form that survives upper() and lower().
const SEEDS: [&str; 3] = ["zqxjk1", "zqxjk2", "zqxjk3"];
/// What is in the clear beside them.
pub(crate) const CLEAR: &str = "visible-name";

type Tls = tokio_rustls::client::TlsStream<tokio::net::TcpStream>;

pub(crate) fn mask(columns: &[&str], method: MaskMethod, strict: bool) -> Mask {
    let columns = columns.iter().map(|column| ColumnPattern::parse(column).unwrap()).collect();
    Mask { columns, detect: Vec::new(), method, strict }
}

pub(crate) async fn stage(masks: Vec<Mask>) -> Stage {
    let stage = Stage::new().await;
    stage
        .server
        .exec_sql(
            "create table customers (id int primary key, name text, email text unique, note text, born date);
             insert into customers select n, 'visible-name-' || n, 'zqxjk' || n || '@example.org', 'note', '2000-01-01'
               from generate_series(1, 3) n;
             create view contacts as select id, name as who, email as reach from customers;
             create view contacts_of_contacts as select who, upper(reach) as loud, id + 1 as next from contacts;
             create view counts as select count(*) as n from customers;
             create materialized view kept as select id, email as e from customers;
             create table parent (id int, email text);
             create table child () inherits (parent);
             insert into child values (1, 'zqxjk1@child.org');
             create table other (id int, email text, word text);
             analyze customers;
             insert into other values (1, 'open@example.org', 'zebra'), (2, 'open2@example.org', 'yak')",
        )
        .await
        .unwrap();
    stage.rules(vec![rule("all", Effect::Allow, &[], &[])]);
    stage.masks(masks);
    stage
}

pub(crate) struct Heard {
    /// Everything, as it came.
    pub(crate) bytes: Vec<u8>,
    pub(crate) words: String,
}

impl Heard {
    pub(crate) fn has(&self, text: &str) -> bool {
        self.bytes.windows(text.len()).any(|window| window.eq_ignore_ascii_case(text.as_bytes()))
    }

    pub(crate) fn leaks(&self) -> bool {
        // Hexadecimal and reversed as well: what a query could make of a value.
        let hidden = SEEDS.iter().flat_map(|seed| {
            let hex: String = seed.bytes().map(|byte| format!("{byte:02x}")).collect();
            let reversed: String = seed.chars().rev().collect();
            [(*seed).to_owned(), hex, reversed]
        });
        hidden.into_iter().any(|hidden| self.has(&hidden))
    }
}

pub(crate) async fn hear(client: &mut Raw<Tls>, messages: &[Vec<u8>]) -> Heard {
    client.send(messages).await;
    let (mut bytes, mut words) = (Vec::new(), Vec::new());
    while let Some((kind, body)) = client.message().await {
        words.push(word(kind, &body));
        bytes.extend_from_slice(&body);
        if kind == b'Z' {
            break;
        }
    }
    Heard { bytes, words: words.join(" ") }
}

pub(crate) async fn ask(client: &mut Raw<Tls>, text: &str) -> Heard {
    hear(client, &[query(text)]).await
}

/// The same in the extended protocol, with results in that format, and no Describe that could tell of columns.
pub(crate) async fn ask_extended(client: &mut Raw<Tls>, text: &str, format: u16) -> Heard {
    let bind = message(b'B', &[b"\0\0", &0u16.to_be_bytes(), &0u16.to_be_bytes(), b"\0\x01", &format.to_be_bytes()]);
    hear(client, &[parse("", text), bind, execute("", 0), sync()]).await
}

pub(crate) async fn client(stage: &Stage) -> Raw<Tls> {
    Raw(stage.tls().await).log_in().await
}

pub(crate) fn email() -> Vec<Mask> {
    vec![mask(&["public.customers.email", "public.parent.email"], MaskMethod::Redact, false)]
}

#[tokio::test]
async fn a_column_is_masked_however_it_is_named_and_the_rest_arrives() {
    let stage = stage(email()).await;
    let mut client = client(&stage).await;
    for text in [
        "select * from customers",
        "select name, email from customers",
        "select name, email as harmless from customers",
        "select c.name, c.email from customers as c",
        "select name, x from (select name, email as x from customers) s",
        "with c as (select name, email as e from customers) select name, e from c",
        "select name, e from customers as c(id, name, e)",
        "table customers",
        "select name, email from customers union all select name, email from customers",
        "select name, note from customers union all select name, email from customers",
        "select who, reach from contacts",
        "select * from contacts",
        "select who, loud from contacts_of_contacts",
        "select who, lower(loud) from contacts_of_contacts",
        "select k.e, c.name from kept k join customers c using (id)",
        "select name, email from customers natural join (select id from customers) s",
        "select o.id, c.name, c.email from other o join customers c on c.id = o.id",
        "insert into customers values (9, 'visible-name-9', 'zqxjk1@nine.org') returning name, email",
        "update customers set note = 'x' where id = 9 returning *",
        "delete from customers where id = 9 returning name, email, upper(email)",
        "declare c cursor with hold for select name, email from customers; fetch all from c; close c",
        "prepare p as select name, email from customers; execute p; deallocate p",
    ] {
        let heard = ask(&mut client, text).await;
        assert!(!heard.leaks() && !heard.words.contains('E'), "{text}: {}", heard.words);
        assert!(heard.has(CLEAR), "{text}: what is not masked did not arrive");
        let once = text.split(';').count() == 1 && !text.contains("insert") && !text.contains("delete");
        for format in [0, 1] {
            if once {
                let heard = ask_extended(&mut client, text, format).await;
                assert!(!heard.leaks() && !heard.words.contains('E'), "{text}, format {format}: {}", heard.words);
                assert!(heard.has(CLEAR), "{text}, format {format}");
            }
        }
    }
}

#[tokio::test]
async fn what_is_made_of_a_masked_value_is_masked_and_what_is_not_is_not() {
    let stage = stage(email()).await;
    let mut client = client(&stage).await;
    for text in [
        "select upper(email) from customers",
        "select email || '' from customers",
        "select substr(email, 1, 3), substr(email, 4) from customers",
        "select reverse(email) from customers",
        "select encode(email::bytea, 'hex') from customers",
        "select c from customers c",
        "select row_to_json(c) from customers c",
        "with recursive c as (select 1 as n, name, email from customers union all select n + 1, name, email from c where n < 2) select name, email from c",
        "select * from customers union all select * from customers",
        "select name from customers union (select note from customers except select email from customers)",
        "select c.row_to_json from customers c",
        "select (c).email from customers c",
        "select (c.*)::text from customers c",
        "select json_agg(c) from customers c",
        "select json_agg(s) from (select * from customers) s",
        "select string_agg(email, ',') from customers",
        "select array_agg(email) from customers",
        "select max(email) from customers",
        "select (select email from customers limit 1)",
        "select array(select email from customers)",
        "select x from customers, lateral (select upper(email) as x) s",
        "select coalesce(e.email, '') from customers c left join customers e on e.id = c.id",
        "select email from customers full join (select email from customers) s using (email)",
        "select * from customers natural full join (select email from customers) s",
        "select unnest(string_to_array(email, '@')) from customers",
        "select x from customers, unnest(array[email]) x",
        "select case when true then email end from customers",
        "select to_jsonb(k) from kept k",
        "select loud || '' from contacts_of_contacts",
        "select xmlforest(email) from customers",
        "select json_build_object('a', email) from customers",
        "select format('%s', email) from customers",
        "select first_value(email) over () from customers",
        "select email::varchar(200) from customers",
        "select (array[email])[1] from customers",
        "select row(email) from customers",
        "select email collate \"C\" from customers",
        "select a.b from (select email from customers) a(b)",
        "select upper(a.b) from (select email from customers) a(b)",
        "select upper(b) from customers c(a, n, b)",
        "values ((select email from customers limit 1))",
        "select greatest(email, '') from customers",
        "update customers set note = 'y' where id = 1 returning upper(email), customers",
        "explain (analyze, verbose) select * from customers where email = 'zqxjk1@nowhere'",
        "select query_to_xml('select email from customers', true, true, '')",
        "select email from parent union select email from child",
        "select email from child",
        "select most_common_vals::text, histogram_bounds::text from pg_stats where tablename = 'customers'",
        "select tablename || most_common_vals::text || histogram_bounds::text from pg_stats",
        "select s from pg_statistic s",
        "select * from only parent",
    ] {
        let heard = ask(&mut client, text).await;
        // A literal of the client's own is no leak.
        let own = text.contains("zqxjk1@nowhere") || text.contains("query_to_xml");
        assert!(own || !heard.leaks(), "{text}: {:?}", String::from_utf8_lossy(&heard.bytes));
        for format in [0, 1] {
            let heard = ask_extended(&mut client, text, format).await;
            assert!(own || !heard.leaks(), "{text}, format {format}");
        }
    }
    for (text, shown) in [
        ("select count(*) + 41 as n from customers where email like '%1@%'", "42"),
        ("select upper(name) from customers", "VISIBLE-NAME-1"),
        ("select *, id + 700 from customers", "701"),
        ("select n + 400 from counts", "403"),
        ("select next + 300 from contacts_of_contacts", "302"),
        ("select upper(word) from other", "ZEBRA"),
        ("select email from other", "open@example.org"),
        ("select c.id + 500, o.word || '!' from customers c join other o on o.id = c.id", "zebra!"),
        ("select exists(select 1 from customers where email = 'a')::text", "false"),
    ] {
        let heard = ask(&mut client, text).await;
        assert!(heard.has(shown), "{text}: {:?}", String::from_utf8_lossy(&heard.bytes));
    }
}

#[tokio::test]
async fn no_error_or_notice_tells_a_masked_value() {
    let stage = stage(email()).await;
    stage
        .server
        .exec_sql(
            "create function shout() returns trigger language plpgsql as
               $$ begin raise notice 'new %', new.email; raise exception 'no %', new.email
                  using errcode = 'unique_violation', detail = new.email, hint = new.email, column = new.email; end $$;
             create table loud (email text); create trigger t before insert on loud for each row execute function shout()",
        )
        .await
        .unwrap();
    stage.masks(vec![mask(&["public.customers.email", "public.loud.email"], MaskMethod::Redact, false)]);
    let mut client = client(&stage).await;
    for (text, code) in [
        ("select email::int from customers", "22P02"),
        ("select email::regclass from customers", "3F000"),
        ("select email::date from customers", "22007"),
        ("select ('{' || email)::json from customers", "22P02"),
        ("select 1 / (case when email like 'zq%' then 0 else 1 end) from customers", "22012"),
        ("update customers set id = 1", "23505"),
        ("update customers set email = (select min(email) from customers)", "42501"),
        ("create unique index on customers ((1), (email like '%'))", "23505"),
        ("insert into loud values ('zqxjk' || '1')", "23505"),
        ("select set_config('a.b', email, false)::int from customers", "42501"),
        ("alter table customers add constraint short check (length(email) < 3)", "23514"),
        ("alter table customers alter column email type int using email::int", "42501"),
        ("select * from generate_series(1, (select email::int from customers limit 1))", "22P02"),
    ] {
        let heard = ask(&mut client, text).await;
        assert!(heard.words.contains(&format!("E{code}")), "{text}: {}", heard.words);
        assert!(!heard.leaks(), "{text}: {:?}", String::from_utf8_lossy(&heard.bytes));
        let heard = ask_extended(&mut client, text, 0).await;
        assert!(heard.words.contains(&format!("E{code}")), "{text}: {}", heard.words);
        assert!(!heard.leaks(), "{text}: {:?}", String::from_utf8_lossy(&heard.bytes));
    }
    // What is wrong with the text itself is told as ever, and what has nothing to do with masks.
    let heard = ask(&mut client, "select nonsense from customers").await;
    assert!(heard.has("column \"nonsense\" does not exist"));
    let heard = ask(&mut client, "select 'abc'::int + id from other").await;
    assert!(heard.has("invalid input syntax") && heard.has("abc"));
}

#[tokio::test]
async fn what_is_checked_at_the_end_of_a_transaction_tells_no_masked_value() {
    let stage = stage(email()).await;
    stage
        .server
        .exec_sql(
            "create table followers (email text references customers(email) deferrable initially deferred);
             insert into followers select email from customers where id = 1;
             create function late() returns trigger language plpgsql as
               $$ begin raise notice 'late %', new.email; return null; end $$;
             create constraint trigger late after update on customers deferrable initially deferred
               for each row execute function late()",
        )
        .await
        .unwrap();
    let mut client = client(&stage).await;
    let delete = "delete from customers where id = 1";
    for last in ["commit", "set constraints all immediate", "select 1; commit"] {
        ask(&mut client, "begin").await;
        ask(&mut client, delete).await;
        let heard = ask(&mut client, last).await;
        assert!(heard.words.contains("E23503") && heard.has("followers"), "{last}: {}", heard.words);
        assert!(!heard.leaks(), "{last}: {:?}", String::from_utf8_lossy(&heard.bytes));
        ask(&mut client, "rollback").await;
    }
    let heard = ask_extended(&mut client, delete, 0).await;
    assert!(heard.words.contains("E23503") && !heard.leaks(), "{:?}", String::from_utf8_lossy(&heard.bytes));
    let bind = message(b'B', &[b"\0\0", &0u16.to_be_bytes(), &0u16.to_be_bytes(), &0u16.to_be_bytes()]);
    // A Query that comes instead of the Sync concludes what was begun. PostgreSQL 18 leaves the transaction open, forgets it
    // at the Sync, and says XX000 to what comes then, with and without a proxy: there it says no value either.
    let heard = hear(&mut client, &[parse("", delete), bind, execute("", 0), query("select 1")]).await;
    let version = stage.server.exec_sql("show server_version_num").await.unwrap();
    let forgets = version[0][0].as_ref().unwrap().parse::<u32>().unwrap() >= 180_000;
    assert!(forgets || heard.words.contains("E23503"), "{:?}", String::from_utf8_lossy(&heard.bytes));
    assert!(!heard.leaks(), "{:?}", String::from_utf8_lossy(&heard.bytes));
    drop(client);
    let mut client = self::client(&stage).await;
    ask(&mut client, "begin").await;
    ask(&mut client, "update customers set note = 'x' where id = 2").await;
    let heard = ask(&mut client, "commit").await;
    assert!(heard.words.starts_with('N') && !heard.leaks(), "{:?}", String::from_utf8_lossy(&heard.bytes));
    // Where nothing is masked, it is told as ever.
    stage.masks(Vec::new());
    ask(&mut client, "begin").await;
    ask(&mut client, delete).await;
    assert!(ask(&mut client, "commit").await.leaks());
}

#[tokio::test]
async fn what_is_masked_cannot_be_copied_to_where_it_would_be_in_the_clear() {
    let stage = stage(email()).await;
    let mut client = client(&stage).await;
    for text in [
        "create table stolen as select email from customers",
        "create table stolen as select * from customers",
        "select email into stolen from customers",
        "create view v as select email from customers",
        "create view v as select * from contacts",
        "create materialized view v as select reach from contacts",
        "create table stolen as select upper(loud) from contacts_of_contacts",
        "insert into other select id, email from customers",
        "insert into other(id, word) select id, c::text from customers c",
        "update other set word = c.email from customers c where c.id = other.id",
        "update other set word = (select email from customers limit 1)",
        "update customers set note = email",
        "with c as (select email from customers) insert into other(word) select email from c",
        "with i as (insert into other(word) select email from customers returning word) select * from i",
        "merge into other o using customers c on c.id = o.id when matched then update set word = c.email",
        "prepare p as select email from customers; create table stolen as execute p",
        "alter table customers rename email to e",
        "alter table customers rename to c",
        "alter table customers set schema pg_temp",
        "alter table customers add column e2 text generated always as (email) stored",
    ] {
        let heard = ask(&mut client, text).await;
        assert!(heard.words.contains("E42501"), "{text}: {}", heard.words);
        assert!(!heard.leaks(), "{text}");
    }
    for text in [
        "create temp table t as select id, name from customers where email like '%'",
        "insert into t select 7, 'x'",
        "select * from t",
        "insert into customers values (5, 'n', 'five@example.org') on conflict (email) do update set email = excluded.email",
        "update customers set email = 'six@example.org' where email = 'five@example.org'",
        "delete from customers where email = 'six@example.org'",
        "copy customers (id, name) to stdout",
        "create index on customers (lower(email))",
        "alter table customers add column age int",
    ] {
        let heard = ask(&mut client, text).await;
        assert!(!heard.words.contains('E'), "{text}: {} {:?}", heard.words, String::from_utf8_lossy(&heard.bytes));
    }
    assert_eq!(stage.truth("select count(*) from other where word like 'zqxjk%' or email like 'zqxjk%'").await, "0");
}

#[tokio::test]
async fn a_copy_shows_what_a_select_would() {
    let stage = stage(email()).await;
    stage.truth("create domain address as text; create table d (name text, email address)").await;
    stage.truth("insert into d values ('visible-name-1', 'zqxjk1@example.org')").await;
    let dropped = "create table public.dropped (a int, name text, gone int, email text, twice text generated always as
                   (name || name) stored); alter table public.dropped drop column gone;
                   insert into public.dropped values (1, 'visible-name-1', 'zqxjk1@dropped.org')";
    stage.truth(dropped).await;
    stage.masks(vec![mask(
        &["public.customers.email", "public.parent.email", "public.d.email", "public.dropped.email"],
        MaskMethod::Partial,
        false,
    )]);
    let mut client = client(&stage).await;
    for (text, hidden) in [
        ("copy customers to stdout", "1\tvisible-name-1\tz***@example.org\tnote\t2000-01-01\n"),
        ("copy customers (email, name) to stdout", "z***@example.org\tvisible-name-1\n"),
        (
            "copy (select name, email as harmless from customers) to stdout csv header",
            "visible-name-1,z***@example.org\n",
        ),
        ("copy (select name, upper(email) from customers) to stdout", "visible-name-1\t\\N\n"),
        ("copy (select who, reach from contacts) to stdout", "visible-name-1\tz***@example.org\n"),
        ("copy (select e, 'visible-name' from kept) to stdout (delimiter '|')", "z***@example.org|visible-name\n"),
        ("copy (select * from contacts) to stdout", "1\tvisible-name-1\tz***@example.org\n"),
        ("copy (table customers) to stdout csv force quote *", "\"visible-name-1\",\"z***@example.org\""),
        ("copy (select email, name from only customers limit 1) to stdout binary", "z***@example.org"),
        ("copy binary customers to stdout", "visible-name-1"),
        ("copy d to stdout", "visible-name-1\t\\N\n"),
        ("copy dropped to stdout", "1\tvisible-name-1\tz***@dropped.org\n"),
        (
            "copy (select * from dropped) to stdout",
            "1\tvisible-name-1\tz***@dropped.org\tvisible-name-1visible-name-1\n",
        ),
        (
            "copy (select email, name from customers) to stdout null 'zqxjk2@example.org'",
            "zqxjk2@example.org\tvisible-name-1\n",
        ),
        ("copy (select name, max(email) from customers group by 1) to stdout null 'nil'", "visible-name-1\tnil\n"),
        (
            "copy (update customers set note = 'n' where id = 1 returning name, email) to stdout",
            "visible-name-1\tz***@example.org\n",
        ),
        (
            // Nobody knows which of two speaks.
            "copy (select name from customers) to stdout; copy (select email, name from customers) to stdout",
            "\\N\t\\N\n",
        ),
    ] {
        for heard in [ask(&mut client, text).await, ask_extended(&mut client, text, 0).await] {
            let shown = String::from_utf8_lossy(&heard.bytes);
            // Two statements cannot be prepared as one.
            if heard.words.contains("E42601") {
                continue;
            }
            // What the text says is its own.
            let leaks = heard.leaks() && !text.contains("null 'zqxjk2");
            assert!(!heard.words.contains('E') && !leaks, "{text}: {} {shown:?}", heard.words);
            assert!(heard.has(hidden), "{text}: {} {shown:?}", heard.words);
        }
    }
    for text in [
        "copy (select c.*, o.id from customers c join other o on true) to stdout",
        "copy (select * from (select email, name from customers) s) to stdout",
        "copy customers to stdout (encoding 'LATIN1')",
        "copy (select name from customers) to stdout csv; copy (select email from customers) to stdout",
    ] {
        let heard = ask(&mut client, text).await;
        assert!(heard.words.contains("E42501") && !heard.leaks(), "{text}: {}", heard.words);
    }
    // What one session sees of a table that another has changed meanwhile is never more than that.
    let mut other = crate::masks::client(&stage).await;
    ask(&mut other, "copy customers to stdout").await;
    stage.truth("alter table customers drop column note; alter table customers add column late text").await;
    stage.truth("update customers set late = email").await;
    let heard = ask(&mut other, "copy customers to stdout").await;
    assert!(!heard.has("2000-01-01\tz***"), "{:?}", String::from_utf8_lossy(&heard.bytes));
}

#[tokio::test]
async fn a_strict_mask_forbids_everything_but_to_be_shown() {
    let stage = stage(vec![mask(&["public.customers.email"], MaskMethod::Partial, true)]).await;
    let mut client = client(&stage).await;
    let heard = ask(&mut client, "select name, email from customers").await;
    assert!(heard.has("z***@example.org") && !heard.leaks(), "{:?}", String::from_utf8_lossy(&heard.bytes));
    for text in [
        "select name from customers where email = 'a'",
        "select name from customers order by email",
        "select name, email from customers order by 2",
        "select name, email as e from customers order by e",
        "select distinct email from customers",
        "select email, count(*) from customers group by 1",
        "select name from customers c join other o on o.word = c.email",
        "select name from customers join other using (email)",
        "select name from customers natural join other",
        "select count(email) from customers",
        "select name from customers where exists (select 1 from other where other.email = customers.email)",
        "delete from customers where email = 'a'",
        "select x from (select email as x from customers) s where x = 'a'",
        "select name from customers c where c is null",
    ] {
        let heard = ask(&mut client, text).await;
        assert!(heard.words.contains("E42501") && heard.has("masked by policy"), "{text}: {}", heard.words);
    }
}

#[tokio::test]
async fn what_is_detected_is_hidden_wherever_it_stands() {
    let detect = vec![Detector::Email, Detector::CreditCard, Detector::Iban];
    let masks = vec![Mask { columns: Vec::new(), detect, method: MaskMethod::Redact, strict: false }];
    let stage = stage(masks).await;
    let mut client = client(&stage).await;
    for text in [
        "select * from customers",
        "select upper(email) from customers",
        "select json_agg(c) from customers c",
        "select 4111111111111111::bigint",
        "select 'card 4111 1111 1111 1111'",
        "select 'DE89370400440532013000' as iban",
        "copy customers to stdout",
        "do $$ begin raise notice 'see zqxjk1@example.org'; end $$",
        "select email::int from customers",
    ] {
        for heard in [
            ask(&mut client, text).await,
            ask_extended(&mut client, text, 0).await,
            ask_extended(&mut client, text, 1).await,
        ] {
            let leaks = ["@example.org", "4111", "DE8937"].iter().any(|hidden| heard.has(hidden));
            assert!(!leaks, "{text}: {:?}", String::from_utf8_lossy(&heard.bytes));
        }
    }
    let heard = ask(&mut client, "select name, 12345 from customers").await;
    assert!(heard.has(CLEAR) && heard.has("12345"));
}

#[tokio::test]
async fn a_mask_that_comes_while_a_session_is_open_acts_on_its_next_command() {
    let stage = stage(Vec::new()).await;
    let mut client = client(&stage).await;
    assert!(ask(&mut client, "select email from customers").await.leaks());
    stage.masks(email());
    let heard = ask(&mut client, "select name, email from customers").await;
    assert!(!heard.leaks() && heard.has(CLEAR), "{:?}", String::from_utf8_lossy(&heard.bytes));
    // What another session makes meanwhile is not taken for unmasked.
    stage.truth("create view fresh as select email || '' as x, email from customers").await;
    let heard = ask(&mut client, "select x, email from fresh").await;
    assert!(!heard.leaks(), "{:?}", String::from_utf8_lossy(&heard.bytes));
    stage
        .truth(
            "alter table customers rename to old; create table customers as select email as id, email, name from old",
        )
        .await;
    for text in ["select id, name, email from customers", "select id || '', email from customers"] {
        let heard = ask(&mut client, text).await;
        assert!(!heard.has("zqxjk1@example.org") || text.contains("id"), "{text}");
    }
    stage.masks(Vec::new());
    assert!(ask(&mut client, "select email from customers").await.leaks());
}

#[tokio::test]
async fn records_hold_no_masked_value_of_an_answer() {
    let stage = stage(email()).await;
    let mut client = client(&stage).await;
    ask(&mut client, "select * from customers").await;
    ask(&mut client, "select email::int from customers").await;
    let outcomes = stage.records.outcomes(2).await;
    let all: Vec<Value> = [stage.records.of("command"), outcomes].concat();
    let written = serde_json::to_string(&all).unwrap();
    assert!(!SEEDS.iter().any(|seed| written.contains(seed)), "{written}");
    assert!(!written.contains("pg_catalog.pg_attribute"), "our own question is no command of the agent's");
}

/// Expressions over columns, some masked.
fn expression(depth: u32) -> BoxedStrategy<String> {
    let leaf = prop_oneof![
        Just("email".to_owned()),
        Just("c.email".to_owned()),
        Just("name".to_owned()),
        Just("note".to_owned()),
        Just("id::text".to_owned()),
        Just("c::text".to_owned()),
        Just("'k'::text".to_owned()),
    ];
    leaf.prop_recursive(depth, 16, 3, |inner| {
        prop_oneof![
            inner.clone().prop_map(|e| format!("lower({e})")),
            inner.clone().prop_map(|e| format!("({e} || 'x')")),
            inner.clone().prop_map(|e| format!("substr({e}, 1)")),
            inner.clone().prop_map(|e| format!("(select {e})")),
            inner.clone().prop_map(|e| format!("to_json({e})::text")),
            inner.clone().prop_map(|e| format!("(array[{e}])[1]")),
            inner.clone().prop_map(|e| format!("({e})::varchar(99)")),
            inner.clone().prop_map(|e| format!("encode(({e})::bytea, 'hex')")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("coalesce({a}, {b})")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("case when {a} is null then {b} else {a} end")),
            (inner.clone(), inner).prop_map(|(a, b)| format!("concat({a}, {b})")),
        ]
    })
    .boxed()
}

fn generated() -> BoxedStrategy<String> {
    let columns = proptest::collection::vec(expression(3), 1..4);
    let from = prop_oneof![
        Just("customers c"),
        Just("(select * from customers) c"),
        Just("(select id, name, email, note from customers union all select id, name, email, note from customers) c"),
        Just("(select id, who as name, reach as email, 'n'::text as note from contacts) c"),
        Just("(with w as (select * from customers) select * from w) c"),
        Just("(select k.id, k.e as email, 'n' as name, k.e as note from kept k) c"),
        Just("customers c join other o using (id)"),
        Just("lateral (select id, upper(email) as email, name, email as note from customers) c"),
    ];
    (columns, from, any::<bool>(), 0..5u8)
        .prop_map(|(columns, from, star, shape)| {
            // With two tables a bare column is ambiguous: an error is an answer too.
            let list = if star { format!("*, {}", columns.join(", ")) } else { columns.join(", ") };
            let plain = format!("select {list} from {from}");
            match shape {
                0 => format!("select * from ({plain}) as s"),
                1 => format!("with s as ({plain}) select * from s"),
                2 => format!("select s::text, * from ({plain}) as s"),
                3 => format!("{plain} union all {plain}"),
                _ => plain,
            }
        })
        .boxed()
}

#[tokio::test(flavor = "multi_thread")]
async fn law_no_generated_query_is_answered_with_a_masked_value() {
    let stage = stage(email()).await;
    let rounds = std::env::var("SALLYPORT_MASK_QUERIES").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(400);
    let mut runner = TestRunner::new(Config { failure_persistence: None, ..Config::default() });
    let strategy = generated();
    let mut client = client(&stage).await;
    let (mut answered, mut arrived, mut copies) = (0, 0, 0);
    for round in 0..rounds {
        let text = strategy.new_tree(&mut runner).unwrap().current();
        let heard = ask(&mut client, &text).await;
        assert!(!heard.leaks(), "{text}: {:?}", String::from_utf8_lossy(&heard.bytes));
        let binary = ask_extended(&mut client, &text, 1).await;
        assert!(!binary.leaks(), "{text} in binary: {:?}", String::from_utf8_lossy(&binary.bytes));
        let copied =
            format!("copy ({text}) to stdout {}", ["", "csv", "binary", "csv header delimiter '|'"][round % 4]);
        let copied_out = ask(&mut client, &copied).await;
        assert!(!copied_out.leaks(), "{copied}: {:?}", String::from_utf8_lossy(&copied_out.bytes));
        for (text, heard) in [(&text, &heard), (&text, &binary), (&copied, &copied_out)] {
            assert!(heard.words.contains('Z'), "the session ended at {text}: {}", heard.words);
        }
        copies += usize::from(!copied_out.words.contains('E'));
        answered += usize::from(!heard.words.contains('E'));
        arrived += usize::from(heard.has(CLEAR));
    }
    assert!(
        answered * 2 > rounds && arrived * 5 > rounds && copies * 5 > rounds,
        "{answered} answered, {arrived} with a name, {copies} copied, of {rounds}"
    );
}
