//! The wire itself: messages built and read by hand, as no well-behaved client would send them.
//! It touches the sockets it opens. It judges nothing, and every wait of it has a deadline.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use sallyport_conformance::Guarded;
use sallyport_conformance::clients::rust::client_config;
use sallyport_harness::LeafFiles;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// How long anything may take that is not meant to be slow.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

/// A message of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub kind: char,
    pub body: Vec<u8>,
}

/// What a session is told, in brief.
#[derive(Debug, Clone, Default)]
pub struct Said {
    pub messages: Vec<Message>,
    /// The server side closed the connection.
    pub closed: bool,
}

impl Said {
    /// The message types in their order.
    pub fn kinds(&self) -> String {
        self.messages.iter().map(|message| message.kind).collect()
    }

    /// `SQLSTATE message` of every error.
    pub fn errors(&self) -> Vec<String> {
        let errors = self.messages.iter().filter(|message| message.kind == 'E');
        errors.map(|error| format!("{} {}", field(&error.body, b'C'), field(&error.body, b'M'))).collect()
    }

    /// The text of every row's first column.
    pub fn rows(&self) -> Vec<String> {
        let rows = self.messages.iter().filter(|message| message.kind == 'D');
        rows.map(|row| String::from_utf8_lossy(row.body.get(6..).unwrap_or_default()).into_owned()).collect()
    }

    /// Everything that was told, as text.
    pub fn everything(&self) -> String {
        self.messages.iter().map(|message| String::from_utf8_lossy(&message.body).into_owned()).collect()
    }
}

/// A field of an ErrorResponse.
pub fn field(body: &[u8], code: u8) -> String {
    let fields = body.split(|byte| *byte == 0).filter_map(<[u8]>::split_first);
    let found = fields.filter(|(kind, _)| **kind == code).map(|(_, text)| String::from_utf8_lossy(text).into_owned());
    found.into_iter().next().unwrap_or_default()
}

/// A connection on which PostgreSQL's protocol is spoken.
#[derive(Debug)]
pub struct Wire<S = TlsStream<TcpStream>> {
    pub stream: S,
}

impl Wire {
    /// TLS with the agent's certificate, nothing said inside it yet.
    pub async fn secured(guarded: &Guarded) -> Self {
        Self::secured_as(guarded, &guarded.agent).await.unwrap()
    }

    /// The same with any certificate.
    pub async fn secured_as(guarded: &Guarded, files: &LeafFiles) -> std::io::Result<Self> {
        Self::secured_with(guarded, client_config(&guarded.pki.ca_pem(), files).unwrap()).await
    }

    /// The same with any TLS settings.
    pub async fn secured_with(guarded: &Guarded, config: Arc<rustls::ClientConfig>) -> std::io::Result<Self> {
        let mut tcp = TcpStream::connect(("127.0.0.1", guarded.port())).await?;
        tcp.set_nodelay(true)?;
        tcp.write_all(&SSL_REQUEST).await?;
        let mut answer = [0; 1];
        tcp.read_exact(&mut answer).await?;
        assert_eq!(&answer, b"S");
        let stream = TlsConnector::from(config).connect("localhost".try_into().unwrap(), tcp).await?;
        Ok(Self { stream })
    }

    /// A whole session, ready for a query.
    pub async fn open(guarded: &Guarded) -> Self {
        let (wire, said) = Self::try_open(guarded, &startup(&[("user", "default"), ("database", "postgres")])).await;
        assert!(said.kinds().ends_with('Z'), "{:?}", said.errors());
        wire
    }

