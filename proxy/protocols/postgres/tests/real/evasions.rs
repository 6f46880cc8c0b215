//! Ways around masks that somebody has tried: each is shut, and what is not masked still comes.
//!
//! Owns those claims. Touches loopback. Invariant: as in `masks.rs`, judged by every byte that the client receives.

use sallyport_policy::MaskMethod;

use crate::masks::{CLEAR, Heard, ask, ask_extended, client, email, hear, mask, stage};
use crate::raw::{bind, execute, parse, sync};

fn said(heard: &Heard) -> String {
    format!("{} {:?}", heard.words, String::from_utf8_lossy(&heard.bytes))
}

/// A row of any number of columns, perhaps of none, stands between a column's place in the text and in the answer.
#[tokio::test]
async fn no_column_of_an_answer_is_taken_for_another() {
    let stage = stage(email()).await;
    stage.truth("create table empty ()").await;
    let mut client = client(&stage).await;
    for text in [
        "select c.*, upper(email), c.* from customers c",
        "select (y).*, upper(name), upper(email), * from customers, (select 1 as a, 2 as b, 3 as d) y",
        "select (z).*, upper(name), upper(email), (y).* from customers, (select) z, (select 1 as a, 2 as b) y",
        "select *, upper(email), upper(name), (z).* from customers, (select) z",
        "select (z).*, upper(name), upper(email), * from customers, (select) z",
        "select (null::empty).*, upper(name), upper(email), (y).* from customers, (select 1 as a, 2 as b) y",
        "copy (select (null::empty).*, name, email, (y).* from customers, (select 1 as a, 2 as b) y) to stdout",
    ] {
        for heard in [ask(&mut client, text).await, ask_extended(&mut client, text, 0).await] {
            let refused = text.starts_with("copy") && heard.words.contains("E42501");
            assert!(!heard.leaks() && (refused || !heard.words.contains('E')), "{text}: {}", said(&heard));
        }
    }
    for text in ["select c.*, o.* from customers c join other o using (id)", "select *, upper(name) from customers"] {
        assert!(ask(&mut client, text).await.has(CLEAR), "{text}");
    }
}

#[tokio::test]
async fn names_that_a_value_is_read_as_are_not_told() {
    let stage = stage(email()).await;
    let mut client = client(&stage).await;
    for text in [
        "select ('x.' || email)::regclass from customers",
        "select ('x.y.' || split_part(email, '@', 1))::regtype from customers",
        "select ('x.y.' || split_part(email, '@', 1))::regproc from customers",
        "select has_table_privilege('x.y.' || split_part(email, '@', 1), 'select') from customers",
    ] {
        let heard = ask(&mut client, text).await;
        assert!(heard.words.contains("E0A000") && !heard.leaks(), "{text}: {}", said(&heard));
    }
    let heard = ask(&mut client, "select email from x.y.customers").await;
    assert!(heard.words.contains("E0A000") && heard.has("cross-database"), "{}", said(&heard));
}

#[tokio::test]
async fn a_setting_takes_no_masked_value() {
    let stage = stage(email()).await;
    let mut client = client(&stage).await;
    for text in [
        "select set_config('application_name', email, false) from customers",
        "select 1 from customers where set_config('application_name', email, false) is null",
        "update pg_settings set setting = (select email from customers limit 1) where name = 'application_name'",
    ] {
        let heard = ask(&mut client, text).await;
        assert!(heard.words.contains("E42501") && !heard.leaks(), "{text}: {}", said(&heard));
    }
    let heard = ask(&mut client, "select set_config('application_name', 'mine', false) from customers").await;
    assert!(heard.words.contains('S') && heard.has("mine"), "{}", said(&heard));
}

