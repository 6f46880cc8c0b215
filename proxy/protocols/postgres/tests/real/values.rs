//! Values in binary form: what is recorded, and shown to people, is what the server reads.

use std::error::Error;

use tokio_postgres::types::private::BytesMut;
use tokio_postgres::types::{Format, IsNull, ToSql, Type};

use crate::stage::Stage;

/// Bytes as they are, for a parameter of whatever type.
#[derive(Debug)]
struct Bytes(Vec<u8>);

impl ToSql for Bytes {
    fn to_sql(&self, _of: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        out.extend_from_slice(&self.0);
        Ok(IsNull::No)
    }
    fn accepts(_of: &Type) -> bool {
        true
    }
    fn to_sql_checked(&self, of: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        self.to_sql(of, out)
    }
    fn encode_format(&self, _of: &Type) -> Format {
        Format::Binary
    }
}

/// Literals of which the server itself makes the binary form: `type`, `literal`.
const VALUES: &[(&str, &str)] = &[
    ("bool", "true"),
    ("bool", "false"),
    ("bytea", r"\x00ff27"),
    ("bytea", ""),
    ("name", "a name"),
    ("int2", "-32768"),
    ("int4", "2147483647"),
    ("int8", "-9223372036854775808"),
    ("oid", "4294967295"),
    ("text", "it''s ümläut \\ \""),
    ("text", ""),
    ("varchar", " x "),
    ("bpchar", " x "),
    ("json", r#"{"a":  1}"#),
    ("jsonb", r#"{"a":  1}"#),
    ("float4", "0.1"),
    ("float4", "-0"),
    ("float4", "3.4028235e38"),
    ("float8", "1e-300"),
    ("float8", "123456789012345680"),
    ("float8", "NaN"),
    ("float8", "-Infinity"),
    ("numeric", "0.00"),
    ("numeric", "-12345678901234567890.000000000100"),
    ("numeric", "1e130"),
    ("numeric", "1e-130"),
    ("numeric", "NaN"),
    ("numeric", "-Infinity"),
    ("date", "0001-01-01"),
    ("date", "9999-12-31"),
    ("date", "2024-02-29"),
    ("date", "-infinity"),
    ("time", "24:00:00"),
    ("time", "00:00:00.000001"),
    ("timestamp", "1999-12-31 23:59:59.999999"),
    ("timestamp", "infinity"),
    ("timestamptz", "1969-07-20 20:17:40+03"),
    ("uuid", "123e4567-e89b-12d3-a456-426614174000"),
    ("int4[]", "{1,NULL,-3}"),
    ("int8[]", "{}"),
    ("text[]", r#"{a,"b,c","d\"e","f\\g",NULL,"NULL"}"#),
    ("numeric[]", "{1.50,NaN}"),
    ("timestamptz[]", "{2026-11-27 10:00:00+00}"),
    ("bytea[]", r#"{"\\x00ff"}"#),
];

#[tokio::test]
async fn what_is_shown_of_a_value_in_binary_form_is_what_the_server_reads() {
    let stage = Stage::new().await;
    let client = stage.connect().await;
    for (of, literal) in VALUES {
        // A cursor in binary would do as well; drivers ask for it at each Bind.
        let row = client.query_one(&format!("select '{literal}'::{of} as it, null as nothing"), &[]).await.unwrap();
        let (kind, bytes) = (row.columns()[0].type_().clone(), row.get::<_, Sent>(0).0);
        let typed = client.prepare_typed("select $1::text", &[kind]).await.unwrap();
        let read: String = client.query_one(&typed, &[&Bytes(bytes)]).await.unwrap().get(0);
        let recorded = stage.records.of("command").last().unwrap()["parameters"][0]["literal"].clone();
        let shown = recorded.as_str().unwrap();
        assert!(shown.ends_with(&format!("'::{of}")), "{of} {literal}: {shown}");
        // What people are shown says the same to the server as what it was sent.
        assert_eq!(stage.truth(&format!("select ({shown})::text")).await, read, "{of} {literal}: {shown}");
    }
}

/// A value's bytes as the server sent them.
struct Sent(Vec<u8>);

impl<'a> tokio_postgres::types::FromSql<'a> for Sent {
    fn from_sql(_of: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(Self(raw.to_vec()))
    }
    fn accepts(_of: &Type) -> bool {
        true
    }
}

#[tokio::test]
async fn a_type_that_the_server_infers_is_known_once_it_has_described_it() {
    let stage = Stage::new().await;
    let client = stage.connect().await;
    // The same bytes, to a server that reads them as one thing or the other.
    for (cast, shown) in [("int4", "'1094861636'::int4"), ("oid", "'1094861636'::oid"), ("text", "'ABCD'::text")] {
        let text = format!("select $1::{cast}::text");
        let statement = client.prepare(&text).await.unwrap();
        client.query_one(&statement, &[&Bytes(b"ABCD".to_vec())]).await.unwrap();
        assert_eq!(stage.records.of("command").last().unwrap()["parameters"][0]["literal"], shown);
    }
    // A type that a client makes up for what it sends is the one that the server holds it to.
    let claimed = client.prepare_typed("select $1::text", &[Type::INT4]).await.unwrap();
    let read: String = client.query_one(&claimed, &[&Bytes(b"ABCD".to_vec())]).await.unwrap().get(0);
    assert_eq!(read, "1094861636");
    assert_eq!(stage.records.of("command").last().unwrap()["parameters"][0]["literal"], "'1094861636'::int4");
    // One of its own has no plain reading here.
    stage.server.exec_sql("create domain small as int4; create type mood as enum ('sad', 'ok')").await.unwrap();
    let statement = client.prepare("select $1::mood::text").await.unwrap();
    client.query_one(&statement, &[&Bytes(b"ok".to_vec())]).await.unwrap();
    let literal = stage.records.of("command").last().unwrap()["parameters"][0]["literal"].clone();
    let literal = literal.as_str().unwrap();
    assert!(literal.starts_with(r"\x6f6b (binary, type 1"), "{literal}");
}