    /// A session with that startup message, and what it was told.
    pub async fn try_open(guarded: &Guarded, startup: &[u8]) -> (Self, Said) {
        let mut wire = Self::secured(guarded).await;
        wire.send(startup).await;
        let said = wire.until_ready().await;
        (wire, said)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    /// Sends bytes; a connection that is closed already takes none.
    pub async fn send(&mut self, bytes: &[u8]) {
        let sent = async {
            let _closed = self.stream.write_all(bytes).await;
            let _closed = self.stream.flush().await;
        };
        tokio::time::timeout(PATIENCE, sent).await.expect("the proxy takes what it is sent");
    }

    /// One message; none when the connection is closed.
    pub async fn message(&mut self) -> Option<Message> {
        let read = async {
            let mut head = [0; 5];
            self.stream.read_exact(&mut head).await.ok()?;
            let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
            let mut body = vec![0; length - 4];
            self.stream.read_exact(&mut body).await.ok()?;
            Some(Message { kind: char::from(head[0]), body })
        };
        tokio::time::timeout(PATIENCE, read).await.expect("an answer or the end comes in time")
    }

    /// Everything up to ReadyForQuery or the end.
    pub async fn until_ready(&mut self) -> Said {
        self.until('Z').await
    }

    /// Everything up to a message of that type or the end.
    pub async fn until(&mut self, kind: char) -> Said {
        let mut said = Said::default();
        loop {
            match self.message().await {
                None => {
                    said.closed = true;
                    return said;
                }
                Some(message) => {
                    said.messages.push(message);
                    if said.messages.last().is_some_and(|last| last.kind == kind) {
                        return said;
                    }
                }
            }
        }
    }

    /// Everything up to the end.
    pub async fn until_closed(&mut self) -> Said {
        self.until('\0').await
    }

    /// A simple query and its answer.
    pub async fn query(&mut self, sql: &str) -> Said {
        self.send(&query(sql)).await;
        self.until_ready().await
    }

    /// Several messages at once and their answer.
    pub async fn ask(&mut self, messages: &[Vec<u8>]) -> Said {
        self.send(&messages.concat()).await;
        self.until_ready().await
    }
}

/// A message of any type.
pub fn message(kind: u8, body: &[&[u8]]) -> Vec<u8> {
    let body = body.concat();
    let length = u32::try_from(body.len() + 4).unwrap();
    [&[kind][..], &length.to_be_bytes(), &body].concat()
}

pub fn startup(parameters: &[(&str, &str)]) -> Vec<u8> {
    startup_of(3 << 16, parameters)
}

pub fn startup_of(version: i32, parameters: &[(&str, &str)]) -> Vec<u8> {
    let mut body = version.to_be_bytes().to_vec();
    for (name, value) in parameters {
        body.extend_from_slice(format!("{name}\0{value}\0").as_bytes());
    }
    body.push(0);
    [&u32::try_from(body.len() + 4).unwrap().to_be_bytes(), body.as_slice()].concat()
}

pub fn query(sql: &str) -> Vec<u8> {
    message(b'Q', &[sql.as_bytes(), b"\0"])
}

pub fn parse(name: &str, sql: &str) -> Vec<u8> {
    message(b'P', &[name.as_bytes(), b"\0", sql.as_bytes(), b"\0", &[0, 0]])
}

/// Binds without parameters.
pub fn bind(portal: &str, statement: &str) -> Vec<u8> {
    message(b'B', &[portal.as_bytes(), b"\0", statement.as_bytes(), b"\0", &[0, 0, 0, 0, 0, 0]])
}

pub fn execute(portal: &str) -> Vec<u8> {
    execute_some(portal, 0)
}

pub fn execute_some(portal: &str, rows: u32) -> Vec<u8> {
    message(b'E', &[portal.as_bytes(), b"\0", &rows.to_be_bytes()])
}

pub fn close(space: u8, name: &str) -> Vec<u8> {
    message(b'C', &[&[space], name.as_bytes(), b"\0"])
}

pub fn describe(space: u8, name: &str) -> Vec<u8> {
    message(b'D', &[&[space], name.as_bytes(), b"\0"])
}

pub fn sync() -> Vec<u8> {
    message(b'S', &[])
}

pub fn flush() -> Vec<u8> {
    message(b'H', &[])
}

/// What the sample's tables hold, as one text; it changes when a row does.
pub async fn state(guarded: &Guarded) -> String {
    let sql = "select (select md5(string_agg(o::text, '|' order by id)) from orders o),
        (select md5(string_agg(c::text, '|' order by id)) from customers c),
        (select md5(string_agg(s::text, '|' order by id)) from secrets s),
        (select string_agg(relname::text || relowner::text || coalesce(relacl::text, ''), ',' order by oid) from pg_class where oid >= 16384),
        (select string_agg(proname::text, ',' order by oid) from pg_proc where oid >= 16384),
        (select string_agg(rolname::text || rolsuper::text, ',' order by oid) from pg_roles),
        (select string_agg(setconfig::text, ',') from pg_db_role_setting),
        (select count(*) from pg_largeobject_metadata),
        (select last_value from orders_id_seq)";
    format!("{:?}", guarded.server.exec_sql(sql).await.unwrap())
}

/// Makes the server log every statement it is given.
pub async fn log_all(guarded: &Guarded) {
    guarded.server.exec_sql("alter system set log_statement = 'all'").await.unwrap();
    guarded.server.exec_sql("select pg_reload_conf()").await.unwrap();
    for _ in 0..500 {
        let shown = guarded.server.exec_sql("show log_statement").await.unwrap();
        if shown == [[Some("all".to_owned())]] {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("log_statement never took force");
}

/// The proxy still serves, and none of it has panicked.
pub async fn serves(guarded: &Guarded) {
    let mut session = Wire::open(guarded).await;
    assert_eq!(session.query("select 'served'").await.rows(), ["served"]);
    assert!(!guarded.log().contains("panicked"), "{}", guarded.log());
}

/// Waits until the proxy has logged that.
pub async fn logged(guarded: &Guarded, text: &str) {
    logged_since(guarded, 0, text).await;
}

/// Waits until the proxy has logged that after that offset. A thread of its own writes the log: a line comes after the
/// answer, or the count, that it goes with.
pub async fn logged_since(guarded: &Guarded, since: usize, text: &str) {
    let until = Instant::now() + PATIENCE;
    while !guarded.log()[since..].contains(text) {
        assert!(Instant::now() < until, "{text:?} was never logged:\n{}", &guarded.log()[since..]);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Waits for the one line that the proxy logs since that offset, which must hold that.
pub async fn logged_once(guarded: &Guarded, since: usize, text: &str) -> String {
    logged_since(guarded, since, text).await;
    let fresh = guarded.log()[since..].to_owned();
    assert!(fresh.lines().count() == 1 && fresh.contains(text), "one line with {text:?}: {fresh}");
    fresh
}