#[tokio::test]
async fn a_copy_in_a_text_with_others_hides_as_much() {
    let stage = stage(email()).await;
    let mut client = client(&stage).await;
    for text in [
        "copy customers to stdout; select 1",
        "select 1; copy customers to stdout",
        "copy (select * from customers) to stdout; select 1",
        "copy (select * from contacts) to stdout; select id from other",
        "copy customers to stdout; copy other to stdout",
    ] {
        let heard = ask(&mut client, text).await;
        assert!(!heard.leaks() && heard.words.contains('Z'), "{text}: {}", said(&heard));
    }
}

#[tokio::test]
async fn a_copy_to_a_file_or_a_program_takes_no_masked_value() {
    let stage = stage(email()).await;
    let mut client = client(&stage).await;
    for text in [
        "copy customers to '/tmp/sallyport-evasion'",
        "copy customers (email) to '/tmp/sallyport-evasion'",
        "copy (select * from customers) to program 'cat >/dev/null'",
        "copy (select upper(reach) from contacts) to program 'cat >/dev/null'",
    ] {
        let heard = ask(&mut client, text).await;
        assert!(heard.words.contains("E42501"), "{text}: {}", said(&heard));
    }
    let heard = ask(&mut client, "copy customers (id, name) to program 'cat >/dev/null'").await;
    assert!(!heard.words.contains('E'), "{}", said(&heard));
}

#[tokio::test]
async fn a_masked_table_gets_no_other_parent_and_leaves_none() {
    let stage = stage(email()).await;
    stage.truth("create table pe (email text); create table pt (id int, name text, email text, note text, born date) partition by list (id)").await;
    let mut client = client(&stage).await;
    for (text, then) in [
        ("alter table customers inherit pe", "select email from pe"),
        ("alter table pt attach partition customers default", "select email from pt"),
        ("alter table child no inherit parent", "select email from child"),
    ] {
        let both = format!("{text}; {then}");
        for heard in [ask(&mut client, text).await, ask(&mut client, &both).await] {
            assert!(heard.words.contains("E42501") && !heard.leaks(), "{text}: {}", said(&heard));
        }
        let pipeline = [parse("", text), bind("", ""), execute("", 0), parse("", then), bind("", ""), execute("", 0)];
        let heard = hear(&mut client, &[pipeline.concat(), sync()]).await;
        assert!(heard.words.contains("E42501") && !heard.leaks(), "{text}: {}", said(&heard));
    }
    let heard = ask(&mut client, "alter table pe inherit pt").await;
    assert!(!heard.words.contains("E42501"), "neither of them has a masked column: {}", said(&heard));
}

#[tokio::test]
async fn a_table_that_changes_is_not_copied_as_it_was() {
    let masks = || vec![mask(&["public.shifted.email"], MaskMethod::Redact, false)];
    let stage = stage(masks()).await;
    let made = "create table shifted (id int, name text, email text);
                insert into shifted values (1, 'visible-name', 'zqxjk1@example.org')";
    stage.truth(made).await;
    let (mut one, mut other) = (client(&stage).await, client(&stage).await);
    let copy = "copy shifted to stdout";
    assert!(ask(&mut other, copy).await.has(CLEAR));
    // What is masked would stand in a place of which the catalog said something else.
    let steps = ["alter table shifted drop column name", "alter table shifted add column name text", copy];
    let mut pipeline: Vec<_> = steps.iter().flat_map(|text| [parse("", text), bind("", ""), execute("", 0)]).collect();
    pipeline.push(sync());
    let heard = hear(&mut one, &pipeline).await;
    assert!(heard.words.contains("E42501") && !heard.leaks(), "{}", said(&heard));
    let heard = ask(&mut one, &format!("begin; {}; commit", steps.join("; "))).await;
    assert!(heard.words.contains("E42501") && !heard.leaks(), "{}", said(&heard));
    // Somebody else has changed it since the catalog was asked.
    stage.truth("alter table shifted drop column name; alter table shifted add column name text").await;
    for heard in [ask(&mut other, copy).await, ask_extended(&mut other, copy, 0).await] {
        assert!(heard.words.contains('d') && heard.has("1\t****\t\\N") && !heard.leaks(), "{}", said(&heard));
    }
}
